"""Where the sound lies in a file, whatever its header says about lengths.

libsndfile hears as much as a header promises. Recorders that were cut off, encoders that write into a pipe and people who
join files leave headers that promise too little. `parts_of` finds such files by their structure and returns them as
parts whose headers are right, made in memory; files whose lengths are consistent are left to libsndfile as they are.
"""
import io
import re
import struct
from dataclasses import dataclass

from Audio_to_Image import mpeg_frames

MOST_BYTES = 1 << 28            # of a compressed file, which is read as a whole: at 3.5 Mbit/s ten minutes
_HEAD = 1 << 16                 # bytes in which the chunks before the samples are expected
_TRAILER = 256                  # bytes behind the samples that are no chunk, but no sound either (an ID3v1 tag has 128)
_STREAMED = 0x7fff0000          # lengths from here on mean "not known"
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_ ]{4}")


@dataclass(frozen=True)
class Parts:
    """What to decode one after the other in place of the file, None for the file as it is; `promised`: how many times
    as much sound as is there the header announces, 1 where it is right or says nothing; `is_cut`: whether the file ends
    in the middle of something."""
    files: list | None = None
    promised: float = 1.0
    is_cut: bool = False


class Part(io.RawIOBase):
    """A read-only file: `head`, then bytes `start` to `end` of `file`."""

    def __init__(self, file, start: int, end: int, head: bytes = b""):
        self.file, self.start, self.head, self.position = file, start, head, 0
        self.size = len(head) + max(end - start, 0)

    def seekable(self):
        return True

    def readable(self):
        return True

    def tell(self):
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def read(self, count=-1):
        end = self.size if count < 0 else min(self.position + count, self.size)
        data = self.head[self.position:end]
        if end > self.position + len(data):
            self.file.seek(self.start + self.position + len(data) - len(self.head))
            data += self.file.read(end - self.position - len(data))
        self.position += len(data)
        return data

    def readinto(self, buffer):
        data = self.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)


def parts_of(file, size: int) -> Parts:
    """`file`: open for reading in binary, of `size` bytes. Its position is not kept."""
    file.seek(0)
    head = file.read(_HEAD)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(file, size)
    if head[:4] in (b".snd", b"dns."):
        return _au(file, head, size)
    if head[:4] == b"caff":
        return _caf(file, head, size)
    if size > MOST_BYTES:
        return Parts()
    if head[:4] == b"OggS":
        return _ogg(_everything(file))
    if head[:4] == b"fLaC":
        return _flac(_everything(file))
    if head[:3] == b"ID3" or mpeg_frames.begins_like_sound(head):
        parts = mpeg_frames.parts_of(_everything(file))
        files = [io.BytesIO(part) for part in parts.pieces] if parts else None
        return Parts(files, parts.promised, parts.promised > 1) if parts else Parts()
    return Parts()


def _everything(file) -> bytes:
    file.seek(0)
    return file.read()


# ---- uncompressed: chunks -------------------------------------------------------------------------------------------

def _wav(file, size: int) -> Parts:
    """RIFF, RIFX, RF64 or BW64, also several in one file."""
    files, start, promised, changed = [], 0, 1.0, False
    while start < size:
        found = _wav_at(file, start, size)
        if found is None:
            break
        head, first, end, told, odd = found
        promised = max(promised, told)
        files.append(Part(file, first, end, head))
        file.seek(end + (end - first) % 2)
        following = file.read(12)
        another = following[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and following[8:] == b"WAVE"
        changed |= odd or another
        if not another:
            break
        start = end + (end - first) % 2
    return Parts(files if changed else None, promised, promised > 1)


def _wav_at(file, start: int, size: int):
    """(header made right, first byte of the samples, their end, times as much promised, whether that is news), or None
    where there are no samples to be found."""
    file.seek(start)
    head = file.read(_HEAD)
    kind, order = head[:4], ">" if head[:4] == b"RIFX" else "<"
    place, fmt, long_size, unpadded = 12, b"", 0, False
    while place + 8 <= len(head):
        name, length = struct.unpack_from(f"{order}4sI", head, place)
        if name == b"data":
            break
        if name == b"ds64" and place + 24 <= len(head):
            long_size = struct.unpack_from("<Q", head, place + 16)[0]
        if name == b"fmt ":
            fmt = head[place:place + 8 + length]
        place += 8 + length
        if length % 2 and _CHUNK_NAME.fullmatch(head[place:place + 4]):             # its writer forgot to pad
            unpadded = True
        else:
            place += length % 2
    else:
        return None
    if not fmt:
        return None
    first, there = start + place + 8, size - start - place - 8
    if kind in (b"RF64", b"BW64") and length == 0xffffffff:
        length = long_size
    end, promised = _end_of_samples(file, first, length, size)
    made = fmt + b"data" + struct.pack(f"{order}I", min(end - first, 0xffffffff - 1024))
    name = b"RIFX" if order == ">" else b"RIFF"
    header = name + struct.pack(f"{order}I", min(4 + len(made) + end - first, 0xffffffff)) + b"WAVE" + made
    refused = unpadded or kind == b"BW64" or kind == b"RF64" and length > there               # by libsndfile
    return header, first, end, promised, refused or end != first + min(length, there)


def _end_of_samples(file, first: int, length: int, size: int) -> tuple[int, float]:
    """(where the samples end, how many times as long they were to be): `length` counts where it fits to what follows."""
    there = size - first
    if length <= there and _chunks_follow(file, first + length + length % 2, size):
        return first + length, 1.0
    known = there < length < _STREAMED
    return size, length / there if known and there else 1.0


def _chunks_follow(file, place: int, size: int) -> bool:
    """Whether what lies from `place` to the end are chunks, another wav file, or too little to be sound."""
    while size - place > _TRAILER:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
            return True
        if not _CHUNK_NAME.fullmatch(name) or length > size - place:
            return False
        place += 8 + length + length % 2
    return True


def _au(file, head: bytes, size: int) -> Parts:
    """Sun's: nothing can follow the samples, so that the length says no more than whether some are missing."""
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 12:
        return Parts()
    first, length = struct.unpack_from(f"{order}II", head, 4)
    there = max(size - first, 1)
    promised = length / there if there < length < _STREAMED else 1.0
    unknown = Part(file, 12, size, head[:8] + b"\xff\xff\xff\xff")
    return Parts([unknown] if length != there else None, promised, promised > 1)


def _caf(file, head: bytes, size: int) -> Parts:
    """Apple's: a length of -1 and a file that ends early are both refused by libsndfile."""
    place = 8
    while place + 12 <= len(head):
        name, length = struct.unpack_from(">4sq", head, place)
        there = size - place - 12
        if name == b"data":
            if 0 < length <= there:
                return Parts()
            promised = length / there if there and length > there else 1.0
            known = head[:place + 4] + struct.pack(">q", there)
            return Parts([Part(file, place + 12, size, known)], promised, promised > 1)
        if length < 0:
            break
        place += 12 + length
    return Parts()


# ---- compressed: streams one after the other ------------------------------------------------------------------------

def _flac(data: bytes) -> Parts:
    """The number of samples in the header is taken away, so that decoding goes on to the end; joined files are split."""
    starts = [match.start() for match in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", data)]
    if not starts or len(data) < 42:
        return Parts()
    files = []
    for start, end in zip(starts, [*starts[1:], len(data)]):
        files.append(io.BytesIO(data[start:start + 21] + bytes([data[start + 21] & 0xf0]) + bytes(4)
                                + data[start + 26:end]))
    return Parts(files)


def _ogg(data: bytes) -> Parts:
    """Chained streams (Vorbis, Opus, FLAC, Speex) become one part each; a page that was cut off is made right."""
    links, place, is_cut, first_pages = [], 0, False, False
    while (place := data.find(b"OggS", place)) >= 0 and place + 27 <= len(data):
        segments = data[place + 26]
        lacing = data[place + 27:place + 27 + segments]
        length = 27 + segments + sum(lacing)
        begins = bool(data[place + 5] & 2)
        if begins and not first_pages:
            links.append([])
        first_pages = begins
        if place + length > len(data):
            is_cut = True
            page = _shortened_page(data[place:])
        else:
            page = data[place:place + length]
        if links and page:
            links[-1].append(page)
        place += length
    if len(links) == 1 and not is_cut or not links:
        return Parts()
    return Parts([io.BytesIO(b"".join(pages)) for pages in links], is_cut=is_cut)


def _shortened_page(page: bytes) -> bytes:
    """An Ogg page whose end is missing, with the packets that are there to their end; b"" if there is none."""
    segments = page[26]
    lacing, body, kept, total = page[27:27 + segments], len(page) - 27 - segments, 0, 0
    for number, length in enumerate(lacing):
        total += length
        if total > body:
            break
        if length < 255:
            kept = number + 1
    if not kept or len(lacing) < segments:
        return b""
    header = page[:22] + bytes(4) + bytes([kept]) + lacing[:kept]
    whole = header + page[27 + segments:27 + segments + sum(lacing[:kept])]
    return whole[:22] + struct.pack("<I", _ogg_checksum(whole)) + whole[26:]


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of polynomial 0x04c11db7, most significant bit first, from 0."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = value << 1 ^ (0x104c11db7 if value & 0x80000000 else 0)
        table.append(value)
    value = 0
    for byte in page:
        value = (value << 8 & 0xffffffff) ^ table[value >> 24 ^ byte]
    return value
