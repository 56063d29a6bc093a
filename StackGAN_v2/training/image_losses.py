"""Further losses of the generator's largest images. Each is called with images `[N, 3, s, s]` and their `datasets.Batch`
and gives its weighted value, 0-d; the step adds all up and logs each by name.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from common.devices import autocast
from common.distributed import ranks
from common.matching_network import TEMPERATURE, Matcher, matching_loss
from StackGAN_v2.data.datasets import SpeechFeatures, generator_of


@dataclass
class MatchingLoss:
    """How well images match what is said, against the other pairs of the batch of all ranks."""

    matcher: Matcher
    weight: float
    device: torch.device
    precision: str

    def __call__(self, images, batch) -> torch.Tensor:
        with autocast(self.device, self.precision):
            seen = self.matcher(images)
        said = self.matcher.said(batch.speech)
        return self.weight * matching_loss(*(ranks.gather_rows(rows) for rows in (seen.float(), said, batch.labels)))


class SentenceMatchingLoss:
    """How well images match a sentence, against those of the other images and `count` further training sentences.

    For the exemplar generator: its batches are small, and what an image shows is another item than its sentence's.
    features, labels `[images]`: the sentences of the training set and the classes of its images; seed: of the draw.
    """

    def __init__(
        self, matcher: Matcher, weight: float, features: SpeechFeatures, labels, count: int, seed: int, precision
    ):
        self.matcher, self.weight, self.count, self.seed, self.precision = matcher, weight, count, seed, precision
        device = matcher.mean.device
        with torch.no_grad():
            said = [F.normalize(matcher.said(rows.to(device))) for rows in features.flat.split(4096)]
        self.said = torch.cat(said)
        self.labels = torch.repeat_interleave(labels, features.count).to(device)

    def __call__(self, images, speech, labels, iteration: int) -> torch.Tensor:
        """images `[N, 3, s, s]`, the sentences that they shall show, speech `[N, d]`, of classes `[N]` → 0-d, weighted.

        Cross-entropy of each image's own sentence; others of its class are left out.
        """
        with autocast(images.device, self.precision):
            seen = self.matcher(images)
        generator = generator_of(self.seed, 6, iteration)
        drawn = torch.randint(len(self.said), (self.count,), generator=generator).to(self.said.device)
        of_batch = F.normalize(self.matcher.said(speech))
        said = torch.cat((ranks.gather_rows(of_batch), self.said[drawn]))
        classes = torch.cat((ranks.gather_rows(labels), self.labels[drawn]))
        own = torch.arange(len(labels), device=labels.device) + ranks.rank() * len(labels)
        alike = (labels[:, None] == classes).scatter(1, own[:, None], False)
        scores = F.normalize(seen.float()) @ said.T / TEMPERATURE
        return self.weight * F.cross_entropy(scores.masked_fill(alike, -1e4), own)
