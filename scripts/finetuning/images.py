"""The images of some classes of a set: cut as the generator's training cuts them, some of each class held out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import splits
from common.cli import UserError
from StackGAN_v2.data import image_cache

SIZE = 299  # pixels that Inception-v3 sees
SPLITS = {"test": ("test",), "train": ("train",), "all": ("train", "test")}


@dataclass
class Images:
    """caches: one a split; labels: int64 `[N]`, numbers into `classes`; train, held_out: int64 row numbers."""

    caches: list
    labels: torch.Tensor
    classes: list[str]
    train: torch.Tensor
    held_out: torch.Tensor

    def cut(self, rows, offsets, mirror) -> torch.Tensor:
        """`[N, 3, 299, 299]` in [−1, 1]; offsets `[N, 2]` in [0, 1): place of the crop; mirror: bool `[N]`."""
        images, start = torch.empty(len(rows), 3, SIZE, SIZE), 0
        for cache in self.caches:
            mine = ((rows >= start) & (rows < start + len(cache))).nonzero()[:, 0]
            if len(mine):
                images[mine] = cache.batch(rows[mine] - start, offsets[mine], mirror[mine], [SIZE])[0].cpu()
            start += len(cache)
        return images


def load(data_dir: Path, which: str, held_out: float, seed: int, jobs: int | None, progress: bool) -> Images:
    """The images of the `which` ('test', 'train', 'all') classes of a set, through the generator's image cache.

    held_out: share of each class, at least one image of it, that validates. UserError for a set without classes, or a
    class of a single image.
    """
    parts = [splits.load_split(data_dir, name) for name in SPLITS[which]]
    for split in parts:
        if not split.has_classes:
            raise UserError(
                f"{split.path} has no classes to tell apart; the score of such a set goes through the FID Inception"
            )
    items = [item for split in parts for item in split.items]
    names = sorted({(item.label, item.class_name) for item in items})
    number = {name: i for i, (_, name) in enumerate(names)}
    labels = torch.tensor([number[item.class_name] for item in items])
    train, validation = _divide(labels.numpy(), held_out, seed)
    alone = sorted({items[i].class_name for i in validation} - {items[i].class_name for i in train})
    if alone:
        raise UserError(f"{data_dir}: the class {alone[0]} has a single image, which cannot both train and validate")
    caches = [image_cache.build(split, data_dir / split.name, SIZE, jobs, progress) for split in parts]
    return Images(caches, labels, [name for _, name in names], torch.from_numpy(train), torch.from_numpy(validation))


def _divide(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, a share of each class, drawn by `seed`."""
    random, held = np.random.default_rng(seed), []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held.append(random.permutation(rows)[: max(1, round(share * len(rows)))])
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held
