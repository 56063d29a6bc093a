"""The stage that writes teacher features: order, shared images, resuming, freshness, faulty images, its command."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from Audio_to_Image.teachers import TEACHERS, extraction, teacher_class
from Audio_to_Image.teachers.teacher import Teacher
from common import ROOT
from common.cli import UserError
from common.features import load_features, read_pickle
from common.splits import load_split

COMMAND = ROOT / "Audio_to_Image" / "prepare_image_feature.py"


class MeanColour(Teacher):
    """Stands for a network: the feature of a view is its mean colour."""

    name, width = "efficientnet_lite0", 3

    def __init__(self):
        super().__init__("none", "mirror", torch.device("cpu"), "fp32", view_size=8)
        self.seen = 0

    def prepare(self, image):
        self.seen += 1
        return np.asarray(image.resize((11, 11))).transpose(2, 0, 1)

    def forward(self, views):
        return views.float().mean((2, 3))


@pytest.fixture
def birds(tmp_path):
    """Five items on four images: image k has colour (k, 2k, 3k); items 1 and 4 share image 1."""
    folder = tmp_path / "data" / "birds"
    (folder / "images").mkdir(parents=True)
    for k in range(4):
        Image.new("RGB", (20, 30), (k, 2 * k, 3 * k)).save(folder / "images" / f"{k}.png")
    items = [{"image": f"{k}.png", "class": "001.A", "text": ["a"]} for k in (0, 1, 2, 3, 1)]
    for name in ("train", "test"):
        (folder / f"{name}.json").write_text(json.dumps({"image_base_path": str(folder / "images"), "data": items}))
    return folder


def prepared(folder):
    split = load_split(folder, "train")
    path = extraction.path_of(folder, split, "efficientnet_lite0")
    return path, split, extraction.describe(split, "efficientnet_lite0", None, "mirror", 8, "fp32")


def make(path, split, wanted, teacher, whole_images=True, batch_size=3):
    return extraction.make(path, split, teacher, wanted, 2, batch_size, whole_images)


@pytest.mark.parametrize("whole_images", [True, False])
def test_rows_follow_the_split_and_a_shared_image_is_seen_once(birds, whole_images):
    path, split, wanted = prepared(birds)
    teacher = MeanColour()
    assert make(path, split, wanted, teacher, whole_images) == []
    assert teacher.seen == 4
    rows = load_features(path, split, "…")
    assert [row.shape for row in rows] == [(10, 3)] * 5
    assert [row[7].tolist() for row in rows] == [[k, 2 * k, 3 * k] for k in (0, 1, 2, 3, 1)]
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["teacher"] == "efficientnet_lite0" and sidecar["flip"] == "mirror" and len(sidecar["weights"]) == 64
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


def test_a_stopped_run_goes_on_where_it_was(birds, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 1)
    path, split, wanted = prepared(birds)

    class Stopping(MeanColour):
        def forward(self, views):
            if views.float().mean() > 3:  # image 2 or 3
                raise KeyboardInterrupt
            return super().forward(views)

    with pytest.raises(KeyboardInterrupt):
        make(path, split, wanted, Stopping(), whole_images=False, batch_size=1)
    assert not path.exists()
    teacher = MeanColour()
    make(path, split, wanted, teacher)
    assert teacher.seen == 2 and load_features(path, split, "…")[1][0].tolist() == [1, 2, 3]


def test_shards_of_other_settings_or_damaged_ones_are_not_used(birds, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 3)
    path, split, wanted = prepared(birds)
    key = {**wanted, "order": split.digest()}
    shards = extraction._Shards(path.parent / f".{path.stem}.partial", key, 4, (10, 3))
    shards.save(0, np.zeros((3, 10, 3), np.float32))
    (shards.folder / "00001.npy").write_bytes(b"\x93NUMPY cut")
    teacher = MeanColour()
    make(path, split, {**wanted, "flip": "vertical"}, teacher)
    assert teacher.seen == 4 and load_features(path, split, "…")[2][0].tolist() == [2, 4, 6]

    shards = extraction._Shards(shards.folder, key, 4, (10, 3))
    shards.save(0, np.zeros((3, 10, 3), np.float32))
    (shards.folder / "00001.npy").write_bytes(b"\x93NUMPY cut")
    teacher = MeanColour()
    make(path, split, wanted, teacher)
    assert teacher.seen == 1


def test_faulty_images_are_collected_and_nothing_is_written(birds, capsys):
    path, split, wanted = prepared(birds)
    for name in ("1.png", "3.png"):
        (birds / "images" / name).write_text("no image")
    for whole_images in (True, False):
        failed = make(path, split, wanted, MeanColour(), whole_images)
        assert len(failed) == 2 and not path.exists() and not path.with_suffix(".json").exists()
    with pytest.raises(UserError, match="^2 images could not be read"):
        extraction.report(failed)
    printed = capsys.readouterr().err
    assert "1.png is not an image" in printed and "3.png" in printed


def test_missing_images_are_told_before_the_work(birds):
    path, split, wanted = prepared(birds)
    (birds / "images" / "2.png").unlink()
    teacher = MeanColour()
    assert ["2.png does not exist" in str(fault) for fault in make(path, split, wanted, teacher)] == [True]
    assert teacher.seen == 0


def test_what_is_there_is_used_while_it_fits(birds, capsys):
    path, split, wanted = prepared(birds)
    assert not extraction.usable(path, split, wanted)
    make(path, split, wanted, MeanColour())
    assert extraction.usable(path, split, wanted) and "nothing to do" in capsys.readouterr().out
    assert extraction.usable(path, split, {**wanted, "weights": None})  # the weight file has gone
    assert not extraction.usable(path, split, {**wanted, "flip": "vertical"})
    assert "other flip" in capsys.readouterr().out
    Image.new("RGB", (99, 50), (255, 0, 9)).save(birds / "images" / "2.png")
    assert not extraction.usable(path, split, prepared(birds)[2])  # an image has changed


def test_published_features_are_used_as_they_are(birds, capsys):
    path, split, wanted = prepared(birds)
    make(path, split, wanted, MeanColour())
    path.with_suffix(".json").unlink()  # published ones have no sidecar
    assert extraction.usable(path, split, {**wanted, "flip": "vertical"})
    assert "published features of 5 images" in capsys.readouterr().out
    content = json.loads(split.path.read_text())
    split.path.write_text(json.dumps({**content, "data": content["data"][:3]}))
    with pytest.raises(UserError, match="5 rows.*3 items.*--overwrite"):
        extraction.usable(path, load_split(birds, "train"), wanted)


def command(*words):
    return subprocess.run([sys.executable, COMMAND, *map(str, words)], capture_output=True, text=True, timeout=100)


def test_command(birds):
    words = (
        "--dataset",
        "birds",
        "--data_root",
        birds.parent,
        "--teacher",
        "efficientnet_lite0",
        "--view_size",
        64,
        "--device",
        "cpu",
        "--jobs",
        2,
    )
    done = command(*words)
    assert done.returncode == 0, done.stderr
    path = birds / "test" / "image_features_efficientnet_lite0.pickle"
    features = read_pickle(path)
    assert features.shape == (5, 10, 1280) and features.dtype == np.float32 and (features[1] == features[4]).all()
    shutil.rmtree(birds / "train")
    (birds / "images" / "3.png").write_bytes(b"")
    before = path.read_bytes()
    done = command(*words)
    assert done.returncode == 2 and "3.png is empty" in done.stderr and "Traceback" not in done.stderr
    assert not list((birds / "train").glob("*.pickle")) and path.read_bytes() == before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset", "nowhere"], "nowhere"),
        (["--dataset", "x", "--flip", "up"], "--flip"),
        (["--datase", "x"], "--dataset"),
        (["--dataset", "x", "--batch_size", "0"], "at least 1"),
    ],
)
def test_command_errors_are_one_sentence(words, message):
    done = command(*words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_every_teacher_is_in_a_file_of_its_own():
    for name in TEACHERS:
        assert teacher_class(name).name == name
    with pytest.raises(UserError, match="--teacher resnet: choose one of googlenet_caffe"):
        teacher_class("resnet")


def test_help_needs_no_torch():
    """The names of the teachers come from their table, which loads none of them."""
    code = "import sys, Audio_to_Image.prepare_image_feature as p\ntry: p.parse(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "efficientnet_lite0" in done.stdout, done.stderr
