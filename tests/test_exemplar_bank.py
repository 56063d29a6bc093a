"""What an exemplar generator begins with, and its bank, against a plain computation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_exemplar_training import STEP, make_match, plain_masks, plain_shading, wake
from test_ranks_gan import CPU, WIDTH, make_batches

from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import generator_of
from StackGAN_v2.networks.condition_init import set_projection
from StackGAN_v2.networks.exemplar import bank_of, common_colours, cut
from StackGAN_v2.training import exemplar_step
from StackGAN_v2.training.exemplar_step import begin, make_bank_filler
from StackGAN_v2.training.networks import Networks


@pytest.mark.parametrize("matched, width", [(False, 6), (True, 6), (True, 130)])
def test_the_bank_holds_training_images_as_the_average_sees_them(monkeypatch, matched, width):
    """Keys: what the sentences say and, with a matching network, what it sees; it has 128 directions."""
    cfg = load_config(settings=[*STEP, "EXEMPLAR.BANK=4", f"EXEMPLAR.CONDITION_DIM={width}"])
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    wake(networks)
    networks.bank_filler = filler = make_bank_filler(networks, batches, cfg.EXEMPLAR)
    assert filler.images.tolist() == [0, 2, 4, 6] and filler.matcher is None
    filler.matcher = matcher = make_match(batches).matcher if matched else None
    for parameter in networks.generator.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    state = torch.random.get_rng_state()
    networks.refresh()
    assert torch.equal(torch.random.get_rng_state(), state) and networks.generator.training
    random = generator_of(3, 5)
    draws, spread = torch.randn(4, 12, generator=random), torch.randn(7, 4, generator=random)
    x, g = batches.cache.images[filler.images], networks.average
    masks, soft, true = plain_masks(x)
    keys = []
    for image in filler.images.tolist():
        said = [F.normalize(g.projection(row), dim=0) for row in batches.features.flat[2 * image : 2 * image + 2]]
        keys.append(F.normalize(sum(said), dim=0))
        if matched:
            image = batches.cache.images[image][None]
            seen = torch.zeros(130)
            seen[:128] = (matcher(image) + matcher(image.flip(3)))[0]
            keys[-1] = (keys[-1] + F.normalize(seen[:width], dim=0)) / 2
    expected = (cut(x, 3), 127 * plain_shading(x, soft, true)[:, 0], true, g.describe(x, masks, draws)[0])
    expected = (*expected, torch.stack(keys), spread / spread.norm(dim=0))
    bank = bank_of(g)
    for i, (held, value) in enumerate(zip(bank.values(), expected, strict=True)):
        torch.testing.assert_close(held.float(), value.float(), atol=0.51 if i == 1 else 2e-3, rtol=2e-3)
    monkeypatch.setattr(exemplar_step, "CHUNK", 3)
    networks.refresh()
    again = bank_of(networks.generator)
    for name, held in bank.items():
        assert held.any() and torch.equal(again[name], held)
        torch.testing.assert_close(held.float(), expected[list(bank).index(name)].float(), atol=0.51, rtol=2e-3)


def test_each_refresh_sets_what_the_settings_say_of_the_choice():
    """Not what a file that the training started from says."""
    cfg = load_config(settings=[*STEP, "EXEMPLAR.KEEP=0.25", "EXEMPLAR.CHOICE=0.75"])
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    networks.bank_filler = make_bank_filler(networks, batches, cfg.EXEMPLAR)
    for _ in range(2):
        for network in (networks.generator, networks.average):
            network.keep.fill_(0.9)
            network.choice.fill_(9)
        networks.refresh()
        for network in (networks.generator, networks.average):
            assert (float(network.keep), float(network.choice)) == (0.25, 0.75)


@pytest.mark.parametrize("matched, spread", [(True, True), (True, False), (False, True)])
def test_a_new_generator_begins_with_common_colours_and_directions(matched, spread):
    cfg = load_config(settings=[*STEP, f"TRAIN.CONDITION_INIT={spread}"])
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    before = copy.deepcopy(networks.generator.projection)
    match = make_match(batches)
    match.matcher.mean.normal_()
    begin(networks, cfg, batches, match if matched else None)
    pixels = torch.cat([image.flatten(1).T for image in batches.cache.images])
    drawn = torch.randint(7 * 32 * 32, (40_000,), generator=generator_of(3, 8))
    expected = common_colours(pixels[drawn], 7)
    said = match.matcher.said(batches.features.flat)[:, :6]
    for network in (networks.generator, networks.average):
        torch.testing.assert_close(network.colours, expected)
        found = network.projection(batches.features.flat)
        if matched and spread:
            torch.testing.assert_close(found, said / said.var(0, correction=0).mean().sqrt(), atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(network.projection.weight, before.weight)
    assert expected.std() > 0.1


def test_directions_of_a_projection():
    """Those that are given, scaled together; outputs beyond them are 0, and one sentence alone is not too few."""
    layer, speech = torch.nn.Linear(3, 4), torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, -1.0]])
    mean, directions = torch.tensor([2.0, 2.0, 1.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    set_projection(layer, mean, directions, speech)
    # along the directions −1, 2 and 1, −2: variances 1 and 4, on average 2.5
    expected = torch.tensor([[-1.0, 2.0, 0.0, 0.0], [1.0, -2.0, 0.0, 0.0]]) / 2.5**0.5
    torch.testing.assert_close(layer(speech), expected)
    set_projection(layer, mean, directions, speech[:1])
    assert layer(speech).isfinite().all()
    narrow = torch.nn.Linear(3, 1)
    set_projection(narrow, mean, directions, speech)
    torch.testing.assert_close(narrow(speech), torch.tensor([[-1.0], [1.0]]))
