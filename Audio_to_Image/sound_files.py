"""Sound files of any kind → samples: all of what is there, one channel, or a sentence that says why there is none.

soundfile (libsndfile) decodes; sound_containers.py finds what it would leave out. Files are untrusted: length and memory
are bounded. soundfile and soxr are imported only where sound is read.
"""
import functools
import io
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import UserError

MAX_SECONDS = 600           # limits against files that unpack to absurd lengths: the method hears the first 20 s
MAX_SAMPLES = 1 << 25       # 134 MB of float32, in each of the workers: 11 minutes at 48 kHz
MAX_LEVEL = 1e6             # full scale is 1; powers of far larger samples overflow float32
SILENCE = 1e-4              # half the range of samples that nobody hears: -80 dB of full scale
CANCELLED = 1e-3            # share of the channels' power that is left in their mean
_READ_BLOCK = 1 << 22       # samples read at a time, all channels together
_FLAC_BLOCK = 1 << 12       # the same where a cut file costs the block in which it ends

# Why a file cannot be used; in this order in lists.
MISSING, NOT_SOUND, TOO_LONG = "missing", "not sound", "too long"

# What is odd about a recording that can be used.
SILENT, CANCELLING, CUT_OFF = "silent", "cancelling", "cut off"


class SoundError(UserError):
    """A file that cannot be used as sound; `cause` is MISSING, NOT_SOUND or TOO_LONG."""

    def __init__(self, message: str, cause: str = NOT_SOUND):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):                           # for the way back from a worker process
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
    """All sound of a wav, flac, ogg, opus, mp3 file or whatever else soundfile reads; lengths in headers only hint.

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
        raise SoundError(f"{path} is not a file" if not stat.S_ISREG(status.st_mode) else
                         f"{path} is empty (0 bytes); make or download it again")
    return open(handle, "rb", buffering=0)


# ---- decoding -------------------------------------------------------------------------------------------------------

def _read(file, size: int, path: Path) -> Sound:
    from Audio_to_Image.sound_containers import parts_of
    parts = parts_of(file, size)
    file.seek(0)
    decoder = _Decoder(path)
    for part in parts.files or [file]:
        decoder.add(part)
    samples, rate = decoder.samples(), decoder.rate
    lowest, highest = (samples.min(), samples.max()) if len(samples) else (0, 0)
    if not (lowest > -MAX_LEVEL and highest < MAX_LEVEL):               # so written, NaN fails too
        raise SoundError(f"{path} holds samples that are not numbers or are absurdly large; it cannot be used as sound")
    cancels = decoder.power > 0 and decoder.power_of_mean < CANCELLED * decoder.power
    silent = highest - lowest < 2 * SILENCE
    remarks = [CANCELLING] if cancels else [SILENT] if silent else []
    remarks += [CUT_OFF] if parts.is_cut or decoder.broke else []
    promised = parts.promised * len(samples) / rate if parts.promised > 1 else 0.0
    return Sound(samples, rate, promised, tuple(remarks))


@functools.cache
def _sequential():
    """soundfile.SoundFile that reads on to the end, as of a pipe, and not to where the header puts the end."""
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self):
            return False
    return Sequential


class _Decoder:
    """Samples of one file's parts; the first part's rate counts."""

    def __init__(self, path: Path):
        self.path, self.rate, self.blocks = path, 0, []
        self.total = 0                              # samples, at the rates they came in
        self.power = self.power_of_mean = 0.0       # sums of squares; of files with several channels only
        self.broke = False                          # whether the decoder failed after some sound

    def add(self, file) -> None:
        import soundfile
        # libsndfile reads a plain file by itself, twice as fast as through Python
        source = file.fileno() if isinstance(file, io.FileIO) else file
        try:
            with _sequential()(source, closefd=False) as opened:
                if not 1000 <= opened.samplerate <= 768000:
                    raise SoundError(f"{self.path} claims a sampling rate of {opened.samplerate} Hz; sound from 1 to "
                                     "768 kHz can be read")
                self.rate = self.rate or opened.samplerate
                blocks = list(self._blocks(opened))
                rate = opened.samplerate
        except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:   # TypeError: headerless .raw
            if self.blocks and isinstance(error, soundfile.SoundFileError):
                self.broke = True                   # a later part that is damaged: what was heard before counts
                return
            raise SoundError(_not_sound(self.path, file, error)) from None
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros(0, np.float32)])
        if sum(map(len, self.blocks)) + len(samples) * self.rate / rate > MAX_SAMPLES:
            raise self._too_long(MAX_SAMPLES / self.rate)
        self.blocks.append(resample(samples, rate, self.rate))

    def _blocks(self, opened):
        import soundfile
        limit = min(MAX_SECONDS * opened.samplerate, MAX_SAMPLES)
        most = max(1, (_FLAC_BLOCK if opened.format == "FLAC" else _READ_BLOCK) // opened.channels)
        if 0 < opened.frames < most:                # no more room than is needed; one more block finds the true end
            most = opened.frames
        # The same numbers, but libsndfile takes three times as long to make float32 of them.
        kind = "int16" if opened.subtype == "PCM_16" else "float32"
        begun = self.total
        while True:
            try:
                block = opened.read(most, dtype=kind, always_2d=True)
            except soundfile.SoundFileError:
                if self.total == begun:
                    raise
                self.broke = True
                return
            if not len(block):
                return
            block = block * np.float32(1 / 32768) if kind == "int16" else block
            mean = block.mean(axis=1) if opened.channels > 1 else block[:, 0]
            if opened.channels > 1:
                self.power += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
                self.power_of_mean += float(np.square(mean, dtype=np.float64).sum())
            self.total += len(block)
            if self.total > limit:
                raise self._too_long(limit / opened.samplerate)
            yield mean

    def _too_long(self, seconds: float) -> SoundError:
        return SoundError(f"{self.path} is longer than {seconds / 60:.0f} minutes, the limit for one clip", TOO_LONG)

    def samples(self) -> np.ndarray:
        return self.blocks[0] if len(self.blocks) == 1 else np.concatenate(self.blocks)


# ---- words ----------------------------------------------------------------------------------------------------------

# What begins at which byte is what; what ffmpeg can convert is told how.
_CONVERTIBLE = ((4, b"ftypM4A", "an MPEG-4 recording (m4a)"), (4, b"ftypM4B", "an MPEG-4 recording (m4b)"),
                (4, b"ftypqt", "a QuickTime recording (mov)"), (4, b"ftyp3g", "a 3GPP recording (3gp)"),
                (4, b"ftyp", "an MPEG-4 recording (mp4)"), (4, b"moov", "a QuickTime recording (mov)"),
                (0, b"\x1aE\xdf\xa3", "a WebM or Matroska recording (webm)"), (0, b"#!AMR", "an AMR recording (amr)"),
                (0, bytes.fromhex("3026b2758e66cf11"), "a Windows Media recording (wma)"),
                (0, b"caff", "an Apple recording (caf) in a coding that cannot be read"),
                (0, b"ADIF", "an AAC recording (aac)"),
                (8, b"AVI ", "an AVI video"), (0, b"FLV", "a Flash video"), (0, b".RMF", "a RealMedia recording"),
                (0, b"MAC ", "a Monkey's Audio recording (ape)"), (0, b"wvpk", "a WavPack recording"))
_OTHERS = ((0, b"MThd", "a MIDI file: notes, not sound"), (0, b"\x89PNG", "a PNG image"),
           (0, b"\xff\xd8\xff", "a JPEG image"),
           (0, b"GIF8", "a GIF image"), (0, b"PK\3\4", "a zip archive"), (0, b"\x1f\x8b", "a gzip archive"),
           (0, b"%PDF", "a PDF document"), (0, b"version https://git-lfs", "a Git LFS pointer; fetch the file itself"))


def kind_of(head: bytes) -> tuple[str, bool]:
    """(what a file that is not readable sound is, by its first bytes, or "", whether ffmpeg can convert it)."""
    for known, convertible in ((_CONVERTIBLE, True), (_OTHERS, False)):
        for start, mark, kind in known:
            if head[start:].startswith(mark):
                return kind, convertible
    if len(head) > 1 and head[0] == 0xff and head[1] & 0xf6 == 0xf0:
        return "an AAC recording (aac)", True
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return ("an HTML page" if b"<html" in text.lower() or b"<!doctype html" in text.lower() else "XML text"), False
    if text[:1] in (b"{", b"["):
        return "JSON text, perhaps an error message", False
    return ("text" if text and all(byte >= 32 or byte in b"\t\r\n\f" for byte in text) else ""), False


def _not_sound(path: Path, file, error: Exception) -> str:
    file.seek(0)
    kind, convertible = kind_of(file.read(512))
    if convertible:
        return f"{path} is {kind}, which has to be converted first: {conversion(path)}"
    if kind:
        return f"{path} is not sound but {kind}; make or download it again"
    reason = (getattr(error, "error_string", None) or str(error)).strip().rstrip(".")
    return f"{path} is not sound that can be read{f' ({reason})' if reason else ''}; make or download it again"


def conversion(path: Path) -> str:
    """A shell command that makes a wav file of `path` under a name that is free."""
    ends = ("", "_converted", *(f"_converted{number}" for number in range(2, 99)))
    names = (path.with_name(f"{path.stem}{end}.wav") for end in ends)
    target = next((name for name in names if not os.path.lexists(name)), path.with_name("converted.wav"))
    source, target = (str(name) if name.is_absolute() else f"./{name}" for name in (path, target))
    return f"ffmpeg -i {shlex.quote(source)} {shlex.quote(target)}"
