"""From one recording or sentence to images in memory: what the page and the HTTP call compute."""

import base64
import contextlib
import io
from dataclasses import dataclass

import numpy as np
import torch

from Audio_to_Image.audio import HOP, RATE, clip_of
from Audio_to_Image.front_ends import front_end
from Audio_to_Image.recording_remarks import remarks
from Audio_to_Image.sound_files import SILENT, decode
from common.cli import UserError
from StackGAN_v2 import sampler
from StackGAN_v2.interpolation import embedding_of, fault_of

MAX_SECONDS = 60  # of a recording: the rest would only be drawn, not heard
MAX_IMAGES = 16  # of one request
MAX_LETTERS = 300  # of a typed sentence
PEAKS = 480  # points of the waveform
_LARGEST = 1e4  # of a number in an embedding

EXAMPLES = {
    "bird": ("a small red bird with a white belly", "this bird is blue with black wings", "a large yellow bird"),
    "flower": ("this flower has large pink petals", "a white flower with a yellow centre"),
    "place": ("a sandy beach under a blue sky", "a kitchen with wooden cupboards"),
    "flickr": ("a brown dog runs over the grass", "two children play in the water"),
}


@dataclass(frozen=True)
class Heard:
    """embedding `[d]`; seconds of the recording, of which the first `heard` count; waveform: 0 … 1, evenly over all
    seconds; remarks: sentences on what is odd."""

    embedding: torch.Tensor
    seconds: float
    heard: float
    waveform: list[float]
    remarks: list[str]


class SpeechToImage:
    """A speech encoder with its meta, a generator, and a speech engine for typed sentences. Not thread-safe."""

    def __init__(self, encoder, meta: dict, generator, engine: str = "hibari", voice: str | None = None):
        self.encoder, self.meta, self.generator = encoder, meta, generator
        self.engine, self.voice = engine, voice

    @property
    def most_heard(self) -> float:
        """Seconds of a recording that count."""
        return self.meta["max_frames"] * HOP / RATE

    def examples(self) -> list[str]:
        name = str(self.meta["dataset"]).lower()
        return list(next((texts for kind, texts in EXAMPLES.items() if kind in name), ()))

    def hear(self, recording: bytes) -> Heard:
        """UserError: it is no sound, silent, too short, or longer than MAX_SECONDS."""
        sound = decode(recording, "the recording")
        if sound.seconds > MAX_SECONDS:
            raise UserError(f"the recording lasts {sound.seconds:.0f} s; {MAX_SECONDS} s are the most")
        if SILENT in sound.remarks:
            raise UserError("the recording holds no sound; is the microphone muted?")
        clip = clip_of(sound, compute=front_end(self.meta["front_end"]).compute)
        fault = fault_of("the recording", clip, self.meta)
        if fault:
            raise UserError(fault)
        lines = remarks([("the recording", clip)], self.meta["max_frames"])
        heard = min(sound.seconds, self.most_heard)
        embedding = embedding_of(clip, self.encoder, self.meta)
        return Heard(embedding, sound.seconds, heard, peaks(sound.samples), lines)

    def speak(self, text: str) -> bytes:
        """A typed sentence as the content of a wav file. UserError: it is empty, too long or cannot be spoken."""
        import soundfile

        from Audio_to_Image.tts import speak

        if len(text) > MAX_LETTERS:
            raise UserError(f"the text has {len(text):,} letters; {MAX_LETTERS} are the most")
        if not any(map(str.isalnum, text)):
            raise UserError("the text holds no word that could be spoken")
        wav = io.BytesIO()
        soundfile.write(wav, speak(text, self.engine, self.voice), RATE, format="WAV", subtype="PCM_16")
        return wav.getvalue()

    def images(self, embeddings: torch.Tensor, seeds: list[int], all_parts: bool) -> list[list[np.ndarray]]:
        """embeddings `[N, d]`, a noise's seed for each → for each its images uint8 `[s, s, 3]`: the last branch's, or
        with `all_parts` those of every branch, smallest first."""
        noises = torch.stack([sampler.noise(self.generator, seed) for seed in seeds])
        found: list[list[np.ndarray]] = []
        for speech, noise in zip(embeddings.split(sampler.SMALL_BATCH), noises.split(sampler.SMALL_BATCH)):
            branches = sampler.generate(self.generator, speech, noise)[0 if all_parts else -1 :]
            found += [[branch[i] for branch in branches] for i in range(len(speech))]
        return found

    def warm_up(self) -> None:
        """Load now what the first request would wait for: decoders, filters, the speech engine."""
        with contextlib.suppress(UserError):  # it will be said when somebody asks for it
            heard = self.hear(self.speak("a small red bird with a white belly"))
            self.images(heard.embedding[None], [0], False)

    def to_text(self, embedding: torch.Tensor) -> str:
        """An embedding as a client keeps it: float32, little endian, in base64."""
        return base64.b64encode(embedding.numpy().astype("<f4").tobytes()).decode()

    def from_text(self, text) -> torch.Tensor:
        """The embedding `[d]` that `to_text` gave. UserError for anything else."""
        try:
            values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        except (ValueError, TypeError):
            values = np.zeros(0)
        width = self.generator.text_dim
        if values.shape != (width,) or not (np.abs(values) < _LARGEST).all():
            raise UserError(f"'embeddings' must hold what an earlier answer gave: {width} numbers in base64")
        return torch.tensor(values.astype(np.float32))


def png(pixels: np.ndarray) -> str:
    return base64.b64encode(sampler.image_bytes(pixels)).decode()


def peaks(samples: np.ndarray) -> list[float]:
    """[n] → the largest sample of each of PEAKS equal parts; the loudest of all is 1."""
    parts = np.array_split(np.abs(samples), PEAKS)
    highest = np.array([part.max() if len(part) else 0.0 for part in parts])
    return [round(float(value), 3) for value in highest / max(highest.max(), 1e-9)]
