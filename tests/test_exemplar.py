"""The exemplar generator: composition, noise and bank by hand, the decoder against a plain computation."""

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
    compose,
    decoder_widths,
    recolour,
)

N, SMALL = 3, Sizes((4, 6), parts=3, z_dim=9, text_dim=7, condition_dim=5, spatial_dim=2, global_dim=3, constants=2)


def random_weights(network, scale=0.2):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=scale)
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


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def between(x):
    """Twice as many rows, a quarter of the way to each neighbour; the border goes on as it is."""
    above, below = torch.cat((x[:, :, :1], x[:, :, :-1]), 2), torch.cat((x[:, :, 1:], x[:, :, -1:]), 2)
    return torch.stack((0.75 * x + 0.25 * above, 0.75 * x + 0.25 * below), 3).flatten(2, 3)


def plain_image(g, condition, spatial, of_all):
    joint, n = torch.cat((condition, of_all), 1), len(condition)
    layers = iter(g.modulations(joint))
    h = g.first(torch.cat((spatial, g.constants[0].repeat(n, 1, 1, 1)), 1))
    for i, block in enumerate(g.blocks):
        if i:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = torch.cat((h, g.constants[i].repeat(n, 1, 1, 1)), 1)
        x = h
        for conv in (block.conv1, block.conv2):
            for _ in range(2):
                gamma, beta = next(layers)
                x = lrelu(x * gamma + beta)
            x = conv(x)
        h = block.shortcut(h) + 0.7 * x
    residual, rows = g.residual(lrelu(h)), []
    for k in range(3):  # four channels in turn: the pixels of a 2×2 square
        square = residual[:, 4 * k : 4 * k + 4].unflatten(1, (2, 2))
        rows.append(square.permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2))
    logits = 1.5 * between(between(g.masks(lrelu(h))).transpose(2, 3)).transpose(2, 3)
    masks = logits.exp() / logits.exp().sum(1, keepdim=True)
    hidden = lrelu(F.linear(joint, g.palette[0].weight, g.palette[0].bias))
    colours = torch.tanh(F.linear(hidden, g.palette[2].weight, g.palette[2].bias)).view(n, 3, 3)
    return (masks[:, :, None] * colours[:, :, :, None, None]).sum(1) + torch.stack(rows, 1)


def test_an_image_is_composed_in_float32_under_autocast(monkeypatch):
    """256 levels are more than bf16 tells apart."""
    seen = []
    monkeypatch.setattr(exemplar, "compose", lambda *parts: seen.extend((*parts, compose(*parts))) or seen[-1])
    g = random_weights(ExemplarGenerator(SMALL))
    with torch.autocast("cpu", torch.bfloat16):
        image = g.decode(torch.randn(N, 5), torch.randn(N, 2, 16, 16), torch.randn(N, 3))
    assert [value.dtype for value in (*seen, image)] == [torch.float32] * 4


def test_the_decoder_equals_the_plain_computation():
    g = random_weights(ExemplarGenerator(SMALL))
    code = torch.randn(N, 5), torch.randn(N, 2, 16, 16), torch.randn(N, 3)
    found, expected = g.decode(*code), plain_image(g, *code)
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
    sizes = Sizes(decoder_widths(image, 8, 6), 3, 9, 7, 5, 2, 3, 2)
    assert sizes.image == image
    g = ExemplarGenerator(sizes, 2).eval()
    images = torch.rand(2, 3, image, image) * 2 - 1
    codes = g.encoder(recolour(images, torch.randn(2, 12)), images)
    assert [code.shape for code in codes] == [(2, 2, 16, 16), (2, 2, 16, 16), (2, 3), (2, 3)]
    assert g(torch.randn(2, 9), torch.randn(2, 7))[0][0].shape == images.shape == (2, 3, *g.sizes * 2)
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
    for given in ({"widths": ()}, {"widths": (4, 0)}, {"parts": 0}, {"z_dim": 10}, {"widths": (4,) * 5}):
        with pytest.raises(ValueError, match="do not go together"):
            Sizes(**given)
    with pytest.raises(ValueError, match="a bank of 0 images"):
        ExemplarGenerator(SMALL, 0)
