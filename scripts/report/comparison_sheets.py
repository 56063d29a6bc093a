"""Sheets of a comparison: what each recipe generated for the same test sentences, beside the real images."""

import numpy as np

from common.bounding_boxes import bounding_boxes
from common.cli import UserError
from common.untrusted.images import open_rgb
from scripts.report import comparison, media, sentences
from StackGAN_v2 import sampler
from StackGAN_v2.data.image_names import first_sentences, image_name

_COLUMNS = 8


def make(results: list[comparison.Result], split, count: int) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """([(title, sheet `[H, W, 3]`)], the sentences): real images first, then the first seed of each row.

    The sentences are chosen by a rule that does not look at the images. An image that is missing leaves its place white.
    """
    chosen = sentences.choose(split, [item.sentences for item in split.items], count)
    firsts = first_sentences(split)
    sheets, size = [], 0
    for row, members in comparison.grouped(results).items():
        net = members[0].column.generator.path / "Model" / "latest.pth"
        folder = sampler.samples_folder(net)
        size = _largest(folder) or size
        images = []
        for sentence in chosen:
            number = firsts[sentence.place] + sentence.number
            names = (image_name(split, sentence.item, size, number, form) for form in ("png", "jpg"))
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            images.append(_read(path, size))
        sheets.append((f"{row}, seed {members[0].seed}", sampler.grid(np.stack(images), _COLUMNS)))
    boxes = bounding_boxes(split)
    real = [_real(sentence.item, boxes, size or 64) for sentence in chosen]
    return [("real images", sampler.grid(np.stack(real), _COLUMNS)), *sheets], [s.words for s in chosen]


def _largest(folder) -> int:
    """The largest size that the names of the samples in a folder give; 0 if there is none."""
    from StackGAN_v2.data.image_names import NAME

    matches = (NAME.fullmatch(path.name) for path in folder.rglob("*_sentence*"))
    return max((int(match["size"]) for match in matches if match), default=0)


def _read(path, size: int) -> np.ndarray:
    try:
        pixels = np.asarray(open_rgb(path)) if path else None
    except UserError:
        pixels = None
    blank = np.full((size or 64, size or 64, 3), 255, np.uint8)
    return pixels if pixels is not None and pixels.shape == blank.shape else blank


def _real(item, boxes, size: int) -> np.ndarray:
    try:
        return media.training_crop(item.image, boxes.get(item.key), size)
    except UserError:
        return np.full((size, size, 3), 255, np.uint8)
