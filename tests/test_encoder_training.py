"""The encoder's data, trainer and commands on a tiny set: exact order, exact continuation, any number of processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rank_processes
import soundfile
import torch

from Audio_to_Image import datasets, evaluate, extract_audio_feature, train_audio_encoder, trainer
from Audio_to_Image.encoder_metrics import mean_views
from Audio_to_Image.speech_encoder import CNNRNN, load_encoder
from common import checkpoint, devices, resume, runs, splits
from common.cli import UserError
from common.distributed import ranks
from common.features import feature_path, load_features, read_pickle, save_features

ROOT = Path(__file__).resolve().parent.parent

ITEMS, WIDTH, FRAMES, CPU = 12, 8, 128, torch.device("cpu")
META = {"dataset": "tiny", "teacher": "stub", "max_frames": FRAMES}


def make_set(root: Path, items: int = ITEMS, classes: bool = True) -> Path:
    """A set of noises: item i has 1 + i % 3 captions, whose last is too short if it has three, and 1 + i % 2 views."""
    generator, folder = np.random.default_rng(0), root / "tiny"
    (folder / "wav").mkdir(parents=True)
    for name in ("train", "test"):
        data = []
        for i in range(items):
            audio = [f"{name}_{i}_{k}.wav" for k in range(1 + i % 3)]
            for k, wav in enumerate(audio):
                seconds = 0.3 if k == 2 else generator.uniform(0.7, 1.5)
                soundfile.write(folder / "wav" / wav, 0.1 * generator.standard_normal(int(16000 * seconds)), 16000)
            kind = {"class": f"{i % 3 + 1:03d}.kind"} if classes else {}
            data.append({"image": f"{name}_{i}.jpg", "text": ["words"] * len(audio), "audio": audio, **kind})
        (folder / f"{name}.json").write_text(
            json.dumps(
                {
                    "image_base_path": str(folder / "images"),
                    "audio_base_path": str(folder / "wav"),
                    "image_feature_path": "unused",
                    "data": data,
                }
            )
        )
        rows = [abs(generator.standard_normal((1 + i % 2, WIDTH))) for i in range(items)]
        save_features(feature_path(folder, name, "image", "stub"), rows, splits.load_split(folder, name))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data"))


def parts(folder):
    """Training set, test clips and the test images' features."""
    split = {name: splits.load_split(folder, name) for name in ("train", "test")}
    clips = {name: datasets.open_clips(split[name], FRAMES, CPU, jobs=1, progress=False) for name in split}
    image = {name: load_features(feature_path(folder, name, "image", "stub"), split[name], "") for name in split}
    return datasets.TrainingSet(clips["train"], image["train"]), clips["test"], mean_views(image["test"])


def make_trainer(folder, output, rnn_layers=1, **settings):
    train, test, image = parts(folder)
    settings = trainer.Settings(**{"epochs": 2, "batch_size": 4, "eval_every": 2, "log_every": 2, **settings})
    devices.seed_everything(settings.seed)
    network = CNNRNN(nhidden=WIDTH, rnn_layers=rnn_layers, bidirectional=True)
    run = runs.Run(output, {}, ranks.is_main(), tensorboard=False)
    run.limit(settings.max_minutes)
    return trainer.Trainer(network, train, test, image, META, settings, run)


def stats(output):
    lines = [json.loads(line) for line in (output / "stats.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "clips_per_s"} for line in lines]


def test_a_training_ends_when_its_time_is_up(folder, tmp_path, monkeypatch):
    """It is evaluated and kept as at its end, and the same command does no step more."""
    job = make_trainer(folder, tmp_path, epochs=50, max_minutes=1e9)
    monkeypatch.setattr(job.run, "seconds_left", lambda: 5.0 - job.step)
    assert job.fit() == 0 and job.step == 5 and (tmp_path / "latest.pth").exists() and job.evaluated == 5
    again = make_trainer(folder, tmp_path, epochs=50, max_minutes=1e-9)
    again.resume(*resume.find("auto", tmp_path))
    assert again.fit() == 0 and again.step == 5 and resume.find("auto", tmp_path)[0]["seconds"] > 0


# ---- data ----


def test_an_epoch_has_every_item_once_and_only_captions_that_can_be_used(folder):
    train, *_ = parts(folder)
    drawn = set()
    for epoch in range(20):
        plan = train.plan(3, epoch, 4)
        assert sorted(plan.items.ravel()) == list(range(ITEMS))
        assert (train.clips.items[plan.clips] == plan.items).all() and (train.clips.n_frames[plan.clips] >= 64).all()
        assert (np.searchsorted(train.first_view, plan.views, "right") - 1 == plan.items).all()
        drawn.update(plan.clips.ravel())
    assert drawn == set(train.clips.usable) and len(train.clips.unusable()) == ITEMS // 3
    again, other = train.plan(3, 19, 4), train.plan(4, 19, 4)
    assert (again.clips == plan.clips).all() and (again.items != other.items).any()
    assert (train.plan(3, 19, 6).items.ravel() == plan.items.ravel()).all()  # whatever the batch
    assert len(train.plan(3, 19, 5)) == 2


def test_batches_are_longest_first_and_ranks_have_their_rows(folder):
    train, *_ = parts(folder)
    plan = train.plan(0, 0, 6)
    whole, first, second = (train.batch(plan, 1, rows) for rows in (slice(0, 6), slice(0, 3), slice(3, 6)))
    assert whole.mels.shape == (6, 40, FRAMES) and whole.image.shape == (6, WIDTH)
    assert whole.n_frames.diff().le(0).all() and whole.n_frames.max() <= FRAMES
    for row, n in enumerate(whole.n_frames):
        assert not whole.mels[row, :, n:].any() and whole.mels[row, :, :n].any(0).all()
    halves = torch.cat([first.image, second.image])
    assert sorted(halves.sum(1).tolist()) == sorted(whole.image.sum(1).tolist())
    masked = train.batch(plan, 1, slice(0, 3), np.random.default_rng(1))
    assert all(
        (masked.mels != first.mels)[row].any() and not masked.mels[row, :, n:].any()
        for row, n in enumerate(first.n_frames)
    )


def test_every_cache_gives_the_same_and_places_are_scaled(folder):
    split = splits.load_split(folder, "test")
    near, far = (datasets.open_clips(split, FRAMES, CPU, where, progress=False) for where in ("gpu", "disk"))
    assert (near.where, far.where) == ("ram", "disk")  # there is no GPU to hold them
    near._values = torch.from_numpy(near.cache.values)
    assert torch.equal(near._gather(far.usable) * near.front.step, far.mels(far.usable))
    assert torch.equal(near.mels(near.usable), far.mels(far.usable))
    train, *_ = parts(folder)
    train.scale_by_peak = True
    assert torch.equal(train.batch(train.plan(0, 0, 4), 0, slice(0, 4)).mels.abs().amax((1, 2)), torch.ones(4))


# ---- trainer ----


def test_a_single_image_a_step_is_refused_before_training(folder, tmp_path):
    with pytest.raises(UserError, match="one image a process is too few for batch norm: make --batch_size 2 or more"):
        make_trainer(folder, tmp_path, batch_size=1)


def test_stopped_in_mid_epoch_and_continued_equals_uninterrupted(folder, tmp_path):
    options = dict(rnn_layers=2, specaugment=True, grad_clip=100.0, lr_schedule="cosine", log_every=1)
    whole = make_trainer(folder, tmp_path / "whole", **options)  # dropout between the two layers
    assert whole.fit() == 0 and whole.step == 6
    first = make_trainer(folder, tmp_path / "parts", **options)
    step = first.train_on

    def signal_at_step_four(batch):
        if first.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    first.train_on = signal_at_step_four
    assert first.fit() == 128 + signal.SIGTERM and (first.epoch, first.position) == (1, 1)
    torch.rand(7)  # other draws in between
    second = make_trainer(folder, tmp_path / "parts", **options)
    second.resume(*resume.find("auto", tmp_path / "parts"))
    second.run.rewind(second.step)
    assert second.fit() == 0
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key
    for one, other in zip(whole.optimizer.state.values(), second.optimizer.state.values()):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert stats(tmp_path / "whole") == stats(tmp_path / "parts") and whole.best == second.best
    assert second.fit() == 0 and second.step == 6  # nothing is left to do


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_stopped_by_a_signal_goes_on_exactly(folder, tmp_path, monkeypatch, number):
    def words(output, steps):
        return [
            "--dataset",
            "tiny",
            "--data_root",
            folder.parent,
            "--teacher",
            "stub",
            "--output_dir",
            output,
            *LOSSES,
            "--bidirectional",
            "--max_frames",
            128,
            "--batch_size",
            4,
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--epoch",
            10**6,
            "--eval_every",
            10**6,
            "--save_every",
            10**6,
            "--log_every",
            1,
            "--max_steps",
            steps,
        ]

    command = [sys.executable, train_audio_encoder.__file__, *map(str, words(tmp_path / "parts", 10**6))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "  step      4  " in line:  # in the middle of the second epoch
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number and "Traceback" not in errors and "the same command goes on" in output
    done = checkpoint.load(tmp_path / "parts" / "resume.pth")["step"]
    assert done >= 4
    for name in ("parts", "whole"):
        assert call(monkeypatch, train_audio_encoder, *words(tmp_path / name, done + 1)) == 0
    parts, whole = (checkpoint.load(tmp_path / name / "resume.pth") for name in ("parts", "whole"))
    assert parts["step"] == whole["step"] == done + 1 and parts["metrics"] == whole["metrics"]
    assert checkpoint.digest(parts["network"]) == checkpoint.digest(whole["network"])
    for key, state in whole["optimizer"]["state"].items():
        assert checkpoint.digest(parts["optimizer"]["state"][key]) == checkpoint.digest(state)
    assert stats(tmp_path / "parts") == stats(tmp_path / "whole")


def test_a_damaged_resume_file_costs_one_interval_and_changes_nothing(folder, tmp_path, capsys):
    options = dict(batch_size=12, save_every=1, eval_every=3, keep=1)
    whole = make_trainer(folder, tmp_path / "whole", epochs=3, **options)
    assert whole.fit() == 0
    make_trainer(folder, tmp_path / "parts", epochs=2, **options).fit()
    path = tmp_path / "parts" / resume.RESUME
    path.write_bytes(path.read_bytes()[:-1000])
    second = make_trainer(folder, tmp_path / "parts", epochs=3, **options)
    capsys.readouterr()
    second.resume(*resume.find("auto", tmp_path / "parts"))
    assert second.epoch == 1 and capsys.readouterr().err.count("resume_previous.pth is used instead\n") == 1
    assert second.fit() == 0
    assert checkpoint.digest(second.network.state_dict()) == checkpoint.digest(whole.network.state_dict())
    assert (tmp_path / "parts" / "latest.pth").resolve().name == "epoch_3.pth"


def test_snapshots_say_what_they_are_and_old_ones_go(folder, tmp_path):
    job = make_trainer(folder, tmp_path, epochs=4, batch_size=12, keep=1, eval_every=1, save_every=1)
    scores = iter([1.0, 5.0, 2.0, 3.0])
    measure, trainer.evaluate = trainer.evaluate, lambda *a, **k: {"accuracy": next(scores)}
    try:
        job.fit()
    finally:
        trainer.evaluate = measure
    assert sorted(p.name for p in tmp_path.glob("epoch_*")) == ["epoch_2.pth", "epoch_4.pth"]
    assert os.readlink(tmp_path / "latest.pth") == "epoch_4.pth" and os.readlink(tmp_path / "best.pth") == "epoch_2.pth"
    encoder, meta = load_encoder(tmp_path / "latest.pth")
    assert {key: meta[key] for key in META} == META and meta["epoch"] == 4 and meta["bidirectional"]
    assert checkpoint.digest(job.network.state_dict()) == meta["digest"] and encoder.nhidden == WIDTH
    make_trainer(
        folder, tmp_path / "2", epochs=5, batch_size=12, keep=1, keep_every=2, eval_every=9, save_every=1
    ).fit()
    assert sorted(p.name for p in (tmp_path / "2").glob("epoch_*")) == [f"epoch_{n}.pth" for n in (2, 4, 5)]


def test_a_loss_that_is_not_finite_stops_the_run_by_name(folder, tmp_path):
    job = make_trainer(folder, tmp_path, jel=False, l1=False)
    job.train.features[:] = float("nan")
    with pytest.raises(UserError, match=r"step 0 \(epoch 0\): distill is not finite.*train_\d+_\d.wav") as error:
        job.fit()
    assert "4 are in" in str(error.value) and len(stats(tmp_path) if (tmp_path / "stats.jsonl").exists() else []) == 0
    assert checkpoint.load(tmp_path / resume.RESUME)["step"] == 0
    assert checkpoint.first_not_finite(checkpoint.load(tmp_path / resume.RESUME)) is None


@pytest.mark.parametrize("how", ["last update", "unseen loss", "stop"])
def test_no_file_is_written_of_bad_weights(folder, tmp_path, how):
    """The last update before a resume file ruins the weights; a loss that no tick has looked at yet, as on a GPU."""
    job = make_trainer(folder, tmp_path, epochs=3, batch_size=6, save_every=1, eval_every=3, log_every=100)
    step = job.train_on

    def ruin(batch):
        terms = step(batch)
        if job.step == 3:  # the last of the second epoch; the third begins if nobody looks
            if how == "unseen loss":
                job.window.rows[-1][1]["jel"] = torch.tensor(float("nan"))
            else:
                job.network.Conv[1][0].weight.data[0] = float("inf")
            job.stopping = how == "stop"
        return terms

    job.train_on = ruin
    message = r"step 2 \(epoch 1\): jel" if how == "unseen loss" else r"step 3 \(epoch 1\): weights.Conv.1.0.weight"
    with pytest.raises(UserError, match=message + r" is not finite, in the batch of .*train_\d+.* is from before"):
        job.fit()
    assert checkpoint.load(tmp_path / resume.RESUME)["step"] == 2
    assert sorted(p.name for p in tmp_path.glob("epoch_*")) == ["epoch_1.pth"]
    for path in tmp_path.glob("*.pth"):
        assert checkpoint.first_not_finite(checkpoint.load(path)) is None


@pytest.mark.parametrize("epochs, steps", [(3, 6), (1, 3)])
def test_a_fault_in_an_evaluation_costs_no_epoch(folder, tmp_path, monkeypatch, epochs, steps):
    """In the middle and at the end: what was trained is kept, and the same command evaluates and goes on exactly."""
    options = dict(epochs=epochs, eval_every=2, log_every=1)
    whole = make_trainer(folder, tmp_path / "whole", **options)
    assert whole.fit() == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", lambda *a, **k: pytest.fail("no memory"))
        with pytest.raises(pytest.fail.Exception, match="no memory"):
            make_trainer(folder, tmp_path / "parts", **options).fit()
    assert checkpoint.load(tmp_path / "parts" / resume.RESUME)["step"] == steps
    job = make_trainer(folder, tmp_path / "parts", **options)
    job.resume(*resume.find("auto", tmp_path / "parts"))
    job.run.rewind(job.step, job.due)
    assert job.due and job.fit() == 0 and not job.due
    before = [checkpoint.load(tmp_path / name / resume.PREVIOUS)["step"] for name in ("whole", "parts")]
    assert before[0] == before[1] < steps + 3  # evaluated again, the resume file before is still of an earlier step
    assert stats(tmp_path / "parts") == stats(tmp_path / "whole") and job.best == whole.best
    assert checkpoint.digest(job.network.state_dict()) == checkpoint.digest(whole.network.state_dict())


def test_a_metric_that_is_no_number_neither_wins_nor_blocks(folder, tmp_path, monkeypatch):
    scores = iter([float("nan"), 5.0, float("nan"), 6.0])
    monkeypatch.setattr(trainer, "evaluate", lambda *a, **k: {"accuracy": next(scores)})
    job = make_trainer(folder, tmp_path, epochs=4, batch_size=12, eval_every=1, save_every=1)
    job.fit()
    assert job.best == {"score": 6.0, "epoch": 4} and os.readlink(tmp_path / "best.pth") == "epoch_4.pth"
    assert "NaN" not in (tmp_path / "stats.jsonl").read_text()


def test_training_begins_with_given_weights(folder, tmp_path, monkeypatch):
    """--init_weights, or --resume with an encoder's file, as published; an own resume file decides over them."""
    torch.manual_seed(5)
    start = CNNRNN(nhidden=WIDTH, bidirectional=True)
    published = {f"module.{key}": value for key, value in start.state_dict().items()}
    checkpoint.save(tmp_path / "bare.pth", published)
    checkpoint.save(tmp_path / "epoch_3.pth", {"meta": {"epoch": 3}, "state_dict": published})
    seen, fit = [], trainer.Trainer.fit

    def look(job):
        seen.append((job.step, checkpoint.digest(job.network.state_dict())))
        return fit(job)

    monkeypatch.setattr(trainer.Trainer, "fit", look)
    words = [
        train_audio_encoder,
        "--dataset",
        "tiny",
        "--data_root",
        folder.parent,
        "--teacher",
        "stub",
        "--device",
        "cpu",
        *LOSSES,
        "--bidirectional",
        "--max_frames",
        128,
        "--precision",
        "fp32",
        "--max_steps",
    ]
    for name, more in (("a", ["--init_weights", tmp_path / "bare.pth"]), ("b", ["--resume", tmp_path / "epoch_3.pth"])):
        assert call(monkeypatch, *words, 1, "--output_dir", tmp_path / name, *more) == 0
        assert seen.pop() == (0, checkpoint.digest(start.state_dict()))
    assert call(monkeypatch, *words, 2, "--output_dir", tmp_path / "a", "--init_weights", tmp_path / "bare.pth") == 0
    step, digest = seen.pop()
    assert step == 1 and digest != checkpoint.digest(start.state_dict())
    checkpoint.save(tmp_path / "wide.pth", CNNRNN(nhidden=2 * WIDTH).state_dict())
    with pytest.raises(UserError, match="wide.pth is of another architecture"):
        call(monkeypatch, *words, 1, "--output_dir", tmp_path / "c", "--init_weights", tmp_path / "wide.pth")


def test_split_files_may_be_named_one_by_one(folder, tmp_path, monkeypatch, capsys):
    words = [
        "--dataset",
        "no set",
        "--train_json",
        folder / "train.json",
        "--val_json",
        folder / "test.json",
        "--teacher",
        "stub",
        "--jel_flag",
        "--max_frames",
        128,
        "--short_clips",
        "skip",
        "--device",
        "cpu",
        "--max_steps",
        1,
    ]
    assert call(monkeypatch, train_audio_encoder, *words, "--output_dir", tmp_path / "run") == 0
    assert "12 training images with 20 captions" in capsys.readouterr().out


def test_a_split_without_a_usable_recording_is_told_before_training(tmp_path, monkeypatch):
    folder = make_set(tmp_path, items=4)
    for wav in (folder / "wav").glob("test_*"):
        wav.unlink()
    words = [
        "--dataset",
        "tiny",
        "--data_root",
        tmp_path,
        "--teacher",
        "stub",
        *LOSSES,
        "--device",
        "cpu",
        "--max_frames",
        128,
    ]
    with pytest.raises(UserError, match="test.json has no recording that can be used: .*test_0_0.wav"):
        call(monkeypatch, train_audio_encoder, *words, "--output_dir", tmp_path / "run")
    assert not list(tmp_path.rglob("*.pth"))


def test_a_resume_file_of_another_run_is_refused(folder, tmp_path):
    job = make_trainer(folder, tmp_path)
    job.save_resume()
    for options, words in (
        (dict(batch_size=3), "batch of all processes 4, not 3"),
        (dict(seed=1), "seed 0, not 1"),
        (dict(rnn_layers=2), "another architecture"),
    ):
        with pytest.raises(UserError, match=words):
            make_trainer(folder, tmp_path / "other", **options).resume(*resume.find("auto", tmp_path))
    content = checkpoint.load(tmp_path / resume.RESUME)
    order = {**content["order"], "teacher features of width": 9}
    for change, words in (
        ({"order": order}, f"teacher features of width 9, not {WIDTH}"),
        ({"network": {}}, "holds no network"),
        ({"optimizer": 1}, "no state of this optimizer"),
        ({"random": {}}, "no resume file"),
        ({"window": 3}, "no resume file"),
        ({"meta": None}, "no resume file"),
    ):
        with pytest.raises(UserError, match=words):
            make_trainer(folder, tmp_path / "other").resume({**content, **change}, "f.pth")
    with pytest.raises(UserError, match="f.pth is no resume file"):
        make_trainer(folder, tmp_path / "other").resume([1], "f.pth")


def test_features_of_another_width_are_named_with_both_numbers(folder, tmp_path, monkeypatch):
    split = {name: splits.load_split(folder, name) for name in ("train", "test")}
    for teacher, widths in (("mixed", (8, 9)), ("odd", (9, 9))):
        for name, width in zip(split, widths):
            save_features(feature_path(folder, name, "image", teacher), [np.ones((1, width))] * ITEMS, split[name])
    where = ["--dataset", "tiny", "--data_root", folder.parent]
    train = [train_audio_encoder, *where, "--jel_flag", "--output_dir", tmp_path / "run", "--device", "cpu"]
    with pytest.raises(UserError, match="mixed are 8 wide for train and 9 for test"):
        call(monkeypatch, *train, "--teacher", "mixed")
    with pytest.raises(UserError, match="features of even width; those of odd are 9 wide"):
        call(monkeypatch, *train, "--teacher", "odd", "--bidirectional")
    job = make_trainer(folder, tmp_path / "model")
    job._save_snapshot(False)
    with pytest.raises(UserError, match="latest.pth gives 8 numbers, but the features of teacher odd have 9"):
        call(monkeypatch, evaluate, "--model", tmp_path / "model" / "latest.pth", *where, "--teacher", "odd")
    path = feature_path(folder, "train", "image", "stub").with_suffix(".json")
    told = path.read_text()
    path.write_text(told.replace(split["train"].digest(), "0123456789abcdef"))
    try:
        with pytest.raises(UserError, match=f"order 0123456789abcdef, now {split['train'].digest()}.*run prepare_im"):
            call(monkeypatch, *train, "--teacher", "stub")
    finally:
        path.write_text(told)
    assert not (tmp_path / "run").exists()


def rank_main(folder: str, output: str) -> None:
    """One step as this process's rank, in float64; rank 0 keeps gradients, statistics and embeddings."""
    ranks.start(CPU)
    size = 6 // ranks.world_size()
    job = make_trainer(Path(folder), Path(output), batch_size=size, sync_bn=True, max_steps=1, log_every=1)
    embeddings = datasets.embed_clips(job.network.eval(), META, job.test, 4)
    job.network.double()
    make = job.train.batch

    def make_double(*arguments):
        batch = make(*arguments)
        return dataclasses.replace(batch, mels=batch.mels.double(), image=batch.image.double())

    job.train.batch = make_double
    trainer.evaluate = lambda *a, **k: {"accuracy": 0.0}
    job.fit()
    if ranks.is_main():
        state = {"grad." + name: value.grad for name, value in job.network.named_parameters()}
        state |= {name: value for name, value in job.network.named_buffers()}
        state["embeddings"] = embeddings
        torch.save(state, Path(output) / "result.pt")
    ranks.finish()


def test_two_processes_equal_one(folder, tmp_path, monkeypatch):
    processes = rank_processes.start(rank_main, 2, str(folder), str(tmp_path / "2"))
    monkeypatch.setattr(trainer, "evaluate", None)  # rank_main replaces it
    rank_main(folder, tmp_path / "1")
    rank_processes.wait(processes, 120)
    one, two = (torch.load(tmp_path / world / "result.pt", weights_only=True) for world in "12")
    for name, value in one.items():  # not weights: Adam's first step is ±lr, however small a gradient
        torch.testing.assert_close(
            two[name], value, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    first, second = (stats(tmp_path / world)[0] for world in "12")
    assert first == pytest.approx(second, rel=1e-7)


# ---- commands ----

LOSSES = ["--jel_flag", "--l1_flag", "--distill_flag"]


def call(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, words)])
    return module.main()


def test_train_extract_and_evaluate(folder, tmp_path, monkeypatch, capsys):
    where = ["--dataset", "tiny", "--data_root", folder.parent]
    command = [
        "bash",
        ROOT / "run_audio_encoder.sh",
        "1",
        "--output_dir",
        tmp_path / "a run",
        "--teacher",
        "stub",
        *where,
        *LOSSES,
        "--bidirectional",
        "--rnn_layers",
        "1",
        "--max_frames",
        "128",
        "--max_steps",
        "2",
        "--batch_size",
        "4",
        "--device",
        "cpu",
        "--short_clips",
        "skip",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"epoch_1.pth", "latest.pth", "best.pth", "resume.pth", "options.json", "log.txt", "stats.jsonl"} <= {
        path.name for path in (tmp_path / "a run").iterdir()
    }
    model = tmp_path / "a run" / "latest.pth"

    assert (
        call(
            monkeypatch,
            extract_audio_feature,
            "--model",
            model,
            "--audio_switch",
            "s",
            *where,
            "--bidirectional",
            "--rnn_layers",
            1,
        )
        == 0
    )
    assert "4 captions could not be used" in capsys.readouterr().err
    rows = load_features(feature_path(folder, "test", "audio", "s"), splits.load_split(folder, "test"), "")
    assert [row.shape for row in rows[:3]] == [(1, WIDTH), (2, WIDTH), (3, WIDTH)]
    np.testing.assert_allclose(rows[2][2], rows[2][:2].mean(0), rtol=1e-6)  # the short one
    lens = read_pickle(folder / "test" / "audio_features_lens_s.pickle")
    assert [len(row) for row in lens[:3]] == [1, 2, 3] and lens[2][2] < 64 <= lens[2][1] <= FRAMES
    for wrong, words in (("--rnn_layers=2", "has 1 LSTM"),):
        with pytest.raises(UserError, match=words):
            call(monkeypatch, extract_audio_feature, "--model", model, *where, wrong)

    for _ in range(2):
        assert call(monkeypatch, evaluate, "--model", model, *where) == 0
    first, second = map(json.loads, (tmp_path / "a run" / "metric-speech.jsonl").read_text().splitlines())
    assert first == second and first["captions"] == 20 and first["teacher"] == "stub"
    assert first["chance"] == pytest.approx(100 / 3) and 0 <= first["speech_to_image_r10"] <= 100


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--jel_flag", "--epochs", "3"], "--epochs"),
        ([], "at least one of --jel_flag"),
        (["--jel_flag", "--max_frames", "100"], "it must be a multiple of 64"),
        (["--jel_flag", "--epoch", "0"], "--epoch"),
        (["--jel_flag", "--resume", "none.pth"], "'none.pth'; it does not exist"),
    ],
)
def test_wrong_options_are_one_sentence_with_status_2(words, sentence, capsys):
    with pytest.raises(SystemExit) as error:
        train_audio_encoder.parse(["--dataset", "tiny", "--output_dir", "x", *words])
    text = capsys.readouterr().err
    assert error.value.code == 2 and sentence in text and text.count("\n") == 1


def test_the_launcher_shows_a_user_error_alone(tmp_path):
    done = subprocess.run(
        [
            "bash",
            ROOT / "run_audio_encoder.sh",
            "1",
            "--output_dir",
            tmp_path / "run",
            "--dataset",
            "no set",
            "--data_root",
            tmp_path,
            "--jel_flag",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("train_audio_encoder.py: error: --dataset no set")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
