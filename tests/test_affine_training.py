"""Training of the affine generator: steps against a plain computation, resume, ranks, samples from the file alone."""

import copy
import json

import pytest
import rank_processes
import torch
import torch.nn.functional as F
from gan_set import assert_file_gives_its_samples, make_set
from test_gan_training import assert_equal_runs, run_main
from test_ranks_gan import CPU, WIDTH, Keeping, make_batches

from common import checkpoint
from common.cli import UserError
from common.devices import seed_everything
from common.distributed import ranks
from StackGAN_v2 import sampler
from StackGAN_v2.config import load_config
from StackGAN_v2.data.augmentation import DRAWS, augmented
from StackGAN_v2.generators import GENERATORS, generator_class, load_generator
from StackGAN_v2.training.networks import Networks, average_decay
from StackGAN_v2.training.step import Stepper

CFG = """
MODEL: affine
DATASET_NAME: tiny
TREE: {BRANCH_NUM: 1, BASE_SIZE: 32}
TRAIN:
  BATCH_SIZE: 4
  MAX_EPOCH: 50
  SNAPSHOT_INTERVAL: 3
  EMA_RAMP: 0.5
  DIFFAUGMENT: [color, translation, cutout]
  ADVERSARIAL: hinge
  WRONG: speech
  CONDITION_INIT: True
  BETAS: [0, 0.9]
  COEFF: {MA_PENALTY: 2, MATCHING: 1}
  MA_PENALTY_EVERY: 2
  MATCHER_STEPS: 2
GAN: {DF_DIM: 4, GF_DIM: 4, Z_DIM: 5, CONDITION_DIM: 6, MASK: 3, MAX_FACTOR: 2}
"""
STEP = [
    "MODEL=affine",
    "TREE.BRANCH_NUM=2",
    "TREE.BASE_SIZE=16",
    "GAN.GF_DIM=4",
    "GAN.DF_DIM=4",
    "GAN.Z_DIM=5",
    "GAN.CONDITION_DIM=6",
    "GAN.MAX_FACTOR=2",
    "TRAIN.ADVERSARIAL=hinge",
    "TRAIN.WRONG=speech",
    "TRAIN.COEFF.MA_PENALTY=2",
    "TRAIN.MA_PENALTY_EVERY=2",
    "TRAIN.EMA_RAMP=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_set(tmp_path_factory.mktemp("affine"))
    (folder.parent / "tiny.yml").write_text(CFG)
    return folder


def wake(networks) -> None:
    """Use what starts at zero, too."""
    torch.manual_seed(1)
    for network in networks.all():
        for parameter in network.parameters():
            if not parameter.any() or parameter.dim() == 0:
                torch.nn.init.normal_(parameter, std=0.3)
    networks.average.load_state_dict(networks.generator.state_dict())


def test_two_steps_equal_the_plain_computation():
    """Losses as DF-GAN writes them: hinge, mismatched pairs and fakes at half weight, 2‖∇‖⁶ every second step, counted
    twice; then Adam, and an average whose half-life is at most twice the steps so far."""
    torch.manual_seed(0)
    cfg = load_config(settings=STEP)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    wake(networks)
    generator, discriminator = copy.deepcopy(networks.generator), copy.deepcopy(networks.discriminators[0])
    average = [p.detach().clone() for p in generator.parameters()]
    adam = [torch.optim.Adam(n.parameters(), 2e-4, betas=(0.5, 0.999)) for n in (generator, discriminator)]
    stepper = Stepper(networks, cfg.TRAIN, CPU, "fp32")
    for step in range(2):
        batch = batches(step)
        found = stepper(batch, step)
        c = generator(batch.z, batch.speech)[1].detach().requires_grad_()
        real = batch.real[0].clone().requires_grad_()
        fake = generator(batch.z, batch.speech)[0][0]
        matching = discriminator(real, c)
        d = F.relu(1 - matching).mean() + 0.5 * F.relu(1 + discriminator(real, c.roll(1, 0))).mean()
        d = d + 0.5 * F.relu(1 + discriminator(fake.detach(), c)).mean()
        assert float(found["D0"]) == pytest.approx(float(d.detach()), rel=1e-5)
        if step == 0:
            grads = torch.autograd.grad(matching.sum(), (real, c), create_graph=True)
            norm = torch.stack([torch.cat([g[n].flatten() for g in grads]).norm() for n in range(len(real))])
            assert float(found["D0_penalty"]) == pytest.approx(float(2 * (norm.detach() ** 6).mean()), rel=1e-4)
            d = d + 2 * 2 * (norm**6).mean()
        adam[1].zero_grad()
        d.backward()
        adam[1].step()
        image, c, _ = generator(batch.z, batch.speech)
        g = -discriminator(image[0], c).mean()
        assert float(found["G"]) == pytest.approx(float(g.detach()), rel=1e-4, abs=1e-6)
        adam[0].zero_grad()
        g.backward()
        adam[0].step()
        decay = [0.0, 0.5**0.5][step]
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, generator.parameters())]
    for ours, plain in (
        (networks.generator.parameters(), generator.parameters()),
        (networks.discriminators[0].parameters(), discriminator.parameters()),
        (networks.average.parameters(), average),
    ):
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, atol=3e-5, rtol=0)  # Adam's steps are 2e-4, whatever the gradient


def test_the_averages_half_life_grows():
    ramp, plain = (load_config(settings=[f"TRAIN.EMA_RAMP={ramp}"]).TRAIN for ramp in (0.05, 0))
    assert average_decay(plain, 0) == average_decay(plain, 10**6) == 0.999
    assert average_decay(ramp, 0) == 0 and average_decay(ramp, 20) == 0.5 and average_decay(ramp, 10**6) == 0.999


# ---- augmentation ----


def test_augmentation_by_hand():
    image = torch.arange(3 * 8 * 8).view(1, 3, 8, 8) / 192.0
    draws = torch.full((1, DRAWS), 0.5)
    torch.testing.assert_close(augmented(image, draws, ["color", "translation"]), image)  # the middle of every range
    moved = augmented(image, torch.tensor([[0, 0, 0, 0.99, 0.0, 0, 0]]), ["translation"])  # down and to the left by one
    assert (
        torch.equal(moved[:, :, 1:, :7], image[:, :, :7, 1:]) and not moved[:, :, 0].any() and not moved[..., 7].any()
    )
    cut = augmented(image, torch.tensor([[0, 0, 0, 0, 0, 0.5, 0.0]]), ["cutout"])  # rows 2 … 5, columns 0 and 1
    assert not cut[:, :, 2:6, :2].any() and (cut != image).sum() == 3 * 4 * 2 - (image[:, :, 2:6, :2] == 0).sum()
    colours = augmented(image, torch.tensor([[1.0, 0, 0.5, 0, 0, 0, 0]]), ["color"])  # brighter by a half, grey
    torch.testing.assert_close(colours, (image.mean(1, keepdim=True) + 0.5).expand_as(image))
    x = image.double().requires_grad_()
    draws = torch.rand(1, DRAWS, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(lambda x: augmented(x, draws, ["color", "translation", "cutout"]), x)


def test_augmentation_is_drawn_by_iteration_and_role():
    batches = make_batches([32])
    first, again, other = batches(1).augmentation, batches(1).augmentation, batches(2).augmentation
    assert all(torch.equal(first[role], again[role]) and not torch.equal(first[role], other[role]) for role in first)
    assert len({float(draws[0, 0]) for draws in first.values()}) == 4


# ---- runs ----


def test_a_run_in_parts_equals_one(folder, tmp_path, capsys):
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 5)
    for steps in (2, 4, 5):
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", steps)
    assert "going on from iteration 4 of" in capsys.readouterr().out
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    ticks = [json.loads(line) for line in (tmp_path / "parts" / "stats.jsonl").read_text().splitlines()]
    assert {"D0", "D0_penalty", "G0", "match", "G"} <= ticks[0].keys() and "KL" not in ticks[0]
    assert {path.name for path in (tmp_path / "parts" / "Image").iterdir()} == {
        f"32_{n:06d}.png" for n in (0, 2, 3, 4, 5)
    }
    other = ["--output_dir", tmp_path / "parts", "--max_steps", 6, "--set"]
    with pytest.raises(UserError, match="made with model = affine, now it is stackgan_v2"):
        run_main(folder, *other, "MODEL=stackgan_v2")


def test_the_file_alone_says_how_to_sample(folder, tmp_path):
    """Masks, projection and widths are read from it, whatever the cfg says."""
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 3)
    net_g = tmp_path / "run" / "Model" / "netG_3.pth"
    generate = ["--set", "TRAIN.FLAG=False", "--set", "GAN.GF_DIM=8", "--set", "GAN.MASK=0", "--eval_net_g", net_g]
    run_main(folder, *generate, "--sheet", 2)
    generator = load_generator(net_g)
    assert generator.name == "affine" and generator.sizes == [32] and generator.condition_dim == 6
    assert_file_gives_its_samples(folder, net_g, generator)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("fc.weight"), "holds no generator .*fc.weight"),
        (lambda state: state.pop("blocks.1.conv2.weight"), "lacks 'blocks.1.conv2.weight'"),
        (lambda state: state.update({"fc.weight": torch.zeros(3, 5)}), "'fc.weight' is .3, 5. there"),
        (lambda state: state.update({"fc.weight": torch.zeros(3, 500)}), "'fc.weight' is .3, 500. there"),
        (lambda state: state.update({"blocks.0.conv1.weight": torch.zeros(1 << 17, 1 << 5, 1, 1)}), "another arch"),
        (lambda state: state.update({"more": torch.zeros(1)}), "it has 'more'"),
    ],
)
def test_a_damaged_state_ends_in_a_sentence(tmp_path, change, words):
    state = generator_class("affine").from_settings(load_config(settings=STEP), WIDTH).state_dict()
    change(state)
    checkpoint.save(tmp_path / "x.pth", state)
    with pytest.raises(UserError, match=words):
        load_generator(tmp_path / "x.pth")


def test_its_discriminator_is_told_from_a_generator(tmp_path):
    networks = Networks(load_config(settings=STEP), WIDTH, CPU)
    checkpoint.save(tmp_path / "netD0.pth", networks.discriminators[0].state_dict())
    with pytest.raises(UserError, match="holds no generator but a discriminator"):
        load_generator(tmp_path / "netD0.pth")


def rank_main(output: str) -> None:
    ranks.start(CPU)
    seed_everything(ranks.rank())
    cfg = load_config(settings=[*STEP, "TRAIN.DIFFAUGMENT=translation,color"])
    networks = Networks(cfg, WIDTH, CPU)
    wake(networks)
    networks.optimizer_g, *networks.optimizers_d = optimizers = [Keeping(n.parameters(), 0.01) for n in networks.all()]
    step, batches = Stepper(networks, cfg.TRAIN, CPU, "fp32"), make_batches([32])
    for iteration in range(2):
        step(batches(iteration), iteration)
    state = {f"{i} {key}": v for i, n in enumerate(networks.all()) for key, v in n.state_dict().items()}
    state |= {f"gradient {i} {j}": g for i, one in enumerate(optimizers) for j, g in enumerate(one.kept)}
    torch.save(state, f"{output}.{ranks.rank()}")
    ranks.finish()


def test_two_processes_equal_one(tmp_path):
    """There is no batch norm, so without --sync_bn."""
    for count in (1, 2):
        rank_processes.wait(rank_processes.start(rank_main, count, str(tmp_path / str(count))))
    one, two, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1.0", "2.0", "2.1"))
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(two[name], second[name])


@pytest.mark.parametrize("mask", [0, 3])
def test_a_step_in_bf16_is_near(mask):
    terms = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        cfg = load_config(settings=[*STEP, f"GAN.MASK={mask}"])
        networks = Networks(cfg, WIDTH, CPU)
        wake(networks)
        terms[precision] = Stepper(networks, cfg.TRAIN, CPU, precision)(make_batches([32])(0), 0)
    for name, value in terms["fp32"].items():
        assert float(terms["bf16"][name]) == pytest.approx(float(value), rel=0.05, abs=0.02), name


# ---- the table ----


def test_a_generator_is_a_class_and_a_line(folder, tmp_path, monkeypatch):
    """Another class under another name: trained, kept, and recognised by its file."""
    monkeypatch.setitem(GENERATORS, "toy", f"{__name__}:ToyGenerator")
    cfg = load_config(settings=STEP)
    object.__setattr__(cfg, "MODEL", "toy")
    networks = Networks(cfg, WIDTH, CPU)
    stepper = Stepper(networks, cfg.TRAIN, CPU, "fp32")
    before = networks.generator.colour.weight.detach().clone()
    assert "G0" in stepper(make_batches([32])(1), 1)
    assert not torch.equal(networks.generator.colour.weight, before)
    checkpoint.save(tmp_path / "netG_1.pth", networks.average.state_dict())
    again = load_generator(tmp_path / "netG_1.pth")
    images = sampler.generate(again, torch.zeros(2, WIDTH), torch.zeros(2, again.z_dim))
    assert again.name == "toy" and images[0].shape == (2, 32, 32, 3)


class ToyGenerator(torch.nn.Module):
    """An image of one colour."""

    name, remark, z_dim, embedding_dim, sizes, widest_map = "toy", "", 5, 0, [32], 3

    def __init__(self, text_dim: int):
        super().__init__()
        self.text_dim, self.colour = text_dim, torch.nn.Linear(text_dim + 5, 3)

    @classmethod
    def from_settings(cls, cfg, text_dim):
        return cls(text_dim)

    @staticmethod
    def recognises(state):
        return set(state) == {"colour.weight", "colour.bias"}

    @classmethod
    def from_state(cls, state):
        return cls(state["colour.weight"].shape[1] - 5)

    def discriminators(self, cfg):
        from StackGAN_v2.networks.affine import AffineDiscriminator

        return [AffineDiscriminator([4, 4, 4, 4], self.text_dim)]

    def initialise(self):
        torch.nn.init.zeros_(self.colour.bias)

    def forward(self, z, speech, eps=None):
        return [self.colour(torch.cat((z, speech), 1)).tanh()[:, :, None, None].expand(-1, -1, 32, 32)], speech, None


@pytest.mark.parametrize(
    "words, said",
    [
        (["MODEL=unet"], "known are stackgan_v2, affine"),
        (["TRAIN.DIFFAUGMENT=blur"], "known are color, translation, cutout"),
        (["MODEL=affine", "TRAIN.COEFF.UNCOND_LOSS=1"], "has no unconditional logit"),
        (["GAN.MAX_FACTOR=0"], "at least 1"),
    ],
)
def test_settings_that_cannot_be(words, said):
    with pytest.raises(UserError, match=said):
        load_config(settings=words)


def test_a_list_of_augmentations_is_one_setting():
    assert load_config(settings=["TRAIN.DIFFAUGMENT=[translation, cutout]"]).TRAIN.augmentations == [
        "translation",
        "cutout",
    ]
    assert load_config().TRAIN.augmentations == []
