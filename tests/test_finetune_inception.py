"""scripts/finetune_inception.py: from images of classes to a network that evaluate.py scores with."""

import json
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.files import write_json
from scripts import finetune_inception
from scripts.finetuning import images, training
from StackGAN_v2 import evaluate

Outputs = namedtuple("Outputs", ["logits", "aux_logits"])


class Small(torch.nn.Module):
    """Stands in for Inception where only the loop is looked at: two heads, dropout, batch normalisation."""

    def __init__(self, classes, weights=None):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.BatchNorm1d(48), torch.nn.Dropout(0.1)
        )
        self.fc, self.AuxLogits = torch.nn.Linear(48, classes), torch.nn.Linear(48, classes)

    def forward(self, x):
        x = self.body(x)
        return Outputs(self.fc(x), self.AuxLogits(x)) if self.training else self.fc(x)


@pytest.fixture
def data(tmp_path):
    """Three classes of one colour each in `test`, four images a class; two others in `train`."""
    folder, random = tmp_path / "birds", np.random.default_rng(0)
    for split, colours in (("test", "RGB"), ("train", "CM")):
        items = []
        for c, colour in enumerate(colours):
            for i in range(4):
                name = f"{c + 1 + 3 * (split == 'train'):03d}.{colour}/{i}.jpg"
                path = folder / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 90, (40, 44, 3), np.uint8)
                pixels[..., c] += 150
                Image.fromarray(pixels).save(path)
                items.append({"image": name, "class": name.split("/")[0], "text": ["a", "b", "c"]})
        write_json(folder / f"{split}.json", {"image_base_path": str(folder / "images"), "data": items})
    return folder


def tune(data, *options):
    return finetune_inception.main(
        ["--data_dir", str(data), "--device", "cpu", "--precision", "fp32", "--quiet", "--jobs", "1", *options]
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(training, "inception", Small)
    monkeypatch.setattr(images, "SIZE", 32)


def stop_after(steps, patch):
    """As a signal would in the middle of that step."""
    step = training.Training.train_step

    def train_step(self):
        self.stopping = self.step + 1 == steps
        return step(self)

    patch.setattr(training.Training, "train_step", train_step)


def test_two_steps_from_a_file_to_a_score(data, tmp_path, capsys):
    """The true network: from ImageNet's file, here random and of other classes; two steps; the score through it."""
    torch.manual_seed(0)
    start = training.inception(7)
    torch.save(start.state_dict(), tmp_path / "imagenet.pth")
    assert tune(data, "--weights", str(tmp_path / "imagenet.pth"), "--max_steps", "2", "--batch_size", "2") == 0
    network = tmp_path / "pretrained/inception_birds_test.pth"
    out = capsys.readouterr().out
    assert "validation accuracy" in out and "from scratch" not in out and str(network) in out
    state, note = torch.load(network, weights_only=True), json.loads(network.with_suffix(".json").read_text())
    assert len(state["fc.weight"]) == 3 and note["classes"] == ["001.R", "002.G", "003.B"] and note["which"] == "test"
    key = "Mixed_6a.branch3x3.conv.weight"
    assert not torch.equal(state[key], start.state_dict()[key])  # the old layers learn too
    assert (state[key] - start.state_dict()[key]).abs().max() < 0.1
    generated = tmp_path / "generated"
    for name in ("001.R/0.jpg", "002.G/1.jpg", "003.B/2.jpg", "003.B/3.jpg"):
        for k in range(3):
            (generated / name).parent.mkdir(parents=True, exist_ok=True)
            Image.open(data / "images" / name).resize((16, 16)).save(generated / f"{name}_16_sentence{k}_0.png")
    assert (
        evaluate.main(
            [
                "--images",
                str(generated),
                "--data_dir",
                str(data),
                "--metrics",
                "is",
                "--quiet",
                "--device",
                "cpu",
                "--is_weights",
                str(network),
            ]
        )
        == 0
    )
    (record,) = json.loads((tmp_path / "metrics.json").read_text()).values()
    assert record["metric"].startswith("is_finetuned3_") and 1 <= record["value"] <= 3
    assert record["protocol"]["extractor"].startswith("torchvision Inception-v3 of 3 classes")
    assert record["comparable_with"].startswith("none: ") and record["published"] == []


def test_colours_are_learnt(data, small, tmp_path, capsys):
    assert (
        tune(
            data, "--epochs", "40", "--batch_size", "3", "--learning_rate", "0.05", "--output", str(tmp_path / "a.pth")
        )
        == 0
    )
    assert json.loads((tmp_path / "a.json").read_text())["validation_accuracy"] == 100
    assert "warning: without --weights the network starts from scratch" in capsys.readouterr().out
    assert not (tmp_path / "a.resume.pth").exists()


def test_resuming_is_exact(data, small, tmp_path, monkeypatch, capsys):
    def state(name, *options):
        tune(data, "--max_steps", "8", "--batch_size", "3", "--output", str(tmp_path / name), *options)
        return torch.load(tmp_path / name, weights_only=True) if (tmp_path / name).exists() else None

    whole = state("whole.pth")
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        assert state("cut.pth") is None and "stopped after step 5" in capsys.readouterr().out
    resumed = state("cut.pth")
    assert "going on after step 5" in capsys.readouterr().out
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_resume_file_of_other_options_is_refused(data, small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        tune(data, "--max_steps", "4", "--batch_size", "3")
    with pytest.raises(UserError, match="of a run with other options or images"):
        tune(data, "--max_steps", "5", "--batch_size", "3")
    assert tune(data, "--max_steps", "1", "--batch_size", "3", "--resume", "none") == 0


def test_which_classes(data, small):
    found = {which: images.load(data, which, 0.25, 0, 1, False) for which in ("test", "train", "all")}
    assert {which: len(one.classes) for which, one in found.items()} == {"test": 3, "train": 2, "all": 5}
    every = found["all"]
    assert sorted(torch.cat((every.train, every.held_out)).tolist()) == list(range(20))
    assert every.labels[every.held_out].bincount().tolist() == [1] * 5
    middle = torch.full((20, 2), 0.5), torch.zeros(20, dtype=torch.bool)
    mean = every.cut(torch.arange(20), *middle).mean((2, 3))  # train's images come first
    assert mean.argmax(1).tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    assert every.labels.tolist() == [3] * 4 + [4] * 4 + [0] * 4 + [1] * 4 + [2] * 4


def test_a_set_without_classes_is_refused(data):
    content = json.loads((data / "test.json").read_text())
    for item in content["data"]:
        del item["class"]
    write_json(data / "test.json", content)
    with pytest.raises(UserError, match="has no classes to tell apart"):
        tune(data, "--max_steps", "1")


def test_the_rate_rises_and_falls():
    settings = training.Settings(100, learning_rate=1, warm_up=0.1)
    rates = [training.rate(step, settings) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2]) and rates[9] == rates[10] == 1 and rates[99] < 0.01
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--batch_size", "1"], "at least 2"),
        (["--held_out", "1"], "below 1"),
        (["--classes", "some"], "invalid choice"),
    ],
)
def test_options_are_checked(tmp_path, options, reason, capsys):
    with pytest.raises(SystemExit) as status:
        finetune_inception.main(["--data_dir", str(tmp_path), *options])
    assert status.value.code == 2 and reason in capsys.readouterr().err
