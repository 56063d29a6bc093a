"""A generator knows whose speech it learned: sampling, the page and interpolation take no other encoder's unasked."""

import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from gan_set import make_set
from test_gan_training import run_main
from test_report import PARTS, make_runs, report
from test_report import make_set as make_reported_set

from common import checkpoint
from common.cli import UserError
from common.features import encoder_of, feature_path, require_same_encoder, save_features, trained_on
from common.files import link, read_json, write_json
from common.splits import load_split
from StackGAN_v2.model import Generator


def features(folder, splits=("train", "test"), **source) -> None:
    """Speech features of a split's shape, as made by `source`; those of no source are as published, without a note."""
    for name in splits:
        path, split = feature_path(folder, name, "audio", "stub"), load_split(folder, name)
        save_features(path, [np.ones((max(1, len(item.texts)), 9)) for item in split.items], split, **source)
        if not source:
            path.with_suffix(".json").unlink()


def test_sampling_refuses_another_encoders_features(tmp_path):
    """The run's options name the encoder; --any_speech generates; files without a record pass in silence."""
    folder = make_set(tmp_path, items=4)
    features(folder, encoder="aaaa")
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1)
    net_g, spoken = tmp_path / "run/Model/latest.pth", feature_path(folder, "test", "audio", "stub")
    assert trained_on(net_g) == "aaaa" == encoder_of(spoken)
    assert checkpoint.load(tmp_path / "run/resume.pth")["course"]["speech encoder"] == "aaaa"
    generate = ["--set", "TRAIN.FLAG=False", "--eval_net_g", net_g, "--limit", 1]
    run_main(folder, *generate)
    features(folder, ["test"], encoder="bbbb")
    advice = "encoder aaaa, but .*encoder bbbb.*extract_audio_feature.*--any_speech"
    with pytest.raises(UserError, match=advice) as refusal:
        run_main(folder, *generate)
    assert str(net_g) in str(refusal.value) and str(spoken) in str(refusal.value)
    run_main(folder, *generate, "--any_speech")
    features(folder, ["test"])
    run_main(folder, *generate)


@pytest.mark.parametrize(
    "options", ["[1]", '{"options": 3}', '{"options": {"speech_encoder": ["a"]}}', '{"options": {}}', "{"]
)
def test_a_record_that_says_nothing_passes(tmp_path, options):
    (tmp_path / "Model").mkdir()
    (tmp_path / "options.json").write_text(options)
    (tmp_path / "speech.json").write_text('{"encoder": "b"}')
    require_same_encoder(tmp_path / "Model/netG_1.pth", tmp_path / "speech.pickle")
    assert trained_on(tmp_path / "Model/netG_1.pth") is None
    require_same_encoder(tmp_path / "elsewhere/netG_1.pth", tmp_path / "none.pickle")


def test_going_on_with_another_encoders_features_is_told(tmp_path, capsys):
    folder = make_set(tmp_path, items=4)
    features(folder, encoder="aaaa")
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1)
    features(folder, encoder="bbbb")
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 2)
    assert "speech encoder now bbbb (was aaaa)" in capsys.readouterr().out


def test_the_page_says_why_it_does_not_generate(tmp_path):
    make_reported_set(tmp_path)
    make_runs(tmp_path)
    run, path = tmp_path / "out" / PARTS[1], feature_path(tmp_path / "data/tiny", "test", "audio", "stub")
    options, note = read_json(run / "options.json"), read_json(path.with_suffix(".json"))
    options["options"]["speech_encoder"] = "aaaa"
    write_json(run / "options.json", options)
    write_json(path.with_suffix(".json"), note | {"encoder": "bbbb"})
    assert "There are no generated images" in (page := report(tmp_path, run).text) and "of encoder bbbb" in page
    assert "There are no generated images" not in report(tmp_path, run, "--any_speech").text


# ---- interpolation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path):
    """Runs of two encoders, the newest of them the wrong one, and a generator of the older; → their digests."""
    from Audio_to_Image.speech_encoder import CNNRNN

    digests = {}
    for number, name in enumerate(("right", "wrong")):
        torch.manual_seed(number)
        network = CNNRNN(nhidden=8, rnn_layers=1, bidirectional=True)
        folder = tmp_path / "output/Audio_to_Image/log" / name
        folder.mkdir(parents=True)
        checkpoint.save(folder / "epoch_1.pth", network.state_dict())
        link(folder / "epoch_1.pth", folder / "latest.pth")
        os.utime(folder / "epoch_1.pth", (number, number))
        digests[name] = checkpoint.digest(network.state_dict())
    model = tmp_path / "output/StackGAN_v2/run/Model"
    model.mkdir(parents=True)
    checkpoint.save(model / "netG_1.pth", Generator(1, 16, 8, 4, 5, 8).state_dict())
    link(model / "netG_1.pth", model / "latest.pth")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16000) / 9), 16000)
    return digests


@pytest.mark.parametrize(
    "learned, taken, warned",
    [("right", "right", False), ("wrong", "wrong", False), ("another", "wrong", True), (None, "wrong", False)],
)
def test_interpolation_takes_the_encoder_that_fits(output, tmp_path, monkeypatch, capsys, learned, taken, warned):
    from StackGAN_v2 import interpolation

    options = {"options": {"speech_encoder": output.get(learned, learned)}}
    (tmp_path / "output/StackGAN_v2/run/options.json").write_text(json.dumps(options))
    monkeypatch.setattr(interpolation, "ROOT", tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "interpolation.py",
            "--type",
            "inference",
            "--wav",
            str(tmp_path / "a.wav"),
            "--output_dir",
            str(tmp_path / "images"),
            "--device",
            "cpu",
        ],
    )
    interpolation.main()
    out, err = capsys.readouterr()
    assert f"/{taken}/latest.pth" in out
    assert (err.count("\n"), "warning: " in err) == ((1, True) if warned else (0, False)), err
