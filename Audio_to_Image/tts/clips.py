"""The clips of a data set: which caption is spoken by whom into which file, and whether a file still says it."""
import functools
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from Audio_to_Image import tts
from Audio_to_Image.audio import HOP, MIN_FRAMES, RATE
from common.cli import UserError
from common.files import write_bytes
from common.splits import Split, inside

_TAG = "speech-to-image"         # begins the comment in files of ours
_HEAD_BYTES = 1024               # everything but the samples fits in


@dataclass(frozen=True)
class Clip:
    """One caption and how it is to be spoken."""
    text: str
    path: Path
    name: str                    # the file's path below `audio/`: <person>/<class>/<image>_<k>.wav
    voice: str
    speed: float
    seed: int

    def comment(self, engine: str) -> str:
        """Written into the file: tells whether it still says this text in this way."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"{_TAG} {engine} voice={self.voice} speed={self.speed:g} seed={self.seed} text={digest}"


def plan(split: Split, folder: Path, voices: list[str], speeds: tuple[float, float], seed: int) -> list[list[Clip]]:
    """The clips of every item of a split, in caption order. Voice, speed and seed of a caption are drawn by a hash of
    its name, so that they are the same in every run. UserError if an item has no captions or two share a name."""
    plans, taken = [], set()
    for item in split.items:
        if not item.texts:
            raise UserError(f"{split.path}: {item.key} has no captions to speak")
        stem = _stem(item)
        if stem in taken:
            raise UserError(f"{split.path}: two items are called {stem}; their speech would share one file")
        taken.add(stem)
        plans.append([_clip(text, f"{stem}_{k}", folder, voices, speeds, seed) for k, text in enumerate(item.texts)])
    return plans


def _stem(item) -> str:
    """<class>/<image>: birds' pictures lie in folders of classes, flowers' in one folder with numbers for classes."""
    if "/" in item.key or not item.class_name:
        return item.key
    folder = f"class_{int(item.class_name):05d}" if item.class_name.isdecimal() else item.class_name
    return f"{folder}/{item.key}"


def _clip(text: str, name: str, folder: Path, voices, speeds, seed: int) -> Clip:
    draw = hashlib.sha256(f"{seed} {name}".encode()).digest()
    voice_draw, speed_draw, clip_seed = struct.unpack("<QQI", draw[:20])
    voice = voices[voice_draw % len(voices)]
    speed = round(speeds[0] + (speeds[1] - speeds[0]) * speed_draw / 2 ** 64, 3)
    relative = f"{voice}/{name}.wav"
    try:
        return Clip(text, inside(folder, relative), relative, voice, speed, clip_seed)
    except ValueError as error:
        raise UserError(f"the name of a picture or class cannot be used for its speech: {error}") from None


# ---- files ----------------------------------------------------------------------------------------------------------

def wav_bytes(samples: np.ndarray, comment: str) -> bytes:
    """float32 [n] in -1 … 1 at 16 kHz → a 16-bit mono PCM wav whose header holds `comment` (RIFF INFO, ICMT)."""
    pcm = np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    note = comment.encode() + b"\0" * (2 - len(comment.encode()) % 2)
    chunks = b"".join((
        b"WAVEfmt ", struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16),
        b"LIST", struct.pack("<I", 12 + len(note)), b"INFOICMT", struct.pack("<I", len(note)), note,
        b"data", struct.pack("<I", len(pcm)), pcm))
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def is_done(path: Path, comment: str) -> bool:
    """Whether a whole wav with samples is there that says the right thing. Sound from elsewhere is taken as it is."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        size = path.stat().st_size
    except OSError:
        return False
    data = head.find(b"data")
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or not 12 <= data <= len(head) - 8:
        return False
    length = struct.unpack("<I", head[data + 4:data + 8])[0]
    if length < 2 or data + 8 + length > size:
        return False
    mark = head.find(_TAG.encode())
    return mark < 0 or head[mark:].split(b"\0")[0] == comment.encode()


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
    write_bytes(clip.path, wav_bytes(samples, clip.comment(speaker.name)))
    return clip, None, 1 + len(samples) // HOP < MIN_FRAMES


def worker(engine: tts.Engine):
    """speak_chunk for parallel_map."""
    return functools.partial(speak_chunk, engine=engine if engine.threads else engine.name)
