"""Every benchmark runs without sound libraries, network or GPU, and says what it measured; no time is asserted."""

import importlib
import json
import subprocess
import sys

import pytest
import torch

from benchmarks import harness, recipe, run_all

STAGES = ["log_mel", "encoder_step", "extraction", "generator_step", "image_loading", "sampling", "teacher", "metrics"]
ABSENT = ["librosa", "soundfile", "soxr", "torch_fidelity", "efficientnet_lite0"]


@pytest.fixture
def bare(monkeypatch):
    """A machine that has none of the packages which GPU machines lack."""
    for module in ABSENT:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_measures_both_sides(stage, tmp_path, bare, capsys):
    path = tmp_path / "results" / "x.json"
    assert importlib.import_module(f"benchmarks.{stage}").main(["--quick", "--device", "cpu", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert {"device", "cpu", "cores", "threads", "torch", "python", "precision", "date", "settings"} <= result.keys()
    rows = {row["name"]: row for row in result["rows"]}
    assert len(rows) == len(result["rows"])
    for row in rows.values():
        assert row["items_per_s"] > 0 and 0 <= row["waiting"] <= 1 and row["host_mb"] > 0
        assert ("of_peak" in row) == ("flop" in row) and (not row["switch"] or row["gain"] > 0)
    if stage == "log_mel":
        assert not rows and "librosa is not installed here" in result["skipped"][0]
        return
    assert rows["plain"]["ratio"] == 1 and rows["ours"]["ratio"] > 0
    if stage == "encoder_step":  # counting columns takes fewer products, and the table says so
        assert rows["ours, whole maps"]["flop"] > 1.5 * rows["ours"]["flop"]
    if stage == "generator_step":
        assert rows["plain"]["flop"] > 1.3 * rows["ours"]["flop"]
        assert rows["plain, with loading"]["waiting"] > 0
    assert stage.split("_")[0] in capsys.readouterr().out


def test_log_mels_from_files(tmp_path):
    assert importlib.import_module("benchmarks.log_mel").main(["--quick", "--json", str(tmp_path / "x.json")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "x.json").read_text())["rows"]}
    assert rows["plain"]["ratio"] == 1 and rows["ours"]["items_per_s"] > 0 and "ours, one thread" in rows


def row(name, rate, **more):
    return {
        "name": name,
        "items_per_s": rate,
        "waiting": 0.25,
        "host_mb": 100.4,
        "device_mb": 0.0,
        "switch": "",
        **more,
    }


def test_the_recipe_adds_up(tmp_path, capsys):
    for number, (_, script, options, items) in enumerate(recipe.STAGES):
        rows = [
            row("plain", items / 7200),
            row("plain, with loading", items / 36000),
            row("ours", items / 3600),
            row("ours, compiled", items / 1800),
        ]
        measured = rows if number else rows[2:]  # one stage without a plain side
        path = recipe.file_of(tmp_path, script, options)
        path.write_text(json.dumps({"stage": script, "unit": "clip", "rows": measured, "skipped": []}))
    assert recipe.main(["--results", str(tmp_path), "--device", "cpu", "--json", str(tmp_path / "sum.json")]) == 0
    count = len(recipe.STAGES)
    assert json.loads((tmp_path / "sum.json").read_text())["hours"] == pytest.approx(
        {"plain": 10 * (count - 1), "ours": 0.5 * count}
    )
    out = capsys.readouterr().out
    assert "not measured" in out and "at least 60.0" in out and "ours, compiled" in out


def test_the_table_shows_every_variant_and_what_was_not_measured():
    rows = [row("plain", 2.0, ratio=1.0), row("ours, fp32", 3.0, switch="bf16", gain=1.5)]
    lines = run_all.stage_table([{"stage": "teacher", "unit": "image", "skipped": ["no sound"], "rows": rows}])
    assert "| teacher | plain | 2 images | 1.00 | 25% | 100 |" in lines[2] and lines[3].endswith("| bf16: 1.50 |")
    assert "not measured: no sound" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_a_variant_is_measured_after_a_repetition_that_is_not():
    order = []
    variant = harness.Variant(lambda data: order.append(data), 4, lambda: len(order), off="x")
    found = harness.measured(variant, torch.device("cpu"), 3)
    assert order == [0, 1, 2, 3] and len(found.seconds) == len(found.waited) == 3 and found.items == 4


def test_every_variant_has_a_process_of_its_own_and_all_run_twice(tmp_path, capfd):
    """A script whose variants note their process; the rounds' repetitions are counted together."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, sys
from benchmarks import harness
parser = harness.parser("x", __file__)
parser.add_argument("--note")
args = parser.parse_args()
device, precision = harness.start(args, None)
def variant(name, off=""):
    open(args.note, "a").write(f"{name} {os.getpid()}\\n")
    return harness.Variant(lambda _: None, 2, off=off)
rows = harness.compare({"plain": lambda: variant("plain"), "ours": lambda: variant("ours", "x")}, device, args)
harness.report("stage", "clip", rows, args, device, precision)
""")
    note, result = tmp_path / "note", tmp_path / "x.json"
    run = subprocess.run(
        [sys.executable, str(script), "--device", "cpu", "--repeats", "3", "--note", str(note), "--json", str(result)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    names, processes = zip(*map(str.split, note.read_text().splitlines()))
    assert names == ("plain", "ours") * 2 and len(set(processes)) == 4
    rows = harness.read(result)["rows"]
    assert [row["name"] for row in rows] == ["plain", "ours"] and rows[1]["gain"] == 1 and rows[1]["ratio"] > 0
