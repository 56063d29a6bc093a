"""StackGAN-v2's networks and losses: published outputs, hand-worked values, and what a file alone can rebuild."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_recipe import array, fill_state_dict, summary

from common import checkpoint
from common.cli import UserError
from StackGAN_v2 import losses
from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import Batch
from StackGAN_v2.generators import load_generator
from StackGAN_v2.model import Discriminator, FullMapConv, Generator, JointConv, UpConv, generator_settings, init_weights
from StackGAN_v2.networks.condition_init import init_condition
from StackGAN_v2.training.networks import Networks
from StackGAN_v2.training.step import Stepper

GOLDEN = Path(__file__).parent / "golden"
SIZES = (64, 128, 256)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "gan.npz")


@pytest.fixture(scope="module")
def filled():
    """Generator without noise and discriminators with the golden weights; the tests do not change them."""
    with pytest.MonkeyPatch.context() as patch:  # of initial values, which are overwritten
        patch.setattr(torch.nn.init, "kaiming_uniform_", lambda weight, **options: weight)
        networks = [Generator(), *(Discriminator(size) for size in SIZES)]
    for network in networks:
        fill_state_dict(network.eval())
    silence(networks[0])
    return networks


@torch.no_grad()
def silence(generator):
    """Conditioning augmentation without noise: log-variance −100."""
    fc = generator.ca_net.fc
    fc.weight[128:256], fc.weight[384:], fc.bias[128:256], fc.bias[384:] = 0, 0, -100, 100


def inputs():
    return torch.from_numpy(array("z", (4, 100))), torch.from_numpy(array("emb", (4, 1024)))


def image_batches(name):
    return [torch.tanh(torch.from_numpy(array(f"{name}{i}", (4, 3, size, size)))) for i, size in enumerate(SIZES)]


def test_names_and_shapes_are_the_published_ones(filled):
    keys = json.loads((GOLDEN / "gan_keys.json").read_text())
    for network, expected in zip(filled, [keys["G"], *keys["D"]]):
        assert {key: list(value.shape) for key, value in network.state_dict().items()} == expected


@torch.no_grad()
def test_golden_networks(filled, golden):
    generator, *discriminators = filled
    images, mu, _ = generator(*inputs())
    np.testing.assert_allclose(mu, golden["G_eval_mu"], rtol=1e-4, atol=1e-6)
    for i, (image, discriminator, real) in enumerate(zip(images, discriminators, image_batches("real"))):
        np.testing.assert_allclose(summary(image), golden[f"G_eval_img{i}"], rtol=1e-4, atol=1e-5)
        cond, uncond, code = discriminator(real, mu)
        assert code.shape == (4, 8192)
        np.testing.assert_allclose(torch.sigmoid(cond), golden[f"D{i}_eval_cond"], rtol=1e-4)
        np.testing.assert_allclose(torch.sigmoid(uncond), golden[f"D{i}_eval_uncond"], rtol=1e-4)
        np.testing.assert_allclose(summary(code), golden[f"D{i}_eval_code"], rtol=1e-4, atol=1e-5)


def test_golden_training_step(filled, golden, monkeypatch):
    """The trainer's own step with the birds cfg: three D losses, KL, and G's loss after the discriminators' updates."""
    for slow in ("orthogonal_", "kaiming_uniform_"):  # and overwritten below
        monkeypatch.setattr(torch.nn.init, slow, lambda weight, **options: weight)
    cfg = load_config(Path(__file__).parent.parent / "StackGAN_v2" / "cfg" / "birds_3stages.yml")
    networks = Networks(cfg, 1024, torch.device("cpu"))
    for network, source in zip(networks.all(), filled):
        network.load_state_dict(source.state_dict())
    z, speech = inputs()
    batch = Batch(
        image_batches("real"), image_batches("wrong"), speech, torch.tensor([3, 5, 3, 7]), z, torch.zeros(4, 128)
    )
    terms = Stepper(networks, cfg.TRAIN, torch.device("cpu"), "fp32")(batch, 0)
    found = [float(terms[name]) for name in ("D0", "D1", "D2", "KL", "G")]
    np.testing.assert_allclose(found, golden["step_color0"], rtol=1e-4)


def test_golden_losses(golden):
    codes, labels = torch.from_numpy(array("xa", (8, 128)) + np.float32(0.5)), torch.tensor([0, 1, 0, 2, 1, 3, 3, 0])
    assert float(losses.class_aware_loss(codes, labels)) == pytest.approx(float(golden["cal"][0]), rel=1e-4)
    kl = losses.kl_loss(torch.from_numpy(array("mu", (4, 128))), torch.from_numpy(array("lv", (4, 128))))
    assert float(kl) == pytest.approx(float(golden["kl"][0]), rel=1e-4)


def test_class_aware_loss_by_hand():
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])  # products: 1 0 2 / 0 1 0 / 2 0 4, mean 10 / 9
    assert float(losses.class_aware_loss(codes, torch.tensor([0, 0, 1]))) == pytest.approx(10 / 9 / 2)
    assert float(losses.class_aware_loss(codes, torch.tensor([0, 1, 0]))) == 0  # the pair's mean is 2: better
    assert float(losses.class_aware_loss(codes, torch.tensor([0, 1, 2]))) == 0  # no pair


def test_adversarial_losses_by_hand():
    zero, one = torch.zeros(2), torch.ones(2)
    nothing = (zero, zero)
    assert float(losses.d_loss(nothing, nothing, nothing, "bce", 1.0)) == pytest.approx(6 * math.log(2))
    assert float(losses.d_loss(nothing, nothing, nothing, "bce", 0.0)) == pytest.approx(2 * math.log(2))
    # the wrong image is real: the unconditional term is content when its logit is 1
    good = losses.d_loss((one, one), (-one, one), (-one, -one), "hinge", 1.0)
    assert float(good) == 0
    assert float(losses.d_loss((one, one), (-one, -one), (-one, -one), "hinge", 1.0)) == 2
    assert float(losses.g_loss((one, 3 * one), "hinge", 0.5)) == -2.5
    assert float(losses.g_loss(nothing, "bce", 1.0)) == pytest.approx(2 * math.log(2))


def test_color_loss_by_hand():
    fine = torch.zeros(1, 3, 2, 2)
    coarse = torch.zeros(1, 3, 1, 1) + torch.tensor([0.0, 0.3, 0.6])[None, :, None, None]
    assert float(losses.color_loss(fine, coarse)) == pytest.approx((0.09 + 0.36) / 3)
    checker = fine.clone()
    checker[0, 0] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # covariance 1 in one of nine entries
    assert float(losses.color_loss(checker, fine)) == pytest.approx(5 / 9)


def test_matching_aware_penalty_by_hand():
    """A critic 3·x + 4·c has a gradient of length 5 at every point."""
    image, condition = torch.zeros(2, 1, 1, 1, requires_grad=True), torch.zeros(2, 1, requires_grad=True)
    logits = 3 * image.flatten() + 4 * condition.flatten()
    assert float(losses.matching_aware_penalty(logits, image, condition, power=2)) == pytest.approx(25)


def test_upsampling_convolution_equals_its_two_steps():
    """Values and both gradients, odd and even maps, against nearest upsampling and a plain convolution."""
    torch.manual_seed(0)
    for height, width in ((3, 5), (4, 4), (1, 1)):
        x, up = torch.randn(2, 3, height, width, dtype=torch.double, requires_grad=True), UpConv(3, 4).double()
        plain = F.conv2d(F.interpolate(x, scale_factor=2.0), up.weight, padding=1)
        weights = torch.randn_like(plain)
        expected = torch.autograd.grad((plain * weights).sum(), (x, up.weight))
        found = torch.autograd.grad((up(x) * weights).sum(), (x, up.weight))
        torch.testing.assert_close(up(x), plain)
        torch.testing.assert_close(found, expected)


def test_convolution_of_a_tiled_condition_equals_the_plain_one():
    torch.manual_seed(0)
    for height, width in ((3, 3), (4, 4), (5, 8)):
        c, h = torch.randn(2, 5, dtype=torch.double, requires_grad=True), torch.randn(2, 3, height, width).double()
        joint = JointConv(5, 3, 4).double()
        plain = F.conv2d(torch.cat((c[:, :, None, None].expand(-1, -1, height, width), h), 1), joint.weight, padding=1)
        weights = torch.randn_like(plain)
        torch.testing.assert_close(joint((c, h)), plain)
        torch.testing.assert_close(
            torch.autograd.grad((joint((c, h)) * weights).sum(), (c, joint.weight)),
            torch.autograd.grad((plain * weights).sum(), (c, joint.weight)),
        )


@pytest.mark.parametrize("text_dim", [9, 6, 4])
def test_conditions_start_with_unit_spread(text_dim):
    """Also of speech embeddings that are narrower than the condition."""
    torch.manual_seed(0)
    ca_net = Generator(1, 16, 4, 5, 6, text_dim).apply(init_weights).ca_net
    speech = 3 + 0.01 * torch.randn(500, text_dim)
    before = ca_net(speech)[1].std(0)
    init_condition(ca_net, speech)
    with torch.no_grad():
        _, mu, logvar = ca_net(speech)
    gate = ca_net.fc(speech)[:, :6]
    torch.testing.assert_close(gate.mean(0), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(gate.std(0), torch.ones(6), atol=1e-3, rtol=0)
    assert (mu.std(0) > 20 * before).all() and -4 < float(logvar.mean()) < -2


@pytest.mark.parametrize("penalise", [False, True])
@pytest.mark.parametrize("wrong", ["image", "speech"])
def test_one_pass_equals_one_for_each_kind(wrong, penalise):
    """Real, wrong and fake images together: the numbers and running statistics of separate passes, one after the other."""
    torch.manual_seed(0)
    cfg = load_config(
        settings=["TREE.BASE_SIZE=16", "GAN.GF_DIM=8", "GAN.DF_DIM=4", "TREE.BRANCH_NUM=1", f"TRAIN.WRONG={wrong}"]
    )
    networks = Networks(cfg, 9, torch.device("cpu"))
    together, apart = networks.discriminators[0], copy.deepcopy(networks.discriminators[0])
    real, other, fake = torch.randn(3, 5, 3, 16, 16)
    mu = torch.randn(5, 128)
    found = Stepper(networks, cfg.TRAIN, torch.device("cpu"), "fp32")._discriminate_all(
        0, real, other if wrong == "image" else None, fake, mu, mu, penalise
    )
    code = apart.encode(real)
    plain = [(apart.condition_logits(code, mu), apart.uncond_logits(code).flatten())]
    plain.append(
        apart(other, mu)[:2] if wrong == "image" else (apart.condition_logits(code, mu.roll(1, 0)), plain[0][1])
    )
    plain.append(apart(fake, mu)[:2])
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(dict(together.named_buffers()), dict(apart.named_buffers()))
    assert (plain[0][0] - plain[1][0]).abs().min() > 1e-4


@pytest.mark.parametrize("channels", [16, 24, 64])
def test_logits_in_bf16(channels):
    """oneDNN's own convolution in bf16 is off by more than the whole value where the kernel covers the map."""
    torch.manual_seed(0)
    layer = FullMapConv(channels, 1, 4, 4).to(memory_format=torch.channels_last)
    x = torch.randn(6, channels, 4, 4).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            layer(x).float(),
            F.conv2d(x.double(), layer.weight.double(), layer.bias.double()).float(),
            atol=0.02,
            rtol=0.02,
        )


@pytest.mark.parametrize("branch_num, base_size, gf_dim", [(3, 16, 8), (2, 32, 4), (1, 64, 4)])
def test_small_networks(branch_num, base_size, gf_dim):
    generator = Generator(branch_num, base_size, gf_dim, z_dim=5, embedding_dim=6, text_dim=7, r_num=1).eval()
    images, mu, logvar = generator(torch.zeros(2, 5), torch.zeros(2, 7))
    sizes = [base_size << i for i in range(branch_num)]
    assert [tuple(image.shape) for image in images] == [(2, 3, size, size) for size in sizes]
    assert mu.shape == logvar.shape == (2, 6)
    for size, image in zip(sizes, images):
        cond, uncond, code = Discriminator(size, 4, 6)(image, mu)
        assert cond.shape == uncond.shape == (2,) and code.shape == (2, 16 * 4 * min(size // 8, 8))


def test_a_file_alone_rebuilds_its_generator(tmp_path):
    settings = dict(branch_num=2, base_size=16, gf_dim=8, z_dim=5, embedding_dim=6, text_dim=7, r_num=3)
    generator = Generator(**settings).apply(init_weights).eval()
    assert generator_settings(generator.state_dict()) == settings
    checkpoint.save(tmp_path / "netG_1.pth", {"module." + key: value for key, value in generator.state_dict().items()})
    noise = (torch.ones(2, 5), torch.ones(2, 7), torch.zeros(2, 6))
    again = load_generator(tmp_path / "netG_1.pth")
    assert torch.equal(again(*noise)[0][1], generator(*noise)[0][1])


@pytest.mark.parametrize("branch_num, r_num", [(2, 0), (2, 1), (3, 20)])
def test_any_number_of_residual_blocks_is_read_from_the_file(tmp_path, branch_num, r_num):
    generator = Generator(branch_num, 16, 4, 5, 6, 7, r_num).eval()
    checkpoint.save(tmp_path / "netG_1.pth", generator.state_dict())
    assert load_generator(tmp_path / "netG_1.pth").r_num == r_num


@pytest.mark.parametrize(
    "content, words",
    [
        ({"a": torch.zeros(1)}, "no generator"),
        ([1], "no network"),
        ({"ca_net.fc.weight": torch.zeros(8, 3)}, "no generator"),
        (Discriminator(16, 4, 6).state_dict(), "but a discriminator"),
        ({"Conv.1.0.weight": torch.zeros(1)}, "but a speech encoder"),
    ],
)
def test_what_is_no_generator_is_refused(tmp_path, content, words):
    checkpoint.save(tmp_path / "x.pth", content)
    with pytest.raises(UserError, match=words):
        load_generator(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "key, shape",
    [
        ("h_net1.fc.0.weight", (8, 1)),
        ("img_net1.img.0.weight", (3, 0, 3, 3)),
        ("ca_net.fc.weight", (0, 7)),
        ("ca_net.fc.weight", (24,)),
    ],
)
def test_shapes_without_sense_end_in_a_sentence(tmp_path, key, shape):
    checkpoint.save(tmp_path / "x.pth", {**Generator(1, 16, 4, 5, 6, 7).state_dict(), key: torch.zeros(shape)})
    with pytest.raises(UserError, match="x.pth"):
        load_generator(tmp_path / "x.pth")


def test_wrong_shapes_are_caught():
    generator = Generator(1, 16, 4, 5, 6, 7)
    with pytest.raises(AssertionError, match="speech"):
        generator(torch.zeros(2, 5), torch.zeros(2, 8))
    with pytest.raises(AssertionError, match="eps"):
        generator(torch.zeros(2, 5), torch.zeros(2, 7), torch.zeros(2, 5))
    with pytest.raises(AssertionError, match="image"):
        Discriminator(16, 4, 6)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 6))
