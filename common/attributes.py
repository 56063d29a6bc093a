"""What a set's `attributes.json` says: the true attributes of each class, and which of them each sentence names.

It is read to measure alone; nothing that generates or hears is trained with it.
"""

from dataclasses import dataclass

import torch

from common.cli import UserError
from common.files import read_json


@dataclass(frozen=True)
class Attributes:
    """What a set's `attributes.json` says.

    names: the A attributes; values: those of each; classes: class → value numbers `[A]`; captions: image
    ("<class>/<file>") → for each of its captions the numbers of the attributes that it names.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    classes: dict[str, tuple[int, ...]]
    captions: dict[str, list[list[int]]]

    @property
    def counts(self) -> list[int]:
        return [len(values) for values in self.values]

    def of_items(self, items) -> torch.Tensor:
        """The true value numbers of each of `items` of a split: int64 `[items, A]`."""
        return torch.tensor([self._class(item.class_name) for item in items])

    def named(self, split, item: int, sentence: int) -> torch.Tensor:
        """The value numbers that a sentence says, int64 `[A]`; −1 where it does not name the attribute.

        sentence: its number among all sentences of the item's image."""
        one = split.items[item]
        image = one.image.relative_to(split.image_root).as_posix()
        try:
            positions = self.captions[image][sentence]
        except (KeyError, IndexError):
            raise UserError(
                f"attributes.json does not know sentence {sentence} of {image}; it belongs to another "
                "version of the set"
            ) from None
        wanted, truth = torch.full((len(self.names),), -1), torch.tensor(self._class(one.class_name))
        wanted[positions] = truth[positions]
        return wanted

    def _class(self, name: str) -> tuple[int, ...]:
        if name not in self.classes:
            raise UserError(f"attributes.json does not know the class {name}; it belongs to another version of the set")
        return self.classes[name]


def load_attributes(path) -> Attributes:
    """Read `attributes.json` (format: scripts/data/toybirds/dataset.py). UserError if it is not of that form."""
    content = read_json(path)
    try:
        names = tuple(content["attributes"])
        values = tuple(tuple(content["attributes"][name]) for name in names)
        classes = {
            name: tuple(known.index(value) for known, value in zip(values, row, strict=True))
            for name, row in content["classes"].items()
        }
        captions = {
            image: [[int(position) for position in caption] for caption in rows]
            for image, rows in content["captions"].items()
        }
        assert names and all(0 <= p < len(names) for rows in captions.values() for caption in rows for p in caption)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{path} is no table of attributes ({type(error).__name__}: {error}); make the set again"
        ) from None
    return Attributes(names, values, classes, captions)
