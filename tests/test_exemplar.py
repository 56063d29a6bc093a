"""The exemplar generator: slots, colours, choice, bank and images against a plain computation."""

import pytest
import torch
import torch.nn.functional as F
from test_exemplar_regions import in_thirds, still

from common import ROOT
from StackGAN_v2.config import load_config
from StackGAN_v2.networks import exemplar
from StackGAN_v2.networks.affine import AffineGenerator
from StackGAN_v2.networks.exemplar import (
    DRAWS,
    LEVELS,
    MOVES,
    NEARNESS,
    TEMPERATURE,
    ExemplarGenerator,
    RegionNetwork,
    Sizes,
    bank_of,
    compose,
    cut,
    details,
    masks_of,
    mean_colours,
    moved,
    recolour,
    softened,
)

N = 3
SMALL = Sizes(32, regions=3, colours=5, width=4, hidden=6, z_dim=MOVES + 4, text_dim=7, condition_dim=6)
BANK = 4  # images, as many as the noise has numbers beside the moves


def random_weights(network, scale=0.2):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=scale)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def small(sizes=SMALL, images=1):
    g = random_weights(ExemplarGenerator(sizes, images, keep=0.3, choice=0.5))
    torch.nn.init.uniform_(g.colours, -1, 1)
    return g


def bank_values():
    """→ regions, shading, colours, slots, keys and spread; every column of the spread is another number of the noise."""
    torch.manual_seed(1)
    return (
        torch.randint(3, (BANK, 32, 32)).to(torch.uint8),
        torch.rand(BANK, 32, 32) - 0.5,
        torch.rand(BANK, 3, 3) * 2 - 1,
        torch.randn(BANK, 3, SMALL.slot),
        F.normalize(torch.randn(BANK, 6)) * torch.tensor([[1.0], [1.0], [0.7], [0.4]]),
        torch.eye(4),
    )


def with_bank():
    g = small(images=BANK)
    g.fill(*bank_values())
    return g


# ---- from regions to colours ----


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def plain_conv(sequence, h, stride=1):
    """Convolution, batch norm as evaluation computes it, and the nonlinearity."""
    conv, norm, _ = sequence
    h = F.conv2d(h, conv.weight, stride=stride, padding=1)
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return lrelu((h - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None])


def doubled(h):
    return h.repeat_interleave(2, 2).repeat_interleave(2, 3)


def plain_network(network, images):
    fine = plain_conv(network.fine[1], plain_conv(network.fine[0], images, 2))
    middle = plain_conv(network.middle[1], plain_conv(network.middle[0], fine, 2))
    coarse = plain_conv(network.coarse[1], plain_conv(network.coarse[0], middle, 2))
    coarse = plain_conv(network.coarse[2], coarse)
    h = plain_conv(network.to_middle, torch.cat((doubled(coarse), middle), 1))
    return plain_conv(network.to_fine, torch.cat((doubled(h), fine), 1))


@pytest.mark.parametrize("width", [1, 5, 8])
def test_the_network_equals_the_plain_computation(width):
    network = random_weights(RegionNetwork(width))
    images = torch.rand(2, 3, 16, 16)
    found = network(images)
    assert found.shape == (2, width, 8, 8)
    torch.testing.assert_close(found, plain_network(network, images), atol=1e-5, rtol=1e-4)


def plain_slot(h, mask, norm):
    """Features `[F, s, s]` and one region's mask of another size → its slot and area."""
    side = h.shape[1]
    cell = len(mask) // side
    weights = mask.unflatten(1, (side, cell)).unflatten(0, (side, cell)).mean((1, 3))
    axis = torch.tensor([-1 + 2 * i / (side - 1) for i in range(side)])
    values = torch.cat((h, axis[:, None].expand(1, side, side), axis.expand(1, side, side)))
    if weights.sum():
        mean = (values * weights).sum((1, 2)) / weights.sum()
        spread = ((values - mean[:, None, None]).square() * weights).sum((1, 2)) / weights.sum()
    else:
        mean = spread = torch.zeros(len(values))
    deviations = spread[-2:].clamp(min=1e-6).sqrt()
    slot = torch.cat((mean, deviations, (weights.mean() + 1e-4).log()[None]))
    slot = (slot - slot.mean()) / (slot.var(correction=0) + 1e-5).sqrt()
    return slot * norm.weight + norm.bias, weights.mean()


@pytest.mark.parametrize("side", [32, 128])
def test_slots_and_areas_equal_the_plain_computation(side):
    """Of three images, one of which lacks a region; those of 128 pixels are seen at half the size."""
    g = small(Sizes(side, 3, 5, 4, 6, MOVES + 4, 7, 6))
    torch.manual_seed(2)
    images, draws, regions = (
        torch.rand(N, 3, side, side) * 2 - 1,
        torch.randn(N, DRAWS),
        torch.randint(3, (N, side, side)),
    )
    regions[:, : side // 3] = 0
    regions[1][regions[1] == 2] = 1
    masks = masks_of(regions, 3)
    slots, areas = g.describe(images, masks, draws)
    assert slots.shape == (N, 3, SMALL.slot) and areas.shape == (N, 3)
    seen = images if side == 32 else images.unflatten(3, (64, 2)).unflatten(2, (64, 2)).mean((3, 5))
    h = plain_network(g.network, recolour(seen, draws))
    for n in range(N):
        for k in range(3):
            slot, area = plain_slot(h[n], masks[n, k], g.slot_norm)
            torch.testing.assert_close(slots[n, k], slot, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(areas[n, k], area)
    assert areas[1, 2] == 0 and slots[:, :2].std() > 0.1
    torch.testing.assert_close(areas.sum(1), torch.ones(N))


def plain_logits(g, condition, slot):
    h = torch.cat((condition, slot))
    for i in (0, 2, 4):
        h = g.palette[i].weight @ h + g.palette[i].bias
        h = lrelu(h) if i < 4 else h
    return h


def test_logits_and_colours_equal_the_plain_computation():
    g, condition, slots = small(), torch.randn(N, 6), torch.randn(N, 3, SMALL.slot)
    logits = g.colour_logits(condition, slots)
    assert logits.shape == (N, 3, 5) and len(logits.flatten(0, 1).unique(dim=0)) == 3 * N
    shown = g.shown(logits)
    for n in range(N):
        for k in range(3):
            expected = plain_logits(g, condition[n], slots[n, k])
            torch.testing.assert_close(logits[n, k], expected, atol=1e-5, rtol=1e-4)
            weights = (expected / TEMPERATURE).exp()
            expected = (weights[:, None] * g.colours).sum(0) / weights.sum()
            torch.testing.assert_close(shown[n, k], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.9, 1.0])
def test_repainting_equals_the_plain_computation(keep):
    """keep = 0: colours as `shown`; keep = 1: the exemplar's own."""
    g, condition, slots = small(), torch.randn(N, 6), torch.randn(N, 3, SMALL.slot)
    own = torch.rand(N, 3, 3) * 2 - 1
    own[0] = g.colours[:3]
    g.keep.fill_(keep)
    found = g.repainted(condition, slots, own)
    for n in range(N):
        for k in range(3):
            said = plain_logits(g, condition[n], slots[n, k]).softmax(0)
            unsaid = plain_logits(g, torch.zeros(6), slots[n, k]).softmax(0)
            near = (-(own[n, k] - g.colours).square().sum(1) / (2 * NEARNESS**2)).softmax(0)
            kept = keep * (near * said / unsaid).sum()
            weights = torch.cat(((1 - keep) * said, kept[None])) ** (1 / TEMPERATURE)
            expected = (weights[:, None] * torch.cat((g.colours, own[n, k][None]))).sum(0) / weights.sum()
            torch.testing.assert_close(found[n, k], expected, atol=1e-4, rtol=1e-3)
    if keep == 0:
        torch.testing.assert_close(found, g.shown(g.colour_logits(condition, slots)))
    if keep == 1:
        assert torch.equal(found, own)


def test_a_sentence_keeps_the_colour_that_it_says():
    """Own colour: a common one. It is kept the rather the more likely the sentence makes that one."""
    g, slots = small(), torch.zeros(1, 1, SMALL.slot)
    g.colours.copy_(torch.eye(5, 3))
    own = torch.tensor([[[0.95, 0.05, 0.0]]])
    logits = torch.zeros(1, 1, 5)
    shares = []
    for of_own in (-4.0, 0.0, 4.0):
        logits[0, 0, 0] = of_own
        g.colour_logits = lambda condition, slots: logits if condition.any() else torch.zeros(1, 1, 5)
        shares.append(float((g.repainted(torch.ones(1, 6), slots, own) - own).norm()))
    assert shares[0] > 0.5 > shares[1] > shares[2] and shares[2] < 0.1


# ---- choice and bank ----


def test_exemplars_are_chosen_as_often_as_they_go_with_what_is_said():
    g, (*_, keys, _) = with_bank(), bank_values()
    condition = torch.tensor([[0.5, -1.0, 2.0, 0.0, 0.3, 0.2]])
    likeness = torch.stack([torch.dot(key, condition[0]) / condition.norm() for key in keys])
    noise = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    for choice in (0.2, 0.5, 1000.0):
        g.choice.fill_(choice)
        rows = g.exemplars(condition.expand(len(noise), -1), noise)
        expected = (likeness / choice).softmax(0)
        torch.testing.assert_close(rows.bincount(minlength=4) / len(noise), expected, atol=0.015, rtol=0)
        assert torch.equal(rows, g.exemplars(3 * condition.expand(len(noise), -1), noise))  # the length does not count
    assert expected.std() < 0.001


def test_equal_noise_chooses_equally_but_where_another_exemplar_is_better():
    g, noise, condition = with_bank(), torch.randn(200, 4), torch.randn(1, 6).expand(200, -1)
    rows = g.exemplars(condition, noise)
    assert torch.equal(rows, g.exemplars(condition, noise)) and len(rows.unique()) > 1
    towards = F.normalize(condition) + 0.5 * g.bank_keys[1].float()
    after = g.exemplars(towards, noise)
    assert (after != rows).any() and ((after == rows) | (rows != 1)).all()  # none leaves row 1, which became better
    g.choice.fill_(1e-4)
    best = (F.normalize(condition) @ g.bank_keys.float().T).argmax(1)
    assert torch.equal(g.exemplars(condition, noise), best)


def test_the_bank_holds_what_it_is_given():
    g, values = with_bank(), bank_values()
    bank = bank_of(g)
    assert [held.dtype for held in bank.values()] == [torch.uint8, torch.int8, *[torch.float16] * 4]
    regions, shading, *others = bank.values()
    assert torch.equal(regions, values[0])
    torch.testing.assert_close(shading / LEVELS, values[1], atol=0.5 / LEVELS + 1e-6, rtol=0)
    for held, value in zip(others, values[2:], strict=True):
        torch.testing.assert_close(held.float(), value, atol=1e-3, rtol=1e-3)
    for extreme in (-1.0, 1.0):
        g.fill(values[0], torch.full_like(values[1], extreme), *values[2:])
        assert (g.bank_details == extreme * LEVELS).all()
    with pytest.raises(RuntimeError):
        g.fill(*(value[:1] for value in values[:-1]), values[-1][:, :3])
    g.hold(2)
    assert not any(held.any() for held in bank_of(g).values())
    assert [len(held) for held in bank_of(g).values()] == [2] * 5 + [4] and g.bank_spread.shape == (4, 2)
    assert bank_of(AffineGenerator([8, 8, 4, 4], 4, 6, 5, 3)) == {}


# ---- images ----


def plain_image(g, row, palette):
    """Each pixel: the mean of its own and its neighbours' regions' colours, lighter or darker as the details say."""
    colours = palette[g.bank_regions[row].long()]  # [s, s, 3]
    index = torch.arange(-1, 33).clamp(0, 31)
    padded = colours[index][:, index]
    mean = sum(padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3)) / 9
    return (mean + g.bank_details[row][..., None] / LEVELS).permute(2, 0, 1)


def test_an_image_equals_the_plain_computation():
    g, (z, speech) = with_bank(), (torch.randn(N, SMALL.z_dim), torch.randn(N, 7))
    z[0, :MOVES], z[1, :MOVES] = still(1)[0], still(1, mirrored=True)[0]
    (images,), condition, log_variance = g(z, speech)
    assert images.shape == (N, 3, 32, 32) == (N, 3, *g.sizes * 2) and log_variance is None
    torch.testing.assert_close(condition, speech @ g.projection.weight.T + g.projection.bias)
    rows = g.exemplars(condition, z[:, MOVES:])
    palette = g.repainted(condition, g.bank_slots[rows].float(), g.bank_colours[rows].float())
    expected = torch.stack([plain_image(g, *one) for one in zip(rows, palette)])
    torch.testing.assert_close(images[0], expected[0].clamp(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(images[1], expected[1].flip(2).clamp(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(images, moved(expected, z[:, :MOVES]).clamp(-1, 1), atol=1e-5, rtol=0)
    assert images.abs().max() <= 1 and images.std() > 0.1


def test_an_exemplar_comes_back_as_light_as_it_was():
    """With its own colours: what regions of one colour lose is lightness, and the details hold that."""
    torch.manual_seed(0)
    image = in_thirds(32) / 2 + 0.1 * torch.randn(1, 3, 32, 32)
    masks = masks_of(regions := cut(image, 3), 3)
    own = mean_colours(masks, image)
    g = small()
    shading = details(image, softened(masks), own)
    g.fill(regions, shading, own, torch.zeros(1, 3, SMALL.slot), torch.zeros(1, 6), torch.ones(4, 1) / 2)
    g.keep.fill_(1)
    ((found,), *_) = g(torch.cat((still(1), torch.randn(1, 4)), 1), torch.randn(1, 7))
    light = torch.tensor(exemplar.LIGHTNESS)[:, None, None]
    torch.testing.assert_close((light * found).sum(1), (light * image).sum(1), atol=0.01, rtol=0)


def test_equal_noise_and_speech_give_equal_images():
    g = with_bank()
    z, speech = torch.randn(2, SMALL.z_dim), torch.randn(2, 7)
    first = g(z, speech)[0][0]
    assert torch.equal(first, g(z, speech)[0][0])
    assert not torch.equal(g(z, speech.flip(0))[0][0], first)
    other = z.clone()
    other[:, 1] += 5  # turned
    assert not torch.equal(g(other, speech)[0][0], first)


def test_an_image_is_made_in_float32_under_autocast(monkeypatch):
    """256 levels are more than bf16 tells apart."""
    seen = []
    monkeypatch.setattr(exemplar, "compose", lambda *parts: seen.extend((*parts, compose(*parts))) or seen[-1])
    g, z, speech = with_bank(), torch.randn(N, SMALL.z_dim), torch.randn(N, 7)
    given = torch.rand(N, 3, 32, 32), masks_of(torch.randint(3, (N, 32, 32)), 3), torch.randn(N, DRAWS)
    with torch.autocast("cpu", torch.bfloat16):
        (image,), condition, _ = g(z, speech)
        slots, areas = g.describe(*given)
        logits = g.colour_logits(condition, slots)
        shown = g.shown(logits)
    assert {value.dtype for value in (*seen, image, condition, slots, areas, logits, shown)} == {torch.float32}
    torch.testing.assert_close(image, g(z, speech)[0][0], rtol=0, atol=0)
    torch.testing.assert_close(logits, g.colour_logits(condition, slots), rtol=0, atol=0)
    torch.testing.assert_close(shown, g.shown(logits), rtol=0, atol=0)
    expected = g.describe(*given)
    torch.testing.assert_close(slots, expected[0], rtol=0, atol=0.1)
    torch.testing.assert_close(areas, expected[1])


# ---- settings, files, sizes ----


@pytest.mark.parametrize("image", [32, 64, 128, 256])
def test_every_size_of_image(image):
    sizes = Sizes(image, 3, 8, 4, 6, MOVES + 2, 7, 5)
    g = ExemplarGenerator(sizes, 2).eval()
    images = torch.rand(2, 3, image, image) * 2 - 1
    masks = masks_of(cut(images, 3), 3)
    slots, areas = g.describe(images, masks, torch.randn(2, DRAWS))
    assert masks.shape == (2, 3, image, image) and slots.shape == (2, 3, sizes.slot) and areas.shape == (2, 3)
    torch.testing.assert_close(areas, masks.mean((2, 3)))
    assert g(torch.randn(2, MOVES + 2), torch.randn(2, 7))[0][0].shape == images.shape == (2, 3, *g.sizes * 2)


def test_a_state_dict_alone_rebuilds_the_generator():
    g = with_bank()
    state = g.state_dict()
    assert ExemplarGenerator.recognises(state) and not ExemplarGenerator.recognises({"projection.weight": 0})
    again = ExemplarGenerator.from_state(state)
    again.load_state_dict(state)
    again.eval()
    assert again.shape == SMALL and float(again.keep) == float(g.keep) and float(again.choice) == float(g.choice)
    z, speech = torch.randn(N, SMALL.z_dim), torch.randn(N, 7)
    assert torch.equal(again(z, speech)[0][0], g(z, speech)[0][0])


def test_the_settings_say_the_sizes():
    words = {"REGIONS": 3, "COLOURS": 5, "WIDTH": 4, "HIDDEN_DIM": 6, "CONDITION_DIM": 6, "KEEP": 0.25, "CHOICE": 0.125}
    more = ["GAN.Z_DIM=11", "TREE.BASE_SIZE=32", *(f"EXEMPLAR.{name}={value}" for name, value in words.items())]
    g = ExemplarGenerator.from_settings(load_config(ROOT / "StackGAN_v2/cfg/toybirds_exemplar.yml", more), 7)
    assert g.shape == SMALL and (float(g.keep), float(g.choice)) == (0.25, 0.125)
    assert g.sizes == [32] and g.widest_map == 3 and g.discriminators(None) == [] and len(g.bank_regions) == 1
    speech = torch.randn(50, 7) * 3 + 1
    g.init_condition(speech)
    torch.testing.assert_close(g.projection(speech).mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(g.projection(speech).std(0), torch.ones(6), atol=1e-3, rtol=0)


def test_wrong_shapes_and_sizes_are_caught():
    g = ExemplarGenerator(SMALL)
    with pytest.raises(AssertionError, match="speech"):
        g(torch.zeros(2, SMALL.z_dim), torch.zeros(2, 8))
    with pytest.raises(AssertionError, match="z is"):
        g(torch.zeros(2, 8), torch.zeros(2, 7))
    for given in (
        {"image": 16},
        {"image": 48},
        {"image": 512},
        {"regions": 0},
        {"colours": 0},
        {"width": 0},
        {"hidden": 0},
        {"condition_dim": 0},
        {"z_dim": MOVES},
    ):
        with pytest.raises(ValueError, match="do not go together"):
            Sizes(**given)
    with pytest.raises(ValueError, match="257 regions"):
        Sizes(regions=257)
    with pytest.raises(ValueError, match="a bank of 0 images"):
        ExemplarGenerator(SMALL, 0)
    assert Sizes(regions=256, z_dim=MOVES + 1).slot == 32 + 5
