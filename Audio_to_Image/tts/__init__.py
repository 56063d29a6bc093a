"""Speech synthesis: one file an engine, all with the same methods (class Engine).

baidu    the engine of the published data sets; needs the network and credentials
hibari   a natural neural voice that comes with its package
espeak   a hundred robotic speakers; ten times as fast

Several of them, separated by commas, speak the sentences of a set in turns (mixed.py).
"""

import functools
import importlib

import numpy as np

from Audio_to_Image.audio import RATE
from Audio_to_Image.sound_files import resample
from common.cli import UserError

ENGINES = {"baidu": "Baidu", "hibari": "Hibari", "espeak": "Espeak"}  # module in this folder → class in it


class SpeechError(Exception):
    """One text could not be spoken; others may be. The message is one phrase that says why."""


class Engine:
    """What an engine offers. Equal arguments give equal samples, whatever was spoken before (baidu: up to it).

    A voice, speed or key that cannot work at all is a UserError.
    """

    name = ""
    default_voice = ""
    threads = False  # whether the work is waiting for a network, and so done in threads

    @property
    def default_voices(self) -> list[str]:
        """The voices that speak where none is named."""
        return [self.default_voice]

    def voices(self) -> list[str]:
        """The speakers that can be had here and now, in an order in which neighbours differ."""
        raise NotImplementedError

    def check(self, voice: str) -> None:
        """UserError unless `voice` can speak. Called once before any work."""
        if voice not in self.voices():
            raise UserError(f"--engine {self.name} has no voice '{voice}'; it has {_shortened(self.voices())}")

    def stop(self) -> None:
        """End waiting in other threads at once, where there is any."""

    def synthesize(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> tuple[np.ndarray, int]:
        """(float32 samples [n] in -1 … 1, rate in Hz). `speed` 1 is the voice's own pace. SpeechError, UserError."""
        raise NotImplementedError


def kind(name: str) -> type[Engine]:
    """The class of the engine of that name; of several, separated by commas, that of a mixture."""
    if "," in name:
        for part in name.split(","):
            kind(part.strip())
        from Audio_to_Image.tts.mixed import Mixed

        return functools.partial(Mixed, name)
    if name not in ENGINES:
        raise UserError(f"--engine {name} is not known; there are {', '.join(ENGINES)}")
    return getattr(importlib.import_module(f"{__name__}.{name}"), ENGINES[name])


@functools.cache
def make(name: str, **options) -> Engine:
    """The engine of that name; the same one for the same options, since its network is loaded once a process."""
    try:
        return kind(name)(**options)
    except ImportError as error:
        raise UserError(
            f"--engine {name} needs a package that is not installed ({error.name}): run bash scripts/setup.sh"
        ) from None


def speak(text: str, engine: str = "hibari", voice: str | None = None, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    """One text → float32 samples at 16 kHz. UserError for an unknown engine or voice or an unspeakable text."""
    speaker = make(engine)
    voice = voice or speaker.default_voice
    speaker.check(voice)
    try:
        return at_16_khz(*speaker.synthesize(text, voice, speed, seed))
    except SpeechError as error:
        raise UserError(f"'{text[:60]}' cannot be spoken: {error}") from None


def at_16_khz(samples: np.ndarray, rate: int) -> np.ndarray:
    return resample(samples, rate, RATE)


def _shortened(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
