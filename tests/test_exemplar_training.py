"""Training of the exemplar generator: an iteration against a plain computation, settings, ranks, damaged files."""

import copy
import dataclasses
import math
import re

import pytest
import rank_processes
import torch
import torch.nn.functional as F
from test_exemplar_regions import in_thirds, spotted
from test_ranks_gan import CPU, LABELS, WIDTH, Keeping, make_batches

from common import ROOT, checkpoint
from common.cli import UserError
from common.devices import seed_everything
from common.distributed import ranks
from common.matching_network import Matcher
from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import generator_of
from StackGAN_v2.generators import generator_class, load_generator
from StackGAN_v2.networks.exemplar import TEMPERATURE, cut
from StackGAN_v2.training.exemplar_step import Budget, ExemplarStepper, begin
from StackGAN_v2.training.image_losses import SentenceMatchingLoss
from StackGAN_v2.training.networks import Networks

STEP = [
    "MODEL=exemplar",
    "TREE.BRANCH_NUM=2",
    "TREE.BASE_SIZE=16",
    "GAN.Z_DIM=14",
    "TRAIN.BATCH_SIZE=6",
    "TRAIN.BETAS=[0.9,0.99]",
    "TRAIN.EMA_RAMP=2",
    "EXEMPLAR.REGIONS=3",
    "EXEMPLAR.COLOURS=7",
    "EXEMPLAR.HIDDEN_DIM=8",
    "EXEMPLAR.CONDITION_DIM=6",
    "EXEMPLAR.WIDTH=4",
    "EXEMPLAR.UNSAID=0.4",
    "EXEMPLAR.MATCH_AGAINST=5",
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


def plain_masks(x, count=3):
    """Masks of the regions, soft ones, and the regions' mean colours."""
    regions = cut(x, count)
    masks = torch.stack([(regions == k).float() for k in range(count)], 1)
    index = torch.arange(-1, x.shape[2] + 1).clamp(0, x.shape[2] - 1)
    padded, side = masks[:, :, index][..., index], x.shape[2]
    soft = sum(padded[:, :, i : i + side, j : j + side] for i in range(3) for j in range(3)) / 9
    true = (masks[:, :, None] * x[:, None]).sum((3, 4)) / masks.sum((2, 3)).clamp(min=1)[..., None]
    return masks, soft, true


def composed(masks, colours):
    return (masks[:, :, None] * colours[..., None, None]).sum(1)


def plain_shading(x, soft, true):
    red, green, blue = (x - composed(soft, true)).unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).clamp(-1, 1)[:, None]


def plain_colour_loss(logits, true, colours, areas):
    targets = (-(true[:, :, None] - colours).square().sum(3) / (2 * 0.08**2)).softmax(2)
    each = logits.logsumexp(2) - (targets * logits).sum(2)
    weights = torch.where(areas < 0.01, areas / 0.01, 1.0)
    return (each * weights).sum() / weights.sum()


def moved(images, step):
    """The pixels that lie a few places away, those of the border beyond it."""
    down, across = torch.randint(7, (2,), generator=generator_of(SEED, 7, step)).tolist()
    rows, columns = (torch.arange(32).add(by - 3).clamp(0, 31) for by in (down, across))
    return images[:, :, rows][..., columns]


@pytest.mark.parametrize("fixed", [False, True])
def test_two_steps_equal_the_plain_computation(fixed):
    """In step 2 of 4, past MATCH_FROM, the odd places take another sentence, too. Images 0 and 1 have a tiny region.

    fixed: the projection is that of the matching network and is not trained.
    """
    cfg = load_config(settings=[*STEP, f"TRAIN.CONDITION_INIT={fixed}"])
    torch.manual_seed(0)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    batches.cache.images[:2] = torch.cat((spotted(32, 2)[0], in_thirds(32)))
    batches.cache.images[:2, :, 1, 1] = 1.0
    wake(networks)
    stepper = stepper_of(networks, cfg, batches)
    g = copy.deepcopy(networks.generator)
    adam = torch.optim.AdamW(g.parameters(), 3e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    average = [p.detach().clone() for p in g.parameters()]
    start = networks.generator.projection.weight.detach().clone()
    unheard, tiny = 0, 0
    for step, (lr, decay) in {0: (3e-3 / 2, 0.0), 2: (3e-3 / 2, 0.5**0.25)}.items():
        batch = batches(step)
        found = stepper(batch, step)
        drawn = generator_of(SEED, 4, step)
        draws, heard = torch.randn(6, 12, generator=drawn), (torch.rand(6, 1, generator=drawn) >= 0.4).float()
        unheard += int((heard == 0).sum())
        x = batch.real[0]
        masks, soft, true = plain_masks(x)
        slots, areas = g.describe(x, masks, draws)
        tiny += int((areas < 0.01).sum())
        g.projection.requires_grad_(not fixed)
        logits = g.colour_logits(g.projection(batch.speech) * heard, slots)
        terms = {"colour": plain_colour_loss(logits, true, g.colours, areas)}
        if step:
            others, labels = batch.speech[[5, 1, 3]], batch.labels[[5, 1, 3]]
            logits = g.colour_logits(g.projection(others), slots[1::2])
            images = composed(soft[1::2], (logits / TEMPERATURE).softmax(2) @ g.colours)
            images = (images + plain_shading(x[1::2], soft[1::2], true[1::2])).clamp(-1, 1)
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
    assert 0 < unheard < 12 and tiny
    for ours, plain in ((networks.generator.parameters(), g.parameters()), (networks.average.parameters(), average)):
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)  # AdamW's steps are 1.5e-3
    assert torch.equal(networks.generator.projection.weight, start) == fixed
    for network in (networks.generator, networks.average):
        for one, other in zip(network.buffers(), g.buffers(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unsaid", [0, 1])
def test_sentences_that_are_not_heard_change_nothing(unsaid):
    cfg = load_config(settings=[*STEP, f"EXEMPLAR.UNSAID={unsaid}"])
    batches, terms = make_batches([32]), []
    for other in (False, True):
        torch.manual_seed(0)
        networks, batch = Networks(cfg, WIDTH, CPU), batches(0)
        wake(networks)
        before = networks.generator.projection.weight.detach().clone()
        batch = dataclasses.replace(batch, speech=batch.speech.flip(0) + 1 if other else batch.speech)
        networks.optimizer_g = torch.optim.SGD(networks.generator.parameters(), 0.1)
        terms.append(float(stepper_of(networks, cfg, batches)(batch, 0)["colour"]))
        assert torch.equal(networks.generator.projection.weight, before) == bool(unsaid)
    assert (terms[0] == terms[1]) == bool(unsaid)


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


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("projection.weight"), "holds no generator .*projection.weight"),
        (lambda state: state.pop("network.fine.0.0.weight"), "lacks 'network.fine.0.0.weight'"),
        (lambda state: state.pop("colours"), "lacks 'colours'"),
        (lambda state: state.pop("keep"), "lacks 'keep'"),
        (lambda state: state.update({"choice": torch.zeros(2)}), "'choice' is .2,. there"),
        (lambda state: state.update({"colours": torch.zeros(6, 3)}), "'colours' is .6, 3. there"),
        (lambda state: state.update({"palette.4.weight": torch.zeros(7, 8, 1)}), "holds no generator"),
        (lambda state: state.update({"palette.4.weight": torch.zeros(7)}), "holds no generator"),
        (lambda state: state.update({"bank_spread": torch.zeros(0, 1)}), "do not go together"),
        (lambda state: state.update({"bank_spread": torch.zeros(7, 5)}), "'bank_spread' is .7, 5. there"),
        (lambda state: state.update({"bank_regions": torch.zeros(0, 32, 32)}), "a bank of 0 images"),
        (lambda state: state.update({"bank_regions": torch.zeros(1, 33, 33)}), "do not go together"),
        (lambda state: state.update({"bank_regions": torch.zeros(1)}), "holds no generator"),
        (lambda state: state.update({"bank_colours": torch.zeros(1, 257, 3)}), "257 regions"),
        (lambda state: state.update({"bank_details": torch.zeros(2, 32, 32)}), "'bank_details' is .2, 32, 32. there"),
        (lambda state: state.update({"network.to_fine.0.weight": torch.zeros(1 << 17, 1 << 5, 1, 1)}), "another arch"),
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
        (["TREE.BRANCH_NUM=1", "TREE.BASE_SIZE=16"], "must have 32, 64, 128 or 256 pixels"),
        (["GAN.Z_DIM=7"], "it must be 8 at least"),
        (["TRAIN.BATCH_SIZE=5"], "it must be even"),
        (["EXEMPLAR.REGIONS=0"], "at least 1"),
        (["EXEMPLAR.REGIONS=257"], "at most 256"),
        (["EXEMPLAR.KEEP=1.5"], "at most 1"),
        (["EXEMPLAR.CHOICE=0"], "above 0"),
        (["EXEMPLAR.PARTS=4"], "EXEMPLAR.PARTS"),
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
    assert stepper(batches(1), 1).keys() == {"colour", "G"}
