"""Rewritten operations: the trainer's step and the generator equal the plain ones up to rounding, and can be switched off."""

import types

import pytest
import torch

from benchmarks.plain_gan import PlainGenerator, PlainNetworks, plain_generate, plain_step
from common import cache_place
from common.cli import UserError
from common.devices import pick_precision, set_up_arithmetic
from StackGAN_v2 import sampler
from StackGAN_v2.config import load_config
from StackGAN_v2.data import image_cache
from StackGAN_v2.data.datasets import Batch
from StackGAN_v2.model import Generator, init_weights
from StackGAN_v2.networks import convolution
from StackGAN_v2.training.networks import Networks
from StackGAN_v2.training.step import Stepper

CPU, N = torch.device("cpu"), 6
SETTINGS = [
    "TREE.BASE_SIZE=16",
    "GAN.GF_DIM=8",
    "GAN.DF_DIM=4",
    "GAN.Z_DIM=5",
    "GAN.EMBEDDING_DIM=6",
    "TRAIN.COEFF.UNCOND_LOSS=1",
    "TRAIN.COEFF.CAL_LOSS=1",
    "TRAIN.COEFF.COLOR_LOSS=1",
]


@pytest.fixture
def no_rewrites():
    convolution.rewrite(False)
    yield
    convolution.rewrite(True)


def step_terms(memory_format=torch.channels_last, precision="fp32", compiled=False):
    """The losses of a plain step and of ours, on equal weights and images."""
    stepper, batch, plain = a_step(precision, compiled, memory_format)
    ours = stepper(batch, 1)
    return {name: (float(value), float(ours[name])) for name, value in plain.items()}


def a_step(precision, compiled, memory_format=torch.channels_last):
    """A stepper, a batch, and the losses of a plain step with the same weights."""
    torch.manual_seed(0)
    cfg = load_config(settings=SETTINGS)
    networks = Networks(cfg, 9, CPU, memory_format=memory_format)
    plain = PlainNetworks(cfg, networks)
    real, wrong = ([torch.rand(N, 3, size, size) * 2 - 1 for size in networks.generator.sizes] for _ in range(2))
    batch = Batch(
        real, wrong, torch.randn(N, 9), torch.tensor([0, 1, 0, 2, 1, 3]), torch.randn(N, 5), torch.randn(N, 6)
    )
    return Stepper(networks, cfg.TRAIN, CPU, precision, compiled), batch, plain_step(plain, batch, cfg)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_step_equals_the_plain_one(memory_format):
    for name, (plain, ours) in step_terms(memory_format).items():
        assert ours == pytest.approx(plain, rel=1e-5), name


def test_a_step_without_rewrites_equals_the_plain_one(no_rewrites):
    for name, (plain, ours) in step_terms(torch.contiguous_format).items():
        assert ours == pytest.approx(plain, rel=2e-6), name


def test_a_step_in_bf16_is_near():
    for name, (plain, ours) in step_terms(precision="bf16").items():
        assert ours == pytest.approx(plain, rel=0.03, abs=0.01), name


def test_compiled_parts_are_the_discriminators_too(monkeypatch):
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda part, **how: seen.append((getattr(part, "__name__", "generator"), how)) or part
    )
    step_terms(compiled=True)
    assert seen == [(name, {"dynamic": False}) for name in ("generator", *["encode"] * 3, *["condition_logits"] * 3)]


def test_compiled_once_for_each_discriminator_and_grouping():
    """Six graphs of one line of code, none of them left uncompiled, none of them made again in the next step."""
    torch._dynamo.reset()
    before, graphs = torch.compile, []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compile = lambda part, **how: before(part, backend=count, **how)
    try:
        stepper, batch, plain = a_step("fp32", compiled=True)
        ours = stepper(batch, 1)
        made = len(graphs)
        stepper(batch, 2)
    finally:
        torch.compile = before
        torch._dynamo.reset()
    assert made == len(graphs) == 1 + 2 * 3 + 2 * 3
    for name, value in plain.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize("size, kernel, stride, padding", [(8, 4, 2, 1), (5, 3, 1, 1), (12, 3, 1, 1), (4, 4, 4, 0)])
def test_convolutions_and_two_orders_of_gradients(size, kernel, stride, padding):
    torch.manual_seed(0)
    x, weight = (
        torch.randn(*shape, dtype=torch.double, requires_grad=True)
        for shape in ((2, 2, size, size), (3, 2, kernel, kernel))
    )
    torch.testing.assert_close(
        convolution.conv2d(x, weight, None, stride, padding),
        torch.nn.functional.conv2d(x, weight, None, stride, padding),
    )
    if size < 12:
        assert torch.autograd.gradcheck(lambda *both: convolution.conv2d(*both, None, stride, padding), (x, weight))
        assert torch.autograd.gradgradcheck(lambda *both: convolution.conv2d(*both, None, stride, padding), (x, weight))


@pytest.mark.parametrize("size", [3, 4, 6])
@pytest.mark.parametrize("dtype, tolerance", [(torch.double, 1e-12), (torch.bfloat16, 0.02)])
def test_small_maps_are_doubled_by_matrix_products(size, dtype, tolerance):
    """`conv_up`, its two gradients and its bias against the transposed convolution that it stands for."""
    torch.manual_seed(0)
    x, kernel, bias = (torch.randn(*shape, dtype=torch.double) for shape in ((3, 5, size, size), (5, 7, 4, 4), (7,)))
    x = x.to(memory_format=torch.channels_last)
    rows = []
    for working, up in (
        (torch.double, lambda *given: torch.nn.functional.conv_transpose2d(*given, stride=2, padding=1)),
        (dtype, convolution.conv_up),
    ):
        given = [value.detach().to(working).requires_grad_() for value in (x, kernel, bias)]
        y = up(*given)
        y.double().sin().sum().backward()
        rows.append([y.double(), *(value.grad.double() for value in given)])
    for expected, found in zip(*rows):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_autocast_reaches_rewritten_convolutions():
    torch.manual_seed(0)
    layer = convolution.Conv(64, 32, 4, 2, 1, bias=False).to(memory_format=torch.channels_last)
    for side in (8, 32):  # by patches, and by torch
        x = torch.randn(4, 64, side, side).to(memory_format=torch.channels_last)
        expected = torch.nn.functional.conv2d(x.double(), layer.weight.double(), stride=2, padding=1)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        assert y.dtype == torch.bfloat16 and (y - expected).norm() < 0.01 * expected.norm()
        assert layer.weight.grad.dtype == torch.float32


def test_a_generator_equals_the_plain_one(no_rewrites):
    torch.manual_seed(0)
    settings = (2, 16, 8, 5, 6, 9)
    generator, plain = Generator(*settings).apply(init_weights).eval(), PlainGenerator(*settings).eval()
    for name, value in generator.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 2)
    plain.load_state_dict(generator.state_dict())
    speech, noises = torch.randn(3, 9), torch.randn(3, 11)
    for rewrites in (True, False):
        convolution.rewrite(rewrites)
        for found, expected in zip(sampler.generate(generator, speech, noises), plain_generate(plain, speech, noises)):
            assert abs(found.astype(int) - expected).max() <= 1 and expected.std() > 1


@pytest.mark.parametrize(
    "wanted, device, gpu_free, ram_free, words, copied",
    [
        ("auto", "cpu", 0, 10**6, "memory", True),
        ("ram", "cpu", 0, 100, "a memory-mapped file (0.0 GiB, and memory", False),
        ("disk", "cpu", 0, 10**6, "a memory-mapped file", False),
        ("gpu", "cpu", 0, 10**6, "memory (no GPU)", True),
        ("gpu", "cuda", 100, 10**6, "memory (0.0 GiB, and the GPU has", True),
        ("auto", "cuda", 100, 100, "a memory-mapped file (0.0 GiB, and memory", False),
    ],
)
def test_images_live_where_there_is_room(wanted, device, gpu_free, ram_free, words, copied, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu_free, gpu_free))
    monkeypatch.setattr(cache_place, "free_memory", lambda: ram_free)
    pixels = torch.zeros(100, 3, dtype=torch.uint8)
    cache = types.SimpleNamespace(pixels=pixels, to=None)
    assert image_cache.place_cache(cache, wanted, torch.device(device)).startswith(words)
    assert (cache.pixels.data_ptr() != pixels.data_ptr()) == copied


def test_precisions():
    try:
        for precision, short in (("tf32", True), ("fp32", False), ("bf16", False)):
            set_up_arithmetic(torch.device("cuda"), precision)
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == short
    finally:
        set_up_arithmetic(CPU, "fp32")
    with pytest.raises(UserError, match="tf32"):
        pick_precision("tf32", CPU)
