"""The benchmarks that run whole trainings: on sets of a few small images, a few steps each."""

import json
import shutil

import pytest

from benchmarks import memory, precision, synthetic_data
from common.features import feature_path
from common.splits import load_split

TINY = ["--set", "TREE.BASE_SIZE=16", "--set", "GAN.GF_DIM=4", "--set", "GAN.DF_DIM=4"]


def test_memory_is_that_of_a_training_from_disk(tmp_path, capsys):
    result = tmp_path / "x.json"
    assert memory.main(["--images", "20", "--side", "96", "--steps", "2", *TINY, "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    assert 20 * 76 * 76 * 3 <= found["cache_bytes"] < 2 * 20 * 76 * 76 * 3  # 20 images of 64 · 76/64 pixels
    assert found["peak_bytes"] > 2**27 and "20 images" in capsys.readouterr().out


def test_distance_is_in_spreads_of_float32():
    """Two seeds at 0 and 2: variance 2, so that means of two seeds are expected √2 apart."""
    fp32 = [[0.0, 0.0], [2.0, 2.0]]
    assert precision.distance({"fp32": fp32, "bf16": fp32}) == 0
    assert precision.distance({"fp32": fp32, "bf16": [[3.0, 3.0], [3.0, 3.0]]}) == pytest.approx(2 / 2**0.5)


def test_both_trainers_in_both_precisions(tmp_path, monkeypatch, capsys):
    """The commands are replaced by ones that write what the real ones do."""
    calls = []

    def run(script, *options):
        options = list(map(str, options))
        calls.append((script, options))
        value = lambda name: options[options.index(name) + 1]
        if "--output_dir" in options:
            (folder := precision.Path(value("--output_dir"))).mkdir(parents=True)
            seed = float(value("--manualSeed"))
            rows = [
                dict.fromkeys(["loss", "jel", "l1", "distill", "D0", "D1", "D2", "G"], seed + tick) for tick in range(3)
            ]
            (folder / "stats.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"eval_accuracy": 50 + seed}])))
            (folder / "Model/iteration3/single_samples/valid").mkdir(parents=True)
        if "--images" in options:
            (precision.Path(value("--output")) / "metric-kid_x.jsonl").write_text(json.dumps({"value": 0.5}))

    data = tmp_path / "data"
    synthetic_data.draw_images(data / "toybirds", 4, 96)
    monkeypatch.setattr(precision, "run", run)
    command = [
        "--data_root",
        str(data),
        "--work",
        str(tmp_path / "runs"),
        "--seeds",
        "2",
        "--json",
        str(tmp_path / "x.json"),
    ]
    assert precision.main(command) == 0
    assert len(calls) == 4 + 3 * 4
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["encoder"]["results"] == {"class accuracy, %": {"fp32": [50.0, 51.0], "bf16": [50.0, 51.0]}}
    assert found["generator"]["distance"]["G"] == 0 and "KID" in capsys.readouterr().out
    split = load_split(data / "toybirds", "test")
    assert feature_path(data / "toybirds", "test", "audio", synthetic_data.SWITCH).exists() and split.items
    shutil.rmtree(tmp_path / "runs" / "encoder_bf16_1")
    assert precision.main(command) == 0 and len(calls) == 17  # what is there is kept
