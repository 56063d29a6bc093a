"""Sheets of samples ("super images"): a row for each class, with a real image of it first."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import UserError
from common.files import require_ours
from common.untrusted.images import open_rgb
from StackGAN_v2 import sampler
from StackGAN_v2.data.image_names import image_name

ROWS = 20  # classes on a sheet


def write_sheets(folder, split, size: int, form: str, columns: int) -> list[Path]:
    """Write `sheet_<k>.png` into the folder of `single_samples`, from the samples in `folder`; → their paths.

    columns: samples a class, spread over its images; classes without any sample have no row. Of a set without classes
    each image is one. size, form: as in `image_name`. UserError if a file there is not this project's.
    """
    rows = [
        (items[0], paths)
        for items in _by_class(split).values()
        if (paths := _samples(Path(folder), split, items, size, form)[:columns])
    ]
    groups = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
    sheets = [Path(folder).parent.parent / f"sheet_{number:02d}.png" for number in range(len(groups))]
    for path in sheets:
        require_ours(path, "--eval_net_g")
    for path, group in zip(sheets, groups):
        pixels = np.full((len(group), 1 + columns, size, size, 3), 255, np.uint8)
        for row, (item, samples) in enumerate(group):
            pixels[row, 0] = _real(item, size)
            for column, sample in enumerate(samples, 1):
                pixels[row, column] = np.asarray(open_rgb(sample))
        sampler.save_image(path, sampler.grid(pixels.reshape(-1, size, size, 3), 1 + columns))
    return sheets


def beside_real(items, images: np.ndarray) -> np.ndarray:
    """Real images of `items` above the samples `images` (uint8 `[N, s, s, 3]`) of their sentences, as one sheet."""
    reals = [_real(item, images.shape[1]) for item in items]
    return sampler.grid(np.concatenate([reals, images]), len(images))


def _real(item, size: int) -> np.ndarray:
    """The image of an item, `[s, s, 3]`, white if it cannot be read: a sheet is no reason to stop."""
    try:
        return np.asarray(open_rgb(item.image).resize((size, size), Image.Resampling.BICUBIC))
    except UserError:
        return np.full((size, size, 3), 255, np.uint8)


def _by_class(split) -> dict[int, list]:
    found = defaultdict(list)
    for item in split.items:
        found[item.label].append(item)
    return dict(sorted(found.items()))


def _samples(folder: Path, split, items: list, size: int, form: str) -> list[Path]:
    """The samples of a class that are there: the first sentence of each image, then the second of each, …"""
    captions = Counter[Path]()  # of an image, which several items may share
    for item in items:
        captions[item.image] += max(len(item.texts), len(item.audio))
    names = [
        image_name(split, item, size, sentence, form) for sentence in range(max(captions.values())) for item in items
    ]
    return [path for name in dict.fromkeys(names) if (path := folder / name).is_file()]
