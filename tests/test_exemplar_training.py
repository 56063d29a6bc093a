"""Training of the exemplar generator: an iteration against a plain computation, resume, ranks, samples from the file."""

import copy
import json
import math

import numpy as np
import pytest
import rank_processes
import torch
import torch.nn.functional as F
from gan_set import make_set
from PIL import Image
from test_gan_training import assert_equal_runs, run_main
from test_ranks_gan import CPU, LABELS, WIDTH, Keeping, make_batches

from common import checkpoint
from common.cli import UserError
from common.devices import seed_everything
from common.distributed import ranks
from scripts.report import figures
from scripts.report import runs as runs_of_report
from StackGAN_v2 import sampler
from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import generator_of
from StackGAN_v2.generators import generator_class, load_generator
from StackGAN_v2.networks.exemplar import bank_of, recolour
from StackGAN_v2.training.exemplar_step import Budget, ExemplarStepper, make_bank_filler
from StackGAN_v2.training.image_losses import SentenceMatchingLoss
from StackGAN_v2.training.matching_network import Matcher
from StackGAN_v2.training.networks import Networks

CFG = """
MODEL: exemplar
DATASET_NAME: tiny
TREE: {BRANCH_NUM: 1, BASE_SIZE: 32}
TRAIN:
  BATCH_SIZE: 4
  MAX_EPOCH: 50
  MAX_ITERATIONS: 8
  SNAPSHOT_INTERVAL: 3
  EMA_RAMP: 0.5
  GENERATOR_LR: 3e-3
  BETAS: [0.9, 0.99]
  CONDITION_INIT: True
  COEFF: {MATCHING: 0.1}
  MATCHER_STEPS: 2
GAN: {Z_DIM: 14}
EXEMPLAR: {PARTS: 3, CONDITION_DIM: 6, COARSE_DIM: 4, FINE_DIM: 4, CONSTANTS: 2, MATCH_FROM: 0.2, MATCH_AGAINST: 5, WARM_UP: 2}
"""
STEP = [
    "MODEL=exemplar",
    "TREE.BRANCH_NUM=2",
    "TREE.BASE_SIZE=16",
    "GAN.Z_DIM=14",
    "TRAIN.BATCH_SIZE=6",
    "TRAIN.BETAS=[0.9,0.99]",
    "TRAIN.EMA_RAMP=2",
    "EXEMPLAR.PARTS=3",
    "EXEMPLAR.CONDITION_DIM=6",
    "EXEMPLAR.SPATIAL_DIM=3",
    "EXEMPLAR.COARSE_DIM=4",
    "EXEMPLAR.CONSTANTS=2",
    "EXEMPLAR.MATCH_AGAINST=5",
    "EXEMPLAR.WARM_UP=2",
    "EXEMPLAR.CLIP=0.05",
    "TRAIN.GENERATOR_LR=3e-3",
]
SEED = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_set(tmp_path_factory.mktemp("exemplar"))
    (folder.parent / "tiny.yml").write_text(CFG)
    return folder


def make_match(batches, count=5, weight=0.1, precision="fp32"):
    torch.manual_seed(5)
    matcher = Matcher(WIDTH)
    matcher.directions.normal_()
    matcher.eval().requires_grad_(False)
    return SentenceMatchingLoss(matcher, weight, batches.features, batches.labels, count, SEED, precision)


def stepper_of(networks, cfg, batches, precision="fp32", progress=lambda step: step / 4):
    return ExemplarStepper(networks, cfg, CPU, precision, SEED, progress, make_match(batches, precision=precision))


def wake(networks) -> None:
    """Use what starts at zero, too."""
    torch.manual_seed(1)
    for parameter in networks.generator.parameters():
        if not parameter.any() or parameter.dim() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    networks.average.load_state_dict(networks.generator.state_dict())


def test_two_steps_equal_the_plain_computation():
    """Step 0 reconstructs all of the batch; step 2 of 4, past MATCH_FROM, only the even places."""
    cfg = load_config(settings=STEP)
    torch.manual_seed(0)
    networks, batches = Networks(cfg, WIDTH, CPU), make_batches([32])
    wake(networks)
    stepper = stepper_of(networks, cfg, batches)
    g = copy.deepcopy(networks.generator)
    adam = torch.optim.AdamW(g.parameters(), 3e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    average = [p.detach().clone() for p in g.parameters()]
    for step, (lr, decay) in {0: (3e-3 / 2, 0.0), 2: (3e-3 / 2, 0.5**0.25)}.items():
        batch = batches(step)
        found = stepper(batch, step)
        drawn = torch.randn(6, 12 + 768 + 8, generator=generator_of(SEED, 4, step))
        x = batch.real[0]
        mean, logvar, m, v = g.encoder(recolour(x, drawn[:, :12]), x)
        z = mean + (logvar / 2).exp() * drawn[:, 12:780].view(6, 3, 16, 16)
        w = m + (v / 2).exp() * drawn[:, 780:]
        said, labels, rows = batch.speech.clone(), batch.labels.clone(), range(6)
        if step:
            for values, given in ((said, batch.speech), (labels, batch.labels)):
                values[1], values[3], values[5] = given[5], given[1], given[3]
            z, w = (torch.stack([row.detach() if i % 2 else row for i, row in enumerate(code)]) for code in (z, w))
            rows = (0, 2, 4)
        y = g.decode(g.projection(said), z, w)
        rec = torch.stack([(y[i] - x[i]).abs().mean() for i in rows]).mean()
        small = [image.reshape(6, 3, 8, 4, 8, 4).mean((3, 5)) for image in (y, x)]
        rec = rec + torch.stack([(small[0][i] - small[1][i]).abs().mean() for i in rows]).mean()
        kl = [((a**2 + b.exp() - 1 - b) / 2).sum() / 6 for a, b in ((mean, logvar), (m, v))]
        loss = rec + 1e-5 * kl[0] + 2e-3 * kl[1]
        assert found["rec"].item() == pytest.approx(rec.item(), rel=1e-4)
        assert found["KL_global"].item() == pytest.approx(2e-3 * kl[1].item(), rel=1e-4)
        if step:
            parts = stepper.match.matcher.parts
            local = [parts.stem(F.interpolate(image[::2], 64, mode="bilinear", antialias=True)) for image in (y, x)]
            fine = [parts.fine(h) for h in local]
            middle = [parts.middle(h) for h in local]
            feature = 0.3 * sum((a - b.detach()).abs().mean() for a, b in (fine, middle))
            assert found["feature"].item() == pytest.approx(feature.item(), rel=1e-4)
            loss = loss + feature + stepper.match(y[1::2], said[1::2], labels[1::2], step)
        assert found["G"].item() == pytest.approx(loss.item(), rel=1e-4) and ("match" in found) == (
            "feature" in found
        ) == bool(step)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for n, p in g.named_parameters() if not n.startswith("encoder")], 0.05)
        adam.param_groups[0]["lr"] = lr
        adam.step()
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, g.parameters())]
    for ours, plain in ((networks.generator.parameters(), g.parameters()), (networks.average.parameters(), average)):
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=0)  # AdamW's steps are 1.5e-3


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


# ---- runs ----


def test_a_run_in_parts_equals_one(folder, tmp_path, capsys):
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 5)
    for steps in (2, 4, 5):
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", steps)
    out = capsys.readouterr().out
    assert "going on from iteration 4 of" in out and "iteration 5 of 5   G " in out
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    ticks = [json.loads(line) for line in (tmp_path / "parts" / "stats.jsonl").read_text().splitlines()]
    assert {"rec", "KL", "KL_global", "match", "G"} <= ticks[0].keys() | ticks[-1].keys() and "D0" not in ticks[0]
    assert {path.name for path in (tmp_path / "parts" / "Image").iterdir()} == {
        f"32_{n:06d}.png" for n in (0, 2, 3, 4, 5)
    }
    charts = figures.generator_charts(runs_of_report.columns([tmp_path / "parts"])[0])
    drawn = ["Generator, reconstruction and matching", "Generator, all terms", "Generator, KL term"]
    assert [chart.title for chart in charts[:3]] == drawn and all(chart.svg for chart in charts[:3])
    with pytest.raises(UserError, match="made with model = exemplar, now it is affine"):
        run_main(folder, "--output_dir", tmp_path / "parts", "--max_steps", 6, "--set", "MODEL=affine")


def test_a_run_of_so_many_minutes(folder, tmp_path, capsys):
    minutes = ["--set", "TRAIN.MAX_ITERATIONS=0", "--max_minutes", 0.02]
    run_main(folder, "--output_dir", tmp_path / "run", *minutes)
    assert "ended by --max_minutes" in capsys.readouterr().out


def test_the_file_alone_says_how_to_sample(folder, tmp_path):
    """Widths, parts and the bank are read from it, whatever the cfg says; equal noise gives equal images."""
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 3)
    net_g = tmp_path / "run" / "Model" / "netG_3.pth"
    run_main(folder, "--set", "TRAIN.FLAG=False", "--set", "EXEMPLAR.PARTS=8", "--eval_net_g", net_g, "--sheet", 2)
    generator = load_generator(net_g)
    assert generator.name == "exemplar" and generator.sizes == [32] and len(generator.bank_mean) == 7
    assert all(bank.any() for bank in bank_of(generator).values())
    sample = net_g.parent / "iteration3" / "single_samples" / "valid" / "1" / "test_0.png_32_sentence0_0.png"
    assert (net_g.parent / "iteration3" / "sheet_00.png").is_file()
    from common.features import feature_path, load_features
    from common.splits import load_split

    split = load_split(folder, "test")
    rows = load_features(feature_path(folder, "test", "audio", "stub"), split, "")
    pixels = sampler.generate(generator, torch.tensor(rows[0][:1]), sampler.noise(generator, 0, 0, 0)[None])[0][0]
    assert np.abs(np.asarray(Image.open(sample), int) - pixels).max() <= 1
    state, content = checkpoint.load(net_g), checkpoint.load(tmp_path / "run" / "resume.pth")
    assert all(torch.equal(state[key], content["average"][key]) for key in state)


def test_a_run_starts_from_a_file_with_another_bank(folder, tmp_path):
    run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 1, "--set", "EXEMPLAR.BANK=3")
    net_g = tmp_path / "run" / "Model" / "netG_1.pth"
    run_main(folder, "--output_dir", tmp_path / "next", "--max_steps", 1, "--set", f"TRAIN.NET_G={net_g}")
    assert len(checkpoint.load(net_g)["bank_mean"]) == 3
    assert len(checkpoint.load(tmp_path / "next" / "Model" / "netG_1.pth")["bank_mean"]) == 7


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("projection.weight"), "holds no generator .*projection.weight"),
        (lambda state: state.pop("blocks.0.conv1.weight"), "lacks 'blocks.0.conv1.weight'"),
        (lambda state: state.update({"spread": torch.zeros(0, 768)}), "do not go together"),
        (lambda state: state.update({"spread": torch.zeros(3, 5)}), "'spread' is .3, 5. there"),
        (lambda state: state.update({"bank_mean": torch.zeros(0, 3, 16, 16)}), "a bank of 0 images"),
        (
            lambda state: state.update({"bank_logvar": torch.zeros(2, 3, 16, 16)}),
            "'bank_logvar' is .2, 3, 16, 16. there",
        ),
        (lambda state: state.update({"blocks.0.conv2.weight": torch.zeros(1 << 17, 1 << 5, 1, 1)}), "another arch"),
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
    assert stepper(batches(1), 1).keys() == {"rec", "KL", "KL_global", "G"}
