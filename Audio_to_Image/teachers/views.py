"""The ten published views of an image: it is resized to 227 × 227 (aspect ignored), cut into five 224 × 224 crops, and
the same five are cut from the mirrored image.
"""

import numpy as np
import torch

VIEWS = 10
MARGIN = 3  # the resized image is larger than a view by this many pixels
CORNERS = ((0, 0), (3, 0), (1, 1), (0, 3), (3, 3))  # (x, y) of a crop's upper left pixel
FLIPS = {"mirror": -1, "vertical": -2}  # axis of [.., y, x]; the published code turned images upside down


def ten_views(images: torch.Tensor, flip: str = "mirror") -> torch.Tensor:
    """`[N, C, S + 3, S + 3]` → `[N, 10, C, S, S]`: the crops at `CORNERS`, then those of the flipped image."""
    assert images.dim() == 4 and images.shape[2] == images.shape[3], f"not square: {tuple(images.shape)}"
    size = images.shape[-1] - MARGIN
    return torch.stack(
        [side[..., y : y + size, x : x + size] for side in (images, images.flip(FLIPS[flip])) for x, y in CORNERS],
        dim=1,
    )


def caffe_resize(image: np.ndarray, size: int) -> np.ndarray:
    """`[H, W, C]` uint8 → `[size, size, C]` float32 as `caffe.io.resize_image` does, aspect ignored.

    That is bilinear interpolation at pixel centres without antialiasing (skimage's `resize(order=1, mode="constant")`),
    in floating point and not rounded. Outside the image lies its smallest value, since Caffe scales to [0, 1] and
    skimage fills with 0: seen only at the border of images smaller than `size`.
    """
    assert image.ndim == 3 and image.dtype == np.uint8
    floor = image.min()
    result = image - floor
    # what lies between the two axes is never larger than the image or the result, however thin the image is
    for axis in (0, 1) if len(image) >= size else (1, 0):
        length = result.shape[axis]
        at = (np.arange(size) + 0.5) * (length / size) - 0.5
        low = np.floor(at).astype(int)
        shape = [-1 if a == axis else 1 for a in range(3)]
        upper = (at - low).astype(np.float32)
        lower = (1 - upper) * (low >= 0)
        upper = upper * (low + 1 < length)
        result = np.take(result, low.clip(0), axis) * lower.reshape(shape) + np.take(
            result, (low + 1).clip(max=length - 1), axis
        ) * upper.reshape(shape)
    return result + np.float32(floor)
