"""espeak-ng through its C library (from espeakng-loader): robotic, but fast, and with many speakers. 22.05 kHz.

The library keeps hidden state from clip to clip, even over its own re-initialisation, so that a text would sound a
little different after other texts. Each clip is therefore spoken by a forked child of a freshly initialised library.
"""

import ctypes
import os
import warnings
from pathlib import Path

import numpy as np

from Audio_to_Image.tts import Engine, SpeechError
from common.cli import UserError

ACCENTS = ("en-us", "en-gb-x-rp", "en", "en-gb-scotland")  # plain "en-gb" is refused by version 1.52
VARIANTS = ("f2", "m3", "f5", "m1", "f1", "m7", "f3", "m2", "f4", "m4", "m5", "m6", "m8")
WORDS_A_MINUTE = 175  # the library's default, our speed 1

_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000  # espeak_AUDIO_OUTPUT, espeakINITIALIZE_DONT_EXIT
_UTF8, _RATE, _POSITION_CHARACTER = 1, 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak(Engine):
    name = "espeak"
    default_voice = "en-us"

    def __init__(self):
        import espeakng_loader

        self._variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
        try:
            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"--engine espeak: its library cannot be loaded ({error})") from None
        self._rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _DONT_EXIT
        )
        if self._rate <= 0:
            raise UserError("--engine espeak: its library finds no voices; run bash scripts/setup.sh again")

    def voices(self) -> list[str]:
        """Four accents in thirteen voices, women and men mixed; more variants can be named, such as en-us+whisper."""
        return [f"{accent}+{variant}" for variant in VARIANTS for accent in ACCENTS]

    def check(self, voice: str) -> None:
        accent, plus, variant = voice.partition("+")
        # an unknown variant is not refused by the library, it is passed over
        known = not plus or variant and "/" not in variant and (self._variants / variant).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(
                f"--engine espeak has no voice '{voice}'; it has accents such as {', '.join(ACCENTS)} "
                f"with variants such as +f2, +m3 ({', '.join(self.voices()[:3])}, …)"
            )

    def synthesize(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> tuple[np.ndarray, int]:
        """`seed` is that of the voices' flutter and breath. `speed` from 0.46 to 2.57."""
        if not text.strip():
            raise SpeechError("it holds nothing that can be said")
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # on forking a process with threads
            child = os.fork()
        if child == 0:
            os.close(reader)  # else it would wait for ever for itself to read, were we killed
            self._speak_and_exit(text, voice, speed, seed, writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            sound = pipe.read()
        _, status = os.waitpid(child, 0)
        if status or len(sound) % 2:
            raise SpeechError(f"espeak-ng failed on it (voice {voice})")
        if not sound:
            raise SpeechError("it holds nothing that can be said")
        return np.frombuffer(sound, np.int16).astype(np.float32) / 32768, self._rate

    def _speak_and_exit(self, text: str, voice: str, speed: float, seed: int, writer: int) -> None:
        """The child's whole life: 16-bit samples into the pipe, then gone, without the parent's exit handlers."""
        status = 1
        try:
            sound = bytearray()

            def collect(samples, count, events):
                if samples and count > 0:
                    sound.extend(ctypes.string_at(samples, 2 * count))
                return 0

            callback, library = _CALLBACK(collect), self._library
            library.espeak_SetSynthCallback(callback)
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed % (1 << 31)))  # otherwise the time of day
            data = text.encode() + b"\0"
            failed = (
                library.espeak_SetVoiceByName(voice.encode())
                or library.espeak_SetParameter(_RATE, round(WORDS_A_MINUTE * min(max(speed, 0.46), 2.57)), 0)
                or library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
            )
            if not failed:
                with open(writer, "wb") as pipe:
                    pipe.write(sound)
                status = 0
        finally:
            os._exit(status)
