"""The cache of log-mels: right values, cheap re-use, survival of a kill, clips that cannot be used."""

import json
import os

import numpy as np
import pytest
import soundfile

from Audio_to_Image import audio, mel_cache
from Audio_to_Image.mel_cache import MelCache
from common.cli import UserError
from common.splits import load_split


@pytest.fixture
def wavs(tmp_path):
    """Six clips of 0.7, 0.8, … seconds."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "wav" / f"clip_{number}.wav" for number in range(6)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        soundfile.write(path, 0.1 * rng.standard_normal(11200 + 1600 * number), 16000)
    return paths


def make(tmp_path, wavs, **options):
    return MelCache(tmp_path / "train", wavs, root=tmp_path / "wav", jobs=1, progress=False, **options)


@pytest.fixture
def computed(monkeypatch):
    """The names of the files whose mels were computed."""
    names = []
    real = audio.read_sound
    monkeypatch.setattr(audio, "read_sound", lambda path: names.append(os.path.basename(path)) or real(path))
    return names


def test_values_and_batches(tmp_path, wavs):
    cache = make(tmp_path, wavs)
    assert len(cache) == 6 and cache.errors == {}
    for number, path in enumerate(wavs):
        mel, n_frames = audio.load_log_mel(path)
        assert cache.frames(number) == n_frames
        assert np.abs(cache.get(number) - mel[:, :n_frames]).max() < 0.0013
    batch, lens = cache.batch([4, 0, 4], max_frames=100)
    assert batch.shape == (3, 40, 100) and batch.dtype == np.float32 and list(lens) == [100, 71, 100]
    assert (batch[1, :, 71:] == 0).all() and (batch[0] == cache.get(4)[:, :100]).all()
    full, lens = cache.batch([1])
    assert full.shape == (1, 40, 2048) and (full[0, :, 81:] == 0).all() and lens[0] == 81
    assert np.load(tmp_path / "train" / "log_mels.npy", mmap_mode="r").ndim == 1


def test_nothing_is_computed_twice(tmp_path, wavs, computed):
    first = make(tmp_path, wavs)
    assert len(computed) == 6
    again = make(tmp_path, wavs[::-1])  # order is the list's, not the file's
    assert len(computed) == 6 and (again.get(0) == first.get(5)).all()


def test_only_changed_clips_are_computed_again(tmp_path, wavs, computed):
    before = make(tmp_path, wavs).get(3)
    computed.clear()
    soundfile.write(wavs[2], 0.1 * np.random.default_rng(1).standard_normal(16000), 16000)
    with pytest.raises(UserError, match="lacks 1 of 6 clips"):
        make(tmp_path, wavs, build=False)
    cache = make(tmp_path, wavs)
    assert computed == ["clip_2.wav"] and cache.frames(2) == 101 and (cache.get(3) == before).all()


def test_sound_that_has_gone_is_not_missed(tmp_path, wavs, computed):
    make(tmp_path, wavs)
    wavs[1].unlink()
    assert make(tmp_path, wavs).frames(1) == 81 and len(computed) == 6


def test_other_settings_make_another_cache(tmp_path, wavs, computed, monkeypatch):
    make(tmp_path, wavs)
    monkeypatch.setattr(mel_cache, "SETTINGS", {**mel_cache.SETTINGS, "hop": 200})
    make(tmp_path, wavs)
    assert len(computed) == 12


def test_unusable_clips_are_recorded(tmp_path, wavs, computed):
    wavs[1].write_bytes(b"")
    wavs[2].write_bytes(b"<html>error</html>" * 20)
    wavs[4].unlink()
    cache = make(tmp_path, wavs)
    assert sorted(cache.errors) == [1, 2, 4] and cache.frames(1) == 0
    assert "clip_1.wav is empty" in cache.errors[1] and "not sound" in cache.errors[2]
    assert "clip_4.wav does not exist" in cache.errors[4]
    with pytest.raises(UserError, match="clip_4.wav"):
        cache.get(4)
    computed.clear()
    make(tmp_path, wavs)
    assert computed == []
    soundfile.write(wavs[4], np.full(16000, 0.1), 16000)
    assert sorted(make(tmp_path, wavs).errors) == [1, 2] and computed == ["clip_4.wav"]


@pytest.mark.parametrize("torn", ["", '{"end": 9', '{"end": 999999999, "records": {}}\n'])
def test_a_killed_build_goes_on(tmp_path, wavs, computed, monkeypatch, torn):
    monkeypatch.setattr(mel_cache, "_JOURNAL_EVERY", 2)
    real = audio.iter_clips

    def killed(*args, **kwargs):
        for number, result in enumerate(real(*args, **kwargs)):
            if number == 4:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(audio, "iter_clips", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, wavs)
    folder = tmp_path / "train"
    assert not (folder / "log_mels.npy").exists() and (folder / ".log_mels.partial").exists()
    with open(folder / ".log_mels.partial.jsonl", "a") as journal:
        journal.write(torn)
    with open(folder / ".log_mels.partial", "ab") as partial:  # written, but not yet in the journal
        partial.write(b"\1" * 77)
    computed.clear()
    cache = make(tmp_path, wavs)
    assert computed == ["clip_4.wav", "clip_5.wav"]
    for number, path in enumerate(wavs):
        assert np.abs(cache.get(number) - audio.log_mel(audio.read_audio(path))[0]).max() < 0.0013
    assert sorted(os.listdir(folder)) == ["log_mels.json", "log_mels.npy"]


def test_a_damaged_cache_is_made_again(tmp_path, wavs, computed):
    make(tmp_path, wavs)
    (tmp_path / "train" / "log_mels.json").write_text("{")
    make(tmp_path, wavs)
    with open(tmp_path / "train" / "log_mels.npy", "r+b") as file:
        file.truncate(1000)
    make(tmp_path, wavs)
    assert len(computed) == 18


def test_two_builds_at_once_are_refused(tmp_path, wavs):
    import fcntl

    (tmp_path / "train").mkdir()
    with open(tmp_path / "train" / ".log_mels.partial", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            make(tmp_path, wavs)


def test_of_split_and_no_usable_clip(tmp_path):
    (tmp_path / "test.json").write_text(
        json.dumps(
            {
                "image_base_path": str(tmp_path),
                "audio_base_path": str(tmp_path / "wav"),
                "data": [
                    {"image": "a/b.jpg", "class": "a", "text": ["x", "y"], "audio": ["0/b_0.wav", "0/b_1.wav"]},
                    {"image": "a/c.jpg", "class": "a", "text": ["z"], "audio": ["0/c_0.wav"]},
                ],
            }
        )
    )
    cache = MelCache.of_split(load_split(tmp_path, "test"), jobs=1, progress=False)
    assert len(cache) == 3 and len(cache.errors) == 3 and cache.folder == tmp_path / "test"
    assert len(MelCache.of_split(load_split(tmp_path, "test"), jobs=1, progress=False).errors) == 3


def test_worker_processes_give_the_same(tmp_path, wavs):
    one = make(tmp_path, wavs)
    copies = MelCache(tmp_path / "two", wavs * 20, jobs=2, progress=False)
    assert len(copies) == 120 and all((copies.get(number) == one.get(number % 6)).all() for number in range(120))
