"""Images from disk as 8-bit RGB, the same way everywhere: teachers, the generator's cache and the metrics.

What is not plain RGB is converted: transparency is laid on white, grey and CMYK become RGB, 16-bit grey is scaled. EXIF
orientation is not applied, as in the published code, because bounding boxes count in the stored pixels. Memory is
bounded by `Image.MAX_IMAGE_PIXELS`, for what is decoded and for what it is scaled to.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from common.cli import UserError

# Formats that Pillow decodes by itself. Others, such as EPS, start outside programs on whatever an untrusted file says.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

# An image of transparent colours takes 15 bytes a pixel while it is converted: 600 MB at this size, in each worker.
Image.MAX_IMAGE_PIXELS = 40_000_000
LONGEST_SIDE = (1 << 16) - 1  # of a scaled image, in pixels


def most_pixels() -> int:
    assert Image.MAX_IMAGE_PIXELS is not None
    return Image.MAX_IMAGE_PIXELS


# Pillow warns from its limit on and raises from twice its limit; `open_rgb` raises from the limit itself.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow refuses unpacked text and profiles of more than 1 MiB, which editors do write; 64 MiB stay the limit in all.
PngImagePlugin.MAX_TEXT_CHUNK = 32 << 20
MAX_SCANS = 100  # of a progressive JPEG, each over all its pixels; 10 are usual


def open_rgb(path) -> Image.Image:
    """Decode the image at `path` completely: a PIL image of mode RGB, 8 bits a channel, size (width, height) as stored.

    Of an animation the first frame is taken. UserError names the file when it is missing, not an image, cut short, of
    an unusual kind (floating point) or larger than Pillow's limit (`Image.MAX_IMAGE_PIXELS`).
    """
    path = Path(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit and image.width * image.height > limit:
                raise UserError(_too_large(path, f"{image.width} × {image.height}"))
            if image.info.get("progressive"):
                _check_scans(path)
            raw_mode = image.tile[0].args if image.format == "PNG" and image.tile else None
            image.load()
            transparent = _transparent_pixels(image, raw_mode, path)
            image = to_rgb(image)
            if transparent is not None:
                image.paste("white", mask=transparent)
            return image
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
    except Exception as error:  # a damaged file can raise anything at all (OSError, struct.error, …)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is a damaged image ({reason}); replace it") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded PIL image of any mode → mode RGB. ValueError for a mode without an obvious meaning as 8-bit colour."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # a plain Image, no longer tied to its file
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode in ("F", "LAB"):
        raise ValueError(f"pixels of kind {image.mode}; save it with 8 bits a channel")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def resize(image: Image.Image, size: tuple[int, int], resample=Image.Resampling.BILINEAR) -> Image.Image:
    """`image.resize` in the memory of its input and output: Pillow scales the width first, also of very high images."""
    if size[0] * image.height > most_pixels():
        image = image.resize((image.width, size[1]), resample)
    return image.resize(size, resample)


def scale_shorter_side(image: Image.Image, side: int, path) -> Image.Image:
    """The image scaled, bilinear, so that its shorter side has `side` pixels, the aspect kept.

    UserError naming `path` for an image so thin that the result would pass the limits of an image.
    """
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    if size[0] * size[1] > most_pixels() or max(size) > LONGEST_SIDE:
        raise UserError(
            f"{path} is too thin an image ({image.width} × {image.height} pixels, which would become "
            f"{size[0]} × {size[1]}); crop it or leave it out of the set"
        )
    return resize(image, size)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (modes I;16, I;16B, I) → L. Pillow's own conversion would clip at 255: a white image."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values outside 16 bits; save it with 8 bits a channel")
    values = values.astype(np.int32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 · 257, rounded to nearest


def _transparent_pixels(image: Image.Image, raw_mode: str | None, path) -> Image.Image | None:
    """A mask (mode L) of the pixels that have a PNG's single transparent colour; None where Pillow finds them itself.

    Pillow compares that colour with pixels that it has brought to 8 bits: with 16 bits it hides colours that are only
    near, and with fewer than 8 it hides others.
    """
    scale = {"1": 1, "L;2": 85, "L;4": 17, "I;16B": 1}.get(raw_mode or "")  # from the file's values to Pillow's
    if "transparency" not in image.info or not scale and raw_mode != "RGB;16B":
        return None
    colour = image.info.pop("transparency")
    if scale:
        mask = np.asarray(image) == colour * scale
    else:
        with Image.open(path, formats=FORMATS) as low:  # once more, for the bytes that Pillow drops
            low.tile = [low.tile[0]._replace(args="RGB;16L")]
            low.load()
            mask = np.ones((image.height, image.width), bool)
            for channel, value in enumerate(colour):
                mask &= np.asarray(image.getchannel(channel)) == value >> 8
                mask &= np.asarray(low.getchannel(channel)) == value & 255
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _check_scans(path: Path) -> None:
    """UserError for a progressive JPEG of more than `MAX_SCANS` scans: a few bytes each, but seconds of decoding."""
    with open(path, "rb") as file:
        scans = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(1 << 20), b""))
    if scans > MAX_SCANS:
        raise UserError(f"{path} is a progressive JPEG of {scans} scans (the limit is {MAX_SCANS}); save it again")


def _too_large(path: Path, size: str) -> str:
    return f"{path} is too large an image ({size}; the limit is {Image.MAX_IMAGE_PIXELS} pixels); scale it down"
