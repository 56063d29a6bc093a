"""common.untrusted.images: every kind of image becomes 8-bit RGB by a known rule; every fault is one sentence with the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.untrusted.images import open_rgb, resize, scale_shorter_side


def pixels(path):
    image = open_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_is_returned_as_stored(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert open_rgb(tmp_path / "a.png").size == (7, 5)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), values)


def test_rgba_is_laid_on_white(tmp_path):
    values = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 51]]], np.uint8)  # 51 = 20 % opaque
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), [[[200, 100, 0], [255] * 3, [204] * 3]])


def test_grey_with_alpha_is_laid_on_white(tmp_path):
    image = Image.new("LA", (2, 1), (10, 255))
    image.putpixel((1, 0), (10, 0))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), [[[10] * 3, [255] * 3]])


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 50, 60, 70])
    image.putpixel((1, 0), 1)
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name, transparency=0)
        np.testing.assert_array_equal(pixels(tmp_path / name), [[[255] * 3, [50, 60, 70]]])


@pytest.mark.parametrize("mode, colour", [("RGB", (1, 2, 3)), ("L", 40)])
def test_single_transparent_colour_becomes_white(tmp_path, mode, colour):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), (90, 90, 90) if mode == "RGB" else 90)
    image.save(tmp_path / "a.png", transparency=colour)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), [[[255] * 3, [90] * 3]])


def test_grey_and_bilevel(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "a.png")
    Image.new("1", (1, 1), 1).save(tmp_path / "b.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[77] * 3]]
    assert pixels(tmp_path / "b.png").tolist() == [[[255] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / f"a.{suffix}")
    assert pixels(tmp_path / f"a.{suffix}")[0, :, 0].tolist() == [0, 100, 255]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)  # no cyan: red
    assert np.abs(pixels(tmp_path / "a.jpg")[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_exif_orientation_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90°"
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert open_rgb(tmp_path / "a.jpg").size == (20, 10)


def jpeg_bytes():
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (jpeg_bytes()[:-1500], "damaged"),
        (jpeg_bytes()[:30], "a.jpg"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_faulty_files_are_named(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match="a.jpg") as caught:
        open_rgb(tmp_path / "a.jpg")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folder_and_float(tmp_path):
    with pytest.raises(UserError, match="none.png does not exist"):
        open_rgb(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be read"):
        open_rgb(tmp_path)
    Image.new("F", (2, 2)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match="f.tif.*8 bits"):
        open_rgb(tmp_path / "f.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("factor", [1, 3])  # below and above Pillow's own error at 2
def test_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch, factor):
    Image.new("L", (100, 100 * factor + 1)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with pytest.raises(UserError, match="a.png is too large"):
        open_rgb(tmp_path / "a.png")


def png(width, height, depth, colour_type, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand; rows: the bytes of all rows, without filter bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height
    packed = zlib.compress(b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height)))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*one) for one in ((b"IHDR", header), *chunks, (b"IDAT", packed), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    "kind, head", [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")]
)
def test_long_text_and_profiles_of_intact_images_are_read(tmp_path, kind, head):
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 2, bytes((9, 8, 7)), (kind, head + zlib.compress(bytes(3_000_000)))))
    assert pixels(tmp_path / "a.png").tolist() == [[[9, 8, 7]]]


def test_the_transparent_colour_of_16_bit_rgb_is_compared_exactly(tmp_path):
    samples = np.array([[0x1234, 0x5678, 0x9ABC], [0x1235, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9AFF]], ">u2")
    (tmp_path / "a.png").write_bytes(png(3, 1, 16, 2, samples.tobytes(), (b"tRNS", samples[0].tobytes())))
    assert pixels(tmp_path / "a.png").tolist() == [[[255] * 3, [0x12, 0x56, 0x9A], [0x12, 0x56, 0x9A]]]


@pytest.mark.parametrize(
    "depth, rows, transparent, expected",
    [
        (1, b"\x40", 1, [0, 255, 0, 0]),
        (1, b"\x40", 0, [255] * 4),
        (2, b"\x1b", 2, [0, 85, 255, 255]),
        (4, b"\x05\xaf", 10, [0, 85, 255, 255]),
        (16, bytes((0, 0, 1, 1, 1, 2, 255, 255)), 258, [0, 1, 255, 255]),
    ],
)
def test_the_transparent_grey_of_any_depth_becomes_white(tmp_path, depth, rows, transparent, expected):
    (tmp_path / "a.png").write_bytes(png(4, 1, depth, 0, rows, (b"tRNS", struct.pack(">H", transparent))))
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == expected


def test_a_palette_with_alpha_and_the_first_frame(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 50, 60, 70])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=bytes((255, 51)))
    assert pixels(tmp_path / "a.png").tolist() == [[[9, 8, 7], [214, 216, 218]]]
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    for name in ("a.gif", "b.png", "a.webp", "a.tif"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], **({"lossless": True} if "webp" in name else {}))
        assert (pixels(tmp_path / name) == (255, 0, 0)).all(), name
    red.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[blue], quality=100)  # as phones write
    assert pixels(tmp_path / "a.jpg")[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


def progressive(repeated: int) -> bytes:
    """A progressive JPEG whose last scan stands there `repeated` times more."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * repeated + data[-2:]


def test_a_progressive_jpeg_of_endless_scans_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(progressive(0))
    assert (pixels(tmp_path / "a.jpg") == 90).all()
    (tmp_path / "a.jpg").write_bytes(progressive(1000))
    with pytest.raises(UserError, match="a.jpg is a progressive JPEG of 10.. scans"):
        open_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("width, height", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(
        png(width, max(height, 1), 8, 2, bytes(3 * width * max(height, 1))).replace(
            struct.pack(">II", width, 1), struct.pack(">II", width, height)
        )
    )
    (tmp_path / "a.ppm").write_bytes(b"P6 %d %d 255\n" % (width, height))
    for name in ("a.png", "a.ppm"):
        with pytest.raises(UserError, match=name):
            open_rgb(tmp_path / name)


def test_scaling_keeps_the_aspect_and_bounds_the_result(monkeypatch):
    assert scale_shorter_side(Image.new("RGB", (40, 20)), 10, "a").size == (20, 10)
    assert scale_shorter_side(Image.new("RGB", (1, 1)), 10, "a").size == (10, 10)
    for size in ((1, 100_000), (100_000, 1), (1, 6600)):  # 7.6 M pixels each; the last: too long a side
        with pytest.raises(UserError, match="^thin.png is too thin an image .* crop it"):
            scale_shorter_side(Image.new("RGB", size), 10, "thin.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="10 × 110"):
        scale_shorter_side(Image.new("RGB", (1, 11)), 10, "thin.png")


def test_resizing_high_images_takes_the_memory_of_other_ones(monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 2, 3), np.uint8))
    plain = image.resize((20, 20), Image.Resampling.BICUBIC)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    sizes, real = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or real(self, size, *rest))
    bounded = resize(image, (20, 20), Image.Resampling.BICUBIC)
    assert sizes == [(2, 20), (20, 20)]
    assert np.abs(np.asarray(bounded, int) - np.asarray(plain, int)).max() <= 1
