"""Sound files → log-mel spectrograms, the input of the speech encoder.

The settings are those of Li et al. (arXiv 2004.03413). torch's FFT does the transforms, one clip at a time: its frames
fit the processor's cache. A small set is shared out to threads, a large one to processes. torch, soundfile, soxr and
librosa are imported only where sound is read.

Every frame goes through the same operations in the same order, whatever the number of threads.
"""
import contextlib
import functools
import os
import struct
from pathlib import Path

import numpy as np

from common.parallel import in_chunks, parallel_map
from common.cli import UserError

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
_MANY = 4096                # clips that are worth the two seconds in which worker processes start
_HEAD = 4096                # bytes in which a plain wav file's samples begin
_FRAME_BLOCK = 512          # frames transformed at a time, about a core's cache
_GROUPS = (0, 8, 16, 24, 28, 32, 36, 40)    # mel bands that are summed in one product. With 512 frames each stays below
#                             2^18 multiplications, where OpenBLAS would share it out and let other threads wait for it

SETTINGS = dict(rate=RATE, n_fft=N_FFT, hop=HOP, n_mels=N_MELS, f_min=F_MIN, f_max=F_MAX, preemphasis=PREEMPHASIS,
                floor=FLOOR, top_db=TOP_DB, max_frames=MAX_FRAMES, empty_samples=EMPTY_SAMPLES)


# ---- from files -----------------------------------------------------------------------------------------------------

def load_log_mel(path) -> tuple[np.ndarray, int]:
    """The encoder's input from a sound file.

    Returns (float32 [40, 2048] in dB from -80 to 0, padded on the right with 0, n_frames before padding).
    UserError names a file that is missing, empty, not sound, longer than ten minutes (at over 55 kHz: than 33 million
    samples), or holds impossible samples.
    """
    mel, n_frames = log_mel(read_audio(path))
    return pad(mel, MAX_FRAMES), n_frames


def read_audio(path, rate: int = RATE) -> np.ndarray:
    """Mono float32 samples at `rate` Hz from wav, flac, ogg, opus, mp3 or whatever else soundfile reads.

    Equal to librosa.load(path, sr=rate). A valid file without samples gives an empty array. UserError as above.
    """
    samples, source_rate = _read_plain(path) or _read_any(Path(path))
    return resample(samples, source_rate, rate)


def resample(samples: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
    """float32 [n] at `source_rate` Hz → float32 [ceil(n·rate/source_rate)], by soxr's high quality as in librosa."""
    if source_rate == rate or not len(samples):
        return samples
    import soxr
    wanted = int(np.ceil(len(samples) * float(rate) / source_rate))
    result = soxr.resample(samples, source_rate, rate, quality="HQ")[:wanted]
    return np.pad(result, (0, wanted - len(result)))


def _read_plain(path) -> tuple[np.ndarray, int] | None:
    """(float32 [n], Hz) of a wav file of one channel of 16 bits, in a sixth of soundfile's time; None of any other.

    None also where soundfile might read another number of samples, or there are too many or none.
    """
    import torch
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            start, rate = _plain_header(file.read(_HEAD), size)
            count = (size - start) // 2
            if not 0 < count <= min(MAX_SECONDS * rate, MAX_SAMPLES):
                return None
            samples = np.empty(count, "<i2")
            if os.preadv(file.fileno(), [samples], start) != 2 * count:
                return None
    except (OSError, ValueError, struct.error):
        return None
    return torch.from_numpy(samples).float().mul_(1 / 32768).numpy(), rate


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

def log_mel(samples: np.ndarray, max_frames: int = MAX_FRAMES, bands=None) -> tuple[np.ndarray, int]:
    """Mono samples at 16 kHz → (float32 [40, n] in dB from -80 to 0, n), n = 1 + len // 160, at most `max_frames`.

    The mean and the maximum are those of the whole clip, also where it is cut. `bands`: mel_bands(), for
    callers that have them at hand.
    """
    import torch
    assert samples.ndim == 1, samples.shape
    samples = np.ascontiguousarray(samples, np.float32)
    if not len(samples):
        samples = np.zeros(EMPTY_SAMPLES, np.float32)
    power = _mel_power(*_emphasized(samples), mel_bands() if bands is None else bands)
    n_frames, loudest = min(len(power), max_frames), max(float(power.max()), FLOOR)
    power = power[:n_frames]
    torch.from_numpy(power).clamp_(min=FLOOR)
    power /= np.float32(loudest)
    decibels = np.log2(power, out=power)            # float32 log10 takes NumPy four times as long
    decibels *= np.float32(10 / np.log2(10))
    torch.from_numpy(decibels).clamp_(-TOP_DB, 0)
    return np.ascontiguousarray(decibels.T), n_frames


def _emphasized(samples: np.ndarray) -> tuple:
    """[n] samples → (float32 tensor [n + 400], offset): high frequencies raised, mirrored at both ends.

    Take the offset off every value: then the mean of the clip is gone, too.
    """
    import torch
    n, margin = len(samples), N_FFT // 2
    mean = float(np.einsum("i->", samples)) / n     # a third of mean()'s time
    padded = torch.empty(n + 2 * margin)
    inside = padded[margin:margin + n]
    torch.sub(torch.from_numpy(samples[1:]), torch.from_numpy(samples[:-1]), alpha=PREEMPHASIS, out=inside[1:])
    values, offset = padded.numpy(), (1 - PREEMPHASIS) * mean
    values[margin] = samples[0] - PREEMPHASIS * mean        # the first sample loses the mean and no more
    if n > margin:
        values[:margin] = values[2 * margin:margin:-1]
        values[margin + n:] = values[margin + n - 2:n - 2:-1]
        return padded, offset
    return torch.from_numpy(np.pad(inside.numpy(), margin, mode="reflect")), offset     # mirrored more than once


def pad(mel: np.ndarray, width: int) -> np.ndarray:
    """[40, n] → [40, width], cut or padded on the right with 0 (the loudest level, not silence: the method's way)."""
    padded = np.zeros((len(mel), width), np.float32)
    n = min(width, mel.shape[1])
    padded[:, :n] = mel[:, :n]
    return padded


def _mel_power(samples, offset: float, bands) -> np.ndarray:
    """Tensor [n + 400] and what to take off its values → mel power [1 + n // 160, 40]. bands: those of mel_bands()."""
    import torch
    window = torch.from_numpy(hamming_window())
    frames, offsets = samples.unfold(0, WINDOW, HOP), window * -offset              # [n_frames, 400]
    power = np.empty((len(frames), N_MELS), np.float32)
    for start in range(0, len(frames), _FRAME_BLOCK):
        spectrum = torch.fft.rfft(torch.addcmul(offsets, frames[start:start + _FRAME_BLOCK], window))
        parts = torch.view_as_real(spectrum).square_().flatten(1).numpy()           # real, imaginary, real, …
        for band, heard, weights in bands:
            np.matmul(parts[:, heard], weights, out=power[start:start + _FRAME_BLOCK, band])
    return power


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
def mel_bands() -> list:
    """The filters in groups of neighbours, each a product with the few frequencies that its triangles cover.

    (columns of the mel power, parts of the spectrum, float32 weights [parts, columns]) of each group, where a part is
    the square of a real or of an imaginary number.
    """
    filters, groups = mel_filters(), []
    for start, end in zip(_GROUPS, _GROUPS[1:]):
        heard = np.flatnonzero(filters[start:end].any(0))
        low, high = heard[0], heard[-1] + 1
        weights = np.repeat(filters[start:end, low:high], 2, axis=1)
        groups.append((slice(start, end), slice(2 * low, 2 * high), np.ascontiguousarray(weights.T)))
    return groups


# ---- many files -----------------------------------------------------------------------------------------------------

def iter_log_mels(paths, jobs: int | None = None, progress: bool = False, encode=None, processes: bool | None = None):
    """Yield (index, mel or None, reason or None) for every path, in no fixed order, computed by `jobs` workers.

    `encode` maps a mel float32 [40, n] to what is handed back (a module-level function, as it goes to the workers). A
    file that cannot be used gives its reason, one sentence; nothing is raised for it. processes: or threads, which start
    at once but wait for each other at Python's lock; None: if there are many clips. The results are equal, bit for bit.
    """
    from tqdm import tqdm
    paths = list(paths)
    processes = len(paths) >= _MANY if processes is None else processes
    chunks = in_chunks(list(enumerate(map(str, paths))), 64)
    work = functools.partial(_mels_of_chunk, encode=encode, bands=mel_bands())
    with tqdm(total=sum(map(len, chunks)), desc="log-mels", unit="clip", disable=not progress) as bar, \
            _one_torch_thread():
        for results in parallel_map(work, chunks, jobs, threads=not processes):
            bar.update(len(results))
            yield from results


@contextlib.contextmanager
def _one_torch_thread():
    """torch's own threads would be another team for each thread of ours, all on the same cores."""
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _mels_of_chunk(chunk, encode, bands):
    results = []
    for index, path in chunk:
        try:
            mel, _ = log_mel(read_audio(path), bands=bands)
            results.append((index, encode(mel) if encode else mel, None))
        except UserError as error:
            results.append((index, None, str(error)))
    return results
