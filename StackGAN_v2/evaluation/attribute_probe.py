"""Does the image show what was said? A probe reads an image's attributes, and they are compared with the sentence's.

The probe is a small network trained on real training images, prepared as the generator's were. For each attribute it
learns where to look (a distribution over positions) and what to read there. Its own success on real test images is
the ceiling of the score; sentences that go with images of other classes give its floor.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.attributes import Attributes
from common.cli import UserError
from common.part_attention import SIZE, PartsReader
from common.progress import tqdm

MARGIN = 76  # and trained on crops of this one, as the generator's are
_LEARNING_RATE = 1.4e-2  # of AdamW, at its highest; with 4e-3 it did not find wing bars and beaks among 3,200 images
VERSION = 4  # raise when equal images would give another probe


class Probe(nn.Module):
    """`forward(images [N, 3, 64, 64] in [−1, 1])` → logits `[N, sum(counts)]`, one run of `counts[a]` for attribute a.

    One part to look at for each attribute, and a linear layer that reads what is there.
    """

    def __init__(self, counts: list[int]):
        super().__init__()
        self.counts = list(counts)
        self.parts = PartsReader(len(counts))
        self.what = nn.ModuleList(nn.Linear(self.parts.out_features, count) for count in counts)

    def forward(self, images):
        pooled = F.dropout(self.parts(images), 0.1, self.training)
        return torch.cat([what(pooled[:, a]) for a, what in enumerate(self.what)], 1)


def train_probe(
    images: torch.Tensor,
    truth: torch.Tensor,
    counts: list[int],
    *,
    device="cpu",
    steps: int = 800,
    batch: int = 24,
    progress: bool = True,
) -> Probe:
    """Train a probe on real images. Equal arguments give equal probes on the CPU.

    images: uint8 `[N, 3, 76, 76]`; truth: int64 `[N, A]` value numbers; counts: values of each attribute. Random
    crops and mirrors; AdamW with one cycle of the learning rate. Draws from its own generators only.
    """
    assert images.shape[1:] == (3, MARGIN, MARGIN) and truth.shape == (len(images), len(counts))
    device, dice = torch.device(device), np.random.default_rng(0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        probe = Probe(counts).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(probe.parameters(), _LEARNING_RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.15)
        order = np.empty(0, np.int64)
        for _ in tqdm(range(steps), desc="attribute probe", unit="step", disable=not progress):
            while len(order) < batch:
                order = np.concatenate((order, dice.permutation(len(images))))
            chosen, order = order[:batch], order[batch:]
            crops = _augmented(images, chosen, dice).to(device, memory_format=torch.channels_last)
            loss = _loss(probe(_scaled(crops)), truth[torch.from_numpy(chosen)].to(device), counts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probe.eval()


def _augmented(images, chosen, dice) -> torch.Tensor:
    corners, mirror = dice.integers(0, MARGIN - SIZE + 1, (len(chosen), 2)), dice.random(len(chosen)) < 0.5
    crops = [images[i, :, y : y + SIZE, x : x + SIZE] for i, (y, x) in zip(chosen, corners)]
    return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, mirror)])


def _scaled(images):
    return images.float() / 127.5 - 1


def _loss(logits, truth, counts):
    parts = logits.split(counts, 1)
    return sum(F.cross_entropy(part, truth[:, a], label_smoothing=0.05) for a, part in enumerate(parts)) / len(parts)


@torch.inference_mode()
def read_attributes(probe: Probe, images: torch.Tensor) -> torch.Tensor:
    """The value numbers that the probe reads, int64 `[N, A]`, from uint8 `[N, 3, s, s]`.

    Another size than 64 is resized; an image and its mirror image are read together.
    """
    device = next(probe.parameters()).device
    images = images.to(device, memory_format=torch.channels_last).float()
    if images.shape[2:] != (SIZE, SIZE):
        images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    scaled = _scaled(images)
    both = [probe(side).split(probe.counts, 1) for side in (scaled, scaled.flip(3))]
    return torch.stack([(a.softmax(1) + b.softmax(1)).argmax(1) for a, b in zip(*both)], 1).cpu()


def agreement(read: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(agreeing, named), float64 `[A]` each: how often an attribute was named, and how often the image then shows it.

    read: int64 `[N, A]` value numbers; wanted: int64 `[N, A]`, −1 where the sentence does not name the attribute.
    """
    assert read.shape == wanted.shape and read.dim() == 2
    named = wanted >= 0
    return ((read == wanted) & named).sum(0).double(), named.sum(0).double()


def shuffled_agreement(read: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor, counts: list[int]):
    """As `agreement`, over all pairs of an image and a sentence of another class: the expectation of every shuffle.

    labels: `[N]` classes of the images and of their own sentences. No pair is formed: per class, how often each value
    was read and was named gives the number of agreeing pairs.
    """
    _, label = labels.unique(return_inverse=True)
    classes, agreeing, pairs = int(label.max()) + 1 if len(label) else 0, [], []
    for a, count in enumerate(counts):
        said = wanted[:, a] >= 0
        shown_by, said_by = (
            torch.bincount(label[rows] * count + values[rows, a], minlength=classes * count)
            .view(classes, count)
            .double()
            for rows, values in ((slice(None), read), (said, wanted))
        )
        agreeing.append(shown_by.sum(0) @ said_by.sum(0) - (shown_by * said_by).sum())
        pairs.append(len(read) * said_by.sum() - (shown_by.sum(1) * said_by.sum(1)).sum())
    return torch.stack(agreeing), torch.stack(pairs)


def agreement_report(
    read: torch.Tensor, real_read: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor, attributes: Attributes
) -> dict:
    """Agreement beside ceiling and chance, in percent, overall and by attribute.

    read: `[N, A]` from the generated images; real_read: `[N, A]` from the real image of each sentence; wanted:
    `[N, A]` what the sentences name; labels: `[N]`. "normalised" is (agreement − chance) / (ceiling − chance), a ratio:
    0 for images that ignore the sentence, 1 for such as show it as real ones do; None if ceiling is not over chance.
    """
    shares = {
        "agreement": agreement(read, wanted),
        "ceiling": agreement(real_read, wanted),
        "chance": shuffled_agreement(read, wanted, labels, attributes.counts),
    }

    def row(select):
        values = {name: _percent(select(right), select(all_)) for name, (right, all_) in shares.items()}
        known = None not in values.values() and values["ceiling"] > values["chance"]
        values["normalised"] = (
            (values["agreement"] - values["chance"]) / (values["ceiling"] - values["chance"]) if known else None
        )
        return {**values, "named": int(select(shares["agreement"][1]))}

    return {**row(torch.sum), "attributes": {name: row(lambda x, a=a: x[a]) for a, name in enumerate(attributes.names)}}


def _percent(part: torch.Tensor, whole: torch.Tensor) -> float | None:
    return 100 * float(part) / float(whole) if whole else None


def probe_state(probe: Probe) -> dict:
    """What rebuilds the probe: tensors and plain values only."""
    return {"counts": probe.counts, "state_dict": {k: v.cpu() for k, v in probe.state_dict().items()}}


def probe_from_state(content: dict, path: Path, device="cpu") -> Probe:
    """The probe of `probe_state`. UserError if `path`'s content is something else."""
    from common import checkpoint

    try:
        probe = Probe([int(count) for count in content["counts"]])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no attribute probe; delete it and run again") from None
    checkpoint.load_into(probe, checkpoint.state_dict_of(content, path), path)
    return probe.to(device, memory_format=torch.channels_last).eval()
