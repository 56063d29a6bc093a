"""Sound files to log-mels: the published values, every kind of file, and files that cannot be used."""

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from Audio_to_Image import audio, sound_files
from common.cli import UserError

GOLDEN = Path(__file__).parent / "golden"


def tone(seconds=1.0, rate=16000):
    """A gliding voice-like tone with some noise, float32 [n]."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (150 * time + 40 * time**2)
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1 + 0.005 * noise).astype(np.float32)


def librosa_log_mel(path):
    """The same by way of librosa, as the method's authors went."""
    import librosa

    samples, _ = librosa.load(path, sr=16000)
    samples = samples - samples.mean()
    samples = np.append(samples[0], samples[1:] - np.float32(0.97) * samples[:-1])
    spectrum = librosa.stft(
        samples, n_fft=400, hop_length=160, win_length=400, window=np.hamming(400), center=True, pad_mode="reflect"
    )
    mel = librosa.feature.melspectrogram(S=np.abs(spectrum) ** 2, sr=16000, n_fft=400, n_mels=40, fmin=20, fmax=8000)
    return librosa.power_to_db(mel, ref=np.max, top_db=80)


def write(path, samples, rate=16000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def test_golden():
    stored = np.load(GOLDEN / "mel.npz")
    mel, n_frames = audio.load_log_mel(GOLDEN / "short.wav")
    assert mel.shape == (40, 2048) and mel.dtype == np.float32 and n_frames == int(stored["short_n"])
    assert np.abs(mel[:, :n_frames] - stored["short"]).max() < 0.05
    assert (mel[:, n_frames:] == 0).all() and (stored["short_pad"] == 0).all()


@pytest.mark.parametrize("seconds", [0.03, 0.9, 25])
def test_equal_to_librosa(tmp_path, seconds):
    path = write(tmp_path / "a.wav", tone(seconds))
    mel, n_frames = audio.log_mel(audio.read_audio(path))
    wanted = librosa_log_mel(path)
    assert n_frames == min(2048, wanted.shape[1]) and np.abs(mel - wanted[:, :2048]).max() < 1e-3


def test_long_clip_is_cut_but_scaled_as_a_whole():
    samples = tone(30)
    samples[: 22 * 16000] *= 0.1  # the loudest part is beyond the cut
    mel, n_frames = audio.log_mel(samples)
    assert n_frames == 2048 and mel.shape == (40, 2048) and -25 < mel.max() < -15


def test_stereo_rates_and_formats(tmp_path):
    plain, rate = tone(1.0, 44100), 44100
    stereo = np.stack([plain * 1.5, plain * 0.5], 1)
    wanted, n_frames = audio.load_log_mel(write(tmp_path / "mono.wav", plain, rate, subtype="FLOAT"))
    assert n_frames == 101
    for name, limit in (("a.flac", 0.01), ("a.wav", 0.01), ("a.ogg", 1), ("a.mp3", 1)):  # dB, on average
        mel, n = audio.load_log_mel(write(tmp_path / name, stereo / 2, rate))
        loud = wanted[:, :95] > -40
        assert n == n_frames and np.abs(mel - wanted)[:, :95][loud].mean() < limit
    opus = write(tmp_path / "a.opus", tone(1.0, 48000), 48000, format="OGG", subtype="OPUS")
    assert audio.load_log_mel(opus)[1] == 101
    misnamed = tmp_path / "really_a_wav.mp3"
    misnamed.write_bytes((tmp_path / "mono.wav").read_bytes())
    assert (audio.load_log_mel(misnamed)[0] == wanted).all()


def test_read_audio_is_librosas(tmp_path):
    import librosa

    path = write(tmp_path / "a.wav", np.stack([tone(0.7, 22050), tone(0.7, 22050)[::-1]], 1), 22050)
    assert np.array_equal(audio.read_audio(path), librosa.load(path, sr=16000)[0])
    assert len(audio.read_audio(path, 8000)) == 5600


@pytest.mark.parametrize("length", [0, 1, 2, 199, 200, 201])
def test_tiny_and_empty_clips(tmp_path, length):
    path = write(tmp_path / "tiny.wav", np.zeros(length, np.float32))
    mel, n_frames = audio.load_log_mel(path)
    assert n_frames == 1 + (length or 200) // 160 and np.isfinite(mel).all()
    if not length:
        assert (mel == 0).all()


def test_pad():
    mel = np.full((40, 5), -3, np.float32)
    assert audio.pad(mel, 8)[0].tolist() == [-3] * 5 + [0] * 3 and audio.pad(mel, 3).shape == (40, 3)


def broken(tmp_path):
    text = tmp_path / "page.wav"
    text.write_text("<html>not sound</html>" * 50)
    empty = tmp_path / "zero.wav"
    empty.write_bytes(b"")
    m4a = tmp_path / "voice.m4a"
    m4a.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(200))
    webm = tmp_path / "voice.webm"
    webm.write_bytes(b"\x1aE\xdf\xa3" + bytes(200))
    nan = write(tmp_path / "nan.wav", np.array([0, np.nan, 0.5] * 100, np.float32), subtype="FLOAT")
    huge = write(tmp_path / "huge.wav", np.array([0, 1e30] * 100, np.float32), subtype="FLOAT")
    raw = tmp_path / "headerless.raw"
    raw.write_bytes(bytes(100))
    slow = write(tmp_path / "slow.wav", np.zeros(100), 10)
    return [
        (text, "not sound"),
        (empty, "0 bytes"),
        (m4a, r"\(m4a\) with no sound"),
        (webm, r"\(webm\) with no sound"),
        (nan, "not numbers"),
        (huge, "absurdly large"),
        (raw, "not sound"),
        (slow, "10 Hz"),
        (tmp_path / "gone.wav", "does not exist"),
        (tmp_path, "is not a file"),
    ]


def test_files_that_cannot_be_used_are_named(tmp_path):
    for path, reason in broken(tmp_path):
        with pytest.raises(UserError, match=reason) as caught:
            audio.load_log_mel(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_and_lying_headers(tmp_path):
    """What is there counts, not what the header promises."""
    data = write(tmp_path / "a.wav", tone(1.0)).read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:16044])
    assert audio.load_log_mel(tmp_path / "cut.wav")[1] == 51
    (tmp_path / "lie.wav").write_bytes(data[:40] + b"\xf0\xff\xff\x7f" + data[44:])
    assert audio.load_log_mel(tmp_path / "lie.wav")[1] == 101


def wav(samples, rate=16000, before=b"", after=b"", riff=0, promised=0, fmt=(1, 1, None, None, 2, 16)):
    """A wav file: chunks before and after the samples, what its two lengths are too large by, and its format."""
    data = np.asarray(samples, "<i2").tobytes()
    code, channels, hertz, per_second, per_frame, bits = fmt
    header = struct.pack("<HHIIHH", code, channels, hertz or rate, per_second or 2 * rate, per_frame, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + header + before
    body += b"data" + struct.pack("<I", len(data) + promised) + data + after
    return b"RIFF" + struct.pack("<I", len(body) + riff) + body


NOISE = np.random.default_rng(0).integers(-32768, 32768, 5000)
NOTE = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.76.100\0"


def test_a_plain_wav_that_is_too_long_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(wav(NOISE, 1000))
    monkeypatch.setattr(sound_files, "MAX_SECONDS", 4)
    with pytest.raises(UserError, match="a.wav is longer"):
        audio.read_audio(tmp_path / "a.wav")


def test_bombs_are_stopped(tmp_path, monkeypatch):
    path = write(tmp_path / "long.flac", np.zeros(8000 * 90, np.int16), 8000)
    monkeypatch.setattr(sound_files, "MAX_SECONDS", 60)
    monkeypatch.setattr(sound_files, "_READ_BLOCK", 8000)
    with pytest.raises(UserError, match="longer than 1 minutes"):
        audio.read_audio(path)


def test_many_at_once(tmp_path):
    paths = [write(tmp_path / f"{number}.wav", tone(0.5 + 0.01 * number)) for number in range(70)]
    mels, lens = audio.log_mels(paths, jobs=2, max_frames=64)
    assert mels.shape == (70, 40, 64) and mels.dtype == np.float32
    for number in (0, 69):
        mel, n_frames = audio.load_log_mel(paths[number])
        assert lens[number] == min(64, n_frames) and np.abs(mels[number] - mel[:, :64]).max() < 1e-3
    paths[3].write_bytes(b"")
    with pytest.raises(UserError, match="3.wav is empty"):
        audio.log_mels(paths, jobs=1)
    assert [index for index, clip in audio.iter_clips(paths, jobs=1) if clip.error] == [3]


def test_threads_change_no_bit(tmp_path):
    """Neither torch's threads nor ours, nor which clips are computed beside it."""
    paths = [write(tmp_path / f"{number}.wav", tone(0.5 + 0.7 * number)) for number in range(12)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([audio.load_log_mel(path)[0] for path in paths])
            assert torch.get_num_threads() == threads
        found.append(audio.log_mels(paths, jobs=1)[0])
        found.append(audio.log_mels(paths[::-1] * 12, jobs=3)[0][-12:][::-1])
        with ThreadPoolExecutor(1) as later:  # threads that begin later get torch's number as it was
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other))
