"""Variants of a recording's voice: the same in every run, different from each other, and still sound."""

import numpy as np
import pytest
from test_encoder_training import CPU, FRAMES, make_set
from test_front_ends import voice

from Audio_to_Image import datasets, voice_augmentation
from Audio_to_Image.voice_augmentation import VoiceVariant, stretched
from common import splits


def test_variants_are_drawn_by_seed_number_and_name():
    samples = voice(2.0)
    first = VoiceVariant(1).apply(samples, "a.wav")
    assert first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, VoiceVariant(1).apply(samples, "a.wav"))
    for other in (VoiceVariant(2), VoiceVariant(1, seed=1)):
        found = other.apply(samples, "a.wav")
        assert len(found) != len(first) or not np.allclose(found, first)
    assert not np.array_equal(first, VoiceVariant(1).apply(samples, "b.wav"))


def test_levels_and_lengths_stay_within_bounds():
    samples = voice(2.0)
    for number in range(1, 13):
        found = VoiceVariant(number).apply(samples, "a.wav")
        assert 0.8 * 2.0 < len(found) / 16000 < 1.2 * 2.0
        assert np.abs(found).max() == pytest.approx(np.abs(samples).max(), rel=1e-5)
    silence = np.zeros(1000, np.float32)
    assert np.array_equal(VoiceVariant(1).apply(silence, "a.wav"), silence)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_stretching_keeps_the_pitch(factor):
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    found = stretched(tone, factor)
    assert abs(len(found) - factor * 16000) <= voice_augmentation._HOP
    middle = found[2000:10000]
    frequency = np.argmax(np.abs(np.fft.rfft(middle))) * 16000 / len(middle)
    assert abs(frequency - 440) < 3 and np.abs(middle).max() == pytest.approx(1, abs=0.1)


def test_training_takes_variants_beside_the_recordings(tmp_path):
    split = splits.load_split(make_set(tmp_path), "train")
    open_clips = lambda **more: datasets.open_clips(split, FRAMES, CPU, "ram", 1, progress=False, **more)
    plain, *variants = open_clips(), open_clips(variant=VoiceVariant(1)), open_clips(variant=VoiceVariant(2))
    views = [np.zeros((1, 1), np.float32)] * len(split.items)
    train = datasets.TrainingSet(plain, views, tuple(variants))
    plan, alone = train.plan(0, 0, 4), datasets.TrainingSet(plain, views).plan(0, 0, 4)
    assert np.array_equal(plan.clips, alone.clips) and (alone.voices == 0).all() and len(np.unique(plan.voices)) == 3
    batch = train.batch(plan, 1, slice(0, 4))
    assert sorted(batch.items) == sorted(plan.items[1]) and (batch.n_frames.diff() <= 0).all()
    where = {item: row for row, item in enumerate(batch.items)}
    for item, clip, number in zip(plan.items[1], plan.clips[1], plan.voices[1]):
        own = train.voices[number]
        assert np.array_equal(batch.mels[where[item]], own.mels(np.array([clip]))[0])
        assert batch.n_frames[where[item]] == min(own.n_frames[clip], FRAMES)
    for number, name in ((1, "log_mels_voice1.npy"), (2, "log_mels_voice2.npy")):
        assert (split.path.parent / "train" / name).is_file() and train.voices[number].cache.files.values.name == name
