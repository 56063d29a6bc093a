"""The training loop of the generator: exact continuation, faults that are told, files left behind."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_set import make_set
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from common import checkpoint, resume, runs
from common.cli import UserError
from common.features import feature_path, save_features
from common.splits import load_split
from scripts.report import figures
from scripts.report import runs as runs_of_report
from StackGAN_v2 import losses, sampler
from StackGAN_v2.config import load_config
from StackGAN_v2.evaluation.metrics import frechet_distance, squared_mmd
from StackGAN_v2.settings import DataSettings
from StackGAN_v2.training import discriminator_monitor, setup, snapshot_metric, snapshot_writer
from StackGAN_v2.training.background import Background
from StackGAN_v2.training.networks import Networks
from StackGAN_v2.training.step import Stepper

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("with space 'and quote'"))


def run_main(folder, *words, status=0):
    """The command, in this process: its output folder is given as a path."""
    from StackGAN_v2 import main

    argv = [
        "main.py",
        "--cfg",
        str(folder.parent / "tiny.yml"),
        "--data_dir",
        str(folder),
        "--audio_switch",
        "stub",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        *map(str, words),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        assert (main.main() or 0) == status


def assert_equal_runs(first, second) -> None:
    """Everything in the two runs' resume files, to the bit, but the settings of how long to train."""
    one, other = (checkpoint.load(run / "resume.pth") for run in (first, second))
    assert one.keys() == other.keys() and one["iteration"] == other["iteration"]
    for name in one.keys() - {"iteration", "settings", "course", "best"}:
        a, b = (content[name]["state"] if "optimizer" in name else {"": content[name]} for content in (one, other))
        assert a.keys() == b.keys() and a
        for key in a:
            assert all(torch.equal(a[key][entry], b[key][entry]) for entry in a[key]), (name, key)


def test_a_run_in_parts_equals_one_though_its_newest_resume_file_is_damaged(folder, tmp_path, capsys):
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 6)
    for steps in (2, 5):  # resume files of iterations 0, 2, 3 and 5
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", steps)
    newest = tmp_path / "parts" / "resume.pth"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", 6)
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "resume.pth is damaged" in err and "going on from iteration 3 of" in out
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    lines = (tmp_path / "parts" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3, 6]


def test_a_run_ends_when_its_time_is_up_and_does_not_go_on(folder, tmp_path, capsys):
    run = tmp_path / "run"
    for minutes, more in ((0.01, False), (0.01, False), (0.03, True)):
        before = checkpoint.load(run / "resume.pth")["iteration"] if run.exists() else None
        run_main(folder, "--output_dir", run, "--max_minutes", minutes)
        content = checkpoint.load(run / "resume.pth")
        assert "ended by --max_minutes" in capsys.readouterr().out and content["seconds"] >= 60 * minutes
        assert before is None or (content["iteration"] > before) is more
        assert (run / "Model" / "latest.pth").resolve().name == f"netG_{content['iteration']}.pth"


def test_what_a_run_leaves(folder, tmp_path, capsys):
    """Snapshot = average, not the live generator; sheets of every size; one line of numbers a tick; then images."""
    run = tmp_path / "run"
    run_main(folder, "--output_dir", run, "--max_steps", 4, "--tick", 2)
    content = checkpoint.load(run / "resume.pth")
    snapshot = checkpoint.load(run / "Model" / "netG_4.pth")
    assert all(torch.equal(snapshot[key], content["average"][key]) for key in snapshot)
    assert not torch.equal(snapshot["h_net1.fc.0.weight"], content["generator"]["h_net1.fc.0.weight"])
    assert (run / "Model" / "latest.pth").resolve() == (run / "Model" / "netG_4.pth").resolve()
    assert {path.name for path in (run / "Image").iterdir()} == {
        f"{size}_{step:06d}.png" for size in (16, 32, 64) for step in (0, 3, 4)
    }
    ticks = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [tick["step"] for tick in ticks] == [2, 3, 4]
    assert {"D0", "D1", "D2", "G", "KL", "CAL0", "color1"} <= ticks[0].keys()

    generate = ["--set", "TRAIN.FLAG=False", "--eval_net_g", run / "Model" / "latest.pth"]
    run_main(folder, *generate)
    valid = run / "Model" / "iteration4" / "single_samples" / "valid"
    names = sorted(path.name for path in valid.rglob("*.png"))
    assert names == sorted(f"test_{i}.png_64_sentence{k}_0.png" for i in range(7) for k in range(1 + i % 2))
    first = valid / "1" / "test_0.png_64_sentence0_0.png"
    before, pixels = first.read_bytes(), np.asarray(Image.open(first), int)
    first.unlink()
    others = {path: path.stat().st_mtime_ns for path in valid.rglob("*.png")}
    run_main(folder, *generate)
    assert first.read_bytes() == before  # same weights, same command: same bytes
    first.unlink()
    run_main(folder, *generate, "--batch_size", 3)  # another batch: equal up to rounding
    difference = np.abs(np.asarray(Image.open(first), int) - pixels)
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.001
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())
    run_main(folder, *generate, "--all_sizes", "--manualSeed", 1)
    assert first.read_bytes() != before and len(list(valid.rglob("*.png"))) == 30

    run_main(folder, *generate, "--split", "train", "--sheet", 2)  # of another split, beside the others
    beside = run / "Model" / "iteration4" / "train"
    assert len(list((beside / "single_samples/valid").rglob("*.png"))) == 10 and len(list(valid.rglob("*.png"))) == 30
    sheet = np.asarray(Image.open(beside / "sheet_00.png"))
    assert sheet.shape == (3 * 66 - 2, 3 * 66 - 2, 3)  # three classes; a real image and two samples
    sample = np.asarray(Image.open(beside / "single_samples/valid/1/train_3.png_64_sentence0_0.png"))
    assert (sheet[:64, 132:] == sample).all() and (sheet[64:66] == 255).all()
    real = Image.open(folder / "CUB/images/1/train_0.png").resize((64, 64), Image.Resampling.BICUBIC)
    assert (sheet[:64, :64] == np.asarray(real)).all()
    (beside / "sheet_00.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="sheet_00.png is there and was not written by this project"):
        run_main(folder, *generate, "--split", "train", "--sheet", 2)
    with pytest.raises(UserError, match="'../train' is not the name of a split"):
        run_main(folder, *generate, "--split", "../train")

    newest = run / "Model" / "netG_4.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    run_main(folder, *generate)  # latest.pth now means the one before, for every later command too
    assert capsys.readouterr().err.count("netG_4.pth is not a checkpoint") == 1
    assert (run / "Model" / "latest.pth").resolve() == run / "Model" / "netG_3.pth"
    assert len(list((run / "Model" / "iteration3").rglob("*.png"))) == 10


def test_writing_beside_the_training_writes_the_same(folder, tmp_path, monkeypatch):
    """As on a GPU: the state is copied, and training goes on before the first byte of it is written."""
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 7)
    begun, write, make = [], snapshot_writer.SnapshotWriter._write, snapshot_writer.SnapshotWriter.__init__

    def begin_beside(self, *arguments):
        make(self, *arguments)
        self.beside, self.writer = True, Background(True)

    def write_late(self, content):
        if content["iteration"] == 3:
            steps = begun[0]
            while begun[0] == steps:  # until the next training step has been done
                time.sleep(0.01)
        write(self, content)

    update = Networks.update_average

    def count(self, decay):
        update(self, decay)
        begun[:] = [begun[0] + 1 if begun else 1]

    monkeypatch.setattr(snapshot_writer.SnapshotWriter, "__init__", begin_beside)
    monkeypatch.setattr(snapshot_writer.SnapshotWriter, "_write", write_late)
    monkeypatch.setattr(Networks, "update_average", count)
    run_main(folder, "--output_dir", tmp_path / "beside", "--max_steps", 7)
    assert_equal_runs(tmp_path / "whole", tmp_path / "beside")
    for name in ("netG_3.pth", "netG_6.pth", "netD1.pth"):
        one, other = (checkpoint.load(tmp_path / run / "Model" / name) for run in ("whole", "beside"))
        assert checkpoint.digest(one) == checkpoint.digest(other)
    content = resume.find(str(tmp_path / "beside" / "resume_previous.pth"), tmp_path)[0]
    assert content["iteration"] == 6

    def fail(*unused):
        raise UserError("the disk is full")

    monkeypatch.setattr(snapshot_writer.SnapshotWriter, "_write", fail)
    with pytest.raises(UserError, match="the disk is full"):
        run_main(folder, "--output_dir", tmp_path / "full", "--max_steps", 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_by_a_signal_goes_on_exactly(folder, tmp_path, number):
    run = tmp_path / "run"
    words = [
        "--cfg",
        folder.parent / "tiny.yml",
        "--data_dir",
        folder,
        "--audio_switch",
        "stub",
        "--device",
        "cpu",
        "--output_dir",
        run,
        "--max_steps",
        100000,
        "--tick",
        1,
        "--precision",
        "fp32",
        "--set",
        "TRAIN.SNAPSHOT_INTERVAL=100000",
        "--set",
        "TRAIN.MAX_EPOCH=100000",
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "StackGAN_v2" / "main.py"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("iteration 3 "):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number and "Traceback" not in errors
    done = checkpoint.load(run / "resume.pth")["iteration"]
    assert done >= 3
    for name in ("run", "whole"):
        run_main(folder, "--output_dir", tmp_path / name, "--max_steps", done + 1)
    assert_equal_runs(tmp_path / "whole", run)


def test_the_average_follows_the_weights(folder):
    cfg = load_config(folder.parent / "tiny.yml")
    networks = Networks(cfg, 9, torch.device("cpu"))
    before = networks.average.h_net1.fc[0].weight.clone()
    with torch.no_grad():
        networks.generator.h_net1.fc[0].weight += 1
        networks.generator.h_net1.fc[1].running_mean += 3
    networks.update_average(0.75)
    torch.testing.assert_close(networks.average.h_net1.fc[0].weight, before + 0.25)
    assert torch.equal(networks.average.h_net1.fc[1].running_mean, networks.generator.h_net1.fc[1].running_mean)


def test_losses_that_are_not_finite_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"iteration 0: the loss term D0 is nan.*train_\d"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("StackGAN_v2.losses.d_loss", lambda *a: sum(x[0].sum() for x in a[:3]) * float("nan"))
            run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 2)
    assert checkpoint.load(tmp_path / "run" / "resume.pth")["iteration"] == 0


@pytest.mark.parametrize(
    "bad, steps, message",
    [
        (3, 9, "iteration 4: the loss term D0 is nan"),  # seen at the snapshot after 6, two iterations later
        (5, 9, "iteration 5: generator.*is not finite"),  # the last step before the snapshot: no loss has seen it
        (4, 5, "iteration 4: generator.*is not finite"),
    ],
)  # … before the end of the run
def test_no_file_is_written_of_bad_weights(folder, tmp_path, monkeypatch, bad, steps, message):
    """An update that ruins the weights though its losses were finite, between two looks at the losses."""
    step = Stepper.__call__

    def ruin(self, batch, iteration):
        terms = step(self, batch, iteration)
        if iteration == bad:
            with torch.no_grad():
                self.networks.generator.h_net1.fc[0].weight[0, 0] = float("nan")
        return terms

    monkeypatch.setattr(Stepper, "__call__", ruin)
    with pytest.raises(UserError, match=message + r".*resume.pth is from before.*train_\d"):
        run_main(folder, "--output_dir", tmp_path, "--max_steps", steps)
    assert checkpoint.load(tmp_path / "resume.pth")["iteration"] == 3
    for path in tmp_path.rglob("*.pth"):
        assert checkpoint.first_not_finite(checkpoint.load(path)) is None
    assert (tmp_path / "Model" / "latest.pth").resolve() == tmp_path / "Model" / "netG_3.pth"


def test_the_bound_of_a_discriminator_that_has_won():
    """5 % of what d_loss is where the logits are all 0."""
    zeros = (torch.zeros(4), torch.zeros(4))
    for kind, weight in (("bce", 1.0), ("bce", 0.0), ("hinge", 1.0), ("hinge", 0.0), ("hinge", 0.5)):
        guessing = losses.d_loss(zeros, zeros, zeros, kind, weight).item()
        assert discriminator_monitor.bound(kind, weight) == pytest.approx(0.05 * guessing)
    assert [round(discriminator_monitor.bound(*key), 3) for key in (("bce", 1), ("hinge", 1), ("bce", 0))] == [
        0.208,
        0.3,
        0.069,
    ]


def test_a_discriminator_that_has_won_is_told_of_once_an_episode():
    watch = discriminator_monitor.DiscriminatorMonitor("hinge", 1.0)
    low = {"D0": 2.0, "D1": 0.29, "D1_penalty": 0.0, "G0": 0.0}

    def warned(ticks, means):
        return [(tick, line) for tick in range(ticks) for line in watch.update(50, means)]

    ((tick, line),) = warned(30, low)
    assert tick == 9 and "discriminator D1 has won: its loss has been below 0.300" in line and "500 iterations" in line
    assert not warned(1, {**low, "D1": 0.3}) and not warned(9, low) and not warned(1, {**low, "D1": 5.0})
    assert [tick for tick, _ in warned(30, low)] == [9]  # another episode


def test_the_warning_reaches_terminal_and_log(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("StackGAN_v2.losses.d_loss", lambda *a: sum(x[0].sum() for x in a[:3]) * 0)
    monkeypatch.setattr(discriminator_monitor, "ITERATIONS", 2)
    run_main(folder, "--output_dir", tmp_path, "--max_steps", 4, "--tick", 1)
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert [text.count(f"discriminator D{i} has won") for i in range(4)] == [1, 1, 1, 0]


def test_snapshots_that_stay_and_the_best_one(folder, tmp_path, monkeypatch):
    values = iter([0.3, 0.1, 0.2, 0.4, 0.05, 0.5, 0.01])

    class Metric:
        def __init__(self, name, *unused):
            self.name = name

        def __call__(self, generator):
            assert not generator.training
            return next(values)

    monkeypatch.setattr("StackGAN_v2.training.snapshot_metric.Kid", Metric)

    def train(steps, *more):
        run_main(
            folder,
            "--output_dir",
            tmp_path,
            "--max_steps",
            steps,
            "--keep",
            1,
            "--set",
            "TRAIN.SNAPSHOT_INTERVAL=1",
            *more,
        )
        model = tmp_path / "Model"
        assert all(path.exists() for path in model.iterdir())  # no link dangles
        return (
            sorted(path.name for path in model.glob("netG_*")),
            *((model / name).resolve().name for name in ("best.pth", "latest.pth")),
        )

    best = ["--best_by", "kid_lite0"]
    assert train(3, *best) == (["netG_2.pth", "netG_3.pth"], "netG_2.pth", "netG_3.pth")
    assert train(4, *best, "--keep_every", 4) == (["netG_2.pth", "netG_4.pth"], "netG_2.pth", "netG_4.pth")
    assert train(6, *best, "--keep_every", 4) == (
        ["netG_4.pth", "netG_5.pth", "netG_6.pth"],
        "netG_5.pth",
        "netG_6.pth",
    )
    lines = map(json.loads, (tmp_path / "stats.jsonl").read_text().splitlines())
    measured = {line["step"]: line["eval_kid_lite0"] for line in lines if "eval_kid_lite0" in line}
    assert measured == {1: 0.3, 2: 0.1, 3: 0.2, 4: 0.4, 5: 0.05, 6: 0.5}
    assert train(7, "--keep_every", 4)[1:] == ("netG_5.pth", "netG_7.pth")  # not asked for: not measured, not lost


def test_the_metric_of_snapshots(folder, tmp_path):
    """The same number each time; that of the images which the generated ones are; lowest for the real images."""
    split = load_split(folder, "test")
    rows = [np.zeros((1, 9), np.float32)] * len(split.items)
    generator = Networks(load_config(folder.parent / "tiny.yml"), 9, torch.device("cpu")).average
    kid = snapshot_metric.Kid("kid_lite0at128", folder / "test", split, rows, generator, 0, "cpu")
    value = kid(generator)
    assert value == kid(generator) and kid.extractor.view == 128
    noises = torch.stack([sampler.noise(generator, 0, i, 0) for i in range(7)])
    images = torch.from_numpy(sampler.generate(generator, torch.zeros(7, 9), noises)[-1]).permute(0, 3, 1, 2)
    generated = kid.extractor(images)[0]
    assert value == pytest.approx(squared_mmd(generated, kid.real), rel=1e-4) and len(kid.real) == 7
    assert squared_mmd(kid.real, kid.real) < value
    found = kid.distances(generator)
    assert found["kid_lite0at128"] == pytest.approx(value, rel=1e-4)
    mean, covariance = (
        [f(x.double()) for x in (generated, kid.real)] for f in (lambda x: x.mean(0), lambda x: x.T.cov())
    )
    direct = frechet_distance(mean[0], covariance[0], mean[1], covariance[1])
    assert list(found) == ["fid_lite0at128", "kid_lite0at128"]
    assert found["fid_lite0at128"] == pytest.approx(direct, rel=1e-4)


def metric_of(values, monkeypatch):
    """Let --best_by give these values, one after the other; an exception is raised."""
    values = iter(values)

    def measure(generator):
        value = next(values)
        if isinstance(value, Exception):
            raise value
        return value

    measure.name = "kid_lite0"
    monkeypatch.setattr("StackGAN_v2.training.snapshot_metric.Kid", lambda *unused: measure)


def test_distances_over_the_training(folder, tmp_path, monkeypatch):
    """Every so many iterations, whatever the snapshots; no best one is chosen, and the training is the same."""

    class Distances:
        def __init__(self, name, *others):
            assert name == "kid_lite0"

        def distances(self, generator):
            assert not generator.training
            return {"fid_lite0": 2.0, "kid_lite0": 0.5}

    monkeypatch.setattr("StackGAN_v2.training.snapshot_metric.Kid", Distances)
    run_main(folder, "--output_dir", tmp_path / "plain", "--max_steps", 5)
    run_main(folder, "--output_dir", tmp_path / "a", "--max_steps", 5, "--metrics_every", 2)
    run_main(folder, "--output_dir", tmp_path / "a", "--max_steps", 6, "--metrics_every", 2)
    lines = [json.loads(line) for line in (tmp_path / "a" / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("eval_fid_lite0") == 2 and line["eval_kid_lite0"] == 0.5] == [
        2,
        4,
        6,
    ]
    assert not (tmp_path / "a" / "Model" / "best.pth").exists()
    run_main(folder, "--output_dir", tmp_path / "plain", "--max_steps", 6)
    assert_equal_runs(tmp_path / "plain", tmp_path / "a")
    titles = [
        chart.title for chart in figures.generator_charts(runs_of_report.columns([tmp_path / "a"])[0]) if chart.svg
    ]
    assert "Kernel distance, EfficientNet-lite0 (no KID), in training" in titles


def test_a_metric_that_is_no_number_neither_wins_nor_blocks(folder, tmp_path, monkeypatch):
    metric_of([float("nan"), 0.5, float("nan"), 0.4], monkeypatch)
    run_main(
        folder,
        "--output_dir",
        tmp_path,
        "--max_steps",
        4,
        "--best_by",
        "kid_lite0",
        "--set",
        "TRAIN.SNAPSHOT_INTERVAL=1",
    )
    assert (tmp_path / "Model" / "best.pth").resolve().name == "netG_4.pth"
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "stats.jsonl").read_text().splitlines()
    ]
    assert [line["eval_kid_lite0"] for line in lines if "eval_kid_lite0" in line] == [None, 0.5, None, 0.4]
    assert checkpoint.load(tmp_path / "resume.pth")["best"] == {"by": "kid_lite0", "value": 0.4, "iteration": 4}


@pytest.mark.parametrize("where", ["metric", "sheet"])
def test_a_fault_in_an_evaluation_costs_no_iteration(folder, tmp_path, monkeypatch, where):
    if where == "metric":
        metric_of([0.5, RuntimeError("fault")], monkeypatch)
    else:
        save = sampler.save_image
        monkeypatch.setattr(
            sampler,
            "save_image",
            lambda path, pixels: save(path, pixels) if "000004" not in path.name else pytest.fail("fault"),
        )
    with pytest.raises((RuntimeError, pytest.fail.Exception), match="fault"):
        run_main(
            folder,
            "--output_dir",
            tmp_path,
            "--max_steps",
            6,
            "--set",
            "TRAIN.SNAPSHOT_INTERVAL=2",
            *(["--best_by", "kid_lite0"] if where == "metric" else []),
        )
    assert checkpoint.load(tmp_path / "resume.pth")["iteration"] == 4
    assert (tmp_path / "Model" / "latest.pth").resolve().name == "netG_4.pth"


def test_too_few_images_for_the_best_are_told_before_training(tmp_path):
    folder = make_set(tmp_path)
    content = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps({**content, "data": content["data"][:1]}))
    rows = [np.zeros((1, 9), np.float32)]
    save_features(feature_path(folder, "test", "audio", "stub"), rows, load_split(folder, "test"))
    with pytest.raises(UserError, match="--best_by kid_lite0 needs 2 test images at least, but .*test.json has 1"):
        run_main(folder, "--output_dir", tmp_path / "run", "--best_by", "kid_lite0")
    assert not (tmp_path / "run").exists()


def test_a_set_of_one_class_trains_with_wrong_speech(tmp_path):
    folder = make_set(tmp_path)
    for name in ("train", "test"):
        content = json.loads((folder / f"{name}.json").read_text())
        data = [item | {"class": "001.kind"} for item in content["data"]]
        (folder / f"{name}.json").write_text(json.dumps(content | {"data": data}))
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1, "--set", "TRAIN.WRONG=speech")
    assert (tmp_path / "run" / "Model" / "netG_1.pth").exists()
    with pytest.raises(UserError, match="single class.*or set TRAIN.WRONG: speech"):
        run_main(folder, "--output_dir", tmp_path / "other", "--max_steps", 1)


def test_resume_files_of_older_versions_go_on(folder, tmp_path, capsys):
    """With 'optimiser' and 'stages', as they were spelled, and without settings that came later."""
    run_main(folder, "--output_dir", tmp_path / "old", "--max_steps", 2)
    content = checkpoint.load(tmp_path / "old" / "resume.pth")
    content["settings"]["stages"] = content["settings"].pop("branches")
    del content["course"]["TRAIN.LOG_INTERVAL"]
    checkpoint.save(
        tmp_path / "old" / "resume.pth",
        {name.replace("optimizer", "optimiser"): value for name, value in content.items()},
    )
    run_main(folder, "--output_dir", tmp_path / "old", "--max_steps", 3)
    out = capsys.readouterr().out
    assert "going on from iteration 2 of" in out and " now " not in out
    run_main(folder, "--output_dir", tmp_path / "new", "--max_steps", 3)
    assert_equal_runs(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--set", "TRAIN.BATCH=3"], "unknown key TRAIN.BATCH"),
        (["--set", "TRAIN.BATCH_SIZE=x"], "TRAIN.BATCH_SIZE is 'x'; expected a whole number"),
        (["--set", "TRAIN=3"], "TRAIN is a group of keys"),
        (["--set", "TREE.BRANCH_NUM=4"], "TREE.BRANCH_NUM is 4; known are 1, 2, 3"),
        (["--set", "TRAIN.FLAG=False"], "--eval_net_g is missing"),
        (["--audio_switch", "other"], "extract_audio_feature.py"),
        (["--device", "tpu"], "--device tpu: not a device"),
    ],
)
def test_mistakes_get_one_sentence(folder, tmp_path, words, sentence):
    with pytest.raises(UserError, match=sentence):
        run_main(folder, "--output_dir", tmp_path / "run", *words)
    assert not list(tmp_path.rglob("*.pth"))


def test_a_resume_file_that_is_not_there_is_told_before_anything_is_read(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_main(folder, "--output_dir", tmp_path / "run", "--resume", "/nowhere.pth")
    assert "--resume is '/nowhere.pth'; it does not exist" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_other_settings_do_not_resume_or_are_told(folder, tmp_path, capsys):
    run_main(folder, "--output_dir", tmp_path, "--max_steps", 1)
    for words, message in (
        (["--manualSeed", 5], "made with seed = 0, now it is 5"),
        (["--branch_num", 2], "made with branches = 3, now it is 2"),
        (["--set", "GAN.DF_DIM=8"], r"another architecture: '.*' is \(.*there and \(.*here"),
    ):
        with pytest.raises(UserError, match=message):
            run_main(folder, "--output_dir", tmp_path, "--max_steps", 2, *words)
    content = checkpoint.load(tmp_path / "resume.pth")
    for change, message in (({"text_dim": 8}, "made with text_dim = 8, now it is 9"),):
        checkpoint.save(tmp_path / "other.pth", {**content, "settings": {**content["settings"], **change}})
        with pytest.raises(UserError, match=message):
            run_main(folder, "--output_dir", tmp_path, "--max_steps", 2, "--resume", tmp_path / "other.pth")
    for wrong in (
        {"generator": {}},
        {"optimizer_g": {"state": 1}},
        {"iteration": "x"},
        {"settings": None},
        {"more": 1},
    ):
        checkpoint.save(tmp_path / "other.pth", {**content, **wrong})
        with pytest.raises(UserError, match="other.pth"):
            run_main(folder, "--output_dir", tmp_path, "--max_steps", 2, "--resume", tmp_path / "other.pth")
    capsys.readouterr()
    run_main(folder, "--output_dir", tmp_path, "--max_steps", 2, "--set", "TRAIN.GENERATOR_LR=1e-3")
    assert "TRAIN.GENERATOR_LR now 0.001 (was 0.0002)" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "resume.pth")["optimizer_g"]["param_groups"][0]["lr"] == 1e-3


def test_a_generator_and_features_of_other_widths_do_not_meet(folder, tmp_path):
    from StackGAN_v2.model import Generator

    checkpoint.save(tmp_path / "netG_1.pth", Generator(1, 16, 4, 5, 6, 10).state_dict())
    with pytest.raises(UserError, match="width 10, but --audio_switch stub has 9"):
        run_main(folder, "--set", "TRAIN.FLAG=False", "--eval_net_g", tmp_path / "netG_1.pth")


def test_pixels_and_grids_by_hand():
    assert sampler.to_pixels(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 128, 255]
    sheet = sampler.grid(np.zeros((3, 2, 2, 3), np.uint8), columns=2, gap=1)
    assert (
        sheet.shape == (5, 5, 3) and sheet[2].min() == 255 and sheet[:2, :2].max() == 0 and sheet[3:, 3:].min() == 255
    )


def test_a_sheet_is_generated_in_parts(folder, tmp_path, monkeypatch):
    """Few images at a time, for want of memory: none is missed, doubled or moved, and each is what it was."""
    cfg = load_config(folder.parent / "tiny.yml")
    generator = Networks(cfg, 9, torch.device("cpu")).average
    data = DataSettings(folder, "stub")
    asked = []
    monkeypatch.setattr(
        sampler, "generate", lambda *given, generate=sampler.generate: asked.append(len(given[1])) or generate(*given)
    )
    for batch in (100, 3):
        monkeypatch.setattr(setup, "SHEET_BATCH", batch)
        (tmp_path / f"{batch}" / "Image").mkdir(parents=True)
        setup.make_sample_sheet(data, 64, 3, generator, runs.Run(tmp_path / f"{batch}", {}))(5)
    assert asked == [7, 3, 3, 1]
    (file,) = (tmp_path / "100/events").iterdir()
    (shown,) = (value.image for event in LegacyEventFileLoader(str(file)).Load() for value in event.summary.value)
    pixels = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))  # seven real images above as many samples
    assert pixels.shape == (shown.height, shown.width, 3) == (2 * 66 - 2, 7 * 66 - 2, 3)
    assert (pixels[66:] == np.asarray(Image.open(tmp_path / "100/Image/64_000005.png"))[:, : 7 * 66 - 2]).all()
    real = Image.open(load_split(folder, "test").items[1].image).resize((64, 64), Image.Resampling.BICUBIC)
    assert (pixels[:64, 66:130] == np.asarray(real)).all()
    for size in generator.sizes:
        whole, parts = (
            np.asarray(Image.open(tmp_path / batch / "Image" / f"{size}_000005.png"), int) for batch in ("100", "3")
        )
        assert whole.shape == parts.shape == (size, 8 * (size + 2) - 2, 3) and np.abs(whole - parts).max() <= 1
        assert len({whole[:, i * (size + 2) :][:, :size].tobytes() for i in range(7)}) == 7


def test_settings_files(tmp_path):
    published = load_config(ROOT / "StackGAN_v2" / "cfg" / "birds_3stages.yml")
    assert (published.TRAIN.BATCH_SIZE, published.TRAIN.COEFF.CAL_LOSS, published.TRAIN.GENERATOR_LR) == (
        24,
        50.0,
        2e-4,
    )
    assert all(load_config(path) for path in (ROOT / "StackGAN_v2" / "cfg").glob("*.yml"))
    for text, words in (
        ("a: [", "not YAML"),
        ("- 1", "holds no settings"),
        ("!!python/object/apply:os.getcwd []", "YAML"),
        ("TRAIN: {EMA: 1.5}", "EMA is 1.5"),
        ("GAN: {GF_DIM: 6}", "must be a multiple of 4"),
    ):
        (tmp_path / "x.yml").write_text(text)
        with pytest.raises(UserError, match=words):
            load_config(tmp_path / "x.yml")
