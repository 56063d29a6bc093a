"""The image network that is trained before the contrastive encoder: what it is told, that it then stays, its file."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from test_contrastive import add_images
from test_encoder_table import make_trainer, require_exact_resume
from test_encoder_training import FRAMES, call, make_set, parts

from Audio_to_Image import objectives, train_audio_encoder
from Audio_to_Image.encoders import image_network
from Audio_to_Image.encoders.contrastive import ContrastiveEncoder
from Audio_to_Image.encoders.contrastive_objective import ContrastiveObjective
from Audio_to_Image.encoders.image_network import FixedImageNetwork, clip_summaries, pairs_of
from Audio_to_Image.settings import EncoderOptions, NetworkSettings
from Audio_to_Image.speech_encoder import load_encoder
from common import matching_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return add_images(make_set(tmp_path_factory.mktemp("data")))


@pytest.fixture
def trained(monkeypatch):
    """The steps of every image network that was trained."""
    times, train = [], image_network.train_matcher
    monkeypatch.setattr(image_network, "train_matcher", lambda *a, **k: times.append(a[2]) or train(*a, **k))
    return times


def small():
    torch.manual_seed(0)
    return ContrastiveEncoder(40, 6, 8)


def fixed(output, steps=2):
    """from_data with an image network of so many steps, kept in the folder `output`."""

    def make(options, network, train):
        options.data, options.image_steps = types.SimpleNamespace(output_dir=str(output)), lambda: steps
        return ContrastiveObjective.from_data(options, network, train)

    return make


def test_a_front_end_that_hears_teaches_images_first():
    steps = lambda front, asked: dataclasses.replace(
        EncoderOptions(data=None, network=NetworkSettings(encoder="contrastive", front_end=front)),
        training=dataclasses.replace(EncoderOptions(data=None).training, image_steps=asked),
    ).image_steps()
    assert steps("speech_embedding", None) == 1200 and steps("log_mel", None) == 0
    assert steps("speech_embedding", 0) == 0 and steps("log_mel", 7) == 7


def test_summaries_are_mean_and_maximum_over_each_clip(folder, monkeypatch):
    monkeypatch.setattr(image_network, "CLIPS_AT_ONCE", 2)
    clips = parts(folder)[0].clips
    numbers = clips.usable[:5]
    rows = clip_summaries(clips, numbers)
    assert rows.shape == (5, 80)
    for row, clip in zip(rows, numbers):
        heard = torch.from_numpy(clips.cache.get(clip)[:, : clips.columns(np.array([clip]))[0]])
        torch.testing.assert_close(row, torch.cat((heard.mean(1), heard.amax(1))), rtol=1e-4, atol=1e-4)


def test_a_draw_pairs_an_image_with_a_sentence_of_its_own(folder):
    train = parts(folder)[0]
    usable, items = train.clips.usable, len(train.clips.split.items)
    colours = np.broadcast_to(np.arange(items, dtype=np.uint8)[:, None, None, None] * 10, (items, 70, 70, 3))
    speech = torch.from_numpy(train.clips.items[usable]).float()[:, None]  # says which item it belongs to
    pairs, seen = pairs_of(train, colours, speech, 3), set()
    for step in range(3):
        images, said, labels = pairs(step)
        assert images.shape == (len(train), 3, 64, 64) and images.is_contiguous(memory_format=torch.channels_last)
        shown = ((images[:, 0, 0, 0] + 1) * 12.75).round().long()
        assert torch.equal(shown, said[:, 0].long()) and torch.equal(labels, train.labels[shown])
        assert sorted(shown.tolist()) == sorted(train.spoken.tolist())
        seen.add(tuple(shown.tolist()))
    assert len(seen) == 3
    again = pairs_of(train, colours, speech, 3)(2)
    assert all(torch.equal(a, b) for a, b in zip(again, pairs(2)))


def test_features_are_scaled_and_know_no_left_and_right():
    torch.manual_seed(0)
    network, matcher = FixedImageNetwork(5), matching_network.Matcher(4).eval()
    matcher.parts.fine[1].weight.data[3], matcher.parts.fine[1].bias.data[3] = 0, -1  # never seen: 0 in each part
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8)
    taken, rows = network.take(matcher, images), network.of_pixels(images)
    assert torch.equal(taken, rows)
    varied = rows.std(0, correction=0) > 0.5
    assert (network.scale.view(12, -1)[:, 3] == 1).all() and (rows.view(9, 12, -1)[:, :, 3] == 0).all()
    assert varied.float().mean() > 0.9
    torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows[:, varied].std(0, correction=0), torch.ones(int(varied.sum())), atol=1e-2, rtol=0)
    torch.testing.assert_close(network.of_pixels(images.flip(3)), rows, atol=1e-3, rtol=1e-3)
    plain = image_network.scaled(images)
    both = (matcher.parts(plain) + matcher.parts(plain.flip(3))).flatten(1) / 2
    torch.testing.assert_close(rows * network.scale + network.mean, both, atol=1e-4, rtol=1e-3)


def test_it_stays_as_it_is_and_training_goes_on_exactly(tmp_path, folder, trained):
    make = lambda output, **settings: make_trainer(folder, output, small, fixed(output), **settings)
    job = require_exact_resume(tmp_path, make)
    assert len(trained) == 2  # one for each of two folders: the trainer that goes on finds the first one's
    image, before = job.objective.image, torch.load(tmp_path / "whole" / "image_network.pth", weights_only=True)
    assert not any(parameter.requires_grad for parameter in image.parts.parameters())
    for name, value in image.parts.state_dict().items():
        assert torch.equal(value, before["state_dict"][f"parts.{name}"]), name
    assert job.objective.image.what.weight.grad.abs().sum() > 0
    encoder, _ = load_encoder(tmp_path / "whole" / "latest.pth")
    side = objectives.load_objective(tmp_path / "whole" / "latest.pth", encoder)
    assert isinstance(side.image, FixedImageNetwork)
    job.objective.eval()
    torch.testing.assert_close(
        side.embed_images(None, job.test.split), job.objective.embed_images(None, job.test.split)
    )


def test_what_a_batch_is_compared_with_is_what_is_seen_in_its_images(tmp_path, folder):
    job = make_trainer(folder, tmp_path, small, fixed(tmp_path))
    job.objective.eval()
    batch = job.objective.prepare(job.train.batch(job.train.plan(0, 0, 4), 0, slice(0, 4)), (0,))
    whole = job.objective.embed_images(None, job.train.clips.split)
    torch.testing.assert_close(job.objective._of_batch(batch), whole[batch.items], atol=1e-3, rtol=0)
    state = job.objective.state_dict()
    job.objective.load_state_dict(
        state | {"image.mean": state["image.mean"] + 0.1 * state["image.scale"]}
    )  # other weights see something else
    other = job.objective.embed_images(None, job.train.clips.split)
    assert (other - whole).abs().max() > 0.01
    torch.testing.assert_close(job.objective._of_batch(batch), other[batch.items], atol=1e-3, rtol=0)


def test_other_steps_are_another_network(tmp_path, folder, trained):
    for steps, times in ((2, 1), (2, 1), (3, 2), (0, 2)):
        job = make_trainer(folder, tmp_path, small, fixed(tmp_path, steps))
        assert len(trained) == times
    assert not job.objective.fixed


def test_it_takes_half_the_time_at_most(tmp_path, folder, trained, monkeypatch):
    """Each look at the clock is a second later: 12 steps take one, so that 3 s hold 36, less those 12."""
    clock = iter(range(100))
    monkeypatch.setattr(image_network, "monotonic", lambda: float(next(clock)))
    for minutes in (0.1, 0.1):
        make_trainer(folder, tmp_path, small, fixed(tmp_path, 50), max_minutes=minutes)
        assert trained == [12, 24]
    make_trainer(folder, tmp_path, small, fixed(tmp_path, 5), max_minutes=0.1)
    make_trainer(folder, tmp_path, small, fixed(tmp_path, 5), max_minutes=1e-5)
    assert trained[2:] == [12, 5, 12, 1]


def test_the_sentence_is_the_same_with_and_without_its_words():
    network, maps, columns = small().eval(), torch.randn(3, 40, 64), torch.tensor([64, 30, 9])
    words, sentence = network(maps, None, columns)
    network.sentence_only = True
    nothing, alone = network(maps, None, columns)
    assert nothing is None and words.shape[:2] == (3, 6) and torch.equal(alone, sentence)


def test_through_the_command(tmp_path, folder, monkeypatch, trained):
    words = f"--dataset {folder.name} --data_root {folder.parent} --device cpu --encoder contrastive --sentence_width 8"
    words += f" --batch_size 4 --max_frames {FRAMES} --max_steps 2 --image_steps 2 --val_share 0.34"
    for epochs in (1, 2):
        output = f" --epoch {epochs} --output_dir {tmp_path / 'run'}"
        assert call(monkeypatch, train_audio_encoder, *(words + output).split()) == 0
    assert len(trained) == 1 and (tmp_path / "run" / "image_network.pth").is_file()
