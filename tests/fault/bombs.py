"""Small files that unpack, or claim to unpack, to far more than a machine holds."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colours: int, *extra: bytes, claim: int = 0) -> bytes:
    """A whole PNG of zeros; `colours` is PNG's colour type: 0 grey, 6 with transparency. extra: further chunks;
    claim: the height that its header gives."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width * {0: 1, 6: 4}[colours])
    rows = [packer.compress(row) for _ in range(height)] + [packer.flush()]
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, claim or height, 8, colours, 0, 0, 0))
        + b"".join(extra)
        + _chunk(b"IDAT", b"".join(rows))
        + _chunk(b"IEND", b"")
    )


def _image(kind: str, mode="RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (16, 16)).save(buffer, kind, **options)
    return buffer.getvalue()


def images() -> dict[str, tuple[bytes, str | None]]:
    """Name → (bytes, a word of the sentence that refuses it; None if it must be read)."""
    jpeg, gif, webp, bmp = _image("JPEG"), _image("GIF", "P"), _image("WEBP", lossless=True), _image("BMP")
    frame = jpeg.index(b"\xff\xc0") + 5  # height and width stand behind the length and the precision
    text = zlib.compress(bytes(1 << 27), 1)
    return {
        "largest.png": (png(4000, 4000, 6), None),
        "30000.png": (png(30000, 1000, 0, claim=30000), "too large"),
        "9000.png": (png(9000, 9000, 0), "too large"),
        "thin.png": (png(50_000_000, 1, 0), "too large"),
        "text.png": (png(4, 4, 0, _chunk(b"zTXt", b"Comment\0\0" + text)), "too large"),
        "profile.png": (png(4, 4, 0, _chunk(b"iCCP", b"x\0\0" + text)), "too large"),
        "claim.jpg": (jpeg[:frame] + struct.pack(">HH", 65000, 65000) + jpeg[frame + 4 :], "too large"),
        "small claim.jpg": (jpeg[:frame] + struct.pack(">HH", 6000, 6000) + jpeg[frame + 4 :], None),
        "screen.gif": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "too large"),
        "canvas.webp": (_claim_webp(webp), "image"),
        "claim.bmp": (bmp[:18] + struct.pack("<ii", 1 << 30, 1 << 30) + bmp[26:], "too large"),
        "claim.ppm": (b"P6 99999999 99999999 255\n", "too large"),
        "tiles.tif": (_tiff(16, 16, 1 << 20), "damaged"),
        "claim.tif": (_tiff(1 << 20, 1 << 20, 16), "too large"),
    }


def _claim_webp(webp: bytes) -> bytes:
    place = webp.index(b"VP8L") + 9  # 14 bits of width, 14 of height
    return webp[:place] + struct.pack("<I", (1 << 28) - 1) + webp[place + 4 :]


def _tiff(width: int, height: int, tile: int) -> bytes:
    """A TIFF of one tile, packed by zip."""
    data = zlib.compress(bytes(1 << 20))
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", 0)
    )


def sounds(folder) -> dict[str, str | None]:
    """Makes files in `folder`; name → a word of the sentence that refuses it, None if it must be read."""
    import soundfile

    second = np.zeros(8000, np.int16)
    for name in ("hours.flac", "hours.ogg"):
        with soundfile.SoundFile(folder / name, "w", 2000, 1) as file:
            for _ in range(30):
                file.write(np.zeros(60 * 2000, np.int16))
    wav = io.BytesIO()
    soundfile.write(wav, second, 8000, format="WAV")
    wav = wav.getvalue()
    (folder / "claim.wav").write_bytes(wav[:40] + b"\xf0\xff\xff\x7f" + wav[44:])
    (folder / "rate.wav").write_bytes(wav[:24] + b"\xff\xff\xff\x7f" + wav[28:])
    (folder / "wide.wav").write_bytes(wav[:22] + b"\xff\xff" + wav[24:])
    (folder / "sparse.wav").write_bytes(wav[:4] + b"\xff" * 4 + wav[8:40] + b"\xff" * 4)
    with open(folder / "sparse.wav", "r+b") as file:
        file.truncate(1 << 32)  # four gigabytes of silence that take no room on the disk
    return {
        "hours.flac": "longer",
        "hours.ogg": "longer",
        "claim.wav": None,
        "rate.wav": "rate",
        "wide.wav": "no sound that can be read",
        "sparse.wav": "longer",
    }


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghijklm", "bcdefghijklmn")
)
YAML = {
    "laughs": LAUGHS,
    "laughs as a value": LAUGHS + "WORKERS: *n\n",
    "itself": "WORKERS: &a [*a]\n",
    "merged": "a: &a {x: 1}\nb: {<<: [" + ", ".join(["*a"] * 1000) + "]}\n",
    "nested": "[" * 20_000,
    "nested keys": "? " * 20_000,
    "python": "WORKERS: !!python/object/apply:os.system ['true']\n",
    "tag": "WORKERS: !!binary xx\n",
    "decimal": f"WORKERS: {'9' * 5000}\n",
    "hexadecimal": f"WORKERS: 0x{'f' * 9000}\n",
    "sexagesimal": "WORKERS: " + "59:" * 3000 + "59\n",
    "infinite": "TRAIN: {GENERATOR_LR: .inf}\n",
    "not a number": "TRAIN: {EMA: .nan}\n",
    "long": "#" + "x" * (1 << 22) + "\n",
    "unhashable": "? [a]\n: 1\n",
    "huge key": f"{'k' * 100_000}: 1\n",
    "no text": "\x00\x01",
    "date": "WORKERS: 2001-99-99\n",
    "float of a huge number": f"TRAIN: {{EMA: 0x{'f' * 9000}}}\n",
    "letters of a terminal": '"\\e[31mx": 1\n',
}


def split(**changes) -> str:
    item = {"image": "001.Auk/1.jpg", "class": "001.Auk", "text": ["one"], "audio": ["p/1.wav"]}
    bases = {key: value for key, value in changes.items() if key.endswith("path")}
    item |= {key: value for key, value in changes.items() if key not in bases}
    return json.dumps({"image_base_path": "x", "audio_base_path": "y", **bases, "data": [item]})


JSON = {
    "climbs": split(image="../../etc/passwd"),
    "climbs inside": split(image="a/../../b.jpg"),
    "absolute": split(image="/etc/passwd"),
    "sound climbs": split(audio=["../p/1.wav"]),
    "sound absolute": split(audio=["/dev/zero"]),
    "places climbs": split(asr_text="x", audio=["wavs/../../a.wav"]),
    "places absolute": split(asr_text="x", audio=["wavs//etc/passwd"]),
    "null": split(image="a\0.jpg"),
    "half a letter": split(image="\ud800.jpg"),
    "half a letter spoken": split(text=["\udfff"]),
    "half a letter of a class": split(**{"class": "\ud800"}),
    "terminal": split(image="\x1b[2J.jpg"),
    "line": split(image="a\nb.jpg"),
    "long": split(image="a" * 300 + ".jpg"),
    "longer": split(image="a/" * 3000 + "b"),
    "long class": split(**{"class": "9" * 5000}),
    "class of many": split(**{"class": ["a"]}),
    "folder itself": split(image="."),
    "empty": split(image=""),
    "number": split(image=3),
    "base": split(image_base_path=3),
    "long base": split(image_base_path="b" * 5000),
    "base of a terminal": split(image_base_path="\x1b[2J"),
    "nested": "[" * 200_000,
    "nested objects": '{"a":' * 200_000,
    "huge number": '{"data": ' + "9" * 5000 + "}",
    "item of a million": '{"data": [' + "[" * 900 + "]" * 900 + "]}",
}
READABLE_JSON = {
    "not a number": split(speaker=float("nan")),
    "twice": '{"data": 1, ' + split()[1:],
    "huge class": split(**{"class": "9" * 150}),
    "unicode": split(image="鳥 ü'\"$ .jpg"),
}
