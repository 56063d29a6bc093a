"""Every snapshot of a run measured as a curve: by the same rules as single ones, once, and drawn by the report."""

import json

import pytest
import torch
from gan_set import make_set
from test_evaluate import StubExtractor
from test_gan_training import run_main

from common import checkpoint
from common.cli import UserError
from scripts.report import figures, run_records, runs
from StackGAN_v2 import evaluate
from StackGAN_v2.evaluation import feature_extractors


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(feature_extractors, "Lite0Extractor", StubExtractor)
    monkeypatch.setattr(StubExtractor, "calls", 0)
    return StubExtractor


@pytest.fixture
def run(tmp_path):
    """A run of two iterations, a snapshot after each."""
    folder = make_set(tmp_path)
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 2, "--set", "TRAIN.SNAPSHOT_INTERVAL=1")
    return tmp_path / "run"


def curve(run, *words):
    always = ["--run", str(run), "--metrics", "fid,kid", "--extractor", "lite0", "--device", "cpu", "--quiet"]
    assert evaluate.main([*always, *map(str, words)]) == 0
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def test_every_snapshot_is_measured_once_and_as_a_single_one_is(run, stub, tmp_path, capsys):
    lines = curve(run, "--sentences", 0)
    assert [(line["iteration"], line["metric"][:3]) for line in lines] == [
        (1, "fid"),
        (1, "kid"),
        (2, "fid"),
        (2, "kid"),
    ]
    assert lines[0]["value"] != lines[2]["value"] and not (run / "Model" / ".curve").exists()
    assert "2 snapshots" in capsys.readouterr().out
    run_main(
        tmp_path / "tiny",
        "--set",
        "TRAIN.FLAG=False",
        "--eval_net_g",
        run / "Model" / "netG_2.pth",
        "--precision",
        "auto",
    )
    single = ["--images", str(run / "Model/iteration2/single_samples/valid"), "--data_dir", str(tmp_path / "tiny")]
    assert evaluate.main([*single, "--metrics", "fid,kid", "--extractor", "lite0", "--device", "cpu", "--quiet"]) == 0
    alone = json.loads((run / "Model/iteration2/metrics.json").read_text())
    assert {line["metric"]: line["value"] for line in lines[2:]} == {name: one["value"] for name, one in alone.items()}
    stub.calls = 0
    assert curve(run, "--sentences", 0) == lines and stub.calls == 0
    assert "iteration 1: measured before" in capsys.readouterr().out


def test_what_is_new_is_measured_alone(run, stub, tmp_path):
    first = curve(run)
    assert all("_gen7" in line["metric"] for line in first)  # one sentence an image
    state = checkpoint.load(run / "Model" / "netG_1.pth")
    state = {name: value * 1.5 if value.is_floating_point() else value for name, value in state.items()}
    torch.save(state, run / "Model" / "netG_4.pth")
    lines = curve(run)
    assert lines[:4] == first and {line["iteration"] for line in lines[4:]} == {4}
    assert {line["iteration"] for line in curve(run, "--sentences", 2, "--every", 2)[6:]} == {2, 4}


def test_faults_are_one_sentence(run, stub, tmp_path, capsys):
    for words, reason in (
        ([], "give either --images FOLDER, or --run DIR"),
        (["--run", tmp_path, "--images", tmp_path], "give either --images FOLDER, or --run DIR"),
        (["--images", tmp_path], "--data_dir is"),
        (["--run", run, "--output", tmp_path / "x"], "--output"),
    ):
        with pytest.raises(SystemExit) as status:
            evaluate.main(list(map(str, words)))
        assert status.value.code == 2 and reason in capsys.readouterr().err
    with pytest.raises(UserError, match="is not a run of main.py"):
        evaluate.main(["--run", str(tmp_path / "tiny")])
    with pytest.raises(UserError, match="holds no netG_<n>.pth whose number is a multiple of 3"):
        curve(run, "--every", 3)


def test_the_report_reads_the_curve(run, stub):
    lines = curve(run)
    with open(run / "curve.jsonl", "a") as file:
        file.write('{"iteration": "x", "metric": "fid_", "value": 1}\n{"iteration": 3, "metric": "kid_a", "va')
    found = run_records.numbers_by_iteration(run_records.run_folder(run))
    assert [(i, number.name, number.value) for i, number in found] == sorted(
        (line["iteration"], line["metric"], line["value"]) for line in lines
    )
    charts = figures.generator_charts(runs.columns([run])[0])
    assert [chart.title for chart in charts if "distance" in chart.title and chart.svg] == [
        "Fréchet distance, EfficientNet-lite0 (no FID)",
        "Kernel distance, EfficientNet-lite0 (no KID)",
    ]
