"""Names of generated images: every sentence has its own, also where a split lists an image in several items."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.splits import load_split
from StackGAN_v2.data.image_names import NAME, first_sentences
from StackGAN_v2.evaluation.image_sets import find_generated
from StackGAN_v2.model import Generator
from StackGAN_v2.sampler import Sampling, sample_split

ROWS = (("a.png", 1), ("b.png", 2), ("a.png", 2), ("a.png", 1))  # image and sentences of each item


@pytest.fixture
def split(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = [{"image": name, "class": "1", "text": ["words"] * count} for name, count in ROWS]
    (tmp_path / "test.json").write_text(json.dumps({"image_base_path": str(tmp_path), "data": data}))
    return load_split(tmp_path, "test")


def sample(split, counts):
    torch.manual_seed(0)
    generator = Generator(branch_num=1, base_size=16, gf_dim=4, z_dim=3, embedding_dim=2, text_dim=5).eval()
    rows = [np.full((count, 5), i, np.float32) for i, count in enumerate(counts)]
    return sample_split(generator, split, rows, split.path.parent / "valid", Sampling(batch_size=4, progress=False))


def test_sentences_are_numbered_by_image(split):
    assert first_sentences(split) == [0, 0, 1, 3]
    assert sample(split, [count for _, count in ROWS]) == (6, 0)
    found = find_generated(split.path.parent / "valid", split)
    assert [(image.item, image.sentence) for image in found.images] == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3)]
    assert found.sentences == 6 and not found.missing and not found.warnings
    assert NAME.fullmatch(found.images[-1].path.rpartition("/")[2])["sentence"] == "3"
    assert sample(split, [count for _, count in ROWS]) == (0, 6)  # a second run finds them all


def test_captions_that_are_not_spoken_keep_their_numbers(split):
    """The first caption of each item alone has a recording: names say which caption it is, and none is missing."""
    path = split.path.parent / "test.json"
    content = json.loads(path.read_text()) | {"audio_base_path": str(path.parent)}
    for number, item in enumerate(content["data"]):
        item["audio"] = [f"{number}.wav"]
    path.write_text(json.dumps(content))
    split = load_split(path.parent, "test")
    assert sample(split, [1, 1, 1, 1]) == (4, 0)
    found = find_generated(path.parent / "valid", split)
    assert [(image.item, image.sentence) for image in found.images] == [(0, 0), (1, 0), (2, 1), (3, 3)]
    assert found.sentences == 4 and not found.missing and not found.warnings
    with pytest.raises(UserError, match="sentence 2"):  # of the third item, which has one
        (path.parent / "valid/a.png_16_sentence2_0.png").write_bytes((path.parent / "a.png").read_bytes())
        find_generated(path.parent / "valid", split)


def test_images_named_as_before_are_made_again(split):
    counts = [count for _, count in ROWS]
    sample(split, counts)
    note = split.path.parent / "samples.json"
    content = json.loads(note.read_text())
    assert content.pop("sentences") == "numbered by image"
    note.write_text(json.dumps(content))
    assert sample(split, counts) == (6, 0)


def test_more_sentences_than_the_split_says_are_refused_not_overwritten(split):
    with pytest.raises(UserError, match="lists an image in several items"):
        sample(split, [2, 2, 2, 1])
