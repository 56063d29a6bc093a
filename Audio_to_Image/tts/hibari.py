"""hibari-tts: small neural voices on onnxruntime, 24 kHz. One speaker is in the package; it downloads others."""

import numpy as np

from Audio_to_Image.tts import Engine, SpeechError
from common.cli import UserError


class Hibari(Engine):
    name = "hibari"
    default_voice = "heart"  # US English, female: the one in the package

    def __init__(self):
        from hibari.voices import VOICES

        self._known, self._models, self._g2p = VOICES, {}, {}

    def voices(self) -> list[str]:
        from hibari.voices import voice_path

        found = []
        for voice in self._known:
            try:
                voice_path(voice, download_missing=False)
            except FileNotFoundError:
                continue
            found.append(voice)
        return found

    def check(self, voice: str) -> None:
        if voice not in self._known:
            raise UserError(f"--engine hibari has no voice '{voice}'; it has {', '.join(self._known)}")
        from hibari.voices import voice_path

        try:
            voice_path(voice)  # 8 MB over the network, once, for all but the voice in the package
        except (RuntimeError, OSError):
            raise UserError(
                f"--voices {voice}: the voice could not be downloaded; '{self.default_voice}' needs no network"
            ) from None

    def synthesize(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> tuple[np.ndarray, int]:
        """`seed` makes the noise in the voice (breath, hiss) repeatable. `speed` from 0.5 to 2."""
        model = self._model(voice)
        samples = model(text, speed=min(max(speed, 0.5), 2.0), seed=seed)
        if not len(samples):
            raise SpeechError("it holds nothing that can be said")
        return samples, model.sample_rate

    def _model(self, voice: str):
        if voice not in self._models:
            from hibari import Hibari as Model

            british = self._known[voice]["british"]
            model = Model(voice=voice, threads=1, g2p=self._g2p.get(british))  # one process a core scales better
            self._g2p[british] = model.g2p  # the dictionaries are the large part; voices share them
            self._models[voice] = model
        return self._models[voice]
