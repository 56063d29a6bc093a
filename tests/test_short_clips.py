"""Recordings under 0.64 s, images without a recording that can be used, and splits without any."""

import json

import numpy as np
import pytest
import soundfile
import torch
from test_encoder_training import CPU, FRAMES, LOSSES, WIDTH, call, make_set, make_trainer, parts

from Audio_to_Image import datasets, evaluate, extract_audio_feature, recording_remarks, train_audio_encoder
from Audio_to_Image.audio import Clip
from Audio_to_Image.sound_files import CANCELLING, CUT_OFF, SILENT
from Audio_to_Image.speech_encoder import CNNRNN, embed, load_encoder
from common.cli import UserError
from common.features import feature_path, load_features
from common.splits import load_split
from StackGAN_v2 import sampler
from StackGAN_v2.data.datasets import SpeechFeatures


def no_usable(folder, split, how):
    """Take away every recording of a split."""
    for path in (folder / "wav").glob(f"{split}_*.wav"):
        path.unlink()
        if how == "short":
            soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4800), 16000)
        elif how == "not sound":
            path.write_text("<html>no</html>")
    if how == "unnamed":
        path = folder / f"{split}.json"
        content = json.loads(path.read_text())
        content["data"] = [{name: value for name, value in item.items() if name != "audio"} for item in content["data"]]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "how, words",
    [
        ("missing", "5 missing .the first: .*does not exist"),
        ("short", "5 under 0.64 s or silent .the first: .*lasts 0.30 s"),
        ("not sound", "5 not sound .the first: .*an HTML page"),
        ("unnamed", "names no recordings"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_recording_is_said_before_anything_begins(tmp_path, monkeypatch, how, words, split):
    folder = make_set(tmp_path, items=4)  # of 1, 2, 3 and 1 captions, the third's last short
    (folder / "wav" / f"{split}_2_2.wav").unlink()
    for name in ("train", "test"):
        content = json.loads((folder / f"{name}.json").read_text())
        content["data"][2]["audio"].pop()
        content["data"].pop()
        (folder / f"{name}.json").write_text(json.dumps(content))
        from common.features import save_features

        save_features(feature_path(folder, name, "image", "stub"), [np.ones((1, WIDTH))] * 3, load_split(folder, name))
    no_usable(folder, split, how)
    if how == "unnamed":
        save_features(
            feature_path(folder, split, "image", "stub"), [np.ones((1, WIDTH))] * 3, load_split(folder, split)
        )
    where = ["--dataset", "tiny", "--data_root", tmp_path]
    with pytest.raises(UserError, match=words):
        call(
            monkeypatch,
            train_audio_encoder,
            *where,
            "--teacher",
            "stub",
            "--output_dir",
            tmp_path / "run",
            *LOSSES,
            "--device",
            "cpu",
            "--short_clips",
            "skip",
            "--max_frames",
            FRAMES,
        )
    assert not (tmp_path / "run").exists()
    model = tmp_path / "encoder.pth"
    torch.save(CNNRNN(nhidden=WIDTH).state_dict(), model)
    with pytest.raises(UserError, match=words):
        call(monkeypatch, extract_audio_feature, "--model", model, *where, "--splits", "train", "test")
    assert not list(folder.rglob("audio_features*"))
    with pytest.raises(UserError, match=words):
        call(monkeypatch, evaluate, "--model", model, *where, "--teacher", "stub", "--split", split)


@pytest.fixture
def one_without(tmp_path):
    """A set whose image train_1 has no recording that can be used, and whose image train_2 has a short one."""
    folder = make_set(tmp_path, items=6)
    (folder / "wav" / "train_1_0.wav").write_bytes(b"not sound")
    (folder / "wav" / "train_1_1.wav").unlink()
    return folder


def test_an_image_without_any_recording_is_left_out_of_training(one_without, tmp_path):
    train, *_ = parts(one_without)
    assert len(train) == 5 and set(train.plan(0, 0, 5).items.ravel()) == {0, 2, 3, 4, 5}
    assert train.clips.without_speech() == [
        f"train_1: {one_without / 'wav' / 'train_1_0.wav'} is not sound but text; make or download it again"
    ]
    make_trainer(one_without, tmp_path / "run", epochs=1, batch_size=5).fit()


@pytest.mark.parametrize("short_clips, captions", [("skip", 8), ("pad", 10)])
def test_the_command_records_what_it_does_and_others_follow(
    one_without, tmp_path, monkeypatch, capsys, short_clips, captions
):
    where, run = ["--dataset", "tiny", "--data_root", tmp_path], tmp_path / "run"
    options = [] if short_clips == "pad" else ["--short_clips", "skip"]  # pad: of a set that is not published
    assert (
        call(
            monkeypatch,
            train_audio_encoder,
            *where,
            "--teacher",
            "stub",
            "--output_dir",
            run,
            *LOSSES,
            "--device",
            "cpu",
            *options,
            "--max_frames",
            FRAMES,
            "--max_steps",
            1,
            "--batch_size",
            4,
        )
        == 0
    )
    log = (run / "log.txt").read_text()
    assert f"5 training images with {captions} captions" in log and "1 images were left out of training" in log
    assert "longer than the 1.28 s" in log
    model = run / "latest.pth"
    encoder, meta = load_encoder(model)
    assert meta["short_clips"] == short_clips
    assert call(monkeypatch, extract_audio_feature, "--model", model, *where, "--audio_switch", "s") == 0
    told = capsys.readouterr().err
    assert "train_1: " in told and "no embedding" in told and ("lasts 0.30 s" in told) == (short_clips == "skip")
    split, path = load_split(one_without, "train"), feature_path(one_without, "train", "audio", "s")
    rows = load_features(path, split, "", some_without=True)
    assert [len(row) for row in rows] == [1, 0, 3, 1, 2, 3] and rows[1].shape == (0, WIDTH)
    mean = np.allclose(rows[2][2], rows[2][:2].mean(0), rtol=1e-5)
    assert (
        mean == (short_clips == "skip")
        and json.loads(path.with_suffix(".json").read_text())["short_clips"] == short_clips
    )
    with pytest.raises(UserError, match="holds no features of 'train_1'"):
        load_features(path, split, "")
    with pytest.raises(UserError, match="1 images have no recording that can be used: train_1"):
        call(monkeypatch, extract_audio_feature, "--model", model, *where, "--audio_switch", "t", "--strict")
    assert not feature_path(one_without, "test", "audio", "t").exists()
    assert call(monkeypatch, evaluate, "--model", model, *where, "--split", "train") == 0
    assert json.loads((run / "metric-speech.jsonl").read_text())["captions"] == captions


def test_the_generator_leaves_out_images_without_speech():
    rows = [np.full((k, 3), k, np.float32) for k in (1, 0, 2, 0, 3)]
    features = SpeechFeatures(rows)
    assert features.spoken.tolist() == [0, 2, 4]
    assert features.pick(features.spoken, torch.tensor([0.9, 0.9, 0.9]))[:, 0].tolist() == [1, 2, 3]

    class Generator:
        z_dim = embedding_dim = 2

    speech, _ = sampler.fixed_sentences(Generator(), rows, 8, 0)
    assert speech[:, 0].tolist() == [1, 2, 3]


def test_published_features_are_not_overwritten(one_without, tmp_path, monkeypatch):
    path = feature_path(one_without, "train", "audio", "lens_s")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"published")
    torch.save(CNNRNN(nhidden=WIDTH).state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(UserError, match="lens_s.pickle is there and was not written by this project"):
        call(
            monkeypatch,
            extract_audio_feature,
            "--model",
            tmp_path / "encoder.pth",
            "--dataset",
            "tiny",
            "--data_root",
            tmp_path,
            "--audio_switch",
            "s",
        )
    assert path.read_bytes() == b"published"


@pytest.mark.parametrize("frames", [1, 40, 63])
def test_a_short_clip_is_one_time_step(frames):
    torch.manual_seed(0)
    encoder = CNNRNN(nhidden=8).eval()
    mels = torch.zeros(2, 40, 128)
    mels[0, :, :100], mels[1, :, :frames] = -10, -20
    meta = {"max_frames": 128, "short_clips": "pad"}
    both = embed(encoder, meta, mels, [100, frames])
    assert torch.allclose(both[1:], embed(encoder, meta, mels[1:], [frames]), atol=1e-6) and both.isfinite().all()
    assert not torch.allclose(both[0], both[1])
    with pytest.raises(ValueError, match="the encoder needs 64"):
        embed(encoder, {"max_frames": 128}, mels, [100, frames])


@pytest.mark.parametrize(
    "name, kind",
    [
        ("birds", "skip"),
        ("flowers", "skip"),
        ("Places_subset", "skip"),
        ("toybirds", "pad"),
        ("mine/birds", "skip"),
        ("my birds", "pad"),
    ],
)
def test_the_default_is_published_for_published_sets(name, kind):
    assert datasets.default_short_clips(name) == kind


def test_remarks_are_one_line_a_kind():
    clips = [(f"{n}.wav", Clip(np.zeros((40, 9)), seconds=2.0 + n)) for n in range(8)]
    clips += [
        ("silent.wav", Clip(seconds=1, remarks=(SILENT,))),
        ("cut.wav", Clip(seconds=1, promised=3, remarks=(CUT_OFF,))),
        ("both.wav", Clip(seconds=1, remarks=(CANCELLING,))),
        ("gone.wav", Clip(error="x")),
    ]
    long, silent, cancelling, cut = recording_remarks.remarks(clips, 256)
    assert long == (
        "7 recordings are longer than the 2.56 s that the encoder hears; the rest is not heard: 1.wav (2.56 of 3.00 s), "
        "2.wav (2.56 of 4.00 s), 3.wav (2.56 of 5.00 s), 4.wav (2.56 of 6.00 s), 5.wav (2.56 of 7.00 s), and 2 more"
    )
    assert silent == "1 recording is silent: silent.wav (1.00 s)" and "cancel each other" in cancelling
    assert cut == "1 recording is cut off or damaged; what is there is heard: cut.wav (1.00 of 3.00 s)"
    assert recording_remarks.remarks(clips[:1], 256) == []


def test_silent_clips_are_not_heard_by_padding(tmp_path):
    folder = make_set(tmp_path, items=3)
    soundfile.write(folder / "wav" / "train_0_0.wav", np.zeros(4800), 16000)
    clips = datasets.open_clips(load_split(folder, "train"), FRAMES, CPU, jobs=1, progress=False, short_clips="pad")
    assert len(clips.usable) == 5 and "train_0_0.wav lasts 0.30 s, under 0.64 s" in clips.without_speech()[0]
