"""The image side of the contrastive encoder that is trained before it: which image goes with which sounds at all.

A network that must learn to hear and one that must learn to see, trained together from random weights, hold each other
up: on toybirds the sentence then holds 75 % of what it names instead of 80 %, after twice the time (docs/training.md).
The front end hears already, having been trained on speech. So the image side first learns which mean and maximum of the
front end's features over a clip go with its image, in the way of the matching network (common/matching_network.py), and
is fixed; the encoder then learns from image features that stay, which are computed once.
"""

import functools
from pathlib import Path
from time import monotonic

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from Audio_to_Image.datasets import SpeechClips, TrainingSet
from Audio_to_Image.objectives import random_of
from common import checkpoint
from common.matching_network import BATCH, PARTS, Matcher, Pairs, load_or_train, train_matcher
from common.part_attention import SIZE, PartsReader

NAME = "image network"
TIMED = 12  # steps that tell how many a time holds
SHARE_OF_TIME = 0.5  # of --max_minutes, at the most
CLIPS_AT_ONCE = 256
IMAGES_AT_ONCE = 64
STREAM = 11  # of what is drawn at random, beside the trainer's


class FixedImageNetwork(nn.Module):
    """`forward(images [N, 3, 64, 64] in [−1, 1])` → `[N, width]` of length 1: a trained linear layer of `features`,
    which are not trained further."""

    def __init__(self, width: int):
        super().__init__()
        self.parts = PartsReader(PARTS).requires_grad_(False).eval()
        count = PARTS * self.parts.out_features
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.dropout = nn.Dropout(0.1)
        self.what = nn.Linear(count, width)

    def train(self, mode: bool = True):
        super().train(mode)
        self.parts.eval()
        return self

    def features(self, images):
        """Images `[N, 3, 64, 64]` → features of all parts, the mean of the image and its mirror image, `[N, F]`."""
        seen = (self.parts(images) + self.parts(images.flip(3))).flatten(1) / 2
        return (seen.float() - self.mean) / self.scale

    def head(self, features):
        return F.normalize(self.what(self.dropout(features)).float(), dim=1)

    def forward(self, images):
        return self.head(self.features(images))

    @torch.no_grad()
    def take(self, matcher: Matcher, images: torch.Tensor) -> torch.Tensor:
        """The parts of a trained matcher. → the features of images, uint8 `[N, 3, 64, 64]`, on which those that vary have
        mean 0 and variance 1 from now on, float32 `[N, F]`."""
        self.parts.load_state_dict(matcher.parts.state_dict())
        self.mean.zero_()
        self.scale.fill_(1)
        rows = self.of_pixels(images)
        self.mean.copy_(rows.mean(0))
        spread = rows.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1))  # what is alike in all is not blown up in another image
        return (rows - self.mean) / self.scale

    @torch.no_grad()
    def of_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, 3, 64, 64]` → features, float32 `[N, F]` on the device of the weights."""
        device = self.mean.device
        return torch.cat([self.features(scaled(part.to(device))) for part in images.split(IMAGES_AT_ONCE)])


def scaled(images: torch.Tensor) -> torch.Tensor:
    """uint8 `[N, 3, S, S]` → float32 in [−1, 1], channels last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def clip_summaries(clips: SpeechClips, numbers: np.ndarray) -> torch.Tensor:
    """Mean and maximum of each feature of the front end over a clip, `[N, 2 · bands]`, on the CPU."""
    rows = []
    for start in range(0, len(numbers), CLIPS_AT_ONCE):
        some = numbers[start : start + CLIPS_AT_ONCE]
        columns, lens = clips.mels(some), torch.from_numpy(clips.columns(some)).to(clips.device)
        columns = columns[:, :, : int(lens.max())]
        beyond = torch.arange(columns.shape[2], device=lens.device) >= lens[:, None]
        most = columns.masked_fill(beyond[:, None], -torch.inf).amax(2)
        rows.append(torch.cat((columns.sum(2) / lens[:, None], most), 1).cpu())
    return torch.cat(rows)


def pairs_of(train: TrainingSet, images: np.ndarray, speech: torch.Tensor, seed: int) -> Pairs:
    """Images of the set, cropped and mirrored at random, with the row of `speech` `[usable clips, d]` of a caption.

    images: uint8 `[items, S, S, 3]`, S at least 64. A draw is a function of seed and step.
    """
    batch, device, usable = min(BATCH, len(train)), train.clips.device, train.clips.usable
    plan = functools.lru_cache(2)(lambda epoch: train.plan(seed + STREAM, epoch, batch))

    def draw(step: int):
        epoch, position = divmod(step, len(plan(0)))
        items, clips = plan(epoch).items[position], plan(epoch).clips[position]
        generator = random_of((seed, STREAM, step))
        crops = torch.from_numpy(np.stack([random_crop(images[item], generator) for item in items])).permute(0, 3, 1, 2)
        heard = speech[torch.from_numpy(np.searchsorted(usable, clips))]
        return scaled(crops.to(device)), heard.to(device), train.labels[torch.from_numpy(items).to(device)]

    return Pairs(draw, device)


def load_or_train_parts(
    path: Path, train: TrainingSet, images: np.ndarray, steps: int, seed: int, seconds: float = 0.0
) -> Matcher:
    """The network that has learnt which summary of a clip goes with an image; it lies in the file `path`.

    seconds: that the training may take, with fewer steps where they do not suffice; 0: any.
    """
    speech = clip_summaries(train.clips, train.clips.usable)
    speech = (speech - speech.mean(0)) / speech.std(0, correction=0).clamp(min=1e-6)
    key = {
        "version": 1,  # raise it when equal arguments give other weights
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "data set": train.clips.split.digest(),
        "speech": checkpoint.digest({"speech": speech}),
    }
    pairs = pairs_of(train, images, speech, seed)

    def train_it(count: int, progress: bool = True) -> Matcher:
        return train_matcher(pairs, speech, count, seed=seed, aligned=False, name=NAME, progress=progress)

    def within_time() -> Matcher:
        if not seconds:
            return train_it(steps)
        began = monotonic()
        train_it(TIMED, progress=False)
        return train_it(max(1, min(steps, int(seconds * TIMED / (monotonic() - began)) - TIMED)))

    return load_or_train(path, key, speech.shape[1], pairs.device, within_time, NAME)


def random_crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """`[S, S, 3]` → `[64, 64, 3]` at a random place, mirrored at random."""
    y, x = generator.integers(0, len(image) - SIZE + 1, 2)
    crop = image[y : y + SIZE, x : x + SIZE]
    return crop[:, ::-1] if generator.random() < 0.5 else crop
