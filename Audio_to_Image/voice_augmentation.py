"""Other speakers, rooms and microphones made of a recording, so that an encoder understands more than one voice.

Each variant of a clip has a pace, a pitch, a room, a noise and a microphone of its own, drawn by a hash of the seed, the
variant's number and the clip's name: the same in every run, on every machine, in whatever order clips are computed.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from Audio_to_Image.audio import RATE
from Audio_to_Image.sound_files import resample

VERSION = 1  # raise when equal numbers would give another sound
PACE = (0.85, 1.2)  # factor of the speaking rate
SEMITONES = (-4.0, 4.0)  # of pitch and formants together
REVERBERATION = (0.08, 0.5)  # seconds until a sound has faded by 60 dB
REVERBERANT_SHARE = (0.05, 0.6)  # energy of the room's answer to that of the direct sound
NOISE_DB = (8.0, 35.0)  # of speech above noise
NOISE_SLOPE = (0.0, 2.0)  # its power falls with frequency to this power: white to brown
LOWEST, HIGHEST = (40.0, 300.0), (3400.0, 7800.0)  # Hz, what the microphone takes
TILT_DB = (-4.0, 4.0)  # of the microphone, from one octave to the next, at most 12 dB in all
CHANCES = {"pace": 0.8, "pitch": 0.8, "room": 0.6, "noise": 0.7, "microphone": 0.7}
_WINDOW, _HOP, _SEARCH = 512, 256, 96  # samples of the overlap-add: 32 ms, 16 ms, 6 ms


@dataclass(frozen=True)
class VoiceVariant:
    """The variant `number`, from 1, of every clip of a set."""

    number: int
    seed: int = 0

    @property
    def settings(self) -> dict:
        return {"number": self.number, "seed": self.seed, "version": VERSION}

    def apply(self, samples: np.ndarray, name: str) -> np.ndarray:
        """Mono float32 samples at 16 kHz → another speaker's, of another length. name: of the clip in its set."""
        draw = hashlib.sha256(f"{self.seed} {self.number} {name}".encode()).digest()
        return augment(samples, np.random.default_rng(list(draw)))


def augment(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One draw of all: float32 `[n]` → float32 `[n']`, in -1 … 1. Silence stays as it is."""
    chosen = {name: generator.random() < chance for name, chance in CHANCES.items()}
    pace = generator.uniform(*PACE) if chosen["pace"] else 1.0
    pitch = 2 ** (generator.uniform(*SEMITONES) / 12) if chosen["pitch"] else 1.0
    loudest = float(np.abs(samples).max(initial=0))
    if loudest == 0:
        return samples
    if pitch != 1.0:
        samples = resample(samples, RATE, round(RATE / pitch))  # played at 16 kHz: shorter and higher by `pitch`
    samples = stretched(samples, pitch / pace)
    if chosen["room"]:
        samples = in_room(samples, generator.uniform(*REVERBERATION), generator.uniform(*REVERBERANT_SHARE), generator)
    if chosen["noise"]:
        noise = coloured_noise(len(samples), generator.uniform(*NOISE_SLOPE), generator)
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-generator.uniform(*NOISE_DB) / 20)
        samples = samples + level * noise
    if chosen["microphone"]:
        samples = through_microphone(samples, generator)
    now = float(np.abs(samples).max(initial=0))
    return (samples * (min(loudest, 1.0) / max(now, 1e-9))).astype(np.float32)


def stretched(samples: np.ndarray, factor: float) -> np.ndarray:
    """The same pitch, `factor` times as long, by overlap-add of windows that fit their neighbours (WSOLA: Verhelst and
    Roelands, ICASSP 1993). Clips of less than four windows, and factors within 1 % of 1, stay as they are."""
    if abs(factor - 1) < 0.01 or len(samples) < 4 * _WINDOW:
        return samples
    count = int(len(samples) * factor) // _HOP
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, (_SEARCH, 2 * _WINDOW + _SEARCH))
    result = np.zeros(count * _HOP + _WINDOW, np.float32)
    wanted = padded[_SEARCH : _SEARCH + _WINDOW]
    for number in range(count):
        start = min(int(number * _HOP / factor), len(samples))  # in `padded`, the earliest place
        region = padded[start : start + _WINDOW + 2 * _SEARCH]
        best = int(np.argmax(np.correlate(region, wanted, "valid"))) if number else _SEARCH
        result[number * _HOP : number * _HOP + _WINDOW] += window * region[best : best + _WINDOW]
        following = start + best + _HOP
        wanted = padded[following : following + _WINDOW]
    return result[: count * _HOP]


def in_room(samples: np.ndarray, seconds: float, share: float, generator) -> np.ndarray:
    """With the answer of a room that fades by 60 dB in `seconds`, of `share` of the direct sound's energy."""
    from scipy.signal import fftconvolve

    time = np.arange(int(RATE * seconds)) / RATE
    answer = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    answer[: RATE // 500] = 0  # 2 ms until the first wall answers
    answer *= np.sqrt(share / max(np.sum(answer**2), 1e-12))
    answer[0] = 1.0
    return fftconvolve(samples, answer)[: len(samples)].astype(np.float32)


def coloured_noise(count: int, slope: float, generator) -> np.ndarray:
    """float32 `[count]` of variance 1, whose power falls as frequency to the power `slope`, from 50 Hz on."""
    spectrum = np.fft.rfft(generator.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    noise = np.fft.irfft(spectrum * np.maximum(frequency, 50.0) ** (-slope / 2), count)
    return (noise / max(noise.std(), 1e-9)).astype(np.float32)


def through_microphone(samples: np.ndarray, generator) -> np.ndarray:
    """A band of frequencies, with a tilt, and now and then overdriven a little."""
    low, high, tilt = generator.uniform(*LOWEST), generator.uniform(*HIGHEST), generator.uniform(*TILT_DB)
    frequency = np.maximum(np.fft.rfftfreq(len(samples), 1 / RATE), 1.0)
    gain = 1 / np.sqrt(1 + (low / frequency) ** 4) / np.sqrt(1 + (frequency / high) ** 8)
    decibels = np.clip(tilt * np.log2(frequency / 1000), -12, 12)
    result = np.fft.irfft(np.fft.rfft(samples) * gain * 10 ** (decibels / 20), len(samples))
    drive = generator.uniform(0, 3) if generator.random() < 0.3 else 0.0
    if drive > 0.1:
        loudest = max(float(np.abs(result).max()), 1e-9)
        result = np.tanh(drive * result / loudest)
    return result.astype(np.float32)
