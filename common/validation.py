"""A validation split: a share of the training split, left out of training so that a snapshot can be chosen on it."""

import dataclasses
import hashlib

import numpy as np

from common.cli import UserError
from common.splits import Split

FEWEST = 2  # classes or images on either side: a single class cannot be mistaken for another


def hold_out(train: Split, test: Split | None, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """→ (the numbers of the items to train on, those of the validation split), both ascending.

    share: in 0…1, of the classes if train and test have none in common (zero-shot sets, whose validation classes are
    then unseen as well), else of the images. What is drawn depends on the names and the seed alone, not on the order
    in the file. UserError if either side would have fewer than two classes or images.
    """
    by_class = _is_zero_shot(train, test)
    names = [item.class_name if by_class else item.key for item in train.items]
    order = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    count = max(FEWEST, round(share * len(order)))
    if len(order) - count < FEWEST:
        what = "classes" if by_class else "images"
        raise UserError(
            f"--val_share {share:g}: {train.path} has {len(order)} {what}, too few to train on some and validate on "
            f"{count}; give a smaller share, or leave it out"
        )
    chosen = set(order[:count])
    held = np.array([name in chosen for name in names])
    return np.flatnonzero(~held), np.flatnonzero(held)


def subset(split: Split, numbers, name: str) -> Split:
    """The items of these numbers as a split of their own; labels stay."""
    return dataclasses.replace(split, name=name, items=tuple(split.items[i] for i in numbers))


def choice_note(share: float, trained_on: Split, chosen_on: Split) -> str:
    """The line of a log that says what the best snapshot is chosen on."""
    if not share:
        return (
            f"the best snapshot is chosen on the test split, {chosen_on.path}; with --val_share 0.1 on a tenth of the "
            "training split, left out of training"
        )
    held, kept = len(chosen_on.items), len(trained_on.items)
    return (
        f"--val_share {share:g}: the best snapshot is chosen on {held} of the {held + kept} training items, which are "
        "left out of training"
    )


def _is_zero_shot(train: Split, test: Split | None) -> bool:
    if test is None or not (train.has_classes and test.has_classes):
        return False
    return not {item.class_name for item in train.items} & {item.class_name for item in test.items}
