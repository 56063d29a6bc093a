"""What the contrastive encoder learns from: which image belongs to which sentence of the batch, and nothing else.

The softmax over a batch's pairs of van den Oord et al. 2018 (InfoNCE, arXiv 1807.03748), both ways, or with the
adaptive margin of Monfort et al. (Spoken Moments, CVPR 2021, arXiv 2105.04489, equation 5). Pairs of one class do not
count as wrong (Ilharco et al. 2019). The temperature is learnt, as in CLIP.

With a front end that has been trained on speech the image network is trained before (image_network.py), and what it sees
in the training images is computed once; else it learns together with the encoder.

Sentences are compared through a small projection that is not part of the encoder (as in SimCLR, arXiv 2002.05709): what
the loss has no use for is lost in the projection, and stays in the sentence.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from Audio_to_Image.encoders.image_network import (
    IMAGES_AT_ONCE,
    SHARE_OF_TIME,
    FixedImageNetwork,
    load_or_train_parts,
    random_crop,
    scaled,
)
from Audio_to_Image.objectives import ImageObjective, random_of
from common.bounding_boxes import bounding_boxes, crop_box
from common.devices import autocast
from common.distributed import ranks
from common.parallel import default_jobs
from common.part_attention import SIZE, PartsReader
from common.untrusted.images import open_rgb

MARGIN_SIZE = 76  # images are held at this size and cropped to SIZE at random
PARTS, WIDTH = 12, 8  # of the image network that learns with the encoder; twice the width takes 2.5 times as long
PROJECTED = 128
SCALE, LARGEST_SCALE = 10.0, 100.0  # of the cosines, 1 / temperature: at first and at most


class ImageNetwork(nn.Module):
    """`forward(images [N, 3, 64, 64] in [−1, 1])` → `[N, PROJECTED]` of length 1; learns with the encoder."""

    def __init__(self):
        super().__init__()
        self.parts = PartsReader(PARTS, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.what = nn.Linear(PARTS * self.parts.out_features, PROJECTED)

    def forward(self, images):
        seen = self.dropout(self.parts(images).flatten(1))
        return F.normalize(self.what(seen).float(), dim=1)


class ContrastiveObjective(ImageObjective):
    """margin: share of the mean difference between own and other pairs that the own score is lowered by; 0: InfoNCE."""

    terms = ("contrastive", "temperature", "train_recall")

    def __init__(self, nhidden: int, margin: float = 0.0, precision: str = "fp32", image: nn.Module | None = None):
        super().__init__()
        self.image = (image or ImageNetwork()).to(memory_format=torch.channels_last)
        self.speech = nn.Sequential(nn.Linear(nhidden, nhidden), nn.GELU(), nn.Linear(nhidden, PROJECTED))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.margin, self.precision = margin, precision
        self.fixed = isinstance(self.image, FixedImageNetwork)
        self._seen: torch.Tensor | None = None  # in the training images, by a fixed image network
        self.register_load_state_dict_post_hook(ContrastiveObjective._forget_seen)

    @classmethod
    def from_data(cls, options, network, train):
        training, steps = options.training, options.image_steps()
        network.sentence_only = True
        image = FixedImageNetwork(PROJECTED) if steps else None
        objective = cls(network.nhidden, training.contrastive_margin, training.precision, image)
        objective.hold_training_images(train.clips.split)
        if image is not None:
            path = Path(options.data.output_dir) / "image_network.pth"
            seconds = 60 * training.max_minutes * SHARE_OF_TIME
            matcher = load_or_train_parts(path, train, objective.images, steps, training.seed, seconds)
            objective._seen = image.to(train.clips.device).take(matcher, _centres(objective.images)).half()
        return objective

    @classmethod
    def from_state(cls, state, network, settings):
        image = FixedImageNetwork(PROJECTED) if "image.mean" in state else None
        return cls(state["speech.0.weight"].shape[1], image=image)

    def _forget_seen(self, _) -> None:
        """Other weights, those of a resume file, may see something else."""
        self._seen = None

    # ---- images ----

    def read_images(self, split) -> np.ndarray:
        """uint8 `[items, 76, 76, 3]`, 17 kB each.

        Cropped around the bounding boxes where the set has them, as the generator's are: birds are small in whole
        images, and what cannot be seen is not learnt. UserError if a box lies outside its image.
        """
        boxes = bounding_boxes(split)
        paths = {item.image: boxes.get(item.key) for item in split.items}
        with ThreadPoolExecutor(default_jobs()) as threads:
            images = dict(zip(paths, threads.map(_read, paths.keys(), paths.values())))
        return np.stack([images[item.image] for item in split.items])

    def prepare(self, batch, seed):
        if self.fixed:
            return batch
        crops = np.stack([random_crop(self.images[item], random_of((*seed, int(item)))) for item in batch.items])
        held = torch.from_numpy(crops).permute(0, 3, 1, 2)
        return dataclasses.replace(batch, images=held.to(batch.mels.device, non_blocking=True))

    def see(self, images: torch.Tensor, precision: str) -> torch.Tensor:
        """uint8 `[N, 3, 64, 64]` → float32 `[N, PROJECTED]` of length 1."""
        with autocast(images.device, precision):
            return self.image(scaled(images))

    def _of_batch(self, batch) -> torch.Tensor:
        """What is seen in the images of a training batch, `[B, PROJECTED]`."""
        if not self.fixed:
            return self.see(batch.images, self.precision)
        if self._seen is None:
            self._seen = self.image.of_pixels(_centres(self.images)).half()
        return self.image.head(self._seen[torch.from_numpy(batch.items).to(self._seen.device)].float())

    def project(self, sentence):
        return F.normalize(self.speech(sentence.float()), dim=1)

    @torch.no_grad()
    def embed_images(self, features, split, precision="fp32"):
        training, device = self.image.training, self.log_scale.device
        self.image.eval()
        parts = _centres(self.images_of(split)).split(IMAGES_AT_ONCE)
        seen = torch.cat([self.see(part.to(device), precision) for part in parts])
        self.image.train(training)
        return seen

    # ---- loss ----

    def forward(self, words, lens, sentence, batch, seed):
        audio, image = ranks.gather_rows(sentence), ranks.gather_rows(self._of_batch(batch))
        labels = ranks.gather_rows(batch.labels)
        scale = self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        cosines = image @ self.project(audio).T
        loss = contrastive_loss(cosines, labels, scale, self.margin)
        best = cosines.detach().argmax(0) == torch.arange(len(labels), device=labels.device)
        return loss, {
            "loss": loss,
            "contrastive": loss.detach(),
            "temperature": 1 / scale.detach(),
            "train_recall": 100 * best.float().mean(),
        }


def contrastive_loss(cosines: torch.Tensor, labels: torch.Tensor, scale, margin: float = 0.0) -> torch.Tensor:
    """The mean of both ways' cross entropies, 0-d. cosines: `[N, N]`, own pairs on the diagonal; labels: `[N]`.

    margin: α of the adaptive margin, in units of the mean difference between own pair and the others of its row or
    column, which is not trained through.
    """
    assert cosines.dim() == 2 and cosines.shape == (len(labels),) * 2, (tuple(cosines.shape), tuple(labels.shape))
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels) & ~own
    pairs = torch.arange(len(labels), device=labels.device)
    losses = []
    for scores in (cosines, cosines.T):
        if margin:
            difference = (scores.diagonal()[:, None] - scores).detach().masked_fill(same, 0)
            others = (~same & ~own).sum(1).clamp(min=1)
            lowered = margin * difference.sum(1) / others
            scores = scores - torch.diag(lowered)
        losses.append(F.cross_entropy((scale * scores).masked_fill(same, -torch.inf), pairs))
    return (losses[0] + losses[1]) / 2


def _centres(images: np.ndarray) -> torch.Tensor:
    """uint8 `[items, 76, 76, 3]` → `[items, 3, 64, 64]`"""
    edge = (MARGIN_SIZE - SIZE) // 2
    return torch.from_numpy(images[:, edge : edge + SIZE, edge : edge + SIZE]).permute(0, 3, 1, 2)


def _read(path, box=None) -> np.ndarray:
    """uint8 `[76, 76, 3]`: the centred square of an image, or of its crop around the bounding box."""
    image = open_rgb(path)
    left, top, right, bottom = crop_box(image.size, box) if box is not None else (0, 0, *image.size)
    side = min(right - left, bottom - top)
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    square = (left, top, left + side, top + side)
    return np.asarray(image.resize((MARGIN_SIZE, MARGIN_SIZE), Image.Resampling.BILINEAR, square, reducing_gap=3.0))
