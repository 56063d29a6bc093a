"""The clips of a data set: which caption is spoken by whom into which file, and whose the files are that exist."""

import functools
import hashlib
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from Audio_to_Image import tts
from Audio_to_Image.audio import HOP, MIN_FRAMES, RATE
from Audio_to_Image.sound_files import SILENCE, read_sound
from common.cli import UserError
from common.files import write_bytes
from common.listed_files import inside
from common.splits import Split

_TAG = "speech-to-image"  # begins the comment in files of ours
_HEAD_BYTES = 1024  # everything but the samples of a file of ours fits in

MISSING, DONE, OURS, FOREIGN = "missing", "done", "ours", "foreign"  # states of a clip's file


@dataclass(frozen=True)
class Clip:
    """One caption and how it is to be spoken."""

    text: str
    path: Path
    name: str  # the file's path below `audio/`: <person>/<class>/<image>_<k>.wav
    voice: str
    speed: float
    seed: int

    def comment(self, engine: str) -> str:
        """Written into the file: tells whether it still says this text in this way."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"{_TAG} {engine} voice={self.voice} speed={self.speed:g} seed={self.seed} text={digest}"


def plan(
    split: Split, folder: Path, voices: list[str], speeds: tuple[float, float], seed: int, most: int | None = None
) -> list[list[Clip]]:
    """The clips of every item of a split, in caption order. Voice, speed and seed of a caption are drawn by a hash of
    its name, so that they are the same in every run. most: only an item's first so many captions, whose names do not
    depend on it. UserError if an item has no captions.

    Where the split file names recordings that others made, one a caption, its clips are those: `folder` is not used,
    and what is missing among them is spoken into the files that it names. UserError if `most` would leave some out.
    """
    if has_recordings(split):
        if most and most < max(len(item.audio) for item in split.items):
            raise UserError(
                f"--captions_per_image {most}: {split.path} names recordings of all captions that this command did "
                "not write; leave the option out, or take the names of recordings out of a copy of the set"
            )
        return [
            [_named_clip(text, path, split, voices, speeds, seed) for text, path in zip(item.texts, item.audio)]
            for item in split.items
        ]
    plans, captions = [], Counter()
    for item in split.items:
        if not item.texts:
            raise UserError(f"{split.path}: {item.key} has no captions to speak")
        stem = _stem(item)
        first = captions[stem]  # an image in several items: its captions are numbered through
        captions[stem] += len(item.texts)
        plans.append(
            [
                _clip(text, f"{stem}_{first + k}", folder, voices, speeds, seed)
                for k, text in enumerate(item.texts[:most])
            ]
        )
    return plans


def has_recordings(split: Split) -> bool:
    """Whether a split file names one recording a caption, some of which are there and were not made here."""
    return all(item.texts and len(item.audio) == len(item.texts) for item in split.items) and any(
        state_of(path, "") == FOREIGN for item in split.items for path in item.audio
    )


def _named_clip(text: str, path: Path, split: Split, voices, speeds, seed: int) -> Clip:
    if path.suffix.lower() != ".wav" and not path.exists():
        raise UserError(
            f"{split.path} names {path}, which is not there, and speech is written as .wav; put it there, or "
            "take the names of recordings out of a copy of the set"
        )
    name = path.relative_to(split.audio_root).as_posix()
    return Clip(text, path, name, **_draws(name, voices, speeds, seed))


def _stem(item) -> str:
    """<class>/<image>: birds' images lie in folders of classes, flowers' in one folder with numbers for classes."""
    if "/" in item.key or not item.class_name:
        return item.key
    folder = f"class_{int(item.class_name):05d}" if item.class_name.isdecimal() else item.class_name
    return f"{folder}/{item.key}"


def _clip(text: str, name: str, folder: Path, voices, speeds, seed: int) -> Clip:
    drawn = _draws(name, voices, speeds, seed)
    relative = f"{drawn['voice']}/{name}.wav"
    try:
        return Clip(text, inside(folder, relative), relative, **drawn)
    except ValueError as error:
        raise UserError(f"the name of an image or class cannot be used for its speech: {error}") from None


def _draws(name: str, voices, speeds, seed: int) -> dict:
    """Voice, speed and seed of the clip with that name."""
    draw = hashlib.sha256(f"{seed} {name}".encode()).digest()
    voice_draw, speed_draw, clip_seed = struct.unpack("<QQI", draw[:20])
    speed = round(speeds[0] + (speeds[1] - speeds[0]) * speed_draw / 2**64, 3)
    return {"voice": voices[voice_draw % len(voices)], "speed": speed, "seed": clip_seed}


# ---- files ----------------------------------------------------------------------------------------------------------


def wav_bytes(samples: np.ndarray, comment: str) -> bytes:
    """float32 [n] in -1 … 1 at 16 kHz → a 16-bit mono PCM wav whose header holds `comment` (RIFF INFO, ICMT)."""
    pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    return _header(comment, len(pcm)) + pcm


def _header(comment: str, length: int) -> bytes:
    """Everything before `length` bytes of samples."""
    note = comment.encode() + b"\0" * (2 - len(comment.encode()) % 2)
    chunks = b"".join(
        (
            b"WAVEfmt ",
            struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16),
            b"LIST",
            struct.pack("<I", 12 + len(note)),
            b"INFOICMT",
            struct.pack("<I", len(note)),
            note,
            b"data",
            struct.pack("<I", length),
        )
    )
    return b"RIFF" + struct.pack("<I", (len(chunks) + length) & 0xFFFFFFFF) + chunks


def state_of(path: Path, comment: str) -> str:
    """What there is at a clip's path: MISSING; DONE, a complete wav of ours that says the right thing; OURS, one that
    says something else or is cut off, to be spoken again; FOREIGN, anything that this project did not write.

    A file is ours if its header is, byte for byte, what wav_bytes writes: other programs, also those that keep our
    comment when a file is edited, write others.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        size = path.stat().st_size
    except FileNotFoundError:
        return MISSING
    except OSError:
        return FOREIGN
    written = _own_header(head)
    if written is None or size > written[2]:
        return FOREIGN
    said, samples, expected = written
    return DONE if said == comment and samples and size == expected else OURS


def _own_header(head: bytes) -> tuple[str, int, int] | None:
    """(comment, number of samples, bytes of the file) of a file of ours, by its first bytes; else None."""
    begin = head.find(f"{_TAG} ".encode())
    data = head.find(b"data", begin)
    if begin < 0 or not 0 <= data <= len(head) - 8:
        return None
    try:
        comment = head[begin:data].split(b"\0")[0].decode()
    except UnicodeDecodeError:
        return None
    length = struct.unpack_from("<I", head, data + 4)[0]
    own = _header(comment, length)
    return (comment, length // 2, len(own) + length) if length % 2 == 0 and head.startswith(own) else None


def check_foreign(path: Path) -> None:
    """UserError unless a file that this project did not write can be used as a caption's sound."""
    sound = read_sound(path)
    if not len(sound.samples):
        raise UserError(f"{path} holds no samples")


# ---- work -----------------------------------------------------------------------------------------------------------


def speak_chunk(chunk: list[Clip], engine) -> list[tuple[Clip, str | None, bool]]:
    """Speak clips into their files → (clip, why it failed or None, whether it is too short for the encoder) of each.

    `engine`: its name in worker processes, which make their own; itself in threads.
    """
    speaker = tts.make(engine) if isinstance(engine, str) else engine
    return [_speak_into_file(clip, speaker) for clip in chunk]


def _speak_into_file(clip: Clip, speaker: tts.Engine):
    try:
        samples = tts.at_16_khz(*speaker.synthesize(clip.text, clip.voice, clip.speed, clip.seed))
    except tts.SpeechError as error:
        return clip, str(error), False
    if not len(samples) or not np.isfinite(samples).all() or np.ptp(samples) < 2 * SILENCE:
        return clip, f"{speaker.name} gave silence for it", False
    if state_of(clip.path, clip.comment(speaker.name)) == FOREIGN:
        return clip, "another program has written this file in the meantime; it is kept", False
    write_bytes(clip.path, wav_bytes(samples, clip.comment(speaker.name)))
    return clip, None, 1 + len(samples) // HOP < MIN_FRAMES


def worker(engine: tts.Engine):
    """speak_chunk for parallel_map."""
    return functools.partial(speak_chunk, engine=engine if engine.threads else engine.name)
