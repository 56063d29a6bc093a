"""A number for each snapshot of a run, measured beside the training: which one is the best."""

import os

import torch

from common.distributed import ranks
from common.runs import Run
from StackGAN_v2 import sampler
from StackGAN_v2.evaluation import metrics
from StackGAN_v2.evaluation.feature_extractors import Lite0Extractor, Lite2Extractor
from StackGAN_v2.evaluation.image_sets import RealImages, real_features
from StackGAN_v2.training.networks import Networks

# the network and the pixels that it sees
NAMES = {
    "kid_lite0": (Lite0Extractor, 224),
    "kid_lite0at128": (Lite0Extractor, 128),
    "kid_lite2": (Lite2Extractor, 260),
    "kid_lite2at128": (Lite2Extractor, 128),
}
DEFAULT = "kid_lite0"
SENTENCES = 512  # at the most: one an image of the split, evenly spread
_BATCH = 64


class Kid:
    """KID (squared MMD, unbiased) between images of fixed sentences with fixed noise and all real ones of `split`.

    folder: where the features of the real images are kept.

    The lower the better; it may be a little below 0. Over all images at once, not 100 random subsets as in
    evaluate.py: it compares the snapshots of one run. rows: one array `[captions, d]` an item of `split`.
    """

    def __init__(self, name: str, folder, split, rows, generator, seed: int, device):
        kind, view = NAMES[name]
        self.name, self.extractor = name, kind(device, view)
        self.speech, self.noises = sampler.fixed_sentences(generator, rows, SENTENCES, seed)
        real = real_features(
            RealImages(split, generator.sizes[-1]),
            self.extractor,
            folder,
            _BATCH,
            os.cpu_count() or 1,
            lambda batches, *unused: batches,
        )
        self.real = real[:]
        real.close()

    def __call__(self, generator) -> float:
        """generator: in evaluation mode."""
        return metrics.squared_mmd(self._features(generator), self.real)

    def distances(self, generator) -> dict[str, float]:
        """KID, and the Fréchet distance of the same images, by names that end in that of the extractor."""
        generated = self._features(generator)
        moments = []
        for rows in (generated, self.real):
            moments.append(metrics.Moments(self.extractor.width, self.extractor.device))
            moments[-1].update(rows)
        one, other = moments
        fid = metrics.frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
        return {
            f"fid_{self.extractor.name}": fid,
            f"kid_{self.extractor.name}": metrics.squared_mmd(generated, self.real),
        }

    def _features(self, generator) -> torch.Tensor:
        features = []
        for speech, noises in zip(self.speech.split(_BATCH), self.noises.split(_BATCH)):
            images = torch.from_numpy(sampler.generate(generator, speech, noises)[-1]).permute(0, 3, 1, 2)
            features.append(self.extractor(images)[0])
        return torch.cat(features)


class Watch:
    """Distances of the average of `networks` over the training: every `every` iterations into the statistics of `run`.

    metric: a `Kid`, on the rank that measures; every rank calls it with the number of iterations done.
    """

    def __init__(self, metric: Kid | None, every: int, networks: Networks, run: Run):
        self.metric, self.every, self.networks, self.run = metric, every, networks, run

    def __call__(self, iteration: int) -> None:
        if not self.every or iteration % self.every:
            return
        if ranks.is_main():
            self.networks.refresh()
            values = self.metric.distances(self.networks.average)
            self.run.stats(iteration, **{f"eval_{name}": value for name, value in values.items()})
            told = "   ".join(f"{name} {value:.5f}" for name, value in values.items())
            self.run.log(f"iteration {iteration:,}   {told}")
        ranks.barrier()
