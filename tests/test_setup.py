"""CPU builds of PyTorch: found in the index that pip uses or that is named, of versions that belong together."""

import os
import subprocess
import sys

import pytest

from common import ROOT
from common.cli import UserError
from common.devices import pick_device, pick_precision
from scripts import torch_build


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in a folder, the only one that pip knows: → its address, after writing files of these versions."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def make(**packages):
        for name, versions in packages.items():
            folder = tmp_path / "simple" / name
            folder.mkdir(parents=True)
            tag = "py3-none-any.whl"
            links = [f"{name}-{version}-{tag}" for version in versions]
            (folder / "index.html").write_text("".join(f'<a href="{link}">{link}</a>\n' for link in links))
        return ["--index-url", (tmp_path / "simple").as_uri()]

    return make


def test_the_newest_pair_that_belongs_together(index):
    words = index(
        torch=["2.97.0+cpu", "2.98.1+cpu", "2.99.0+cpu", "2.99.0"],
        torchvision=["0.112.0+cpu", "0.113.0+cpu", "0.114.0"],  # none of a CPU for 2.99
    )
    assert torch_build.wanted(words) == ["torch==2.98.1+cpu", "torchvision==0.113.0+cpu"]


def test_an_index_without_them(index):
    words = index(torch=["2.99.0", "2.5.0+cpu"], torchvision=["0.114.0", "0.20.0+cpu"])
    assert torch_build.wanted(words) is None
    assert torch_build.wanted(["--index-url", "file:///nowhere"]) is None


def test_macs_have_no_others(monkeypatch):
    monkeypatch.setattr(torch_build.platform, "system", lambda: "Darwin")
    assert torch_build.wanted([]) == ["torch>=2.11", "torchvision>=0.26"]


def test_a_word_that_is_no_build_is_refused(tmp_path):
    command = ["bash", ROOT / "scripts/setup.sh"]
    result = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "TORCH": "gpu"}, capture_output=True, text=True)
    assert result.returncode == 2 and "TORCH is 'gpu'; it can be cpu" in result.stderr


def test_is_cpu_says_what_is_installed():
    import torch

    found = subprocess.run([sys.executable, ROOT / "scripts/torch_build.py", "is_cpu"]).returncode == 0
    assert found == (torch.version.cuda is None)


def test_apples_gpu_only_where_it_is(monkeypatch):
    import torch

    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="--device mps: this machine has no GPU of Apple's"):
            pick_device("mps")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps") and pick_precision("auto", torch.device("mps")) == "fp32"
    assert pick_device("auto").type in ("cuda", "cpu")
