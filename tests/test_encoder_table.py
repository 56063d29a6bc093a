"""Encoders by name: files are recognised, each trains, goes on exactly, is extracted and evaluated."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import rank_processes
import torch
from test_encoder_training import FRAMES, META, WIDTH, call, make_set, parts, stats
from torch import nn

from Audio_to_Image import (
    encoders,
    evaluate,
    extract_audio_feature,
    objectives,
    speech_encoder,
    train_audio_encoder,
    trainer,
)
from Audio_to_Image.encoders import contrastive, davenet, s2igan
from Audio_to_Image.encoders.s2igan_objective import MatchingObjective
from Audio_to_Image.speech_encoder import CNNRNN, embed, load_encoder
from common import checkpoint, devices, resume, runs, splits
from common.cli import UserError
from common.distributed import ranks
from common.features import feature_path, load_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data"))


SMALL = {
    "cnn_rnn": lambda: CNNRNN(nhidden=6),
    "davenet": lambda: davenet.DAVEnetAudio(20, 6),
    "s2igan": lambda: s2igan.S2IGANEncoder(20, 6, attention=4),
    "contrastive": lambda: contrastive.ContrastiveEncoder(20, 6, 8),
}


@pytest.mark.parametrize("name", SMALL)
def test_files_of_the_authors_are_recognised(name, tmp_path):
    """Plain state dicts with the prefix module., and without num_batches_tracked as old ones are."""
    torch.manual_seed(0)
    network = SMALL[name]().eval()
    state = {f"module.{key}": value for key, value in network.state_dict().items() if "num_batches" not in key}
    checkpoint.save(tmp_path / "best_audio_model.pth", state)
    loaded, meta = load_encoder(tmp_path / "best_audio_model.pth")
    assert type(loaded) is type(network) is encoders.encoder_class(name)
    assert (meta["encoder"], meta["nhidden"], meta["max_frames"]) == (name, 6, 2048)
    meta["max_frames"] = 128
    mels = torch.randn(3, network.n_filters, 100)
    n_frames = torch.tensor([70, 100, 64])
    for row, n in enumerate(n_frames):
        mels[row, :, n:] = 0
    rows = embed(loaded, meta, mels, n_frames)
    assert rows.shape == (3, 6)
    torch.testing.assert_close(rows, embed(network, meta, mels.flip(0), n_frames.flip(0)).flip(0))
    checkpoint.save(tmp_path / "wrong.pth", {"meta": {"encoder": name}, "state_dict": {"weight": torch.zeros(2)}})
    with pytest.raises(UserError, match="no speech encoder: it lacks"):
        load_encoder(tmp_path / "wrong.pth")


def test_heads_of_attention_lengthen_the_sentence(tmp_path):
    checkpoint.save(tmp_path / "x.pth", s2igan.S2IGANEncoder(20, 6, attention=4, heads=2).state_dict())
    network, meta = load_encoder(tmp_path / "x.pth")
    assert meta["nhidden"] == 12 == embed(network, meta, torch.randn(1, 20, 64), [64]).shape[1]


def test_the_table_is_read_without_torch():
    import subprocess

    code = "import sys, Audio_to_Image.encoders\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- training ----


def make_trainer(folder, output, network, objective, **settings):
    train, test, image = parts(folder)
    settings = trainer.Settings(**{"epochs": 2, "batch_size": 4, "eval_every": 2, "log_every": 1, **settings})
    devices.seed_everything(settings.seed)
    network = network()
    options = types.SimpleNamespace(training=settings)
    run = runs.Run(output, {}, ranks.is_main(), tensorboard=False)
    return trainer.Trainer(network, train, test, image, META, settings, run, objective(options, network, train))


def require_exact_resume(tmp_path, make):
    """Training 2 epochs = a part and the rest by another trainer, bit for bit, the objective's weights too."""
    whole = make(tmp_path / "whole", epochs=2)
    assert whole.fit() == 0
    make(tmp_path / "parts", epochs=2, max_steps=4).fit()
    torch.rand(7)
    second = make(tmp_path / "parts", epochs=2)
    second.resume(*resume.find("auto", tmp_path / "parts"))
    assert second.step == 4 and second.fit() == 0
    assert checkpoint.digest(second.trained.state_dict()) == checkpoint.digest(whole.trained.state_dict())
    assert whole.metrics == second.metrics
    return whole


@pytest.mark.parametrize("classes", [True, False])
def test_s2igan_goes_on_exactly_and_its_image_side_is_kept(tmp_path, folder, classes):
    folder = folder if classes else make_set(tmp_path, classes=False)
    small = lambda: s2igan.S2IGANEncoder(40, 6, attention=4)
    job = require_exact_resume(
        tmp_path,
        lambda output, **settings: make_trainer(
            folder, output, small, MatchingObjective.from_data, learning_rate=2e-4, beta1=0.95, **settings
        ),
    )
    assert ("class" in stats(tmp_path / "whole")[0]) == ("accuracy" in job.metrics) == classes
    assert job.optimizer.param_groups[0]["betas"] == (0.95, 0.999)
    encoder, meta = load_encoder(tmp_path / "whole" / "latest.pth")
    assert meta["encoder"] == "s2igan" and meta["metrics"] == job.metrics
    image_side = objectives.load_objective(tmp_path / "whole" / "latest.pth", encoder)
    rows = image_side.embed_images(job.test_image, None)
    assert rows.shape == (12, 6) and torch.equal(rows, job.objective.embed_images(job.test_image, None))
    assert trainer.evaluate(encoder, meta, job.test, rows, 4, everything=False) == pytest.approx(job.metrics)
    published = {f"module.{key}": value for key, value in job.objective.image_head.state_dict().items()}
    checkpoint.save(tmp_path / "best_image_model.pth", published)
    checkpoint.save(tmp_path / "best_audio_model.pth", job.network.state_dict())
    files = [tmp_path / "best_audio_model.pth", tmp_path / "best_image_model.pth"]
    image_side = objectives.load_objective(files[0], encoder, files[1])
    assert torch.equal(rows, image_side.embed_images(job.test_image, None))
    with pytest.raises(UserError, match="holds no image network that belongs to a s2igan encoder; give one"):
        objectives.load_objective(files[0], encoder)
    other = make_trainer(folder, tmp_path / "other", lambda: CNNRNN(nhidden=WIDTH), lambda *a: None, l1=True)
    with pytest.raises(UserError, match="was made with encoder s2igan, not cnn_rnn"):
        other.resume(*resume.find("auto", tmp_path / "whole"))


def test_s2igans_total_is_matching_and_both_class_losses(folder):
    train, *_ = parts(folder)
    network = types.SimpleNamespace(nhidden=6)
    objective = MatchingObjective.from_data(None, network, train)
    batch = train.batch(train.plan(0, 0, 4), 0, slice(0, 4))
    audio = nn.functional.normalize(torch.randn(4, 6))
    total, terms = objective(None, None, audio, batch, (0,))
    image = objective.image_head(batch.image)
    own = lambda rows: -objective.class_layer(rows).log_softmax(1)[range(4), batch.labels].mean()
    expected = s2igan.matching_loss(audio, image, batch.labels) + own(audio) + own(image)
    torch.testing.assert_close(total, expected)
    assert torch.equal(terms["loss"], total) and set(terms) == {"loss", *objective.terms}


# ---- commands ----


def words_of(folder, output, *more):
    return [
        "--dataset",
        "tiny",
        "--data_root",
        folder.parent,
        "--teacher",
        "stub",
        "--output_dir",
        output,
        "--max_frames",
        FRAMES,
        "--batch_size",
        4,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--short_clips",
        "skip",
        "--max_steps",
        1,
        *more,
    ]


def extract_and_evaluate(folder, model, monkeypatch) -> dict:
    where = ["--dataset", "tiny", "--data_root", folder.parent]
    assert call(monkeypatch, extract_audio_feature, "--model", model, "--audio_switch", "x", *where) == 0
    rows = load_features(feature_path(folder, "test", "audio", "x"), splits.load_split(folder, "test"), "")
    assert {row.shape[1] for row in rows} == {load_encoder(model)[1]["nhidden"]}
    assert call(monkeypatch, evaluate, "--model", model, *where, "--device", "cpu") == 0
    return json.loads((model.parent / "metric-speech.jsonl").read_text().splitlines()[-1])


def test_s2igan_through_the_commands(folder, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, train_audio_encoder, *words_of(folder, tmp_path / "run", "--encoder", "s2igan")) == 0
    written = json.loads((tmp_path / "run" / "options.json").read_text())["options"]
    assert [written[name] for name in ("encoder", "learning_rate", "beta1", "batch_size")] == ["s2igan", 2e-4, 0.95, 4]
    line = extract_and_evaluate(folder, tmp_path / "run" / "latest.pth", monkeypatch)
    assert line["encoder"] == "s2igan" and {"accuracy", "speech_to_image_r1", "image_to_speech_r10"} <= set(line)


def test_defaults_are_the_encoders_where_nothing_is_given(capsys):
    need = ["--dataset", "x", "--output_dir", "y"]
    chosen = lambda *words: train_audio_encoder.parse([*need, *words]).training
    paper = chosen("--jel_flag")
    assert (paper.batch_size, paper.learning_rate, paper.beta1) == (64, 1e-3, 0.9)
    assert chosen("--encoder=s2igan").batch_size == 128
    assert chosen("--encoder", "s2igan", "--batch_size", "64").batch_size == 64
    dave = chosen("--encoder", "davenet")
    assert (dave.optimizer, dave.beta1, dave.weight_decay, dave.batch_size) == ("sgd", 0.9, 5e-7, 100)
    assert (dave.learning_rate, dave.lr_step, dave.lr_gamma) == (1e-3, 40, 0.1)
    for words, said in ((["--encoder", "other"], "known are cnn_rnn, davenet, s2igan"), (["--encoder"], "--encoder")):
        with pytest.raises(SystemExit):
            train_audio_encoder.parse([*need, *words])
        error = capsys.readouterr().err
        assert said in error and error.count("error:") == 1


class ToyEncoder(nn.Module):
    """The mean of all frames through a linear layer: all that an encoder must have."""

    name, objective, defaults = "toy", "Audio_to_Image.objectives:TeacherLosses", {"learning_rate": 0.5}

    def __init__(self, n_filters=40, nhidden=8):
        super().__init__()
        self.n_filters, self.nhidden = n_filters, nhidden
        self.toy = nn.Linear(n_filters, nhidden)

    @classmethod
    def from_settings(cls, network, width):
        return cls(nhidden=width)

    @staticmethod
    def recognises(state):
        return "toy.weight" in state

    @classmethod
    def from_state(cls, state):
        return cls(state["toy.weight"].shape[1], len(state["toy.weight"]))

    @staticmethod
    def positions(n_frames):
        return n_frames

    def describe(self):
        return {"rnn_layers": 0, "bidirectional": False}

    def forward(self, x, lens, n_frames):
        words = self.toy(x.transpose(1, 2)).transpose(1, 2)
        return words, words.mean(2)


def test_an_encoder_is_a_class_and_a_line(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "toy", f"{__name__}:ToyEncoder")
    assert (
        call(monkeypatch, train_audio_encoder, *words_of(folder, tmp_path / "run", "--encoder", "toy", "--l1_flag"))
        == 0
    )
    encoder, meta = load_encoder(tmp_path / "run" / "latest.pth")
    assert isinstance(encoder, ToyEncoder) and meta["settings"]["learning_rate"] == 0.5
    assert extract_and_evaluate(folder, tmp_path / "run" / "latest.pth", monkeypatch)["encoder"] == "toy"
    checkpoint.save(tmp_path / "bare.pth", encoder.state_dict())
    assert load_encoder(tmp_path / "bare.pth")[1]["encoder"] == "toy"
    again = words_of(folder, tmp_path / "again", "--encoder", "toy", "--l1_flag", "--resume", tmp_path / "bare.pth")
    assert call(monkeypatch, train_audio_encoder, *again) == 0
    assert "starting with the weights of" in (tmp_path / "again" / "log.txt").read_text()
    assert np.isfinite(checkpoint.load(tmp_path / "again" / "latest.pth")["state_dict"]["toy.weight"].numpy()).all()


# ---- DAVEnet ----


class TinyImage(nn.Module):
    """In VGG16's place: its first convolution and its head, an eighth of the side."""

    def __init__(self, embedding_dim=1024):
        super().__init__()
        self.image_model = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.ReLU(), nn.Conv2d(4, embedding_dim, 3, padding=1))

    def forward(self, images):
        return self.image_model(images)


@pytest.fixture
def with_images(folder, monkeypatch):
    from PIL import Image

    generator = np.random.default_rng(1)
    (folder / "images").mkdir(exist_ok=True)
    for name in ("train", "test"):
        for i in range(12):
            pixels = generator.integers(0, 256, (40, 50 + i, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}_{i}.jpg")
    monkeypatch.setattr(davenet, "VGG16Image", TinyImage)
    return folder


def test_davenet_goes_on_exactly_and_has_its_own_recalls(with_images, tmp_path):
    from Audio_to_Image.encoders.davenet_objective import MatchmapObjective, centre_crop, to_tensor

    def build(options, network, train):
        options.start = types.SimpleNamespace(image_weights=None)
        return MatchmapObjective.from_data(options, network, train)

    job = require_exact_resume(
        tmp_path,
        lambda output, **settings: make_trainer(
            with_images,
            output,
            lambda: davenet.DAVEnetAudio(40, 6),
            build,
            optimizer="sgd",
            weight_decay=5e-7,
            image_size=32,
            workers=2,
            similarity="SIMA",
            **settings,
        ),
    )
    assert isinstance(job.optimizer, torch.optim.SGD) and job.optimizer.state_dict()["state"]
    names = {f"matchmap_{way}_r{k}" for way in ("audio_to_image", "image_to_audio") for k in (1, 5, 10)}
    assert names | {"accuracy"} <= set(job.metrics)
    encoder, meta = load_encoder(tmp_path / "whole" / "latest.pth")
    image_side = objectives.load_objective(tmp_path / "whole" / "latest.pth", encoder)
    assert (image_side.settings.similarity, image_side.settings.image_size) == ("SIMA", 32)
    again = image_side.more_metrics(encoder, meta, job.test, 5, "fp32")
    assert again == {name: job.metrics[name] for name in names}
    # from the definitions, one pair at a time
    images = [
        image_side.maps(to_tensor([centre_crop(image, 32)]), "fp32") for image in image_side.images_of(job.test.split)
    ]
    clips = [job.test.usable[job.test.items[job.test.usable] == item][0] for item in range(12)]
    scores = torch.zeros(12, 12)
    with torch.no_grad():
        for column, clip in enumerate(clips):
            n = int(min(job.test.n_frames[clip], FRAMES))
            words, _ = encoder(job.test.mels(np.array([clip])), torch.tensor([n // 16]), None)
            for row, image in enumerate(images):
                scores[row, column] = torch.einsum("dhw,dt->hwt", image[0], words[0, :, : n // 16]).amax(2).mean()
    assert {f"matchmap_{name}": value for name, value in davenet.recalls(scores).items()} == again
    torch.testing.assert_close(
        image_side.embed_images(None, job.test.split), torch.cat([image.mean((2, 3)) for image in images]).detach()
    )


def test_pairs_score_as_in_the_matrix():
    torch.manual_seed(0)
    image, audio, lens = torch.randn(4, 5, 2, 3), torch.randn(4, 5, 6), torch.tensor([6, 1, 3, 0])
    for kind in davenet.SIMILARITIES:
        torch.testing.assert_close(
            davenet.pair_similarity(image, audio, lens, kind), davenet.similarity(image, audio, lens, kind).diagonal()
        )


def read_by_davenet(path):
    """The image of a file as crops of 28 pixels are cut from it."""
    from Audio_to_Image.encoders.davenet_objective import MatchmapObjective

    objective = MatchmapObjective(TinyImage(), types.SimpleNamespace(image_size=28))
    (image,) = objective.read_images(types.SimpleNamespace(items=[types.SimpleNamespace(image=path)]))
    return image


def test_crops_are_within_the_bounds_and_as_drawn(tmp_path):
    from PIL import Image

    from Audio_to_Image.encoders.davenet_objective import centre_crop, random_crop

    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_by_davenet(tmp_path / "a.png")
    assert image.shape == (32, 48, 3) and (centre_crop(image, 28) == image[2:30, 10:38]).all()
    crops = [random_crop(image, 28, np.random.default_rng([0, i])) for i in range(20)]
    assert all(crop.shape == (28, 28, 3) for crop in crops)
    assert (crops[3] == random_crop(image, 28, np.random.default_rng([0, 3]))).all() and (crops[0] != crops[1]).any()
    assert random_crop(np.zeros((2, 400, 3), np.uint8), 28, np.random.default_rng(0)).shape == (28, 28, 3)


def test_an_image_too_thin_to_be_scaled_is_named(tmp_path):
    from PIL import Image

    Image.new("RGB", (1, 100_000)).save(tmp_path / "thin.png")
    with pytest.raises(UserError, match=r"thin.png is too thin an image \(1 × 100000 pixels, .*; crop it"):
        read_by_davenet(tmp_path / "thin.png")


@pytest.mark.parametrize("name", ["contrastive", "davenet"])
def test_batches_do_not_ask_for_the_splits_digest(name, with_images, monkeypatch):
    network, train = SMALL[name](), parts(with_images)[0]
    start = types.SimpleNamespace(image_weights=None)
    options = types.SimpleNamespace(training=trainer.Settings(image_size=32), start=start, image_steps=lambda: 0)
    objective = objectives.objective_class(network).from_data(options, network, train)
    monkeypatch.setattr(type(train.clips.split), "digest", lambda split: pytest.fail("the digest was computed"))
    batch = train.batch(train.plan(0, 0, 4), 0, slice(4))
    assert objective.prepare(batch, (0, 0)).images.shape[:2] == (4, 3)


def test_davenet_through_the_commands(with_images, tmp_path, monkeypatch):
    """From weights in torchvision's form; the teacher is not needed; images of the authors' form of file."""
    torch.manual_seed(9)
    start = TinyImage().state_dict()
    vgg = {key.replace("image_model", "features"): value for key, value in start.items() if ".0." in key}
    checkpoint.save(tmp_path / "vgg16.pth", {**vgg, "classifier.0.weight": torch.zeros(2, 2)})
    words = words_of(
        with_images,
        tmp_path / "run",
        "--encoder",
        "davenet",
        "--image_size",
        32,
        "--image_weights",
        tmp_path / "vgg16.pth",
        "--learning_rate",
        1e-9,
    )
    words[words.index("stub")] = "no teacher"
    assert call(monkeypatch, train_audio_encoder, *words) == 0
    kept = checkpoint.load(tmp_path / "run" / "latest.pth")
    torch.testing.assert_close(kept["objective"]["image.image_model.0.weight"], start["image_model.0.weight"])
    assert kept["meta"]["teacher"] is None and not torch.equal(
        kept["objective"]["image.image_model.2.weight"], start["image_model.2.weight"]
    )
    line = extract_and_evaluate(with_images, tmp_path / "run" / "latest.pth", monkeypatch)
    assert line["encoder"] == "davenet" and line["teacher"] is None and "matchmap_audio_to_image_r1" in line
    monkeypatch.setattr(speech_encoder, "PUBLISHED_FRAMES", FRAMES)  # what such a file does not say
    for name, state in (("audio", kept["state_dict"]), ("image", kept["objective"])):
        checkpoint.save(
            tmp_path / f"{name}_model.7.pth",
            {f"module.{key.removeprefix('image.')}": value for key, value in state.items()},
        )
    assert (
        call(
            monkeypatch,
            evaluate,
            "--model",
            tmp_path / "audio_model.7.pth",
            "--image_model",
            tmp_path / "image_model.7.pth",
            "--dataset",
            "tiny",
            "--data_root",
            with_images.parent,
            "--device",
            "cpu",
        )
        == 0
    )
    published = json.loads((tmp_path / "metric-speech.jsonl").read_text())
    assert published["digest"] == line["digest"]


def rank_main(folder: str, output: str) -> None:
    """A step of S2IGAN's objective as this process's rank; rank 0 keeps the gradients of both sides."""
    ranks.start(torch.device("cpu"))
    job = make_trainer(
        Path(folder),
        Path(output),
        lambda: s2igan.S2IGANEncoder(40, 6, attention=4),
        MatchingObjective.from_data,
        batch_size=6 // ranks.world_size(),
        sync_bn=True,
        max_steps=1,
    )
    trainer.evaluate = lambda *a, **k: {"accuracy": 0.0}
    job.fit()
    if ranks.is_main():
        torch.save({name: value.grad for name, value in job.trained.named_parameters()}, Path(output) / "result.pt")
    ranks.finish()


def test_two_processes_equal_one(folder, tmp_path, monkeypatch):
    parts(folder)  # makes the log-mels, which only one may do
    processes = rank_processes.start(rank_main, 2, str(folder), str(tmp_path / "2"))
    monkeypatch.setattr(trainer, "evaluate", None)  # rank_main replaces it
    rank_main(folder, tmp_path / "1")
    rank_processes.wait(processes, 120)
    one, two = (torch.load(tmp_path / world / "result.pt", weights_only=True) for world in "12")
    assert {name.partition(".")[0] for name in one} == {"0", "1"}  # of the encoder and of the objective
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}")
