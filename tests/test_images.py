"""common.untrusted.images: every kind of image becomes 8-bit RGB by a known rule; every fault is one sentence with the file."""
import io

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.untrusted.images import open_rgb


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
    values = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 51]]], np.uint8)    # 51 = 20 % opaque
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
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)       # no cyan: red
    assert np.abs(pixels(tmp_path / "a.jpg")[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_exif_orientation_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                                   # "turn by 90°"
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert open_rgb(tmp_path / "a.jpg").size == (20, 10)


def jpeg_bytes():
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("content, words", [
    (b"", "empty"), (b"<html>404</html>", "not an image"), (jpeg_bytes()[:-1500], "damaged"),
    (jpeg_bytes()[:30], "a.jpg"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image")])
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
@pytest.mark.parametrize("factor", [1, 3])                             # below and above Pillow's own error at 2
def test_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch, factor):
    Image.new("L", (100, 100 * factor + 1)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with pytest.raises(UserError, match="a.png is too large"):
        open_rgb(tmp_path / "a.png")
