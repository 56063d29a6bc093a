"""A small set for the generator: two splits of seven images with bounding boxes and made-up speech features."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common import checkpoint
from common.features import feature_path, load_features, save_features
from common.splits import load_split
from StackGAN_v2 import sampler

CFG = """
DATASET_NAME: tiny
TREE: {BRANCH_NUM: 3, BASE_SIZE: 16}
TRAIN: {BATCH_SIZE: 4, MAX_EPOCH: 50, SNAPSHOT_INTERVAL: 3, EMA: 0.5, COEFF: {UNCOND_LOSS: 1, CAL_LOSS: 1, COLOR_LOSS: 1}}
GAN: {DF_DIM: 4, GF_DIM: 8, Z_DIM: 5, EMBEDDING_DIM: 6}
"""


def make_set(root: Path, items: int = 7) -> Path:
    """A set in the birds' form: images of several shapes, bounding boxes, uneven numbers of captions."""
    rng, folder = np.random.default_rng(0), root / "tiny"
    (folder / "CUB/images/1").mkdir(parents=True)
    names = [f"1/{name}_{i}.png" for name in ("train", "test") for i in range(items)]
    boxes = []
    for number, name in enumerate(names):
        size = (90 + 5 * number, 80)
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / "CUB/images" / name)
        boxes.append(f"{number + 1} {20 + number}.0 10.0 40.0 30.0")
    (folder / "CUB/images.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    (folder / "CUB/bounding_boxes.txt").write_text("\n".join(boxes))
    for offset, name in ((0, "train"), (items, "test")):
        data = [
            {"image": image, "class": f"{i % 3 + 1:03d}.kind", "text": ["words"] * (1 + i % 2)}
            for i, image in enumerate(names[offset : offset + items])
        ]
        (folder / f"{name}.json").write_text(json.dumps({"image_base_path": str(folder / "CUB"), "data": data}))
        rows = [rng.standard_normal((1 + i % 2, 9)) for i in range(items)]
        save_features(feature_path(folder, name, "audio", "stub"), rows, load_split(folder, name))
    (root / "tiny.yml").write_text(CFG)
    return folder


def assert_file_gives_its_samples(folder: Path, net_g: Path, generator) -> None:
    """A sample and a sheet lie beside a snapshot; equal noise gives that sample, and the file holds the run's average."""
    iteration = net_g.stem.removeprefix("netG_")
    samples = net_g.parent / f"iteration{iteration}"
    assert (samples / "sheet_00.png").is_file()
    sample = samples / "single_samples" / "valid" / "1" / f"test_0.png_{generator.sizes[-1]}_sentence0_0.png"
    rows = load_features(feature_path(folder, "test", "audio", "stub"), load_split(folder, "test"), "")
    pixels = sampler.generate(generator, torch.tensor(rows[0][:1]), sampler.noise(generator, 0, 0, 0)[None])[0][0]
    assert np.abs(np.asarray(Image.open(sample), int) - pixels).max() <= 1
    state, content = checkpoint.load(net_g), checkpoint.load(net_g.parent.parent / "resume.pth")
    assert all(torch.equal(state[key], content["average"][key]) for key in state)
