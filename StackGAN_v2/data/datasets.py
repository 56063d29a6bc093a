"""Training batches: real images with a caption's embedding, wrong images of another class, and noise.

Everything random is a pure function of (seed, iteration): a resumed run draws what an uninterrupted one would have
drawn, and any number of ranks shares one global batch.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from common.cli import UserError
from common.devices import send
from StackGAN_v2.data.augmentation import DRAWS


class SpeechFeatures:
    """The speech embeddings of all captions of a split, flat, so that a batch is one index operation.

    rows: list of float32 `[captions_i, d]`, one an image; images with none are not in `spoken`.
    """

    def __init__(self, rows: list[np.ndarray]):
        self.flat = torch.from_numpy(np.concatenate(rows))
        self.count = torch.tensor([len(row) for row in rows])
        self.start = torch.cumsum(self.count, 0) - self.count
        self.width = self.flat.shape[1]
        self.spoken = torch.nonzero(self.count).squeeze(1)

    def __len__(self) -> int:
        return len(self.count)

    def pick(self, images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The embedding `[N, d]` of one caption an image; u `[N]` in [0, 1) says which."""
        caption = torch.minimum((u * self.count[images]).long(), self.count[images] - 1)
        return self.flat[(self.start[images] + caption).to(self.flat.device)]


class Order:
    """An endless stream of image indices: one random permutation of the set after the other."""

    def __init__(self, images: int, seed: int):
        self.images, self.seed = images, seed
        self._last = None, None  # one value, since the thread of `Ahead` reads it too

    def indices(self, first: int, count: int) -> torch.Tensor:
        """Positions first … first + count − 1 of the stream, int64 `[count]`."""
        return torch.cat(
            [
                self._permutation(epoch)[max(first - epoch * self.images, 0) : first + count - epoch * self.images]
                for epoch in range(first // self.images, (first + count - 1) // self.images + 1)
            ]
        )

    def _permutation(self, epoch: int) -> torch.Tensor:
        known, order = self._last
        if epoch != known:
            order = torch.randperm(self.images, generator=_generator(self.seed, 1, epoch))
            self._last = epoch, order
        return order


def _generator(*key: int) -> torch.Generator:
    """A CPU generator whose state is a hash of `key`: neighbouring keys give unrelated streams."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class OtherClass:
    """Draws images of another class, all equally likely."""

    def __init__(self, labels: list[int]):
        labels = torch.tensor(labels)
        self.order = torch.argsort(labels, stable=True)
        ranked = labels[self.order]
        self.first, self.last = (torch.searchsorted(ranked, labels, right=right) for right in (False, True))
        if bool((self.last - self.first == len(labels)).any()):
            raise UserError(
                "the training split has a single class, so there are no wrong images to learn from; "
                "give its items at least two classes, or none, or set TRAIN.WRONG: speech"
            )

    def draw(self, images: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        first, last = self.first[images], self.last[images]
        others = len(self.order) - (last - first)
        place = torch.minimum((u * others).long(), others - 1)
        return self.order[torch.where(place < first, place, place + last - first)]


ROLES = (
    "real",
    "wrong",
    "fake",
    "generated",
)  # of images that a discriminator sees; generated: in the generator's step


@dataclass
class Batch:
    """real, wrong: one `[B, 3, s, s]` a size (wrong empty if not asked for); speech `[B, d]`; labels `[B]`;
    z `[B, Z]`; eps `[B, E]`; augmentation: uniform numbers `[B, 7]` for each of ROLES, empty if not asked for.
    """

    real: list[torch.Tensor]
    wrong: list[torch.Tensor]
    speech: torch.Tensor
    labels: torch.Tensor
    z: torch.Tensor
    eps: torch.Tensor
    augmentation: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchPlan:
    """What batches hold. batch_size: of all ranks together; sizes: of the images, in pixels; z_dim, embedding_dim:
    widths of the two kinds of noise; seed: of everything random; augmentation: draw numbers for it."""

    sizes: list[int]
    batch_size: int
    z_dim: int
    embedding_dim: int
    seed: int
    wrong_images: bool = True
    augmentation: bool = False


class Batches:
    """The batches of one rank. cache: the prepared images; features, labels: one an image."""

    def __init__(self, cache, features: SpeechFeatures, labels, plan: BatchPlan, device, rank=0, ranks=1):
        if len(cache) != len(features) or len(labels) != len(features):
            raise ValueError(f"{len(cache)} images, {len(features)} embeddings, {len(labels)} labels")
        if plan.batch_size % ranks:
            raise UserError(f"TRAIN.BATCH_SIZE is {plan.batch_size}; it must divide by the {ranks} processes")
        self.cache, self.features, self.plan, self.device = cache, features, plan, device
        self.labels, self.order = torch.tensor(labels), Order(len(features.spoken), plan.seed)
        self.others = OtherClass(labels) if plan.wrong_images else None
        share = plan.batch_size // ranks
        self.mine = slice(rank * share, (rank + 1) * share)

    def epoch(self, iteration: int) -> float:
        return iteration * self.plan.batch_size / self.order.images

    def images(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
        """Indices of the real and of the wrong images of the global batch, and the generator to go on with."""
        n, generator = self.plan.batch_size, _generator(self.plan.seed, 2, iteration)
        real = self.features.spoken[self.order.indices(iteration * n, n)]
        u = torch.rand(n, generator=generator)  # with or without wrong images: what follows is the same
        return real, self.others.draw(real, u) if self.others else real[:0], generator

    def __call__(self, iteration: int) -> Batch:
        real, wrong, generator = self.images(iteration)
        plan, n = self.plan, self.plan.batch_size
        offsets, flips = torch.rand(2, n, 2, generator=generator), torch.rand(2, n, generator=generator) < 0.5
        caption = torch.rand(n, generator=generator)
        noise = torch.randn(n, plan.z_dim + plan.embedding_dim, generator=generator)[self.mine]
        cut = [
            self.cache.batch(index[self.mine], offsets[i, self.mine], flips[i, self.mine], plan.sizes, self.device)
            for i, index in enumerate((real, wrong)[: 1 + plan.wrong_images])
        ]
        z, eps = send(noise, self.device).split((plan.z_dim, plan.embedding_dim), 1)
        real = real[self.mine]
        return Batch(
            real=cut[0],
            wrong=cut[1] if plan.wrong_images else [],
            speech=send(self.features.pick(real, caption[self.mine]), self.device),
            labels=send(self.labels[real], self.device),
            z=z,
            eps=eps,
            augmentation=self._augmentation(iteration) if plan.augmentation else {},
        )

    def _augmentation(self, iteration: int) -> dict[str, torch.Tensor]:
        draws = torch.rand(len(ROLES), self.plan.batch_size, DRAWS, generator=_generator(self.plan.seed, 3, iteration))
        return dict(zip(ROLES, send(draws[:, self.mine], self.device)))


class Ahead:
    """`batches`, but a thread makes the next one while the device works on this one. The batches are the same."""

    def __init__(self, batches: Batches):
        self.batches, self._pool, self._next = batches, ThreadPoolExecutor(1), (None, None)

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def __call__(self, iteration: int) -> Batch:
        number, future = self._next
        batch = future.result() if number == iteration else self.batches(iteration)
        self._next = iteration + 1, self._pool.submit(self.batches, iteration + 1)
        return batch
