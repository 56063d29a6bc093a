"""The optimizer of the speech encoder and its learning rate, as settings say."""

import math

import torch

from Audio_to_Image.settings import Settings


def make_optimizer(parameters, settings: Settings) -> torch.optim.Optimizer:
    """Adam, or SGD with β₁ as its momentum."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.learning_rate, settings.beta1, weight_decay=settings.weight_decay)
    return torch.optim.Adam(
        parameters, settings.learning_rate, (settings.beta1, 0.999), weight_decay=settings.weight_decay, fused=True
    )


def learning_rate(settings: Settings, epoch: int, part: float) -> float:
    """Of a step in `epoch`, counted from 0, after the `part` of it that is done, from 0 to 1."""
    if settings.lr_schedule == "cosine":
        done = (epoch + part) / settings.epochs
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * settings.lr_gamma ** (epoch // settings.lr_step)
