"""A number for each snapshot of a run, measured beside the training: which one is the best."""

import os

import torch

from StackGAN_v2 import sampler
from StackGAN_v2.evaluation import metrics
from StackGAN_v2.evaluation.feature_extractors import Lite0Extractor, Lite2Extractor
from StackGAN_v2.evaluation.image_sets import RealImages, real_features

# the network and the pixels that it sees
NAMES = {
    "kid_lite0": (Lite0Extractor, 224),
    "kid_lite0at128": (Lite0Extractor, 128),
    "kid_lite2": (Lite2Extractor, 260),
    "kid_lite2at128": (Lite2Extractor, 128),
}
SENTENCES = 512  # at the most: one an image of the split, evenly spread
_BATCH = 64


class Kid:
    """KID (squared MMD, unbiased) between images of fixed sentences with fixed noise and all real ones of `split`, whose features are kept
    in `folder`.

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
        features = []
        for speech, noises in zip(self.speech.split(_BATCH), self.noises.split(_BATCH)):
            images = torch.from_numpy(sampler.generate(generator, speech, noises)[-1]).permute(0, 3, 1, 2)
            features.append(self.extractor(images)[0])
        return metrics.squared_mmd(torch.cat(features), self.real)
