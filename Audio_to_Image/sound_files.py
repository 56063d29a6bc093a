"""Sound files of any kind → samples: all of what is there, one channel, or a sentence that says why there is none.

soundfile (libsndfile) decodes plain files whose headers fit to their sizes, PyAV (FFmpeg) everything else, to the end.
Files are untrusted: length and memory are bounded, and FFmpeg opens nothing but the file that it is given. soundfile,
av and soxr are imported only where sound is read.
"""

import functools
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from Audio_to_Image.sound_kinds import Kind, Piece, kind_of, layout_of
from common.cli import UserError

MAX_SECONDS = 600  # limits against files that unpack to absurd lengths: the method hears the first 20 s
MAX_SAMPLES = 1 << 25  # 134 MB of float32, in each of the workers: 11 minutes at 48 kHz
MAX_LEVEL = 1e6  # full scale is 1; powers of far larger samples overflow float32
SILENCE = 1e-4  # half the range of samples that nobody hears: -80 dB of full scale
CANCELLED = 1e-3  # share of the channels' power that is left in their mean
_READ_BLOCK = 1 << 22  # samples read at a time, all channels together
_FRAMES_BLOCK = 1 << 17  # the same for FFmpeg's frames
_HEAD = 1 << 12  # bytes by which a file's kind is known
_SAY_THEIR_LENGTH = ("flac", "au", "mov", "matroska")  # in their headers; others are guessed by FFmpeg

# Why a file cannot be used; in this order in lists.
MISSING, NOT_SOUND, TOO_LONG = "missing", "not sound", "too long"

# What is odd about a recording that can be used.
SILENT, CANCELLING, CUT_OFF = "silent", "cancelling", "cut off"


class SoundError(UserError):
    """A file that cannot be used as sound; `cause` is MISSING, NOT_SOUND or TOO_LONG."""

    def __init__(self, message: str, cause: str = NOT_SOUND):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):  # for the way back from a worker process
        return SoundError, (str(self), self.cause)


@dataclass(frozen=True)
class Sound:
    """samples: float32 [n], the mean of the channels, full scale 1; rate in Hz; promised: seconds that the file
    announces, 0 where it does not say more than is there; remarks: of SILENT, CANCELLING, CUT_OFF."""

    samples: np.ndarray
    rate: int
    promised: float = 0.0
    remarks: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_sound(path) -> Sound:
    """All sound of a wav, flac, ogg, opus, mp3, webm, m4a, … file; lengths in headers only hint.

    A valid file without samples gives none. SoundError names a file that is missing, empty, not sound, longer than ten
    minutes (at over 55 kHz: than 33 million samples), or holds impossible samples.
    """
    path = Path(path)
    with _opened(path) as file:
        return _read(file, os.fstat(file.fileno()).st_size, path)


def decode(data: bytes, name: str) -> Sound:
    """read_sound of a file's content; `name` is used in sentences."""
    if not data:
        raise SoundError(f"{name} is empty (0 bytes)")
    return _read(io.BytesIO(data), len(data), Path(name))


def resample(samples: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """float32 [n] at `source_rate` Hz → float32 [ceil(n·rate/source_rate)], by soxr's high quality as in librosa."""
    if source_rate == rate or not len(samples):
        return samples
    import soxr

    wanted = int(np.ceil(len(samples) * float(rate) / source_rate))
    result = soxr.resample(samples, source_rate, rate, quality="HQ")[:wanted]
    return np.pad(result, (0, wanted - len(result)))


def _opened(path: Path):
    """The file, open for reading. A pipe or device is not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SoundError(f"{path} does not exist", MISSING) from None
    except PermissionError:
        raise SoundError(f"{path} cannot be read; check its permissions", MISSING) from None
    except (OSError, ValueError) as error:
        raise SoundError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})", MISSING) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        os.close(handle)
        raise SoundError(
            f"{path} is not a file"
            if not stat.S_ISREG(status.st_mode)
            else f"{path} is empty (0 bytes); make or download it again"
        )
    return open(handle, "rb", buffering=0)


# ---- decoding -------------------------------------------------------------------------------------------------------


def _read(file, size: int, path: Path) -> Sound:
    kind = kind_of(file.read(_HEAD))
    layout = layout_of(file, size, kind.container)
    mix = _Mix(path)
    if not (
        layout.is_plain
        and _by_soundfile(mix, file)
        or (kind.container or not kind.name)
        and _by_ffmpeg(mix, layout.pieces, kind.container or "mp3")
    ):  # mp3 may lie behind anything
        raise SoundError(_not_sound(path, kind))
    samples, rate = mix.samples(), mix.rate
    lowest, highest = (samples.min(), samples.max()) if len(samples) else (0, 0)
    if not (lowest > -MAX_LEVEL and highest < MAX_LEVEL):  # so written, NaN fails too
        raise SoundError(f"{path} holds samples that are not numbers or are absurdly large; it cannot be used as sound")
    cancels = mix.power > 0 and mix.power_of_mean < CANCELLED * mix.power
    silent = highest - lowest < 2 * SILENCE
    remarks = [CANCELLING] if cancels else [SILENT] if silent else []
    seconds = len(samples) / rate
    promised = layout.promised * seconds if layout.promised > 1 else 0.0
    if (layout.is_cut or kind.container in _SAY_THEIR_LENGTH) and mix.announced > seconds + 0.1:
        promised = mix.announced
    remarks += [CUT_OFF] if layout.is_cut or mix.broke or promised else []
    return Sound(samples, rate, promised, tuple(remarks))


class _Mix:
    """Samples of one file as they are decoded: the mean of the channels, within the limits."""

    def __init__(self, path: Path):
        self.path, self.stretches = path, []  # (rate, blocks): files that were joined differ in their rates
        self.seconds = 0.0
        self.power = self.power_of_mean = 0.0  # sums of squares; of files with several channels only
        self.broke = False  # whether the decoder failed somewhere
        self.announced = 0.0  # seconds, by the header

    @property
    def rate(self) -> int:
        return self.stretches[0][0]

    def begin(self, rate: int) -> None:
        """What is added from here on has `rate` Hz."""
        if not 1000 <= rate <= 768000:
            raise SoundError(f"{self.path} claims a sampling rate of {rate} Hz; sound from 1 to 768 kHz can be read")
        if not self.stretches or self.stretches[-1][0] != rate:
            self.stretches.append((rate, []))
        if len(self.stretches) > 100:
            raise SoundError(f"{self.path} changes its sampling rate too often; it cannot be used as sound")

    def add(self, block: np.ndarray) -> None:
        """float32 [n, channels]"""
        mean = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
        if block.shape[1] > 1:
            self.power += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
            self.power_of_mean += float(np.square(mean, dtype=np.float64).sum())
        rate, blocks = self.stretches[-1]
        blocks.append(mean)
        self.seconds += len(mean) / rate
        limit = min(MAX_SECONDS, MAX_SAMPLES / self.rate)
        if self.seconds > limit + 1e-6:
            raise SoundError(f"{self.path} is longer than {limit / 60:.0f} minutes, the limit for one clip", TOO_LONG)

    def samples(self) -> np.ndarray:
        parts = [
            resample(
                blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros(0, np.float32)]), rate, self.rate
            )
            for rate, blocks in self.stretches
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@functools.cache
def _sequential():
    """soundfile.SoundFile that reads on to the end, as of a pipe, and not to where the header puts the end."""
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self):
            return False

    return Sequential


def _by_soundfile(mix: _Mix, file) -> bool:
    """Whether libsndfile can read the file: twice as fast as FFmpeg where a header is right."""
    import soundfile

    file.seek(0)
    # libsndfile reads a plain file by itself, twice as fast as through Python
    source = file.fileno() if isinstance(file, io.FileIO) else file
    try:
        with _sequential()(source, closefd=False) as opened:
            mix.begin(opened.samplerate)
            most = max(1, _READ_BLOCK // opened.channels)
            if 0 < opened.frames < most:  # no more room than is needed; one more block finds the true end
                most = opened.frames
            # The same numbers, but libsndfile takes three times as long to make float32 of them.
            kind = "int16" if opened.subtype == "PCM_16" else "float32"
            while len(block := opened.read(most, dtype=kind, always_2d=True)):
                mix.add(_as_float(block))
    except (soundfile.SoundFileError, TypeError, ValueError, OSError):  # TypeError: a headerless .raw
        mix.broke = mix.seconds > 0
        return mix.broke
    return True


def _by_ffmpeg(mix: _Mix, pieces, container: str) -> bool:
    """Whether FFmpeg can read some of it. It decodes to the end, whatever the header says.

    It gets the name of the container, so that no playlist is followed, and may open nothing by itself.
    """
    import av

    # Video is not decoded, not even to look at it.
    options = {"protocol_whitelist": "none", "codec_whitelist": "none"}
    for piece in pieces:
        if not isinstance(piece, Piece):
            piece.seek(0)
        try:
            with av.open(piece, format=container, options=options, metadata_errors="ignore") as opened:
                stream = [stream for stream in opened.streams.audio if stream.codec_context][0]
                stream.codec_context.thread_count = 1
                length = stream.duration and stream.duration * stream.time_base or (opened.duration or 0) / av.time_base
                mix.announced += float(length) if stream.duration or len(opened.streams) == 1 else 0
                if stream.rate:
                    mix.begin(stream.rate)
                for rate, block in _in_blocks(_frames(opened, stream, mix)):
                    mix.begin(rate)
                    mix.add(block)
        except (av.FFmpegError, IndexError, ValueError):  # IndexError: no stream of sound that it knows
            mix.broke = True
    return mix.seconds > 0 or bool(mix.stretches) and not mix.broke


def _frames(opened, stream, mix: _Mix):
    import av

    for packet in opened.demux(stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            # Where mp3 files were joined, their tags lie between the frames.
            mix.broke |= not any(tag in bytes(packet) for tag in (b"TAG", b"ID3"))


def _in_blocks(frames):
    """Frames → (rate, float32 [n, channels]) of a second or two: frames have only a few hundred samples."""
    pending, kind, total = [], None, 0
    for frame in frames:
        values = frame.to_ndarray()
        channels = frame.layout.nb_channels
        values = _as_float(values.T if frame.format.is_planar else values.reshape(-1, channels))
        if pending and (total > _FRAMES_BLOCK or kind != (frame.sample_rate, channels)):
            yield kind[0], np.concatenate(pending)
            pending, total = [], 0
        pending.append(values)
        kind, total = (frame.sample_rate, channels), total + values.size
    if pending:
        yield kind[0], np.concatenate(pending)


def _as_float(values: np.ndarray) -> np.ndarray:
    """Samples of any type → float32 of full scale 1."""
    if values.dtype == np.uint8:
        return (values - np.float32(128)) * np.float32(1 / 128)
    if values.dtype.kind == "i":
        return (
            values * np.float32(0.5 ** (8 * values.itemsize - 1))
            if values.itemsize == 2
            else (values * 0.5 ** (8 * values.itemsize - 1)).astype(np.float32)
        )
    return values.astype(np.float32, copy=False)


def _not_sound(path: Path, kind: Kind) -> str:
    if kind.container is None:
        return f"{path} is {kind.name}, which cannot be read; convert it to wav"
    if kind.container:
        return f"{path} is {kind.name} with no sound that can be read; make or download it again"
    return f"{path} is not sound{f' but {kind.name}' if kind.name else ' that can be read'}; make or download it again"
