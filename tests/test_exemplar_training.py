"""Training of the exemplar generator: an iteration against a plain computation, its beginning, ranks, damaged files."""

import copy
import math
import re

import pytest
import rank_processes
import torch
import torch.nn.functional as F
from test_ranks_gan import CPU, LABELS, WIDTH, Keeping, make_batches

from common import ROOT, checkpoint
from common.cli import UserError
from common.devices import seed_everything
from common.distributed import ranks
from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import generator_of
from StackGAN_v2.generators import generator_class, load_generator
from StackGAN_v2.networks.condition_init import set_projection
from StackGAN_v2.networks.exemplar import bank_of, common_colours, recolour
from StackGAN_v2.training.exemplar_step import Budget, ExemplarStepper, begin, make_bank_filler
from StackGAN_v2.training.image_losses import SentenceMatchingLoss
from StackGAN_v2.training.matching_network import Matcher
from StackGAN_v2.training.networks import Networks

STEP = [
    "MODEL=exemplar",
    "TREE.BRANCH_NUM=2",
    "TREE.BASE_SIZE=16",
    "GAN.Z_DIM=14",
    "TRAIN.BATCH_SIZE=6",
    "TRAIN.BETAS=[0.9,0.99]",
    "TRAIN.EMA_RAMP=2",
    "EXEMPLAR.PARTS=3",
    "EXEMPLAR.COLOURS=7",
    "EXEMPLAR.HIDDEN_DIM=8",
    "EXEMPLAR.CONDITION_DIM=6",
    "EXEMPLAR.SPATIAL_DIM=3",
    "EXEMPLAR.COARSE_DIM=4",
    "EXEMPLAR.CONSTANTS=2",
    "EXEMPLAR.MATCH_AGAINST=5",
    "EXEMPLAR.SAID_LOSS=0.7",
    "EXEMPLAR.WARM_UP=2",
    "EXEMPLAR.CLIP=0.05",
    "TRAIN.GENERATOR_LR=3e-3",
]
SEED = 3


def make_match(batches, count=5, weight=0.1, precision="fp32"):
    torch.manual_seed(5)
    matcher = Matcher(WIDTH)
    matcher.directions.normal_()
    matcher.eval().requires_grad_(False)
    return SentenceMatchingLoss(matcher, weight, batches.features, batches.labels, count, SEED, precision)


def stepper_of(networks, cfg, batches, precision="fp32", progress=lambda step: step / 4):
    return ExemplarStepper(networks, cfg, CPU, precision, SEED, progress, make_match(batches, precision=precision))


def wake(networks) -> None:
    """Use what starts at zero, too: parameters, and the colours."""
    torch.manual_seed(1)
    for parameter in networks.generator.parameters():
        if not parameter.any() or parameter.dim() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.uniform_(networks.generator.colours, -1, 1)
    networks.average.load_state_dict(networks.generator.state_dict())


def coarse(image):
    return image.reshape(-1, 3, 8, 4, 8, 4).mean((3, 5))


def plain_rec(image, real):
    return (image - real).abs().mean() + (coarse(image) - coarse(real)).abs().mean()


def composed(masks, colours, residual):
    return (masks[:, :, None] * colours[..., None, None]).sum(1) + residual


def plain_colour_loss(logits, true, colours, areas):
    targets = (-(true[:, :, None] - colours).square().sum(3) / (2 * 0.08**2)).exp()
    targets = targets / targets.sum(2, keepdim=True)
    each = logits.logsumexp(2) - (targets * logits).sum(2)
    return (each * torch.where(areas < 0.01, areas / 0.01, 1.0)).mean()


def moved(images, step):
    """The pixels that lie a few places away, those of the border beyond it."""
    down, across = torch.randint(7, (2,), generator=generator_of(SEED, 7, step)).tolist()
    rows, columns = (torch.arange(32).add(by - 3).clamp(0, 31) for by in (down, across))
    return images[:, :, rows][..., columns]


@pytest.mark.parametrize("fixed", [False, True])
def test_two_steps_equal_the_plain_computation(fixed):
    """Step 0 reconstructs; in step 2 of 4, past MATCH_FROM, the odd places take another sentence, too.

    fixed: the projection is that of the matching network and is not trained.
    """
    cfg = load_config(settings=[*STEP, f"TRAIN.CONDITION_INIT={fixed}"])
    torch.manual_seed(0)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    wake(networks)
    networks.generator.masks.bias.data[2] = -4.5  # a part of less than a hundredth of the image
    stepper = stepper_of(networks, cfg, batches)
    g = copy.deepcopy(networks.generator)
    adam = torch.optim.AdamW(g.parameters(), 3e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    average = [p.detach().clone() for p in g.parameters()]
    start = networks.generator.projection.weight.detach().clone()
    for step, (lr, decay) in {0: (3e-3 / 2, 0.0), 2: (3e-3 / 2, 0.5**0.25)}.items():
        batch = batches(step)
        found = stepper(batch, step)
        drawn = torch.randn(6, 12 + 768 + 8, generator=generator_of(SEED, 4, step))
        x = batch.real[0]
        mean, logvar, m, v = g.encoder(recolour(x, drawn[:, :12]), x)
        z = mean + (logvar / 2).exp() * drawn[:, 12:780].view(6, 3, 16, 16)
        w = m + (v / 2).exp() * drawn[:, 780:]
        masks, residual, slots, areas = g.segment(z)
        assert (areas[:, 2] < 0.01).all() and (areas[:, :2] > 0.05).all()
        true = (masks[:, :, None] * x[:, None]).sum((3, 4)) / (masks.sum((2, 3)) + 1)[:, :, None]
        g.projection.requires_grad_(not fixed)
        logits = g.colour_logits(g.projection(batch.speech), slots, w)
        said = (logits / 0.3).softmax(2) @ g.colours
        kl = [((a**2 + b.exp() - 1 - b) / 2).sum() / 6 for a, b in ((mean, logvar), (m, v))]
        terms = {
            "rec": plain_rec(composed(masks, true, residual), x),
            "said": 0.7 * plain_rec(composed(masks, said, residual), x),
            "colour": 0.1 * plain_colour_loss(logits, true.detach(), g.colours, areas.detach()),
            "KL": 1e-5 * kl[0],
            "KL_global": 2e-3 * kl[1],
        }
        if step:
            others, labels = batch.speech[[5, 1, 3]], batch.labels[[5, 1, 3]]
            logits = g.colour_logits(g.projection(others), slots[1::2], w[1::2].detach())
            images = composed(masks[1::2], (logits / 0.3).softmax(2) @ g.colours, residual[1::2].detach())
            terms["match"] = stepper.match(moved(images, step), others, labels, step)
        terms["G"] = sum(terms.values())
        assert found.keys() == terms.keys() and all(not term.requires_grad for term in found.values())
        for name, term in terms.items():
            assert found[name].item() == pytest.approx(term.item(), rel=1e-4), name
        adam.zero_grad()
        terms["G"].backward()
        assert torch.nn.utils.clip_grad_norm_(g.parameters(), 0.05) > 0.1
        adam.param_groups[0]["lr"] = lr
        adam.step()
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, g.parameters())]
    for ours, plain in ((networks.generator.parameters(), g.parameters()), (networks.average.parameters(), average)):
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)  # AdamW's steps are 1.5e-3
    assert torch.equal(networks.generator.projection.weight, start) == fixed
    for network in (networks.generator, networks.average):
        for one, other in zip(network.buffers(), g.buffers(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_neither_residual_nor_global_code_learns_from_other_sentences():
    cfg = load_config(settings=STEP)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    wake(networks)
    stepper = stepper_of(networks, cfg, batches)
    given, match = [], stepper._match
    stepper._match = lambda batch, others, iteration: match(batch, given.extend(others) or given, iteration)
    stepper(batches(2), 2)
    masks, residual, slots, of_all = given
    assert masks.requires_grad and slots.requires_grad and not residual.requires_grad and not of_all.requires_grad
    assert masks.shape == (3, 3, 32, 32) and residual.shape == (3, 3, 32, 32) and of_all.shape == (3, 8)


def test_matching_by_hand():
    batches = make_batches([32])
    match = make_match(batches, count=4, weight=2.0)
    images, batch = batches(0).real[0][:2], batches(0)
    speech, labels = batch.speech[:2], torch.tensor([0, 1])
    drawn = torch.randint(14, (4,), generator=generator_of(SEED, 6, 7)).tolist()
    seen = [F.normalize(row, dim=0) for row in match.matcher(images)]
    flat = batches.features.flat
    candidates = [match.matcher.said(row[None])[0] for row in (*speech, *(flat[i] for i in drawn))]
    classes = [0, 1, *(LABELS[i // 2] for i in drawn)]  # two sentences an image
    expected = 0.0
    for i, row in enumerate(seen):
        kept = [j for j in range(6) if j == i or classes[j] != int(labels[i])]
        scores = [10 * float(row @ F.normalize(candidates[j], dim=0)) for j in kept]
        expected += math.log(sum(map(math.exp, scores))) - scores[kept.index(i)]
    assert float(match(images, speech, labels, 7)) == pytest.approx(2 * expected / 2, rel=1e-4)


def test_the_learning_rate_rises_and_falls():
    cfg = load_config(settings=[*STEP, "EXEMPLAR.WARM_UP=50"])
    stepper = stepper_of(Networks(cfg, WIDTH, CPU), cfg, make_batches([32]))
    for iteration, done, share in (
        (0, 0, 1 / 50),
        (24, 0, 0.5),
        (50, 0, 1),
        (99, 0.5, 0.5),
        (99, 1, 0.02),
        (99, 2, 0.02),
    ):
        assert stepper._learning_rate(iteration, done) == pytest.approx(3e-3 * share)


class Clock:
    def __init__(self, share, left):
        self.share_taken, self.seconds_left = lambda: share, lambda: left


def test_the_budget_is_iterations_or_time():
    for share, left, step, done in (
        (0.0, math.inf, 25, 0.25),
        (0.5, 10, 25, 0.5),
        (0.1, 10, 25, 0.25),
        (1.2, -1, 1, 1.0),
    ):
        assert Budget(100, Clock(share, left), CPU)(step) == pytest.approx(done)


def test_the_bank_holds_the_codes_of_training_images():
    cfg = load_config(settings=STEP)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    networks.bank_filler = make_bank_filler(networks, batches, 4)
    assert networks.bank_filler.images.tolist() == [0, 2, 4, 6]
    state = torch.random.get_rng_state()
    networks.refresh()
    assert torch.equal(torch.random.get_rng_state(), state) and networks.generator.training
    bank = bank_of(networks.average)
    draws = torch.randn(4, 12, generator=generator_of(3, 5))
    x = batches.cache.images[[0, 2, 4, 6]]
    codes = copy.deepcopy(networks.generator).eval().encoder(recolour(x, draws), x)
    for held, code in zip(bank.values(), codes, strict=True):
        torch.testing.assert_close(held.float(), code.detach(), atol=2e-3, rtol=2e-3)
    networks.refresh()
    again = bank_of(networks.generator)
    assert all(torch.equal(bank[name], again[name]) and held.any() for name, held in bank.items())


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


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("projection.weight"), "holds no generator .*projection.weight"),
        (lambda state: state.pop("blocks.0.conv1.0.weight"), "lacks 'blocks.0.conv1.0.weight'"),
        (lambda state: state.pop("colours"), "lacks 'colours'"),
        (lambda state: state.update({"colours": torch.zeros(6, 3)}), "'colours' is .6, 3. there"),
        (lambda state: state.update({"palette.4.weight": torch.zeros(7, 8, 1)}), "holds no generator"),
        (lambda state: state.update({"palette.4.weight": torch.zeros(7)}), "holds no generator"),
        (lambda state: state.update({"spread": torch.zeros(0, 768)}), "do not go together"),
        (lambda state: state.update({"spread": torch.zeros(3, 5)}), "'spread' is .3, 5. there"),
        (lambda state: state.update({"bank_mean": torch.zeros(0, 3, 16, 16)}), "a bank of 0 images"),
        (
            lambda state: state.update({"bank_logvar": torch.zeros(2, 3, 16, 16)}),
            "'bank_logvar' is .2, 3, 16, 16. there",
        ),
        (lambda state: state.update({"blocks.0.conv2.0.weight": torch.zeros(1 << 17, 1 << 5, 1, 1)}), "another arch"),
        (lambda state: state.update({"more": torch.zeros(1)}), "it has 'more'"),
    ],
)
def test_a_damaged_state_ends_in_a_sentence(tmp_path, change, words):
    state = generator_class("exemplar").from_settings(load_config(settings=STEP), WIDTH).state_dict()
    change(state)
    checkpoint.save(tmp_path / "x.pth", state)
    with pytest.raises(UserError, match=words):
        load_generator(tmp_path / "x.pth")


def rank_main(output: str) -> None:
    ranks.start(CPU)
    seed_everything(ranks.rank())
    cfg = load_config(settings=[*STEP, "TRAIN.BATCH_SIZE=8"])
    networks = Networks(cfg, WIDTH, CPU, sync_bn=True)
    wake(networks)
    ranks.broadcast_module(networks.generator)
    networks.optimizer_g = Keeping(networks.generator.parameters(), 0.01)
    batches = make_batches([32], batch=8)
    step = stepper_of(networks, cfg, batches)
    images = batches.cache.images
    batches.cache.images = images + 1e-3 * ranks.rank()  # as if they lay on another device
    begin(networks, cfg, batches, step.match)
    batches.cache.images = images
    for iteration in (0, 2):
        step(batches(iteration), iteration)
    state = {**networks.generator.state_dict(), **{f"gradient {i}": g for i, g in enumerate(networks.optimizer_g.kept)}}
    torch.save(state, f"{output}.{ranks.rank()}")
    ranks.finish()


def test_two_processes_equal_one(tmp_path):
    for count in (1, 2):
        rank_processes.wait(rank_processes.start(rank_main, count, str(tmp_path / str(count))))
    one, two, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1.0", "2.0", "2.1"))
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(two[name], second[name])


def test_a_step_in_bf16_is_near():
    terms = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        cfg = load_config(settings=STEP)
        networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
        wake(networks)
        terms[precision] = stepper_of(networks, cfg, batches, precision)(batches(2), 2)
    for name, value in terms["fp32"].items():
        assert float(terms["bf16"][name]) == pytest.approx(float(value), rel=0.05, abs=0.02), name


@pytest.mark.parametrize(
    "words, said",
    [
        (["TREE.BRANCH_NUM=1", "TREE.BASE_SIZE=16"], "32 pixels at least"),
        (["GAN.Z_DIM=10"], "it must be 11 at least"),
        (["TRAIN.BATCH_SIZE=5"], "it must be even"),
        (["EXEMPLAR.PARTS=0"], "at least 1"),
    ],
)
def test_settings_that_cannot_be(words, said):
    with pytest.raises(UserError, match=said):
        load_config(settings=["MODEL=exemplar", *words])


def test_the_rows_that_compare_parts_of_the_method_name_settings_that_exist():
    lines = (ROOT / "scripts" / "modern_parts.txt").read_text().splitlines()
    words = [given for line in lines for given in re.findall(r"--set (\S+=[^\s\"]+)", line)]
    assert len(words) > 5
    for given in words:
        key, value = given.split("=")
        cfg = load_config(ROOT / "StackGAN_v2" / "cfg" / "toybirds_exemplar.yml", [given])
        for name in key.split("."):
            cfg = getattr(cfg, name)
        assert str(cfg) == value or cfg == float(value)


def test_processes_with_an_odd_share_are_refused(monkeypatch):
    cfg = load_config(settings=STEP)
    networks = Networks(cfg, WIDTH, CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="an even number of images for each of the 2 processes"):
        ExemplarStepper(networks, cfg, CPU, "fp32", SEED, lambda step: 0.0)


def test_no_matching_without_its_weight():
    cfg = load_config(settings=STEP)
    batches = make_batches([32])
    stepper = ExemplarStepper(Networks(cfg, WIDTH, CPU), cfg, CPU, "fp32", SEED, lambda step: 1.0)
    assert stepper(batches(1), 1).keys() == {"rec", "said", "colour", "KL", "KL_global", "G"}
