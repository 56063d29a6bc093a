"""Weights and inputs for the golden tests, made from names alone: any implementation with the same state-dict keys gets
the same numbers. What comes out must not change, since the files in tests/golden were computed with it.
"""

import zlib

import numpy as np
import torch


def array(name: str, shape, scale: float = 1.0) -> np.ndarray:
    """`scale` times standard normal float32 numbers of `shape`, seeded by the CRC-32 of `name`."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return (generator.standard_normal(tuple(shape)) * scale).astype(np.float32)


def fill_state_dict(module: torch.nn.Module) -> None:
    """Give every floating-point parameter and buffer of `module` values that depend on its key and shape only."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(_values(key, tuple(tensor.shape))))


def _values(key: str, shape: tuple) -> np.ndarray:
    if key.endswith("running_var"):
        return np.float32(0.5) + np.abs(array(key, shape, 0.5))
    if key.endswith("running_mean"):
        return array(key, shape, 0.1)
    if len(shape) > 1:  # weights: unit gain
        return array(key, shape, 1 / np.sqrt(np.prod(shape[1:])))
    return array(key, shape, 0.1) + np.float32(key.endswith("weight"))  # norms' weights near 1, biases near 0


def summary(tensor: torch.Tensor, n: int = 4096) -> np.ndarray:
    """What is stored of a large tensor, float64: its size, mean, mean square and first `n` values."""
    values = tensor.detach().cpu().double().flatten().numpy()
    return np.concatenate([[values.size, values.mean(), np.square(values).mean()], values[:n]])
