"""MPEG audio (mp3, mp2) as a row of frames: how long it is, without tags, junk and headers that say something else.

An mp3 file has no header of its own. Encoders put the number of frames into a first, silent frame ("Xing", "Info" or
"VBRI"); where that is missing or wrong, decoders guess the length by the first frame's bit rate. Joined files have such a
frame in their middle. ISO/IEC 11172-3 and 13818-3; the Xing frame as LAME writes it.
"""
import struct
from dataclasses import dataclass, field

# kbit/s by index 1 … 14; layer III and II of MPEG 1, then of MPEG 2 and 2.5, where both are alike
_LAYER3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_LAYER2 = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LOWER = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}      # MPEG 1, 2, 2.5
_FEWEST = 3                     # frames in a row that are no accident


@dataclass(frozen=True)
class Frame:
    length: int                 # bytes
    samples: int
    kind: tuple                 # version, layer and rate: the same in all frames of one stream
    mono: bool


@dataclass
class _Stream:
    """Frames that belong together: `announced` is the number in the first one, None where it has none."""
    kind: tuple
    announced: int | None = None
    first: bytes = b""          # the frame that holds the number
    frames: list = field(default_factory=list)


@dataclass(frozen=True)
class MpegParts:
    pieces: list                # bytes, each to be decoded by itself
    promised: float             # times as many frames announced as there are; 1: no more than these


def frame_at(data: bytes, place: int) -> Frame | None:
    """The frame whose header is at `place`; None if there is none, or one of free bit rate or layer I."""
    if place + 4 > len(data) or data[place] != 0xff or data[place + 1] & 0xe0 != 0xe0:
        return None
    second, third, fourth = data[place + 1:place + 4]
    version, layer, bits, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if version == 1 or layer not in (2, 3) or not 1 <= bits <= 14 or rate == 3:
        return None
    speed = (_LAYER3 if layer == 3 else _LAYER2) if version == 3 else _LOWER
    hertz = _RATES[version][rate]
    samples = 576 if layer == 3 and version != 3 else 1152
    length = samples // 8 * 1000 * speed[bits - 1] // hertz + (third >> 1 & 1)
    return Frame(length, samples, (version, layer, hertz), fourth >> 6 == 3)


def begins_like_sound(data: bytes) -> bool:
    """Whether frames in a row are found near the beginning of a file (`data`: its first bytes)."""
    place = data.find(b"\xff")
    while 0 <= place < len(data) - 4:
        if _run_length(data, place, _FEWEST) == _FEWEST:
            return True
        place = data.find(b"\xff", place + 1)
    return False


def _run_length(data: bytes, place: int, most: int) -> int:
    """How many frames of one kind follow each other from `place`, counting to `most`."""
    first = frame = frame_at(data, place)
    for count in range(most):
        if frame is None or frame.kind != first.kind or place + frame.length > len(data):
            return count
        place += frame.length
        frame = frame_at(data, place)
    return most


def parts_of(data: bytes) -> MpegParts | None:
    """The streams in a file, each with the right number of frames in its first one. None: there are no frames."""
    streams = _streams(data)
    if not streams:
        return None
    announced = sum(max(len(s.frames), s.announced or 0) for s in streams)
    return MpegParts([_piece(data, stream) for stream in streams], announced / sum(len(s.frames) for s in streams))


def _streams(data: bytes) -> list[_Stream]:
    streams, place, in_row = [], 0, False
    while place >= 0:
        frame = frame_at(data, place)
        fits = frame is not None and place + frame.length <= len(data)
        if fits and (in_row and streams[-1].kind == frame.kind or _run_length(data, place, _FEWEST) == _FEWEST
                     or in_row and _is_last(data, place + frame.length)):
            announced = _announced(data, place, frame)
            if announced is not None or not streams or streams[-1].kind != frame.kind:
                streams.append(_Stream(frame.kind, announced, data[place:place + frame.length]))
            if announced is None:
                streams[-1].frames.append((place, frame.length))
            place, in_row = place + frame.length, True
        else:
            in_row = False
            place = _behind_tag(data, place) or data.find(b"\xff", place + 1)
    return [stream for stream in streams if stream.frames]


def _is_last(data: bytes, end: int) -> bool:
    return end == len(data) or data[end:end + 3] in (b"TAG", b"ID3") or data[end:end + 8] == b"APETAGEX"


def _behind_tag(data: bytes, place: int) -> int:
    """Where an ID3 or APE tag at `place` ends, by its own length; 0 if there is none or no frame follows it."""
    end = 0
    if data[place:place + 3] == b"ID3" and place + 10 <= len(data):
        a, b, c, d = data[place + 6:place + 10]
        end = place + 10 + (a << 21 | b << 14 | c << 7 | d)
    elif data[place:place + 8] == b"APETAGEX" and place + 32 <= len(data):
        end = place + 32 + struct.unpack_from("<I", data, place + 12)[0]
    while 0 < end < len(data) and data[end] == 0:                       # padding
        end += 1
    return end if place < end < len(data) and frame_at(data, end) else 0


def _side_information(frame: Frame) -> int:
    """Bytes between a layer III frame's header and its samples."""
    return (17 if frame.mono else 32) if frame.kind[0] == 3 else (9 if frame.mono else 17)


def _announced(data: bytes, place: int, frame: Frame) -> int | None:
    """The number of frames in a Xing, Info or VBRI frame, 0 if it does not say; None for a frame of sound."""
    if frame.kind[1] != 3:
        return None
    tag = place + 4 + _side_information(frame)
    if data[tag:tag + 4] in (b"Xing", b"Info"):
        return struct.unpack_from(">I", data, tag + 8)[0] if data[tag + 7] & 1 else 0
    if data[place + 36:place + 40] == b"VBRI":
        return struct.unpack_from(">I", data, place + 50)[0]
    return None


def _piece(data: bytes, stream: _Stream) -> bytes:
    """A stream's frames behind a first one with their number: its own if that is right, since it also says where
    the sound begins and ends within the frames."""
    count, (place, _) = len(stream.frames), stream.frames[0]
    sound = b"".join(data[start:start + length] for start, length in stream.frames)
    if stream.kind[1] != 3:
        return sound
    right = stream.announced in (count, count + 1)
    return (stream.first if right else _xing_frame(data[place:place + 4], frame_at(data, place), count)) + sound


def _xing_frame(header: bytes, frame: Frame, count: int) -> bytes:
    """A silent frame of 64 kbit/s, without checksum, that announces `count` frames."""
    version, _, _ = frame.kind
    index = (_LAYER3 if version == 3 else _LOWER).index(64) + 1
    header = bytes([header[0], header[1] | 1, index << 4 | header[2] & 0x0c, header[3]])
    head = header + bytes(_side_information(frame)) + b"Xing" + struct.pack(">II", 1, count)
    return head.ljust(frame_at(header, 0).length, b"\0")
