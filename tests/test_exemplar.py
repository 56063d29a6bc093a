"""The exemplar generator: composition, colours, noise and bank by hand, the decoder against a plain computation."""

import math

import pytest
import torch
import torch.nn.functional as F

from StackGAN_v2 import losses
from StackGAN_v2.networks import exemplar
from StackGAN_v2.networks.exemplar import (
    ExemplarGenerator,
    ImageEncoder,
    Sizes,
    bank_of,
    common_colours,
    compose,
    decoder_widths,
    mean_colours,
    recolour,
)

N = 3
SMALL = Sizes((4, 5), 3, 8, 6, z_dim=9, text_dim=7, condition_dim=5, spatial_dim=2, global_dim=3, constants=2)


def random_weights(network, scale=0.2):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=scale)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    torch.nn.init.uniform_(network.colours, -1, 1)
    return network.eval().to(memory_format=torch.channels_last)


def with_bank(images=4):
    generator = random_weights(ExemplarGenerator(SMALL, images))
    generator.fill([torch.randn(bank.shape) / 2 for bank in bank_of(generator).values()])
    return generator


def test_composition_by_hand():
    """Two parts, two pixels: all of the first part, then a quarter of it."""
    masks = torch.tensor([[[[1.0, 0.25]], [[0.0, 0.75]]]])
    palette = torch.tensor([[[0.2, -0.4, 1.0], [0.6, 0.4, -1.0]]])
    expected = torch.tensor([[[0.2, 0.5]], [[-0.4, 0.2]], [[1.0, -0.5]]])[None]
    torch.testing.assert_close(compose(masks, palette), expected)


def test_mean_colours_by_hand():
    """The sum under a mask over its area and one pixel more."""
    masks = torch.tensor([[[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]])
    image = torch.tensor([[[[0.5, 1.0, -1.0]], [[0.0, -0.5, 0.25]], [[1.0, 1.0, 1.0]]]])
    expected = torch.tensor([[[1.0, -0.25, 1.5], [-0.5, 0.0, 1.5], [0.0, 0.0, 0.0]]]) / 2.5
    torch.testing.assert_close(mean_colours(masks, image), expected)
    image = torch.tensor([0.2, -0.9, 0.6])[None, :, None, None].expand(1, 3, 40, 50)
    expected = 2000 / 2001 * image[:, None, :, 0, 0]
    torch.testing.assert_close(mean_colours(torch.ones(1, 1, 40, 50), image), expected, rtol=1e-4, atol=0)


def test_common_colours_by_hand():
    """From 0 and 0.1 the first round gives 0 and 2.2 / 3, the second one the two clusters."""
    pixels = torch.tensor([0.0, 0.1, 1.0, 1.1])[:, None] * torch.tensor([1.0, -1.0, 0.5])
    clusters = torch.tensor([[0.05], [1.05]]) * torch.tensor([1.0, -1.0, 0.5])
    torch.testing.assert_close(common_colours(pixels, 2, 1)[1], 2.2 / 3 * torch.tensor([1.0, -1.0, 0.5]))
    torch.testing.assert_close(common_colours(pixels, 2), clusters)
    again = torch.cat((pixels[:1], pixels[:1], pixels[2:], -0.1 * pixels[2:3], 0.1 * pixels[2:3]))
    torch.testing.assert_close(common_colours(again, 3), torch.stack((pixels[0], pixels[0], clusters[1])))
    assert torch.equal(common_colours(pixels[1:3], 5), pixels[[1, 2, 1, 2, 1]])
    assert torch.equal(pixels[1], 0.1 * torch.tensor([1.0, -1.0, 0.5]))  # what is given stays


def test_recolouring_by_hand():
    """Mean colour (1, 2, 3); the first channel becomes the difference of red and green, of unit direction."""
    image = torch.tensor([[[[0.0, 2.0]], [[2.0, 2.0]], [[3.0, 3.0]]]])
    draws = torch.tensor([[3.0, -3.0, 0, 0, 0, 5.0, 0, 2.0, 0, 0.0, 1.0, 0.0]])
    half = 0.5**0.5
    expected = torch.tensor([[[[-half, half]], [[0.3, 0.3]], [[0.0, 0.0]]]])
    torch.testing.assert_close(recolour(image, draws), expected)


def test_recoloured_images_hide_their_colours():
    """Turned colours, turned map: any rotation of the colours gives images that are equally likely."""
    image = torch.rand(1, 3, 4, 4)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    draws = torch.randn(1, 12)
    turned = torch.einsum("ij,njhw->nihw", turn, image)
    undone = torch.cat(((draws[:, :9].view(3, 3) @ turn.T).view(1, 9), draws[:, 9:]), 1)
    torch.testing.assert_close(recolour(turned, undone), recolour(image, draws))


def test_losses_by_hand():
    mean, logvar = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(2)]])
    of_second = 0.5 * (2 - 1 - math.log(2))
    assert float(losses.gaussian_kl(mean, logvar)) == pytest.approx((0.5 + of_second) / 2)
    image = torch.zeros(1, 1, 8, 4)
    image[0, 0, :4, :2], image[0, 0, :4, 2:], image[0, 0, 4:] = 1.0, -1.0, 0.5  # means of the halves: 0 and 0.5
    loss = losses.reconstruction_loss(image, torch.zeros_like(image), 2.0)
    assert float(loss) == pytest.approx(0.75 + 2 * 0.25)


def test_the_loss_of_colours_by_hand():
    """Two colours as far apart as the targets' deviation: one is wanted, or none of them more. The second part is a
    quarter of a hundredth of the image, and the colour that it lacks counts a quarter."""
    colours = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.08]])
    wanted = torch.stack((colours[0], colours.mean(0)))[None]
    logits = torch.log(torch.tensor([[[1.0, 3.0], [3.0, 2.0]]]))
    target = 1 / (1 + math.exp(-0.5))
    first = -target * math.log(1 / 4) - (1 - target) * math.log(3 / 4)
    second = -0.5 * math.log(3 / 5) - 0.5 * math.log(2 / 5)
    for area, share in ((0.0025, 0.25), (0.01, 1.0), (0.6, 1.0)):
        loss = losses.colour_loss(logits, wanted, colours, torch.tensor([[0.3, area]]))
        assert float(loss) == pytest.approx((first + share * second) / 2, rel=1e-5)
    with pytest.raises(AssertionError):
        losses.colour_loss(logits, wanted, colours[:1], torch.ones(1, 2))


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def between(x):
    """Twice as many rows, a quarter of the way to each neighbour; the border goes on as it is."""
    above, below = torch.cat((x[:, :, :1], x[:, :, :-1]), 2), torch.cat((x[:, :, 1:], x[:, :, -1:]), 2)
    return torch.stack((0.75 * x + 0.25 * above, 0.75 * x + 0.25 * below), 3).flatten(2, 3)


def plain_norm(x, norm):
    """Batch norm as evaluation computes it."""
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def plain_block(block, h):
    x = lrelu(plain_norm(F.conv2d(h, block.conv1[0].weight, padding=1), block.conv1[1]))
    x = plain_norm(F.conv2d(x, block.conv2[0].weight, padding=1), block.conv2[1])
    return lrelu(block.shortcut(h) + x)


def plain_segments(g, spatial):
    """→ masks, residual, slots and areas."""
    n = len(spatial)
    h = g.first(torch.cat((spatial, g.constants[0].repeat(n, 1, 1, 1)), 1))
    for i, block in enumerate(g.blocks):
        if i:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = torch.cat((h, g.constants[i].repeat(n, 1, 1, 1)), 1)
        h = plain_block(block, h)
    residual, rows = g.residual(h), []
    for k in range(3):  # four channels in turn: the pixels of a 2×2 square
        square = residual[:, 4 * k : 4 * k + 4].unflatten(1, (2, 2))
        rows.append(square.permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2))
    logits = 2 * between(between(g.masks(h)).transpose(2, 3)).transpose(2, 3)
    masks = logits.exp() / logits.exp().sum(1, keepdim=True)
    side = h.shape[2]
    place = torch.tensor([-1 + 2 * i / (side - 1) for i in range(side)])
    down, across = (axis.expand(n, 1, side, side) for axis in (place[:, None], place))
    values = torch.cat((h, down, across), 1)
    small = masks.unflatten(3, (side, 2)).unflatten(2, (side, 2)).mean((3, 5))
    slots = (small[:, :, None] * values[:, None]).sum((3, 4)) / small.sum((2, 3))[:, :, None]
    centred = slots - slots.mean(2, keepdim=True)
    slots = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt() * g.slot_norm.weight + g.slot_norm.bias
    return masks, 0.5 * torch.tanh(torch.stack(rows, 1)), slots, masks.mean((2, 3))


def plain_logits(g, condition, slots, of_all):
    parts = []
    for k in range(slots.shape[1]):
        h = torch.cat((condition, of_all, slots[:, k], g.part[k].repeat(len(slots), 1)), 1)
        for i in (0, 2, 4):
            h = h @ g.palette[i].weight.T + g.palette[i].bias
            h = lrelu(h) if i < 4 else h
        parts.append(h)
    return torch.stack(parts, 1)


def plain_colours(g, logits):
    weights = (logits / 0.3).exp()
    return (weights[..., None] * g.colours).sum(2) / weights.sum(2, keepdim=True)


def test_a_block_equals_the_plain_computation():
    g = random_weights(ExemplarGenerator(SMALL))
    for block, channels, shortcut in zip(g.blocks, (4, 6), (torch.nn.Identity, torch.nn.Conv2d)):
        h = torch.randn(N, channels, 8, 6)
        assert isinstance(block.shortcut, shortcut)
        torch.testing.assert_close(block(h), plain_block(block, h), atol=1e-5, rtol=1e-4)


def test_segments_and_their_colours_equal_the_plain_computation():
    g = random_weights(ExemplarGenerator(SMALL))
    condition, spatial, of_all = torch.randn(N, 5), torch.randn(N, 2, 16, 16), torch.randn(N, 3)
    found, expected = g.segment(spatial), plain_segments(g, spatial)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    masks, residual, slots, areas = found
    assert masks.shape == (N, 3, 64, 64) and residual.shape == (N, 3, 64, 64) and slots.shape == (N, 3, 5 + 2)
    torch.testing.assert_close(masks.sum(1), torch.ones(N, 64, 64))
    torch.testing.assert_close(areas.sum(1), torch.ones(N))
    assert masks.std() > 0.02 and residual.abs().max() > 0.1
    logits = g.colour_logits(condition, slots, of_all)
    assert logits.shape == (N, 3, 8) and logits.std() > 0.1
    torch.testing.assert_close(logits, plain_logits(g, condition, slots, of_all), atol=1e-5, rtol=1e-4)
    assert len(logits.flatten(0, 1).unique(dim=0)) == 3 * N
    torch.testing.assert_close(g.shown(logits), plain_colours(g, logits), atol=1e-5, rtol=1e-4)


def test_the_residual_is_bounded():
    g = random_weights(ExemplarGenerator(SMALL))
    g.residual.weight.data *= 1e3
    residual = g.segment(torch.randn(N, 2, 16, 16))[1]
    assert residual.abs().max() == 0.5 and residual.min() < 0 < residual.max()


def test_an_image_is_composed_in_float32_under_autocast(monkeypatch):
    """256 levels are more than bf16 tells apart."""
    seen = []
    monkeypatch.setattr(exemplar, "compose", lambda *parts: seen.extend((*parts, compose(*parts))) or seen[-1])
    g = random_weights(ExemplarGenerator(SMALL))
    condition, spatial, of_all = torch.randn(N, 5), torch.randn(N, 2, 16, 16), torch.randn(N, 3)
    with torch.autocast("cpu", torch.bfloat16):
        image = g.decode(condition, spatial, of_all)
        segments = g.segment(spatial)
        logits = g.colour_logits(condition, segments[2], of_all)
        values = (*segments, logits, g.shown(logits))
    assert [value.dtype for value in (*seen, image)] == [torch.float32] * 4
    assert [value.dtype for value in values] == [torch.float32] * 6
    torch.testing.assert_close(logits, g.colour_logits(condition, segments[2], of_all), rtol=0, atol=0)
    assert (image - g.decode(condition, spatial, of_all)).abs().mean() < 0.02


def test_the_decoder_equals_the_plain_computation():
    g = random_weights(ExemplarGenerator(SMALL))
    condition, spatial, of_all = torch.randn(N, 5), torch.randn(N, 2, 16, 16), torch.randn(N, 3)
    found = g.decode(condition, spatial, of_all)
    masks, residual, slots, _ = plain_segments(g, spatial)
    colours = plain_colours(g, plain_logits(g, condition, slots, of_all))
    expected = (masks[:, :, None] * colours[..., None, None]).sum(1) + residual
    assert found.shape == (N, 3, 64, 64) == (N, 3, *g.sizes * 2) and found.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_noise_chooses_an_exemplar_and_perturbs_it():
    """Quarters of the normal distribution choose one of four images; the rest of the noise moves its codes."""
    g = with_bank()
    z = torch.zeros(5, 9)
    z[:, 0] = torch.tensor([-9.0, -0.5, 0.1, 0.7, 9.0])  # Φ: 0, 0.31, 0.54, 0.76, 1
    z[:, 1] = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0])
    spatial, of_all, mirrored = g.exemplars(z)
    rows = [0, 1, 2, 3, 3]
    assert mirrored.tolist() == [False, False, True, False, False]
    torch.testing.assert_close(spatial, g.bank_mean[rows].float())
    torch.testing.assert_close(of_all, g.bank_global_mean[rows].float())
    z[:, 2:5], z[:, 5:] = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.0, 3.0, 0.0, 0.0])
    spatial, of_all, _ = g.exemplars(z)
    deviation = (0.5 * g.bank_global_logvar[rows].float()).exp()
    torch.testing.assert_close(of_all - g.bank_global_mean[rows].float(), deviation * z[0, 2:5])
    moved = (spatial - g.bank_mean[rows].float()) / (0.5 * g.bank_logvar[rows].float()).exp()
    torch.testing.assert_close(moved, 3 * g.spread[1].view(1, 2, 16, 16).expand(5, -1, -1, -1), atol=1e-3, rtol=1e-3)


def test_images_are_equally_likely_and_perturbations_have_unit_variance():
    g = with_bank(8)
    g.fill([torch.zeros(bank.shape) for bank in bank_of(g).values()])
    g.bank_global_mean[:, 0] = torch.arange(8)
    z = torch.randn(4000, 9, generator=torch.Generator().manual_seed(0))
    z[:, 2] = 0
    spatial, of_all, mirrored = g.exemplars(z)
    counts = of_all[:, 0].round().long().bincount(minlength=8)
    assert (counts - 500).abs().max() < 100 and abs(float(mirrored.float().mean()) - 0.5) < 0.05
    assert float((spatial.var(0) - 1).abs().mean()) < 0.05


def test_equal_noise_and_speech_give_equal_images():
    g = with_bank()
    z, speech = torch.randn(2, 9), torch.randn(2, 7)
    first, again = g(z, speech)[0][0], g(z, speech)[0][0]
    assert torch.equal(first, again) and first.abs().max() <= 1
    other = z.clone()
    other[:, 0] = -z[:, 0]  # another pose
    assert not torch.equal(g(other, speech)[0][0], first)
    assert not torch.equal(g(z, speech.flip(0))[0][0], first)
    other = z.clone()
    other[:, 1] = -z[:, 1]
    assert torch.equal(g(other, speech)[0][0].flip(3), first)


@pytest.mark.parametrize("image", [32, 64, 128, 256])
def test_every_size_of_image(image):
    sizes = Sizes(decoder_widths(image, 8, 6), 3, 8, 6, 9, 7, 5, 2, 3, 2)
    assert sizes.image == image
    g = ExemplarGenerator(sizes, 2).eval()
    images = torch.rand(2, 3, image, image) * 2 - 1
    codes = g.encoder(recolour(images, torch.randn(2, 12)), images)
    assert [code.shape for code in codes] == [(2, 2, 16, 16), (2, 2, 16, 16), (2, 3), (2, 3)]
    assert g(torch.randn(2, 9), torch.randn(2, 7))[0][0].shape == images.shape == (2, 3, *g.sizes * 2)
    masks, residual, slots, areas = g.segment(codes[0])
    assert residual.shape == images.shape and masks.shape == (2, 3, image, image)
    assert slots.shape == (2, 3, sizes.widths[-1] + 2) and areas.shape == (2, 3)
    torch.testing.assert_close(areas, masks.mean((2, 3)))
    again = ExemplarGenerator.from_state(g.state_dict())
    assert again.shape == sizes
    again.load_state_dict(g.state_dict())
    assert decoder_widths(256, 48, 32) == (48, 32, 16, 16) and decoder_widths(32, 48, 32) == (48,)


def test_the_encoder_bounds_its_variances():
    encoder = ImageEncoder(SMALL).eval()
    torch.nn.init.constant_(encoder.spatial_code.bias, -99)
    torch.nn.init.constant_(encoder.global_code.bias, 99)
    image = torch.rand(2, 3, 64, 64)
    _, logvar, _, of_all = encoder(image, image)
    assert (logvar == -8).all() and (of_all == 4).all()


def test_a_state_dict_alone_rebuilds_the_generator():
    g = with_bank()
    state = g.state_dict()
    again = ExemplarGenerator.from_state(state)
    again.load_state_dict(state)
    noise = torch.randn(N, 9), torch.randn(N, 7)
    again.eval()
    assert again.shape == SMALL
    torch.testing.assert_close(again(*noise)[0][0], g(*noise)[0][0], atol=1e-4, rtol=0)  # in another memory format


def test_wrong_shapes_and_sizes_are_caught():
    g = ExemplarGenerator(SMALL)
    with pytest.raises(AssertionError, match="speech"):
        g(torch.zeros(2, 9), torch.zeros(2, 8))
    with pytest.raises(AssertionError, match="z is"):
        g(torch.zeros(2, 8), torch.zeros(2, 7))
    for given in (
        {"widths": ()},
        {"widths": (4, 0)},
        {"parts": 0},
        {"colours": 0},
        {"hidden": 0},
        {"z_dim": 10},
        {"widths": (4,) * 5},
    ):
        with pytest.raises(ValueError, match="do not go together"):
            Sizes(**given)
    with pytest.raises(ValueError, match="a bank of 0 images"):
        ExemplarGenerator(SMALL, 0)
