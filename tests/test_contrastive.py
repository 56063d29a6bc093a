"""The contrastive encoder: padding and batches change nothing, the loss, exact continuation, the commands, the probe."""

import json
from pathlib import Path

import numpy as np
import pytest
import rank_processes
import torch
import torch.nn.functional as F
from PIL import Image
from test_encoder_table import make_trainer, require_exact_resume
from test_encoder_training import FRAMES, call, make_set, parts

from Audio_to_Image import attribute_reading, evaluate, extract_audio_feature, objectives, train_audio_encoder, trainer
from Audio_to_Image.encoders import image_network
from Audio_to_Image.encoders.contrastive import ContrastiveEncoder
from Audio_to_Image.encoders.contrastive_objective import ContrastiveObjective, contrastive_loss
from Audio_to_Image.speech_encoder import load_encoder
from common import splits
from common.cli import UserError
from common.distributed import ranks
from common.features import feature_path, load_features


def small(body="gru", halvings=2):
    torch.manual_seed(0)
    return ContrastiveEncoder(40, 6, 8, body, halvings)


def add_images(folder):
    (folder / "images").mkdir()
    for name in ("train", "test"):
        for number, item in enumerate(splits.load_split(folder, name).items):
            rng = np.random.default_rng(number)
            pixels = np.broadcast_to(rng.integers(0, 255, 3), (70, 90, 3)) // 2 + rng.integers(0, 120, (70, 90, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(item.image)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return add_images(make_set(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize("body", ["gru", "conv"])
@pytest.mark.parametrize("halvings, summary", [(0, False), (2, False), (0, True)])
def test_padding_and_neighbours_change_nothing(body, halvings, summary):
    torch.manual_seed(0)
    width = 84 if summary else 6
    network, columns = ContrastiveEncoder(40, width, 8, body, halvings, 0.2, summary).eval(), torch.tensor([30, 64, 1])
    maps = torch.randn(3, 40, 64)
    words, sentence = network(maps, None, columns)
    lens = network.positions(columns)
    assert words.shape == (3, width, int(network.positions(torch.tensor([64]))[0])) and sentence.shape == (3, width)
    torch.testing.assert_close(sentence.norm(dim=1), torch.full((3,), width**0.5))
    for row, n in enumerate(columns):
        alone, one = network(maps[row : row + 1, :, :n], None, n[None])
        torch.testing.assert_close(one[0], sentence[row])
        torch.testing.assert_close(alone[0, :, : lens[row]], words[row, :, : lens[row]])
        assert (words[row, :, lens[row] :] == 0).all()
    state = network.state_dict()
    assert ContrastiveEncoder.recognises(state)
    again = ContrastiveEncoder.from_state(state)
    again.load_state_dict(state)
    assert again.describe() == network.describe() and again.halvings == halvings
    assert (again.summary is not None) == summary


def test_the_loss_masks_pairs_of_one_class_and_takes_a_margin():
    torch.manual_seed(0)
    cosines, labels, scale = torch.rand(4, 4), torch.tensor([0, 1, 0, 2]), 5.0
    total = 0.0
    for scores in (cosines, cosines.T):
        for row in range(4):
            others = [column for column in range(4) if column == row or labels[column] != labels[row]]
            total += -F.log_softmax(scale * scores[row, others], 0)[others.index(row)].item()
    assert contrastive_loss(cosines, labels, scale).item() == pytest.approx(total / 8, rel=1e-5)
    margin = []
    for row in range(4):
        others = [column for column in range(4) if labels[column] != labels[row]]
        margin.append(0.5 * (cosines[row, row] - cosines[row, others]).mean().item())
    one_way = (cosines - torch.diag(torch.tensor(margin))) * scale
    one_way[0, 2] = one_way[2, 0] = -torch.inf
    other_way = contrastive_loss(cosines.T, labels, scale, 0.5)
    assert contrastive_loss(cosines, labels, scale, 0.5).item() == pytest.approx(other_way.item(), rel=1e-5)
    assert F.cross_entropy(one_way, torch.arange(4)).item() > F.cross_entropy(
        (scale * cosines).masked_fill(torch.isinf(one_way), -torch.inf), torch.arange(4)
    )


def test_training_goes_on_exactly_and_the_image_side_is_kept(tmp_path, folder):
    objective = lambda options, network, train: _of(train, ContrastiveObjective(network.nhidden))
    job = require_exact_resume(
        tmp_path, lambda output, **settings: make_trainer(folder, output, small, objective, **settings)
    )
    assert 0 < job.metrics["accuracy"] <= 100
    encoder, meta = load_encoder(tmp_path / "whole" / "latest.pth")
    assert meta["encoder"] == "contrastive" and meta["front_end"] == "log_mel"
    image_side = objectives.load_objective(tmp_path / "whole" / "latest.pth", encoder)
    rows = image_side.embed_images(None, job.test.split)
    job.objective.eval()
    torch.testing.assert_close(rows, job.objective.embed_images(None, job.test.split))


def _of(train, objective):
    objective.hold_training_images(train.clips.split)
    return objective


def rank_main(folder: str, output: str) -> None:
    """A step without dropout as this process's rank; rank 0 keeps the gradients of both sides."""
    ranks.start(torch.device("cpu"))
    objective = lambda options, network, train: _of(train, ContrastiveObjective(network.nhidden))
    settings = dict(batch_size=6 // ranks.world_size(), sync_bn=True, max_steps=1)
    job = make_trainer(Path(folder), Path(output), small, objective, **settings)
    for module in job.trained.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.evaluate = lambda *a, **k: {"accuracy": 0.0}
    job.fit()
    if ranks.is_main():
        torch.save({name: value.grad for name, value in job.trained.named_parameters()}, Path(output) / "result.pt")
    ranks.finish()


def test_two_processes_equal_one(folder, tmp_path, monkeypatch):
    """With batch norm over both, also that of columns, of which each process has another number."""
    parts(folder)  # makes the log-mels, which only one may do
    processes = rank_processes.start(rank_main, 2, str(folder), str(tmp_path / "2"))
    monkeypatch.setattr(trainer, "evaluate", None)  # rank_main replaces it
    rank_main(folder, tmp_path / "1")
    rank_processes.wait(processes, 120)
    one, two = (torch.load(tmp_path / world / "result.pt", weights_only=True) for world in "12")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}")


def test_it_learns_pairs(tmp_path, folder):
    """The same few pairs again and again: each sentence finds its image."""
    objective = lambda options, network, train: _of(train, ContrastiveObjective(network.nhidden))
    network = lambda: ContrastiveEncoder(40, 32, 32)
    job = make_trainer(
        folder, tmp_path, network, objective, epochs=40, batch_size=12, learning_rate=4e-3, eval_every=99, save_every=99
    )
    first = job.train_on(job.objective.prepare(job.train.batch(job.train.plan(0, 0, 12), 0, slice(0, 12)), (0,)))
    job.fit()
    last = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines() if "loss" in line][-1]
    assert last["contrastive"] < 0.7 * first["contrastive"].item()


def test_through_the_commands_with_attributes(tmp_path, folder, monkeypatch):
    split = splits.load_split(folder, "train")
    table = {
        "attributes": {"back": ["red", "blue"]},
        "classes": {item.class_name: ["red" if item.label else "blue"] for item in split.items},
        "captions": {
            item.image.relative_to(split.image_root).as_posix(): [[0]] * len(item.audio)
            for name in ("train", "test")
            for item in splits.load_split(folder, name).items
        },
    }
    (folder / "attributes.json").write_text(json.dumps(table))
    place = ["--dataset", folder.name, "--data_root", str(folder.parent), "--device", "cpu"]
    words = ["--encoder", "contrastive", "--sentence_width", "8", "--body", "gru", "--contrastive_margin", "0.3"]
    words += [
        "--augment_voice",
        "--voice_variants",
        "1",
        "--epoch",
        "1",
        "--batch_size",
        "4",
        "--max_frames",
        str(FRAMES),
    ]
    assert call(monkeypatch, train_audio_encoder, *place, *words, "--output_dir", str(tmp_path / "run")) == 0
    model = ["--model", str(tmp_path / "run" / "latest.pth")]
    assert call(monkeypatch, extract_audio_feature, *place, *model, "--audio_switch", "own") == 0
    rows = load_features(feature_path(folder, "test", "audio", "own"), splits.load_split(folder, "test"), "")
    assert rows[0].shape[1] == 8
    assert call(monkeypatch, evaluate, *place, *model) == 0
    line = json.loads((tmp_path / "run" / "metric-speech.jsonl").read_text().splitlines()[-1])
    assert line["encoder"] == "contrastive" and line["teacher"] is None and 0 <= line["probe_back"] <= 100
    assert {"probe", "probe_chance", "accuracy", "speech_to_image_r10"} <= line.keys()
    (folder / "attributes.json").unlink()


def test_the_probe_reads_what_stands_in_an_embedding():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 3, (400, 2))
    rows = torch.from_numpy(np.eye(3)[colours].reshape(400, 6) @ rng.standard_normal((6, 20))).float()
    rows += 0.1 * torch.from_numpy(rng.standard_normal((400, 20))).float()
    named = torch.from_numpy(colours)
    named[::3, 1] = -1
    said = attribute_reading.probe_scores(rows[:300], named[:300], np.arange(300) // 3, rows[300:], named[300:], "ab")
    assert said["probe"] > 99 and said["probe_a"] > 99 and said["probe_chance"] < 50
    noise = torch.from_numpy(rng.standard_normal((400, 20))).float()
    said = attribute_reading.probe_scores(noise[:300], named[:300], np.arange(300) // 3, noise[300:], named[300:], "ab")
    assert said["probe"] < 55


def test_captions_that_are_not_spoken_are_counted(tmp_path):
    """An image in two items of three captions, of which the first two have recordings."""
    data = [{"image": "a/x.jpg", "text": ["1", "2", "3"], "audio": ["1.wav", "2.wav"]} for _ in range(2)]
    content = {"image_base_path": str(tmp_path), "audio_base_path": str(tmp_path), "data": data}
    (tmp_path / "test.json").write_text(json.dumps(content))
    numbers = attribute_reading.sentence_numbers(splits.load_split(tmp_path, "test"))
    assert numbers.tolist() == [0, 1, 3, 4]


def test_variants_and_images_of_a_validation_split_are_its_own(tmp_path, folder, monkeypatch):
    used, make = {}, trainer.Trainer.__init__

    def remember(self, *parts):
        used.update(train=parts[1], test=parts[2])
        make(self, *parts)
        used["objective"] = self.objective

    monkeypatch.setattr(trainer.Trainer, "__init__", remember)
    words = f"--dataset {folder.name} --data_root {folder.parent} --device cpu --encoder contrastive --sentence_width 8"
    words += f" --body conv --batch_size 4 --max_frames {FRAMES} --max_steps 2 --eval_every 1 --val_share 0.34"
    words += f" --augment_voice --voice_variants 1 --output_dir {tmp_path / 'run'}"
    assert call(monkeypatch, train_audio_encoder, *words.split()) == 0
    kept, held = used["train"].clips, used["test"]
    assert len(used["train"].voices) == 2 and not {item.key for item in kept.split.items} & {
        item.key for item in held.split.items
    }
    for voice in used["train"].voices:
        assert voice.split.items == kept.split.items and voice.cache.paths == kept.cache.paths
    objective = used["objective"]
    for part in (kept, held):
        assert len(objective.images_of(part.split)) == len(part.split.items)
    embedded = objective.embed_images(None, held.split)
    assert len(embedded) == len(held.split.items) == 4


def test_images_are_cropped_around_their_boxes_and_embedded_where_sentences_are(tmp_path):
    """A set without boxes is seen as centred squares; the scores of images with sentences are those of the loss."""
    folder = add_images(make_set(tmp_path))
    split = splits.load_split(folder, "train")
    for item in split.items:
        pixels = np.zeros((70, 90, 3), np.uint8)
        pixels[5:25, 60:80] = 255
        Image.fromarray(pixels).save(item.image, quality=100)
    objective = ContrastiveObjective(6)
    assert objective.images_of(split).mean() < 30
    names = sorted({item.image.relative_to(split.image_root).as_posix() for item in split.items})
    (split.image_root.parent / "images.txt").write_text(
        "".join(f"{number} {name}\n" for number, name in enumerate(names))
    )
    (split.image_root.parent / "bounding_boxes.txt").write_text(
        "".join(f"{number} 60 5 20 20\n" for number in range(len(names)))
    )
    objective = ContrastiveObjective(6)
    images = objective.images_of(split)
    assert images.shape[1:] == (76, 76, 3) and images[:, 20:56, 20:56].min() > 200 and images[:, :4].max() < 60
    sentence, image = torch.randn(3, 6), objective.embed_images(None, split)
    (split.image_root.parent / "bounding_boxes.txt").write_text(
        "".join(f"{number} 600 5 20 20\n" for number in range(len(names)))
    )
    with pytest.raises(UserError, match=r"bounding_boxes.txt, line 1: .* lies outside its image"):
        ContrastiveObjective(6).images_of(split)
    objective.eval()
    expected = (
        objective.see(torch.from_numpy(images[:, 6:70, 6:70]).permute(0, 3, 1, 2), "fp32")
        @ F.normalize(objective.speech(sentence), dim=1).T
    )
    torch.testing.assert_close(image @ objective.project(sentence).T, expected)


def test_crops_are_drawn_by_their_seed():
    image = np.arange(76 * 76 * 3, dtype=np.uint8).reshape(76, 76, 3)
    crop = lambda seed: image_network.random_crop(image, objectives.random_of((0, seed)))
    assert crop(1).shape == (64, 64, 3) and np.array_equal(crop(1), crop(1)) and not np.array_equal(crop(1), crop(2))
