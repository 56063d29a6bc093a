"""Sound files → log-mel spectrograms, the input of the speech encoder.

The settings are those of Li et al. (arXiv 2004.03413). torch's FFT does the transforms, compiled loops (`loops.py`) the
rest, one clip at a time in each thread. torch, numba, soundfile, soxr and librosa are imported only where sound is read.

Every frame goes through the same operations in the same order, whatever the number of threads.
"""
import functools
import math
import os
import stat
import struct
import threading
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.parallel import in_chunks, one_torch_thread, parallel_map

RATE = 16000                # Hz
N_FFT = WINDOW = 400        # samples: 25 ms
HOP = 160                   # samples: 10 ms a frame
N_MELS = 40
F_MIN, F_MAX = 20.0, 8000.0  # Hz
PREEMPHASIS = 0.97
FLOOR = 1e-10               # of power, before the logarithm
TOP_DB = 80.0
MAX_FRAMES = 2048           # 20.5 s: longer clips are cut, shorter ones padded
MIN_FRAMES = 64             # 0.64 s: below it the encoder has no time step left
EMPTY_SAMPLES = 200         # what an empty clip becomes

MAX_SECONDS = 600           # limits against files that unpack to absurd lengths: the method hears the first 20 s
MAX_SAMPLES = 1 << 25       # 134 MB of float32, in each of the workers: 11 minutes at 48 kHz
MAX_LEVEL = 1e6             # full scale is 1; powers of far larger samples overflow float32
_READ_BLOCK = 1 << 22       # samples read at a time, all channels together
_FRAME_BLOCK = 1024         # frames transformed at a time: nearly every clip whole
_HEAD = 4096                # bytes in which a plain wav file's samples begin

SETTINGS = dict(rate=RATE, n_fft=N_FFT, hop=HOP, n_mels=N_MELS, f_min=F_MIN, f_max=F_MAX, preemphasis=PREEMPHASIS,
                floor=FLOOR, top_db=TOP_DB, max_frames=MAX_FRAMES, empty_samples=EMPTY_SAMPLES)


# ---- from files -----------------------------------------------------------------------------------------------------

def load_log_mel(path) -> tuple[np.ndarray, int]:
    """The encoder's input from a sound file.

    Returns (float32 [40, 2048] in dB from -80 to 0, padded on the right with 0, n_frames before padding).
    UserError names a file that is missing, empty, not sound, longer than ten minutes (at over 55 kHz: than 33 million
    samples), or holds impossible samples.
    """
    mel, n_frames = log_mel(_read_samples(path))
    return pad(mel, MAX_FRAMES), n_frames


def read_audio(path, rate: int = RATE) -> np.ndarray:
    """Mono float32 samples at `rate` Hz from wav, flac, ogg, opus, mp3 or whatever else soundfile reads.

    Equal to librosa.load(path, sr=rate). A valid file without samples gives an empty array. UserError as above.
    """
    samples, source_rate = _read_plain(path) or _read_any(Path(path))
    return resample(_as_float(samples), source_rate, rate)


def _read_samples(path) -> np.ndarray:
    """read_audio(path), or int16 samples where the file has these at 16 kHz."""
    samples, source_rate = _read_plain(path) or _read_any(Path(path))
    return samples if source_rate == RATE else resample(_as_float(samples), source_rate, RATE)


def _as_float(samples: np.ndarray) -> np.ndarray:
    return samples * np.float32(1 / 32768) if samples.dtype == np.int16 else samples


def resample(samples: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """float32 [n] at `source_rate` Hz → float32 [ceil(n·rate/source_rate)], by soxr's high quality as in librosa."""
    if source_rate == rate or not len(samples):
        return samples
    import soxr
    wanted = int(np.ceil(len(samples) * float(rate) / source_rate))
    result = soxr.resample(samples, source_rate, rate, quality="HQ")[:wanted]
    return np.pad(result, (0, wanted - len(result)))


def _read_plain(path) -> tuple[np.ndarray, int] | None:
    """(int16 [n], Hz) of a wav file of one channel of 16 bits, in a sixth of soundfile's time; None of any other.

    None also where soundfile might read another number of samples, or there are too many or none.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)        # a pipe without a writer does not block
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return None
            start, rate = _plain_header(os.pread(file, _HEAD, 0), status.st_size)
            count = (status.st_size - start) // 2
            if not 0 < count <= min(MAX_SECONDS * rate, MAX_SAMPLES):
                return None
            samples = np.empty(count, "<i2")
            return (samples, rate) if os.preadv(file, [samples], start) == 2 * count else None
        finally:
            os.close(file)
    except (OSError, ValueError, struct.error):
        return None


def _plain_header(head: bytes, size: int) -> tuple[int, int]:
    """(byte where the samples begin, Hz) of a plain wav file of `size` bytes; else ValueError or struct.error."""
    rate, place = 0, 12
    plain = struct.unpack_from("<4sI4s", head) == (b"RIFF", size - 8, b"WAVE")
    while plain:
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"data":
            if not rate or length % 2 or place + length != size:
                break
            return place, rate
        if name == b"fmt " and not rate:
            code, channels, rate, per_second, per_frame, bits = struct.unpack_from("<HHIIHH", head, place)
            plain = (length, code, channels, per_second, per_frame, bits) == (16, 1, 1, 2 * rate, 2, 16)
            plain &= 1000 <= rate <= 768000
        else:
            plain = name == b"LIST" and length % 2 == 0                 # notes, as ffmpeg leaves them
        place += length
    raise ValueError("not a plain wav file")


def _read_any(path: Path) -> tuple[np.ndarray, int]:
    """(float32 [n], Hz) from any file; UserError as of read_audio."""
    _check_file(path)
    samples, rate = _read_mono(path)
    if len(samples) and not np.abs(samples).max() < MAX_LEVEL:          # so written, NaN fails too
        raise UserError(f"{path} holds samples that are not numbers or are absurdly large; it cannot be used as sound")
    return samples, rate


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read; check its permissions")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); make or download it again")


def _read_mono(path: Path) -> tuple[np.ndarray, int]:
    """(float32 [n], Hz). Lengths in headers are not believed: blocks are read until the end or the limit."""
    import soundfile
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
            if not 1000 <= rate <= 768000:
                raise UserError(f"{path} claims a sampling rate of {rate} Hz; sound from 1 to 768 kHz can be read")
            blocks, total, limit = [], 0, min(MAX_SECONDS * rate, MAX_SAMPLES)
            # The same numbers, but libsndfile takes three times as long to make float32 of them.
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            while True:
                block = file.read(max(1, _READ_BLOCK // channels), dtype=kind, always_2d=True)
                if not len(block):
                    break
                block = block * np.float32(1 / 32768) if kind == "int16" else block
                blocks.append(block.mean(axis=1) if channels > 1 else block[:, 0])
                total += len(block)
                if total > limit:
                    raise UserError(f"{path} is longer than {limit / rate / 60:.0f} minutes, the limit for one clip")
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:   # TypeError: headerless .raw
        raise UserError(_not_sound(path, error)) from None
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.zeros(0, np.float32)]), rate


def _not_sound(path: Path, error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    for mark, start, kind in ((b"ftyp", 4, "an MPEG-4 (m4a)"), (b"\x1aE\xdf\xa3", 0, "a WebM")):
        if head[start:].startswith(mark):
            return f"{path} is {kind} recording, which has to be converted first: ffmpeg -i {path.name} {path.stem}.wav"
    reason = getattr(error, "error_string", None) or str(error)
    return f"{path} is not sound that can be read ({reason.strip().rstrip('.')}); make or download it again"


# ---- from samples ---------------------------------------------------------------------------------------------------

def log_mel(samples: np.ndarray, max_frames: int = MAX_FRAMES) -> tuple[np.ndarray, int]:
    """Mono samples at 16 kHz → (float32 [40, n] in dB from -80 to 0, n), n = 1 + len // 160, at most `max_frames`.

    samples: float32, full scale 1, or int16. The mean and the maximum are those of the whole clip, also where it is cut.
    """
    import torch

    from Audio_to_Image import loops
    assert samples.ndim == 1, samples.shape
    samples = np.ascontiguousarray(samples, np.int16 if samples.dtype == np.int16 else np.float32)
    if not len(samples):
        samples = np.zeros(EMPTY_SAMPLES, np.float32)
    n_frames, bands, largest = 1 + len(samples) // HOP, mel_bands(), FLOOR
    emphasized, power = _room("samples", len(samples) + WINDOW), _room("power", N_MELS, n_frames)
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    for start in range(0, n_frames, _FRAME_BLOCK):
        end = min(start + _FRAME_BLOCK, n_frames)
        frames = _room("frames", end - start, WINDOW)
        loops.cut_frames(samples, scale, PREEMPHASIS, emphasized, hamming_window(), HOP, start, frames)
        spectrum = torch.view_as_real(torch.fft.rfft(torch.from_numpy(frames))).flatten(1).numpy()
        largest = max(largest, loops.mel_power(spectrum, *bands, FLOOR, power[:, start:end]))
    np.log2(power, out=power)                                   # log10 takes NumPy four times as long
    decibels = np.empty((N_MELS, min(n_frames, max_frames)), np.float32)
    loops.relative_decibels(power, math.log2(largest), TOP_DB, decibels)
    return decibels, decibels.shape[1]


_ROOM = threading.local()       # memory to work in, one of each kind a thread: fresh memory takes longer than the work


def _room(name: str, *shape: int) -> np.ndarray:
    """float32 of this shape, not cleared; what this thread was given under the same name before is written over."""
    size, held = math.prod(shape), getattr(_ROOM, name, None)
    if size > MAX_FRAMES * WINDOW:
        return np.empty(shape, np.float32)
    if held is None:
        held = np.empty(MAX_FRAMES * WINDOW, np.float32)
        setattr(_ROOM, name, held)
    return held[:size].reshape(shape)


def pad(mel: np.ndarray, width: int) -> np.ndarray:
    """[40, n] → [40, width], cut or padded on the right with 0 (the loudest level, not silence: the method's way)."""
    padded = np.zeros((len(mel), width), np.float32)
    n = min(width, mel.shape[1])
    padded[:, :n] = mel[:, :n]
    return padded


@functools.cache
def hamming_window() -> np.ndarray:
    """float32 [400], the symmetric form (first and last sample equal), not the periodic one of most toolkits."""
    return np.hamming(WINDOW).astype(np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """float32 [40, 201]: triangles on Slaney's mel scale with Slaney's norm (equal area)."""
    import librosa.filters
    return librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=F_MIN, fmax=F_MAX, norm="slaney", htk=False)


@functools.cache
def mel_bands() -> tuple[np.ndarray, np.ndarray]:
    """The filters by frequency: (int64 [201], the first of two neighbouring bands that hear it; float32 [201, 2], how)."""
    filters = mel_filters()
    first = np.minimum((filters > 0).argmax(0), N_MELS - 1)
    weights = np.pad(filters, ((0, 1), (0, 0)))[[first, first + 1], np.arange(len(first))].T
    assert np.isclose(weights.sum(), filters.sum()), "a frequency lies under more than two triangles"
    return first, np.ascontiguousarray(weights)


# ---- many files -----------------------------------------------------------------------------------------------------

def iter_log_mels(paths, jobs: int | None = None, progress: bool = False, encode=None):
    """Yield (index, mel or None, reason or None) for every path, in no fixed order, computed by `jobs` threads.

    `encode` maps a mel float32 [40, n] to what is handed back. A file that cannot be used gives its reason, one
    sentence; nothing is raised for it.
    """
    from tqdm import tqdm
    chunks = in_chunks(list(enumerate(map(str, paths))), 64)
    work = functools.partial(_mels_of_chunk, encode=encode)
    with tqdm(total=sum(map(len, chunks)), desc="log-mels", unit="clip", disable=not progress) as bar, \
            one_torch_thread():
        for results in parallel_map(work, chunks, jobs, threads=True):
            bar.update(len(results))
            yield from results


def log_mels(paths, jobs: int | None = None, progress: bool = False, max_frames: int = MAX_FRAMES):
    """load_log_mel of many files at once → (float32 [N, 40, max_frames], int64 [N] frames before padding).

    UserError for the first file that cannot be used. For whole data sets take mel_cache.MelCache: this holds all
    of it in memory, 328 kB a clip at full width.
    """
    paths = list(paths)
    mels, lens = np.zeros((len(paths), N_MELS, max_frames), np.float32), np.zeros(len(paths), np.int64)
    for index, mel, reason in iter_log_mels(paths, jobs, progress):
        if reason:
            raise UserError(reason)
        lens[index] = min(mel.shape[1], max_frames)
        mels[index, :, :lens[index]] = mel[:, :max_frames]
    return mels, lens


def _mels_of_chunk(chunk, encode):
    results = []
    with one_torch_thread():
        for index, path in chunk:
            try:
                mel, _ = log_mel(_read_samples(path))
                results.append((index, encode(mel) if encode else mel, None))
            except UserError as error:
                results.append((index, None, str(error)))
    return results
