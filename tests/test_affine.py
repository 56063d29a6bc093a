"""The affine generator and its discriminator against an independent computation, as DF-GAN's paper writes it."""

import pytest
import torch
import torch.nn.functional as F

from StackGAN_v2.networks import convolution
from StackGAN_v2.networks.affine import AffineDiscriminator, AffineGenerator, DownBlock, channel_plan

N, Z, E = 3, 5, 7


@pytest.fixture(params=[True, False], ids=["rewritten", "plain"])
def rewrites(request):
    convolution.rewrite(request.param)
    yield
    convolution.rewrite(True)


def random_weights(network, scale=0.3):
    """`network` in double precision with weights that are all in use, those too that start at zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    return network.double().to(memory_format=torch.channels_last)


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def mlps(generator, x):
    """γ and β of every affine layer, each by a network of its own."""
    found = {}
    rows = iter(zip(generator.modulations.hidden.weight, generator.modulations.hidden.bias))
    for width, layers in generator.modulations.groups.items():
        weights, biases = generator.modulations.weights[str(width)], generator.modulations.biases[str(width)]
        outputs = []
        for weight, bias in zip(weights, biases):
            own = [next(rows) for _ in range(width)]
            hidden = F.relu(x @ torch.stack([w for w, _ in own]).T + torch.stack([b for _, b in own]))
            outputs.append(hidden @ weight + bias)
        for number, layer in enumerate(layers):
            found[layer] = [value[:, :, None, None] for value in outputs[2 * number : 2 * number + 2]]
    return [found[i] for i in range(len(found))]


def plain_image(generator, z, speech):
    """What the paper writes: everything after the upsampling, on maps of the full size."""
    c = speech
    if generator.condition_dim != generator.text_dim:
        c = F.linear(speech, generator.projection.weight, generator.projection.bias)
    layers = iter(mlps(generator, torch.cat((z, c), 1)))
    h = generator.fc(z).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for block in generator.blocks:
        up = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        mask = fine = torch.ones((), dtype=h.dtype)
        if block.mask is not None:
            mask = torch.sigmoid(
                block.mask[2](F.relu(F.conv2d(h, block.mask[0].weight, block.mask[0].bias, padding=1)))
            )
            fine = F.interpolate(mask, scale_factor=2, mode="bilinear")
            mask = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = up
        for gate, conv in ((mask, block.conv1), (fine, block.conv2)):
            for _ in range(2):
                gamma, beta = next(layers)
                x = lrelu(x * (1 + gate * (gamma - 1)) + gate * beta)
            x = F.conv2d(x, conv.weight, padding=1)
        h = x + (up if isinstance(block.shortcut, torch.nn.Identity) else F.conv2d(up, block.shortcut.weight))
    rgb = generator.to_image[1]
    return torch.tanh(F.conv2d(lrelu(h), rgb.weight, rgb.bias, padding=1))


@pytest.mark.parametrize("condition_dim, mask", [(0, 0), (4, 0), (4, 6)])
def test_the_generator_equals_the_plain_computation(rewrites, condition_dim, mask):
    """Images and the gradients of all weights."""
    generator = random_weights(AffineGenerator([6, 6, 4, 3], Z, E, condition_dim, mask))
    z, speech = torch.randn(N, Z).double(), torch.randn(N, E).double()
    (image,), condition, logvar = generator(z, speech)
    expected = plain_image(generator, z, speech)
    assert image.shape == (N, 3, 32, 32) == (N, 3, *generator.sizes * 2) and logvar is None
    assert condition.shape == (N, condition_dim or E) and image.std() > 0.1
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=1e-5)  # the condition is float32
    weights = torch.randn_like(image)
    found = torch.autograd.grad((image * weights).sum(), list(generator.parameters()))
    for grad, other in zip(found, torch.autograd.grad((expected * weights).sum(), list(generator.parameters()))):
        torch.testing.assert_close(grad, other, atol=1e-4, rtol=1e-4)


def test_a_new_generator_does_not_look_at_the_condition():
    """The last layers are zero, γ's bias is one: every affine layer is the identity."""
    generator = AffineGenerator([6, 4, 3], Z, E)
    z = torch.randn(1, Z)
    first, second = (generator(z, torch.randn(1, E))[0][0] for _ in range(2))
    assert torch.equal(first, second)
    for scale, shift in generator.modulations(torch.randn(2, Z + E)):
        assert (scale == 1).all() and (shift == 0).all()


def test_the_discriminator_equals_the_plain_computation(rewrites):
    """Logits, their gradients, and the gradient of a gradient, which the penalty needs."""
    network = random_weights(AffineDiscriminator([3, 4, 6, 6], 5))
    image = torch.randn(N, 3, 32, 32).double().requires_grad_()
    c = torch.randn(N, 5).double().requires_grad_()
    h = F.conv2d(image, network.image.weight, network.image.bias, padding=1)
    for block in network.blocks:
        residual = lrelu(F.conv2d(h, block.residual[0].weight, stride=2, padding=1))
        residual = lrelu(F.conv2d(residual, block.residual[2].weight, padding=1))
        if not isinstance(block.shortcut, torch.nn.Identity):
            h = F.conv2d(h, block.shortcut.weight, block.shortcut.bias)
        h = F.avg_pool2d(h, 2) + block.gamma * residual
    joint = torch.cat((c[:, :, None, None].expand(-1, -1, 4, 4), h), 1)
    expected = F.conv2d(lrelu(F.conv2d(joint, network.joint.weight, padding=1)), network.logits.weight).flatten()
    found = network(image, c)
    torch.testing.assert_close(found, expected.float())
    sums = []
    for logits in (found, expected):
        grads = torch.autograd.grad(logits.sum(), (image, c), create_graph=True)
        sums.append((*grads, *torch.autograd.grad(sum(g.square().sum() for g in grads), network.image.weight)))
    torch.testing.assert_close(*sums, atol=1e-5, rtol=1e-4)


def test_a_new_discriminator_is_its_shortcuts():
    assert all(block.gamma == 0 for block in AffineDiscriminator([4, 8, 8], 5).blocks)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(DownBlock(4, 4)(x), F.avg_pool2d(x, 2))


def test_channels_are_those_of_the_paper():
    """nf 32: 64 and 256 pixels; 4.9 and 9.7 M parameters in the generator, 3.5 and 6.9 M in the discriminator.

    The latter count a 1×1 convolution in the blocks that keep their width, too, which here have none.
    """
    assert channel_plan(32, 8, 256) == [32, 64, 128, 256, 256, 256, 256] and channel_plan(8, 2, 64) == [
        8,
        16,
        16,
        16,
        16,
    ]
    for size, of_generator, of_discriminator, unused in ((64, 4.9, 3.5, 1), (256, 9.7, 6.9, 3)):
        widths = channel_plan(32, 8, size)
        networks = AffineGenerator(widths[::-1], 100, 256), AffineDiscriminator(widths, 256)
        counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
        counts[1] += unused * (256 * 256 + 256) / 1e6
        assert counts == pytest.approx([of_generator, of_discriminator], abs=0.05)


@pytest.mark.parametrize("text_dim, condition_dim", [(9, 6), (4, 6)])
def test_projected_conditions_start_with_unit_spread(text_dim, condition_dim):
    torch.manual_seed(0)
    generator = AffineGenerator([4, 4], Z, text_dim, condition_dim)
    speech = 3 + 0.01 * torch.randn(500, text_dim)
    generator.init_condition(speech)
    condition = generator(torch.randn(500, Z), speech)[1]
    torch.testing.assert_close(condition.mean(0), torch.zeros(condition_dim), atol=1e-3, rtol=0)
    torch.testing.assert_close(condition.std(0), torch.ones(condition_dim), atol=1e-3, rtol=0)


@pytest.mark.parametrize("condition_dim, mask", [(0, 0), (4, 6)])
def test_a_state_dict_alone_rebuilds_the_generator(condition_dim, mask):
    generator = AffineGenerator([6, 6, 4, 3], Z, E, condition_dim, mask)
    state = generator.state_dict()
    again = AffineGenerator.from_state(state)
    again.load_state_dict(state)
    noise = torch.randn(N, Z), torch.randn(N, E)
    assert torch.equal(again(*noise)[0][0], generator(*noise)[0][0]) and AffineGenerator.recognises(state)


def test_wrong_shapes_and_sizes_are_caught():
    generator = AffineGenerator([4, 4], Z, E)
    with pytest.raises(AssertionError, match="speech"):
        generator(torch.zeros(2, Z), torch.zeros(2, E + 1))
    with pytest.raises(AssertionError, match="image"):
        AffineDiscriminator([4, 4], E)(torch.zeros(2, 3, 16, 16), torch.zeros(2, E))
    for widths, z_dim, text_dim in (([4], Z, E), ([4, 0], Z, E), ([4, 4], 0, E), ([4, 4], Z, 0), ([4] * 9, Z, E)):
        with pytest.raises(ValueError, match="do not go together"):
            AffineGenerator(widths, z_dim, text_dim)
