"""The published names of generated images, `<class>/<image file>_<size>_sentence<k>_0.png`, and which sentence k means.

k counts the sentences of an image from 0. A split may list an image in several items, as sets with one row a caption do:
k then goes on through them, in the order of the split, so that every sentence has a name of its own.
"""
import re
from itertools import accumulate

NAME = re.compile(r"(?P<image>.+)_(?P<size>\d+)_sentence(?P<sentence>\d+)_(?P<copy>\d+)\.(png|jpg)")


def image_name(split, item, size: int, sentence: int, form: str = "png") -> str:
    """The name for sentence number `sentence` of the image of `item`, relative to the folder of samples."""
    return f"{item.image.relative_to(split.image_root)}_{size}_sentence{sentence}_0.{form}"


def sentence_counts(split) -> list[int]:
    """How many sentences each item has; 0 where the split file has neither texts nor sound."""
    return [max(len(item.texts), len(item.audio)) for item in split.items]


def first_sentences(split) -> list[int]:
    """For each item the number of its first sentence: 0, unless an earlier item has the same image."""
    firsts = [0] * len(split.items)
    counts = sentence_counts(split)
    for numbers in items_of_images(split).values():
        for number, first in zip(numbers, accumulate((max(1, counts[n]) for n in numbers), initial=0)):
            firsts[number] = first
    return firsts


def items_of_images(split) -> dict[str, list[int]]:
    """Image, by its path below the image folder → the numbers of its items, both in the order of the split."""
    numbers: dict[str, list[int]] = {}
    for number, item in enumerate(split.items):
        numbers.setdefault(item.image.relative_to(split.image_root).as_posix(), []).append(number)
    return numbers
