"""Pretrained networks: export in half precision, options that take their name, and what those in the project compute."""

import json
import sys

import numpy as np
import pytest
import torch
from tiny_networks import make_runs

from Audio_to_Image.speech_encoder import load_encoder
from common import checkpoint, files, pretrained
from common.cli import UserError
from common.features import trained_on
from scripts import download, export_pretrained
from StackGAN_v2 import interpolation, main, sampler
from StackGAN_v2.generators import load_generator

IN_THE_PROJECT = pretrained.names()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    encoder, run = make_runs(root / "output")
    export_pretrained.main(["--run", str(run), "--output", str(root / "pretrained/small"), "--purpose", "shows noise"])
    return root, encoder, run


@pytest.fixture
def small(exported, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", exported[0] / "pretrained")
    return pretrained.FOLDER / "small"


def test_an_export_is_the_run_in_half_precision(exported, small):
    _, encoder, run = exported
    content = torch.load(small / "generator.pth", weights_only=True)["state_dict"]
    whole = torch.load(run / "Model/latest.pth", weights_only=True)
    assert content.keys() == whole.keys()
    for key, value in whole.items():
        assert content[key].dtype == (torch.float16 if value.dim() > 1 else value.dtype), key
        torch.testing.assert_close(content[key].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    assert "objective" not in torch.load(small / "encoder.pth", weights_only=True)
    card = json.loads((small / "card.json").read_text())
    assert {name: files.sha256(small / name) for name in pretrained.FILES.values()} == {
        name: about["sha256"] for name, about in card["files"].items()
    }
    assert (
        card["generator"]["speech_encoder"]
        == card["encoder"]["digest"]
        == load_encoder(small / "encoder.pth")[1]["digest"]
    )
    assert card["encoder"]["exported_from"] == load_encoder(encoder)[1]["digest"]
    assert card["encoder"]["numbers"] == {"map_s2i": 0.5} and card["generator"]["iteration"] == "7"
    assert "--encoder small --generator small" in (small / "README.md").read_text()
    assert trained_on(small / "generator.pth") == card["encoder"]["digest"]


def test_exports_are_repeatable_and_keep_what_others_wrote(exported, small, tmp_path, capsys):
    _, _, run = exported
    words = ["--run", str(run), "--output"]
    before = {name: (small / name).read_bytes() for name in pretrained.FILES.values()}
    (small / "README.md").write_text("mine")
    export_pretrained.main([*words, str(small), "--purpose", "shows noise"])
    assert {name: (small / name).read_bytes() for name in before} == before
    assert (small / "README.md.old").read_text() == "mine"
    (tmp_path / "encoder.pth").write_text("of another program")
    with pytest.raises(UserError, match="holds encoder.pth, which this project did not write"):
        export_pretrained.main([*words, str(tmp_path)])
    with pytest.raises(UserError, match="1 are the most|0 are the most"):
        most, export_pretrained.MOST = export_pretrained.MOST, 1 << 20
        try:
            export_pretrained.main([*words, str(tmp_path / "large")])
        finally:
            export_pretrained.MOST = most
    assert not (tmp_path / "large").exists()


def test_weights_beyond_half_precision_are_refused():
    with pytest.raises(UserError, match="'w' does not fit"):
        export_pretrained.halved({"w": torch.full((2, 2), 1e6)})
    assert export_pretrained.halved({"v": torch.full((2,), 1e6)})["v"].dtype == torch.float32


def test_options_take_the_name(exported, small, monkeypatch, tmp_path):
    from Audio_to_Image import evaluate, extract_audio_feature

    monkeypatch.chdir(tmp_path)
    assert extract_audio_feature.parse(["--model", "small", "--dataset", "x"]).model == small / "encoder.pth"
    assert evaluate.parse(["--model", "small", "--dataset", "x"]).model == small / "encoder.pth"
    cfg = tmp_path / "a.yml"
    cfg.write_text("CONFIG_NAME: a\n")
    parsed = main.make_parser().parse_args(["--cfg", str(cfg), "--eval_net_g", "small"])
    assert parsed.eval_net_g == small / "generator.pth"
    with pytest.raises(SystemExit):
        main.make_parser().parse_args(["--cfg", str(cfg), "--eval_net_g", "smal"])
    (tmp_path / "small").write_text("a file of that name comes first")
    assert str(pretrained.find("small", "encoder")) == "small"


def test_a_name_in_a_cfg_file_is_found(small, monkeypatch, tmp_path, capsys):
    (tmp_path / "a.yml").write_text("DATASET_NAME: tiny\nTRAIN:\n  NET_G: small\n")
    words = ["main.py", "--cfg", str(tmp_path / "a.yml"), "--dry_run", "--data_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert main.main() == 0
    assert f"NET_G: {small / 'generator.pth'}" in capsys.readouterr().out


def test_inference_takes_pretrained_networks_where_there_is_no_run(exported, small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(interpolation, "ROOT", tmp_path)
    _, meta, generator = interpolation.load_networks(None, None, "cpu")
    assert meta["digest"] == trained_on(small / "generator.pth") and generator.sizes == [16, 32, 64]
    shown = capsys.readouterr()
    assert f"generator {small / 'generator.pth'}" in shown.out and not shown.err
    encoder, run = make_runs(tmp_path / "output")  # a run comes first, and its encoder belongs to it
    assert interpolation.load_networks(None, None, "cpu")[1]["digest"] == load_encoder(encoder)[1]["digest"]
    # the encoder that belongs to the generator is found behind those of runs
    assert interpolation.load_networks(None, "small", "cpu")[1]["digest"] == meta["digest"]
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(interpolation, "ROOT", tmp_path / "none")
    with pytest.raises(UserError, match="--generator is missing"):
        interpolation.load_networks(None, None, "cpu")


def test_samples_of_a_split_stay_out_of_the_folder(small):
    folder = sampler.samples_folder(small / "generator.pth")
    assert "output/StackGAN_v2/pretrained_small/Model/iteration_generator" in folder.as_posix()


def test_the_list_of_downloads_names_them(small, capsys):
    assert download.main(["--list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("small "))
    assert "complete" in line and line.endswith("shows noise")
    assert download.main(["small"]) == 0
    assert "comes with the project" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["small", *IN_THE_PROJECT])
def test_networks_are_and_compute_what_their_card_says(name, request):
    if name == "small":
        request.getfixturevalue("small")
    folder, card = pretrained.FOLDER / name, pretrained.card(name)
    for file, about in card["files"].items():
        assert files.sha256(folder / file) == about["sha256"], f"{file} is not the one that the card describes"
    assert sum(about["bytes"] for about in card["files"].values()) <= 40 << 20
    assert load_encoder(folder / "encoder.pth")[1]["digest"] == card["encoder"]["digest"]
    stored = checkpoint.state_dict_of(checkpoint.load(folder / "generator.pth"), folder)
    assert checkpoint.digest(stored) == card["generator"]["digest"]
    assert load_generator(folder / "generator.pth").training is False
    # Rounding differs between machines, and speech engines between versions.
    found = export_pretrained.check_values(*(folder / file for file in pretrained.FILES.values()))
    for was, now in zip(card["check"], found, strict=True):
        np.testing.assert_allclose(now["embedding"], was["embedding"], rtol=0.05, atol=0.02)
        np.testing.assert_allclose(now["colour"], was["colour"], atol=3)


def test_git_holds_the_files():
    import subprocess

    paths = [f"pretrained/toybirds/{name}" for name in (*pretrained.FILES.values(), "card.json", "README.md")]
    command = ["git", "check-ignore", *paths]
    result = subprocess.run(command, cwd=pretrained.ROOT, capture_output=True, text=True)
    assert not result.stdout, "git ignores files of pretrained networks"
