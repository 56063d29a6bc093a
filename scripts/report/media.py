"""Images and sounds as data: URIs, small enough that a page of a dozen of each stays within a few MB."""

import base64
import io

import numpy as np

from common.cli import UserError

_LOSSLESS_UP_TO = 64  # pixels: small images are shown enlarged, where JPEG would be seen
_LONGEST = 30  # seconds of a recording that the page carries


def image_uri(pixels: np.ndarray) -> str:
    """uint8 `[H, W, 3]` → a PNG, or a JPEG of high quality if it is large."""
    from PIL import Image

    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if max(pixels.shape[:2]) <= _LOSSLESS_UP_TO:
        image.save(buffer, "PNG", optimize=True)
        return _uri("image/png", buffer)
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    return _uri("image/jpeg", buffer)


def sound_uri(path) -> str:
    """A recording at 16 kHz, as MP3, which is small and played by every browser. UserError if it is no sound."""
    import soundfile

    from Audio_to_Image.audio import RATE, read_audio

    samples = read_audio(path)[: _LONGEST * RATE]
    if not len(samples):
        raise UserError(f"{path} holds no sound")
    samples = samples / max(1.0, np.abs(samples).max())
    known = "MP3" in soundfile.available_formats()  # an older libsndfile lacks it
    form, mime = ("MP3", "audio/mpeg") if known else ("WAV", "audio/wav")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=form)
    return _uri(mime, buffer)


def training_crop(path, box, size: int) -> np.ndarray:
    """The image as a generator is trained on it, at its centre crop: uint8 `[size, size, 3]`."""
    from StackGAN_v2.data.image_cache import prepare

    pixels = prepare(path, box, size * 76 // 64)  # training crops at random out of 76 for every 64 pixels
    top, left = ((length - size) // 2 for length in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def _uri(mime: str, buffer: io.BytesIO) -> str:
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
