"""Sound files → log-mel spectrograms, the input of the speech encoder.

The settings are those of Li et al. (arXiv 2004.03413). torch does the transforms, of many clips at a time in each
thread but always in blocks of the same shape, so that a clip's numbers do not depend on what is computed beside it.
torch and librosa are imported only where sound is read.
"""

import functools
import math
import threading
from dataclasses import dataclass

import numpy as np

from Audio_to_Image.sound_files import Sound, SoundError, read_sound, resample
from common.cli import UserError
from common.parallel import in_chunks, one_torch_thread, parallel_map

RATE = 16000  # Hz
N_FFT = WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms a frame
N_MELS = 40
F_MIN, F_MAX = 20.0, 8000.0  # Hz
PREEMPHASIS = 0.97
FLOOR = 1e-10  # of power, before the logarithm
TOP_DB = 80.0
MAX_FRAMES = 2048  # 20.5 s: longer clips are cut, shorter ones padded
MIN_FRAMES = 64  # 0.64 s: one time step of the encoder
EMPTY_SAMPLES = 200  # what an empty clip becomes
_FRAME_BLOCK = 512  # frames transformed at a time
_TOGETHER = 8192  # frames of clips that are computed together: the last block of them is half empty on average
_MOST_KEPT = 1 << 21  # float32 values of a buffer that is kept for the next clips
_rooms = threading.local()

SETTINGS = dict(
    rate=RATE,
    n_fft=N_FFT,
    hop=HOP,
    n_mels=N_MELS,
    f_min=F_MIN,
    f_max=F_MAX,
    preemphasis=PREEMPHASIS,
    floor=FLOOR,
    top_db=TOP_DB,
    max_frames=MAX_FRAMES,
    empty_samples=EMPTY_SAMPLES,
)


@dataclass(frozen=True)
class Clip:
    """What became of one file.

    mel: float32 [40, n_frames], or what another front end made of its samples, or `encode` of that; None if the file
    cannot be used, and then `error` says why in one sentence and `cause` in a word (sound_files). seconds: of sound
    that is there; promised: that the file announces, 0 where that is not more; remarks: what is odd about it
    (sound_files). n_frames: its length in frames of 10 ms, at most 2048, whatever the front end's columns are.
    """

    mel: np.ndarray | None = None
    seconds: float = 0.0
    promised: float = 0.0
    remarks: tuple[str, ...] = ()
    error: str | None = None
    cause: str | None = None
    n_frames: int = 0


# ---- from files -----------------------------------------------------------------------------------------------------


def load_log_mel(path) -> tuple[np.ndarray, int]:
    """The encoder's input from a sound file.

    Returns (float32 [40, 2048] in dB from -80 to 0, padded on the right with 0, n_frames before padding). UserError for
    a file that cannot be used: see sound_files.read_sound.
    """
    mel, n_frames = log_mel(read_audio(path))
    return pad(mel, MAX_FRAMES), n_frames


def read_audio(path, rate: int = RATE) -> np.ndarray:
    """Mono float32 samples at `rate` Hz from wav, flac, ogg, opus, mp3, webm, m4a, …

    Equal to librosa.load(path, sr=rate) for what is stored without loss and has a right header. A valid file without
    samples gives an empty array. UserError as above.
    """
    sound = read_sound(path)
    return resample(sound.samples, sound.rate, rate)


def load_clip(path, compute=None) -> Clip:
    """The features of a file at its own length, and what there is to say about the file; nothing is raised.

    compute: of a front end, else the log-mels.
    """
    return next(_load_clips([(0, path)], compute=compute))[1]


def clip_of(sound: Sound, compute=None) -> Clip:
    """The same of samples."""
    samples = resample(sound.samples, sound.rate, RATE)
    (features,) = (compute or log_mels_of_samples)([samples])
    return _clip(sound, samples, features)


def _clip(sound: Sound, samples: np.ndarray, features: np.ndarray, encode=None) -> Clip:
    held = encode(features) if encode else features
    return Clip(held, sound.seconds, sound.promised, sound.remarks, n_frames=frames_of(samples))


def is_heard(n_frames, silent, short_clips: str):
    """Whether clips can be used: scalars or arrays. short_clips: 'skip' leaves out those under 0.64 s, as published;
    'pad' hears these by padding, too, unless they are silent."""
    assert short_clips in ("pad", "skip"), short_clips
    long_enough = np.asarray(n_frames) >= MIN_FRAMES
    return long_enough if short_clips == "skip" else long_enough | (np.asarray(n_frames) > 0) & ~np.asarray(silent)


# ---- from samples ---------------------------------------------------------------------------------------------------


def log_mel(samples: np.ndarray, max_frames: int = MAX_FRAMES) -> tuple[np.ndarray, int]:
    """Mono float32 samples at 16 kHz → (float32 [40, n] in dB from -80 to 0, n), n = 1 + len // 160 up to `max_frames`.

    The mean and the maximum are those of the whole clip, also where it is cut.
    """
    (mel,) = log_mels_of_samples([samples], max_frames)
    return mel, mel.shape[1]


def frames_of(samples: np.ndarray, max_frames: int = MAX_FRAMES) -> int:
    """Frames of 10 ms of a clip; an empty one counts as one of 200 zeros."""
    return min(1 + (len(samples) or EMPTY_SAMPLES) // HOP, max_frames)


def log_mels_of_samples(clips, max_frames: int = MAX_FRAMES) -> list[np.ndarray]:
    """log_mel of many clips, each to the bit as by itself: rows of a transform or product do not depend on each other
    where the shape is the same."""
    import torch

    clips = [samples if len(samples) else np.zeros(EMPTY_SAMPLES, np.float32) for samples in clips]
    # One clip lies behind the other, each from a multiple of HOP on: their frames are rows of one view, with a few rows
    # between two clips that nobody uses.
    places = np.cumsum([0] + [-(-(len(samples) + WINDOW) // HOP) for samples in clips])
    rows = -(-int(places[-1]) // _FRAME_BLOCK) * _FRAME_BLOCK
    with one_torch_thread(), torch.inference_mode():  # sums come out the same whatever torch's number of threads
        signal = _room("signal", rows * HOP + WINDOW).zero_()
        for samples, place in zip(clips, places):
            assert samples.ndim == 1 and samples.dtype == np.float32, (samples.shape, samples.dtype)
            _emphasize(samples, signal[place * HOP : place * HOP + len(samples) + WINDOW].numpy())
        power = _mel_power(signal.as_strided((rows, WINDOW), (HOP, 1))).clamp_(min=FLOOR)
        parts = [power[place : place + 1 + len(samples) // HOP] for samples, place in zip(clips, places)]
        loudest = [10 * float(np.log10(part.max().item())) for part in parts]
        power.log10_().mul_(10)
        return [
            part[:max_frames].T.contiguous().sub_(decibels).clamp_(-TOP_DB, 0).numpy()
            for part, decibels in zip(parts, loudest)
        ]


def _mel_power(frames):
    """Tensor [rows, 400], rows a multiple of _FRAME_BLOCK → [rows, 40], which the next call writes over."""
    import torch

    window = torch.from_numpy(hamming_window())
    result = _room("result", len(frames), N_MELS)
    windowed, power = _room("windowed", _FRAME_BLOCK, N_FFT), _room("power", _FRAME_BLOCK, N_FFT // 2 + 1)
    for start in range(0, len(frames), _FRAME_BLOCK):
        torch.mul(frames[start : start + _FRAME_BLOCK], window, out=windowed)
        parts = torch.view_as_real(torch.fft.rfft(windowed))
        parts.mul_(parts)  # stft() takes twice as long for this much
        torch.add(parts[..., 0], parts[..., 1], out=power)
        for bands, bins, filters in _filter_halves():
            torch.mm(power[:, bins], filters, out=result[start : start + _FRAME_BLOCK, bands])
    return result


@functools.cache
def _filter_halves():
    """(bands, the frequency bins that they reach over, filters [bins, bands]): the lower half of the bands reaches over
    a fifth of the bins, so that two products take less than one."""
    import torch

    halves = []
    for bands in (slice(0, N_MELS // 2), slice(N_MELS // 2, N_MELS)):
        reached = np.flatnonzero(mel_filters()[bands].any(0))
        bins = slice(int(reached[0]), int(reached[-1]) + 1)
        halves.append((bands, bins, torch.from_numpy(mel_filters()[bands, bins].T.copy())))
    return halves


def _room(name: str, *shape: int):
    """Uninitialized float32 tensor, the same memory for the same name in a thread: fresh pages take as long as sums."""
    import torch

    size = math.prod(shape)
    held = getattr(_rooms, name, None)
    if held is None or len(held) < size:
        held = torch.empty(size)
        if size <= _MOST_KEPT:
            setattr(_rooms, name, held)
    return held[:size].view(shape)


def _emphasize(samples: np.ndarray, result: np.ndarray) -> None:
    """[n] → `result` [n + 400]: the mean taken off, high frequencies raised, 200 samples mirrored at both ends."""
    margin, mean = WINDOW // 2, samples.mean()
    inside = result[margin:-margin]
    inside[0] = samples[0] - mean
    np.multiply(samples[:-1], np.float32(-PREEMPHASIS), out=inside[1:])
    inside[1:] += samples[1:]
    inside[1:] -= np.float32(1 - PREEMPHASIS) * mean  # what pre-emphasis leaves of the mean
    if len(samples) <= margin:  # mirrored more than once
        result[:] = np.pad(inside, margin, mode="reflect")
    else:
        result[:margin], result[-margin:] = inside[margin:0:-1], inside[-2 : -margin - 2 : -1]


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


# ---- many files -----------------------------------------------------------------------------------------------------


def iter_clips(paths, jobs: int | None = None, progress: bool = False, encode=None, compute=None, prepare=None):
    """Yield (index, Clip) for every path, in no fixed order, computed by `jobs` threads.

    encode: maps features float32 [bands, n] to what is handed back; compute: as in load_clip; prepare: maps
    (index, samples) to the samples that are taken in their place.
    """
    from common.progress import tqdm

    chunks = in_chunks(list(enumerate(map(str, paths))), 64)
    work = functools.partial(_clips_of_chunk, encode=encode, compute=compute, prepare=prepare)
    with (
        tqdm(total=sum(map(len, chunks)), desc="speech features", unit="clip", disable=not progress) as bar,
        one_torch_thread(),
    ):
        for results in parallel_map(work, chunks, jobs, threads=True):
            bar.update(len(results))
            yield from results


def _clips_of_chunk(chunk, encode, compute, prepare):
    with one_torch_thread():
        return list(_load_clips(chunk, encode, compute, prepare))


def _load_clips(numbered, encode=None, compute=None, prepare=None):
    """(number, path) → (number, Clip), computing as many together as have `_TOGETHER` frames."""
    waiting, frames = [], 0

    def computed():
        found = (compute or log_mels_of_samples)([samples for _, _, samples in waiting])
        return [
            (number, _clip(sound, samples, features, encode))
            for (number, sound, samples), features in zip(waiting, found)
        ]

    for number, path in numbered:
        try:
            sound = read_sound(path)
        except SoundError as error:
            yield number, Clip(error=str(error), cause=error.cause)
            continue
        samples = resample(sound.samples, sound.rate, RATE)
        if prepare and len(samples):
            samples = prepare(number, samples)
        waiting.append((number, sound, samples))
        frames += len(samples) // HOP
        if frames >= _TOGETHER:
            yield from computed()
            waiting, frames = [], 0
    if waiting:
        yield from computed()


def log_mels(paths, jobs: int | None = None, progress: bool = False, max_frames: int = MAX_FRAMES):
    """load_log_mel of many files at once → (float32 [N, 40, max_frames], int64 [N] frames before padding).

    UserError for the first file that cannot be used. For whole data sets take mel_cache.MelCache: this holds all
    of it in memory, 328 kB a clip at full width.
    """
    paths = list(paths)
    mels, lens = np.zeros((len(paths), N_MELS, max_frames), np.float32), np.zeros(len(paths), np.int64)
    for index, clip in iter_clips(paths, jobs, progress):
        if clip.error:
            raise UserError(clip.error)
        lens[index] = min(clip.mel.shape[1], max_frames)
        mels[index, :, : lens[index]] = clip.mel[:, :max_frames]
    return mels, lens
