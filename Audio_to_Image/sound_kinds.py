"""What a file is by its first bytes, and whether lengths in its header fit to its size.

Decoders hear as much as a header promises. Recorders that were cut off, encoders that write into a pipe and people who
join files leave headers that promise too little or too much.
"""

import re
import struct
from typing import NamedTuple

_HEAD = 1 << 16  # bytes in which the chunks before the samples are expected
_TRAILER = 256  # bytes behind the samples that are no chunk, but no sound either
_STREAMED = 0x7FFF0000  # lengths from here on mean "not known"
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_ ]{4}")
_RIFF = (b"RIFF", b"RIFX", b"RF64", b"BW64")


class Kind(NamedTuple):
    """name: for sentences, "" for an unknown file; container: FFmpeg's name of the format, "" where it is no sound,
    None where FFmpeg could read it, but would reserve whatever memory a damaged file asks for."""

    name: str = ""
    container: str | None = ""


_KINDS = (
    (0, b"fLaC", "a FLAC file", "flac"),
    (0, b"OggS", "an Ogg file", "ogg"),
    (0, b"ID3", "an mp3 file", "mp3"),
    (8, b"WAVE", "a wav file", "wav"),
    (8, b"AIF", "an AIFF file", "aiff"),
    (0, b".snd", "a Sun file (au)", "au"),
    (0, b"caff", "an Apple recording (caf)", "caf"),
    (4, b"ftypM4A", "an MPEG-4 recording (m4a)", "mov"),
    (4, b"ftypM4B", "an MPEG-4 recording (m4b)", "mov"),
    (4, b"ftypqt", "a QuickTime recording (mov)", "mov"),
    (4, b"ftyp3g", "a 3GPP recording (3gp)", "mov"),
    (4, b"ftyp", "an MPEG-4 recording (mp4)", "mov"),
    (4, b"moov", "a QuickTime recording (mov)", "mov"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska recording (webm)", "matroska"),
    (0, b"#!AMR", "an AMR recording (amr)", "amr"),
    (8, b"AVI ", "an AVI video", None),
    (0, bytes.fromhex("3026b2758e66cf11"), "a Windows Media recording (wma)", "asf"),
    (0, b"FLV", "a Flash video", None),
    (0, b".RMF", "a RealMedia recording", None),
    (0, b"MAC ", "a Monkey's Audio recording (ape)", None),
    (0, b"wvpk", "a WavPack recording", None),
    (0, b"MThd", "a MIDI file: notes, not sound", ""),
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"GIF8", "a GIF image", ""),
    (0, b"PK\3\4", "a zip archive", ""),
    (0, b"\x1f\x8b", "a gzip archive", ""),
    (0, b"%PDF", "a PDF document", ""),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself", ""),
)


def kind_of(head: bytes) -> Kind:
    """What a file is, by its first bytes."""
    for start, mark, name, container in _KINDS:
        if head[start:].startswith(mark):
            return Kind(name, container)
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return Kind("an AAC recording (aac)", "aac") if head[1] & 0xF6 == 0xF0 else Kind("an mp3 file", "mp3")
    text = head[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return Kind("an HTML page" if b"<html" in text.lower() or b"<!doctype html" in text.lower() else "XML text")
    if text[:1] in (b"{", b"["):
        return Kind("JSON text, perhaps an error message")
    return Kind("text" if text and all(byte >= 32 or byte in b"\t\r\n\f" for byte in text) else "")


class Piece:
    """Bytes `start` to `end` of a file behind a header of our own, to be read once from its beginning to its end."""

    def __init__(self, file, start: int, end: int, head: bytes = b""):
        self.file, self.place, self.end, self.head = file, start, end, head

    def read(self, count: int) -> bytes:
        data, self.head = self.head[:count], self.head[count:]
        if not data:
            data = _bytes_at(self.file, self.place, min(count, self.end - self.place))
            self.place += len(data)
        return data


def _bytes_at(file, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(max(count, 0))


class Layout(NamedTuple):
    """How a file is to be decoded. is_plain: as it is, by its own header; else: `pieces` one after the other.
    promised: times as much sound announced as is there, 1 where it is right or does not say; is_cut: whether the file
    ends in the middle of something."""

    is_plain: bool
    pieces: list
    promised: float = 1.0
    is_cut: bool = False


def layout_of(file, size: int, container: str | None) -> Layout:
    """`file`: open for reading in binary, of `size` bytes. Its position is not kept."""
    if container == "wav":
        return _wav(file, size)
    if container == "ogg":
        return _ogg(file, size)
    promised, is_cut, start, head = 1.0, False, 0, _bytes_at(file, 0, _HEAD)
    if container == "caf" and (place := head.find(b"data")) > 0 and len(head) > place + 12:
        there = size - place - 12
        length = struct.unpack_from(">q", head, place + 4)[0]
        promised = length / there if length > there > 0 else 1.0
    if head[:3] == b"ID3":  # whose own length may be wrong: then sound is looked for behind it
        end = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
        head = _bytes_at(file, end, _HEAD)
        start = 0 if head.lstrip(b"\0").startswith((b"\xff", b"ID3", b"TAG", b"APETAG")) else 10
    if container == "mp3" and (found := re.search(rb"(?:Xing|Info)\0\0\0[\3\7\x0b\x0f]", head)):
        is_cut = struct.unpack_from(">I", head.ljust(found.end() + 8), found.end() + 4)[0] > size + 4  # bytes of sound
    is_plain = container in ("aiff", "")
    pieces = [] if container == "aiff" else [Piece(file, start, size)] if start else [file]
    return Layout(is_plain, pieces, promised, is_cut or promised > 1)


def _wav(file, size: int) -> Layout:
    """RIFF, RIFX, RF64 or BW64, also several in one file. Where a length is wrong, pieces end where the file does.

    Pieces have headers without any chunk of text: for these, FFmpeg reserves the memory that they ask for.
    """
    pieces, start, promised, is_plain = [], 0, 1.0, True
    while start < size:
        head = _bytes_at(file, start, _HEAD)
        order, place, fmt, long_length = ">" if head[:4] == b"RIFX" else "<", 12, b"", 0
        while place + 8 <= len(head):
            name, length = struct.unpack_from(f"{order}4sI", head, place)
            if name == b"data":
                break
            fmt = head[place : place + 8 + length] if name == b"fmt " else fmt
            if name == b"ds64":
                long_length = struct.unpack_from("<Q", head.ljust(place + 24), place + 16)[0]
            place += 8 + length
            unpadded = length % 2 and _CHUNK_NAME.fullmatch(head[place : place + 4])
            is_plain &= not unpadded
            place += length % 2 and not unpadded
        else:
            break
        first, there = start + place + 8, size - start - place - 8
        length = long_length if length == 0xFFFFFFFF and long_length else length
        follows = _behind(file, first + length + length % 2, size) if length <= there else None
        promised = max(promised, length / there) if 0 < there < length < _STREAMED else promised
        end = size if follows is None else first + length
        pieces.append(
            Piece(
                file,
                first,
                end,
                (b"RIFX" if order == ">" else b"RIFF") + b"\xff" * 4 + b"WAVE" + fmt + b"data" + b"\xff" * 4,
            )
        )
        is_plain &= follows == size
        start = follows or size
    return Layout(is_plain, pieces, promised, promised > 1)


def _behind(file, place: int, size: int) -> int | None:
    """Where another wav file begins behind the chunks that follow the samples, `size` where none does, None where these
    are no chunks."""
    while size - place > _TRAILER:
        name, length = struct.unpack("<4sI", _bytes_at(file, place, 8))
        if name in _RIFF:
            return place
        if not _CHUNK_NAME.fullmatch(name) or length > size - place:
            return None
        place += 8 + length + length % 2
    return size


def _ogg(file, size: int) -> Layout:
    """Chained streams (Vorbis, Opus, FLAC, Speex) become one piece each."""
    starts, place, begins = [], 0, False
    while len(head := _bytes_at(file, place, 282)) >= 27 and head[:4] == b"OggS":
        if head[5] & 2 and not begins:
            starts.append(place)
        begins = bool(head[5] & 2)
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    pieces = [Piece(file, start, end) for start, end in zip(starts, [*starts[1:], size])]
    return Layout(False, pieces, is_cut=place > size or size - place < 27 and head[:1] == b"O")
