"""Synthetic data for the benchmarks: sounds, log-mels, images and embeddings of the sizes that CUB-200-2011 has."""

import wave
from pathlib import Path

import numpy as np

FRAMES_MEAN, FRAMES_SPREAD = 550, 110  # of a spoken caption: 15 words in 5.5 s
TEACHER_WIDTH = 1024
CLASSES = 150
SWITCH = "words"  # --audio_switch of the embeddings that are made from words, not from speech


def caption_frames(count: int, seed: int = 0) -> np.ndarray:
    """Lengths of `count` spoken captions in frames of 10 ms."""
    drawn = np.random.default_rng(seed).normal(FRAMES_MEAN, FRAMES_SPREAD, count)
    return drawn.clip(200, 1200).astype(np.int64)


def write_sounds(folder, count: int, rate: int = 16000, seed: int = 0) -> list[Path]:
    """`count` 16-bit wav files like spoken captions: a voice of changing pitch, in syllables, with some noise."""
    random, paths = np.random.default_rng(seed), []
    for number, frames in enumerate(caption_frames(count, seed)):
        time = np.arange(frames * rate // 100) / rate
        phase = 2 * np.pi * (random.uniform(90, 220) * time + 3 * np.sin(2 * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 6)) * np.abs(np.sin(8 * time))
        samples = 6000 * voice + 60 * random.standard_normal(len(time))
        paths.append(Path(folder) / f"{number:05d}.wav")
        with wave.open(str(paths[-1]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.astype("<i2").tobytes())
    return paths


def log_mels(count: int, seed: int = 0):
    """A log-mel cache of `count` synthetic clips, in memory."""
    from Audio_to_Image.audio import N_MELS, Clip
    from Audio_to_Image.mel_cache import MelCache

    class InMemory(MelCache):
        def __init__(self, n_frames):
            self.n_frames, self.errors = n_frames, {}
            self.offsets = N_MELS * (np.cumsum(n_frames) - n_frames)
            self.values = np.random.default_rng(seed).integers(-32767, 0, N_MELS * n_frames.sum(), np.int16)
            self.paths = [Path(f"{number}.wav") for number in range(count)]
            self.clips = [Clip(seconds=int(frames) / 100, n_frames=int(frames)) for frames in n_frames]

    return InMemory(caption_frames(count, seed))


def draw_images(folder, images: int, side: int):
    """toybirds of `images` images a split (ten sentences each), drawn into `folder`; → the test split."""
    from common.parallel import default_jobs
    from common.splits import load_split
    from scripts.data.toybirds.dataset import Settings, make_set

    classes = max(2, images // 4)
    settings = Settings(2 * classes, classes, -(-images // classes), side, 0)
    make_set(settings, Path(folder), default_jobs() if images > 8 else 1, lambda todo, total: todo)
    return load_split(Path(folder), "test")


def save_embeddings(folder, split) -> None:
    """Write speech features `SWITCH` of a split of the set in `folder`, unless they are there.

    A sentence's embedding is the sum of a random direction for each of its words, of length 1: `[sentences, 1024]`.
    """
    import zlib

    from common.features import feature_path, save_features

    path = feature_path(folder, split.name, "audio", SWITCH)
    if path.exists():
        return
    words = {word for item in split.items for text in item.texts for word in text.lower().split()}
    directions = {
        word: np.random.default_rng(zlib.crc32(word.encode())).standard_normal(TEACHER_WIDTH) for word in words
    }

    def embed(text):
        total = sum(directions[word] for word in text.lower().split())
        return total / np.linalg.norm(total)

    rows = [np.stack([embed(text) for text in item.texts]).astype(np.float32) for item in split.items]
    save_features(path, rows, split, made_by="benchmarks: words, not speech")
