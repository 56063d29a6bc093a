"""The published names of generated images, `<class>/<image file>_<size>_sentence<k>_0.png`, and which sentence k means.

k counts the captions of an image from 0, also those that are not spoken. A split may list an image in several items,
as sets with one row a caption do: k then goes on through them, in the order of the split, so that every sentence has a
name of its own.
"""

import re
from collections import Counter

NAME = re.compile(r"(?P<image>.+)_(?P<size>\d+)_sentence(?P<sentence>\d+)_(?P<copy>\d+)\.(png|jpg)")


def image_name(split, item, size: int, sentence: int, form: str = "png") -> str:
    """The name for sentence number `sentence` of the image of `item`, relative to the folder of samples."""
    return f"{item.image.relative_to(split.image_root)}_{size}_sentence{sentence}_0.{form}"


def sentence_counts(split) -> list[int]:
    """How many sentences of each item are used; 0 where the split file has neither texts nor sound."""
    return [item.sentences for item in split.items]


def first_sentences(split) -> list[int]:
    """For each item the number of its first caption: 0, unless an earlier item has the same image."""
    firsts, said = [], Counter()
    for image, item in zip(split.image_numbers, split.items):
        firsts.append(said[image])
        said[image] += max(1, len(item.texts), len(item.audio))
    return firsts
