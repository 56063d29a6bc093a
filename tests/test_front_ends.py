"""Front ends: the speech embedding equals its ONNX files; features of any front end go through cache and encoder."""

import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
from test_encoder_training import make_set

from Audio_to_Image import audio, datasets, front_ends, tts
from Audio_to_Image.encoders.contrastive import ContrastiveEncoder
from Audio_to_Image.front_ends import front_end, width_of
from Audio_to_Image.mel_cache import MelCache
from Audio_to_Image.speech_encoder import load_encoder
from common import checkpoint, splits
from common.cli import UserError
from scripts import export_pretrained
from scripts.voice.speech_to_image import SpeechToImage
from StackGAN_v2 import interpolation
from StackGAN_v2.model import Generator


def speech_embedding():
    pytest.importorskip("onnxruntime")
    try:
        return front_end("speech_embedding")
    except UserError as error:
        pytest.skip(str(error))


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics that glide, in bursts, over a little noise: float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(3 * time)) / 16000
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(9 * time) > -0.3)
    return (0.1 * sound + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


def test_speech_embedding_equals_its_onnx_files():
    front = speech_embedding()
    import onnxruntime

    from Audio_to_Image.front_ends.speech_embedding import data_file, padded

    spectrogram, network = (
        onnxruntime.InferenceSession(str(data_file(name)), providers=["CPUExecutionProvider"])
        for name in ("melspectrogram.onnx", "embedding_model.onnx")
    )
    clips = [voice(1.0), voice(3.217, seed=1), voice(0.3)]
    for samples, found in zip(clips, front.compute(clips)):
        mels = spectrogram.run(None, {"input": padded(samples).numpy()[None]})[0][0, 0] / 10 + 2
        windows = np.stack([mels[start : start + 76] for start in range(0, len(mels) - 75, 8)])[..., None]
        expected = network.run(None, {"input_1": windows})[0].reshape(-1, 96)
        assert found.shape == (96, len(expected)) == (96, front.columns(audio.frames_of(samples)))
        assert np.abs(found.T - expected).max() < 1e-3 * np.abs(expected).max()
        assert np.abs(found).max() < 32767 * front.step, "beyond what the cache holds"


def test_the_table_is_read_without_torch():
    code = "import sys, Audio_to_Image.front_ends\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_front_end_is_refused():
    with pytest.raises(UserError, match="--front_end mfcc: choose one of log_mel, speech_embedding"):
        front_end("mfcc")


def test_weights_of_something_else_are_refused(tmp_path, monkeypatch):
    from Audio_to_Image.front_ends import speech_embedding as module

    for name, content in (("empty.onnx", b""), ("cut.onnx", b"\x3a\x7f\x08"), ("field.onnx", b"\x00\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            module.read_network(tmp_path / name)
        with pytest.raises(UserError, match=name):
            module.read_spectrogram(tmp_path / name)
    monkeypatch.setattr(module, "PACKAGE", "no-such-package-at-all")
    with pytest.raises(UserError, match="needs the package no-such-package-at-all"):
        module.data_file("x.onnx")


class Halves:
    """A front end of three features every 20 ms."""

    name, bands, file, step, settings = "halves", 3, "halves", 0.01, {"version": 1}

    @staticmethod
    def columns(n_frames):
        return (n_frames + 1) // 2

    def compute(self, clips):
        return [
            np.full((3, self.columns(audio.frames_of(clip))), np.sqrt(np.mean(clip**2)) * 100, np.float32)
            for clip in clips
        ]


@pytest.fixture
def halves(monkeypatch):
    monkeypatch.setitem(front_ends.FRONT_ENDS, "halves", f"{__name__}:Halves")
    yield
    front_end.cache_clear()


@pytest.mark.parametrize("place", ["ram", "gpu"])
def test_any_front_end_goes_through_the_cache(tmp_path, halves, place):
    folder = make_set(tmp_path)
    split = splits.load_split(folder, "train")
    clips = datasets.open_clips(
        split, 64, torch.device("cpu"), "ram", 1, progress=False, short_clips="pad", front="halves"
    )
    assert clips.width == width_of(clips.front, 64) == 64
    if place == "gpu":  # the gathering that a GPU does
        clips._values, clips.where = torch.from_numpy(np.array(clips.cache.values)), "gpu"
    chosen = clips.usable[[3, 0]]
    mels, columns = clips.mels(chosen), clips.columns(chosen)
    assert mels.shape == (2, 3, 64) and (columns == 32).all()  # a clip longer than 64 frames is cut
    for row, clip, n in zip(mels, chosen, columns):
        samples = audio.read_audio(clips.cache.paths[clip])
        assert torch.allclose(row[:, :n], torch.tensor(100 * np.sqrt(np.mean(samples**2))), atol=0.006)
        assert (row[:, n:] == 0).all()
    again = MelCache.of_split(split, progress=False, build=False, front="halves")
    assert again.files.values.name == "halves.npy" and (again.get(0) == clips.cache.get(0)).all()
    assert not (folder / "train" / "log_mels.npy").exists()


def test_other_weights_make_another_cache(tmp_path, halves, monkeypatch):
    soundfile.write(tmp_path / "a.wav", voice(1.0), 16000)
    make = lambda **options: MelCache(
        tmp_path / "train", [tmp_path / "a.wav"], progress=False, front="halves", **options
    )
    make()
    make(build=False)
    monkeypatch.setattr(Halves, "settings", {"version": 2})
    with pytest.raises(UserError, match="halves.npy lacks 1 of 1 clips"):
        make(build=False)


def encoder_file(path, front: str, bands: int):
    torch.manual_seed(0)
    network = ContrastiveEncoder(bands, 6, 8, halvings=0)
    meta = {"encoder": "contrastive", "front_end": front, "max_frames": 128, "short_clips": "pad"}
    checkpoint.save(path, {"meta": meta, "state_dict": network.state_dict()})
    return path


def test_a_file_names_its_front_end(tmp_path, halves):
    for front, bands, told in (("mfcc", 40, "its front end 'mfcc' is not one of"), ("halves", 40, "gives 3")):
        with pytest.raises(UserError, match=told):
            load_encoder(encoder_file(tmp_path / "x.pth", front, bands))
    _, meta = load_encoder(encoder_file(tmp_path / "x.pth", "log_mel", 40))
    assert meta["front_end"] == "log_mel"


def test_inference_hears_as_extraction_does(tmp_path, halves):
    folder = make_set(tmp_path)
    encoder, meta = load_encoder(encoder_file(tmp_path / "x.pth", "halves", 3))
    split = splits.load_split(folder, "test")
    clips = datasets.open_clips(split, 128, torch.device("cpu"), "ram", 1, False, "pad", meta["front_end"])
    rows = datasets.embed_clips(encoder, meta, clips, 4)
    wavs = [clips.cache.paths[clip] for clip in clips.usable[:3]]
    inputs, faults = interpolation._embed_inputs(types.SimpleNamespace(wav=wavs, text=[]), encoder, meta)
    assert not faults
    for (_, one), row in zip(inputs, rows):
        torch.testing.assert_close(one, row, atol=0.02, rtol=0.01)  # the cache holds int16


def test_the_page_and_an_export_hear_as_inference_does(tmp_path, halves, monkeypatch):
    path, sound = encoder_file(tmp_path / "x.pth", "halves", 3), tmp_path / "a.wav"
    soundfile.write(sound, voice(1.0), 16000, subtype="FLOAT")
    encoder, meta = load_encoder(path)
    clip = audio.load_clip(sound, compute=front_end("halves").compute)
    expected = interpolation.embedding_of(clip, encoder, meta)
    generator = Generator(1, 16, 8, 4, 5, encoder.nhidden).eval()
    heard = SpeechToImage(encoder, meta, generator).hear(sound.read_bytes())
    torch.testing.assert_close(heard.embedding, expected)
    checkpoint.save(tmp_path / "netG_1.pth", generator.state_dict())
    monkeypatch.setattr(tts, "speak", lambda text: voice(1.0))
    values = export_pretrained.check_values(path, tmp_path / "netG_1.pth")
    np.testing.assert_allclose(values[0]["embedding"], expected, atol=1e-4)
