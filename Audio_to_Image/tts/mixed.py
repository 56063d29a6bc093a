"""Several engines as one, so that the sentences of a set are spoken by voices of different kinds: "hibari,espeak"."""

import itertools

from Audio_to_Image import tts
from common.cli import UserError


class Mixed(tts.Engine):
    """A voice is named <engine>.<voice>, as hibari.heart; each engine has its own voices, listed in turns."""

    def __init__(self, name: str):
        names = [part.strip() for part in name.split(",")]
        if len(set(names)) != len(names) or "baidu" in names:
            raise UserError(
                f"--engine {name}: engines that need no network can be mixed, each named once: hibari,espeak"
            )
        self.name = ",".join(names)
        self.engines = {part: tts.make(part) for part in names}

    @property
    def default_voices(self) -> list[str]:
        return [f"{name}.{voice}" for name, engine in self.engines.items() for voice in engine.default_voices]

    def voices(self) -> list[str]:
        own = [[f"{name}.{voice}" for voice in engine.voices()] for name, engine in self.engines.items()]
        return [voice for turn in itertools.zip_longest(*own) for voice in turn if voice]

    def check(self, voice: str) -> None:
        engine, own = self._of(voice)
        engine.check(own)

    def synthesize(self, text, voice, speed=1.0, seed=0):
        engine, own = self._of(voice)
        return engine.synthesize(text, own, speed, seed)

    def _of(self, voice: str):
        name, _, own = voice.partition(".")
        if name not in self.engines or not own:
            raise UserError(f"--engine {self.name} has no voice '{voice}'; name one as {self.default_voices[0]}")
        return self.engines[name], own
