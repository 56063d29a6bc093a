"""Images from disk as 8-bit RGB, the same way everywhere: teachers, the generator's cache and the metrics.

What is not plain RGB is brought to it: transparency is laid on white, grey and CMYK are converted, 16-bit grey is
scaled. EXIF orientation is not applied, as in the published code, because bounding boxes count in the stored pixels.
"""
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from common.cli import UserError

# Formats that Pillow decodes by itself. Others, such as EPS, start outside programs on whatever a stranger's file says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

# An image of transparent colours takes 15 bytes a pixel on its way: 600 MB at this size, in each of the workers.
Image.MAX_IMAGE_PIXELS = 40_000_000
# Pillow warns from its limit on and raises from twice its limit; `open_rgb` raises from the limit itself.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_rgb(path) -> Image.Image:
    """Decode the image at `path` whole: a PIL image of mode RGB, 8 bits a channel, size (width, height) as stored.

    Of an animation the first frame is taken. UserError names the file when it is missing, not an image, cut short, of
    an unusual kind (floating point) or larger than Pillow's limit (`Image.MAX_IMAGE_PIXELS`).
    """
    path = Path(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                raise UserError(_too_large(path, f"{image.width} × {image.height}"))
            image.load()
            return to_rgb(image)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise UserError(f"{path} is {'empty' if empty else 'not an image'} (expected JPEG, PNG or the like)") from None
    except (Image.DecompressionBombError, MemoryError):
        raise UserError(_too_large(path, "its size")) from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:                     # a damaged file can raise anything at all (OSError, struct.error, …)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is a damaged image ({reason}); replace it") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded PIL image of any mode → mode RGB. ValueError for a mode without an obvious meaning as 8-bit colour."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()                        # a plain Image, no longer tied to its file
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode in ("F", "LAB"):
        raise ValueError(f"pixels of kind {image.mode}; save it with 8 bits a channel")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (modes I;16, I;16B, I) → L. Pillow's own conversion would clip at 255: a white image."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values outside 16 bits; save it with 8 bits a channel")
    values = values.astype(np.int32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))      # 65535 = 255 · 257, rounded to nearest


def _too_large(path: Path, size: str) -> str:
    return f"{path} is too large an image ({size}; the limit is {Image.MAX_IMAGE_PIXELS} pixels); scale it down"
