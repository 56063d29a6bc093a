"""docs/multi_gpu.md and the Slurm example: their options exist, and the example runs with stand-ins for Slurm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT

HOSTS = "node[3-4]"
STUBS = {
    # slow between two lines: a reader that leaves after the first one makes it die by SIGPIPE, every time
    "scontrol": f'[ "$*" = "show hostnames {HOSTS}" ] && echo node3 && sleep 0.2 && echo node4',
    "srun": 'echo "$@" > "$SEEN/srun"; while [ "${1#--}" != "$1" ]; do shift; done; SLURM_NODEID=1 exec "$@"',
}


@pytest.fixture(scope="module")
def known():
    """The options of the recipe and of the trainers, by their help."""
    commands = [["bash", "scripts/run.sh", "--dataset", "birds", "--help"]] + [
        [sys.executable, path, "--help"] for path in ("Audio_to_Image/train_audio_encoder.py", "StackGAN_v2/main.py")
    ]
    return set(
        re.findall(r"--\w+", "".join(subprocess.check_output(command, cwd=ROOT, text=True) for command in commands))
    )


def test_the_options_in_the_document_exist(known):
    text = (ROOT / "docs/multi_gpu.md").read_text()
    of_slurm = {"--gpus", "--wrap"}
    assert set(re.findall(r"--[a-z]\w+", text)) - of_slurm <= known | {"--max_restarts"}
    for link in re.findall(r"\]\((\w[\w./]+)\)", text):
        assert (ROOT / "docs" / link).is_file()
    assert len(text.splitlines()) <= 90


def test_the_slurm_example_starts_the_recipe_on_its_node(known, tmp_path):
    path = ROOT / "docs/slurm_train.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/run.sh").write_text('printf "%s\\n" "$@" > "$SEEN/options"')
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": HOSTS, "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    subprocess.run(
        ["bash", path],
        check=True,
        cwd=tmp_path,
        env=os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path)},
    )
    words = Path(tmp_path / "options").read_text().splitlines()
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options == {
        "--dataset": "birds",
        "--stop_stage": "5",
        "--nproc": "4",
        "--nnodes": "2",
        "--node_rank": "1",
        "--master_addr": "node3",
        "--master_port": "24567",
    }
    assert set(options) <= known and "--kill-on-bad-exit=1" in (tmp_path / "srun").read_text()
    settings = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", path.read_text(), re.MULTILINE))
    assert settings["ntasks-per-node"] == "1" and settings["signal"].startswith("TERM@") and int(settings["nodes"]) > 1
