"""Pictures and sounds as data: URIs, small enough that a page of a dozen of each stays within a few MB."""
import base64
import io

import numpy as np
from PIL import Image

from common.cli import UserError
from common.untrusted.images import open_rgb

_LOSSLESS_UP_TO = 64                               # pixels: small pictures are shown enlarged, where JPEG would be seen
_SOUNDS = (("MP3", "MPEG_LAYER_III", "audio/mpeg"),            # small, and played by every browser
           ("OGG", "VORBIS", "audio/ogg"), ("WAV", "PCM_16", "audio/wav"))
_LONGEST = 30                                      # seconds of a recording that the page carries


def picture_uri(pixels: np.ndarray) -> str:
    """uint8 `[H, W, 3]` → a PNG, or a JPEG of high quality if it is large."""
    buffer = io.BytesIO()
    if max(pixels.shape[:2]) <= _LOSSLESS_UP_TO:
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        return _uri("image/png", buffer)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=0)
    return _uri("image/jpeg", buffer)


def sound_uri(path) -> str:
    """A recording at 16 kHz, in the first format that this machine's libsndfile writes. UserError if it is no sound."""
    import soundfile

    from Audio_to_Image.audio import RATE, read_audio
    samples = read_audio(path)[:_LONGEST * RATE]
    if not len(samples):
        raise UserError(f"{path} holds no sound")
    samples = samples / max(1.0, np.abs(samples).max())
    for kind, subtype, mime in _SOUNDS:
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype)
            return _uri(mime, buffer)
        except (soundfile.LibsndfileError, ValueError, TypeError):     # an older libsndfile lacks the format
            continue
    raise UserError(f"{path} cannot be written as sound by this machine's libsndfile")


def real_picture(path, box, size: int) -> np.ndarray:
    """The picture as the generator is trained on it, at its middle crop: uint8 `[size, size, 3]`."""
    from StackGAN_v2.data.image_cache import prepare
    pixels = prepare(path, box, size * 76 // 64)               # training crops at random out of 76 for every 64 pixels
    top, left = ((length - size) // 2 for length in pixels.shape[:2])
    return pixels[top:top + size, left:left + size]


def plain_picture(path, size: int) -> np.ndarray:
    """The middle square of a picture, where no generator says how to crop it: uint8 `[size, size, 3]`."""
    image = open_rgb(path)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), Image.LANCZOS))


def _uri(mime: str, buffer: io.BytesIO) -> str:
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
