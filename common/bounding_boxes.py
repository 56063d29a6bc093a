"""Bounding boxes of a set's images, in CUB's two text files, and the crop that both trainings see.

`images.txt` has a line `<number> <image>` for each image, whose name may hold spaces; `bounding_boxes.txt` has a line
`<number> <x> <y> <width> <height>`, in pixels from the upper left corner. They lie beside or above the image folder.
"""

import math
from pathlib import Path

from common.cli import UserError
from common.files import read_text

_SMALLEST, _LARGEST = 2, 1e6  # pixels; smaller boxes give no crop, and fractions are no pixels


class Box(tuple):
    """(x, y, width, height) in pixels; `where` names the file and line that say so."""

    where = "the bounding box"


def bounding_boxes(split) -> dict[str, Box]:
    """Image's path below the image folder, without suffix → its box. Empty if the set has no `bounding_boxes.txt`.

    UserError names file and line of what is not a box of four finite numbers of pixels, or has no counterpart.
    """
    for folder in (split.image_root.parent, split.image_root):
        boxes, names = folder / "bounding_boxes.txt", folder / "images.txt"
        if boxes.is_file() and names.is_file():
            by_number = {number: _box(text, where) for number, text, where in _lines(boxes)}
            return {
                str(Path(name).with_suffix("")): _of(number, by_number, where, boxes)
                for number, name, where in _lines(names)
            }
    return {}


def _lines(path: Path):
    """(first word, the rest, 'file, line n') of each line that is not empty."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        first, _, rest = line.strip().replace("\t", " ").partition(" ")
        if first and not rest.strip():
            raise UserError(f"{path}, line {number}: it has a single word; unpack the data set again")
        if first:
            yield first, rest.strip(), f"{path}, line {number}"


def _box(text: str, where: str) -> Box:
    try:
        box = Box(map(float, text.split()))
    except ValueError:
        box = Box()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise UserError(f"{where}: '{text[:80]}' is not a box of four finite numbers, x y width height")
    box.where = where
    if min(box[2:]) <= 0 or not _SMALLEST <= max(box[2:]) or max(map(abs, box)) > _LARGEST:
        raise UserError(
            f"{where}: the box '{text[:80]}' has no extent; boxes are x y width height in pixels, "
            "not in fractions of the image"
        )
    return box


def _of(number: str, boxes: dict[str, Box], where: str, path: Path) -> Box:
    if number not in boxes:
        raise UserError(f"{where}: the image of number {number[:20]} has no box in {path}; unpack the data set again")
    return boxes[number]


def crop_box(size: tuple[int, int], box) -> tuple[int, int, int, int]:
    """The square of half-side 0.75·max(w, h) around a box, clipped to the image: (left, top, right, bottom).

    size: (width, height) of the image. UserError if the box lies outside it.
    """
    (width, height), (x, y, w, h) = size, box
    if not (-w < x < width and -h < y < height):
        raise UserError(
            f"{getattr(box, 'where', Box.where)}: the box {x:g} {y:g} {w:g} {h:g} lies outside its image, "
            f"which has {width} × {height} pixels; boxes are x y width height in pixels"
        )
    half = int(max(w, h) * 0.75)
    centre_x, centre_y = int((2 * x + w) / 2), int((2 * y + h) / 2)
    left, top = min(max(0, centre_x - half), width - 1), min(max(0, centre_y - half), height - 1)
    return left, top, max(left + 1, min(width, centre_x + half)), max(top + 1, min(height, centre_y + half))
