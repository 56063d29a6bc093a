"""Further losses of the generator's largest images. Each is called with images `[N, 3, s, s]` and their `datasets.Batch`
and gives its weighted value, 0-d; the step adds all up and logs each by name.
"""

from dataclasses import dataclass

import torch

from common.devices import autocast
from common.distributed import ranks
from StackGAN_v2.training.matching_network import Matcher, matching_loss


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
