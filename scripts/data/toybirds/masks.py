"""Anti-aliased masks of outlines."""

import numpy as np
from PIL import Image, ImageDraw


def outline_mask(outline: np.ndarray, size: tuple[int, int], oversample: int) -> tuple[Image.Image, tuple[int, int]]:
    """Coverage of the pixels of a window of `size` by a closed `outline` `[N, 2]`: (mask of its box, box's corner).

    `oversample` is the number of samples a side of each pixel; the box is clipped to the window.
    """
    low = np.clip(np.floor(outline.min(axis=0)) - 1, 0, np.array(size) - 1).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)) + 1, low + 1, size).astype(int)
    width, height = (int(v) for v in high - low)
    fine = Image.new("L", (width * oversample, height * oversample))
    ImageDraw.Draw(fine).polygon(((outline - low) * oversample).ravel().tolist(), fill=255)
    return fine.reduce(oversample), (int(low[0]), int(low[1]))
