"""The generator's trainer on several processes: two of them with half the batch do what one does with all of it."""

import pytest
import rank_processes
import torch

from common.cli import UserError
from common.devices import seed_everything
from common.distributed import ranks
from common.distributed.sync_bn import require_two
from StackGAN_v2.config import load_config
from StackGAN_v2.data.datasets import Ahead, Batches, BatchPlan, SpeechFeatures
from StackGAN_v2.settings import GeneratorOptions
from StackGAN_v2.training import setup
from StackGAN_v2.training.networks import Networks
from StackGAN_v2.training.step import Stepper

CPU, SIZES, BATCH, WIDTH = torch.device("cpu"), [16, 32], 6, 9
LABELS = [0, 1, 0, 2, 1, 2, 0]
SETTINGS = [
    "TREE.BRANCH_NUM=2",
    "TREE.BASE_SIZE=16",
    "GAN.GF_DIM=4",
    "GAN.DF_DIM=4",
    "GAN.Z_DIM=5",
    "GAN.EMBEDDING_DIM=6",
    "TRAIN.COEFF.UNCOND_LOSS=1",
    "TRAIN.COEFF.CAL_LOSS=1",
    "TRAIN.COEFF.COLOR_LOSS=1",
    "TRAIN.COEFF.MA_PENALTY=0.1",
    "TRAIN.MA_PENALTY_EVERY=1",
]


class Images:
    """What a batch needs of an image cache."""

    def __init__(self):
        self.images = torch.rand(len(LABELS), 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def __len__(self):
        return len(LABELS)

    def batch(self, indices, offsets, mirror, sizes, target=None):
        assert len(indices) == len(offsets) == len(mirror)
        return [torch.nn.functional.interpolate(self.images[indices], size=(size, size)) for size in sizes]


class Keeping(torch.optim.SGD):
    """Keeps the gradients of its last step, which the trainer lets go."""

    def step(self, closure=None):
        self.kept = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(closure)


def make_batches(sizes=SIZES, batch=BATCH):
    rows = [row.numpy() for row in torch.randn(len(LABELS), 2, WIDTH, generator=torch.Generator().manual_seed(2))]
    plan = BatchPlan(sizes, batch, 5, 6 * (sizes == SIZES), 3, augmentation=True)
    return Batches(Images(), SpeechFeatures(rows), LABELS, plan, CPU, ranks.rank(), ranks.world_size())


def rank_main(output: str, wrong: str, sync_bn: bool) -> None:
    """Two steps of this process's share; every rank keeps its weights, statistics and gradients."""
    ranks.start(CPU)
    seed_everything(ranks.rank())  # only rank 0's weights may count
    cfg = load_config(settings=[*SETTINGS, f"TRAIN.WRONG={wrong}"])
    networks = Networks(cfg, WIDTH, CPU, sync_bn=sync_bn)
    # not Adam, whose first step is ±lr, however small a gradient
    networks.optimizer_g, *networks.optimizers_d = optimizers = [Keeping(n.parameters(), 0.01) for n in networks.all()]
    step, batches = Stepper(networks, cfg.TRAIN, CPU, "fp32"), make_batches()
    for iteration in range(2):
        step(batches(iteration), iteration)
    content = {}
    for i, network in enumerate((*networks.all(), networks.average)):
        content |= {f"{i} {name}": value for name, value in network.state_dict().items()}
    for i, (network, optimizer) in enumerate(zip(networks.all(), optimizers)):
        names = [name for name, _ in network.named_parameters()]
        content |= {f"{i} gradient {name}": grad for name, grad in zip(names, optimizer.kept, strict=True)}
    torch.save(content, f"{output}.{ranks.rank()}")
    ranks.finish()


def run_ranks(count: int, output, wrong: str, sync_bn: bool) -> list[dict]:
    """What each of `count` ranks kept."""
    rank_processes.wait(rank_processes.start(rank_main, count, str(output), wrong, sync_bn))
    return [torch.load(f"{output}.{rank}", weights_only=True) for rank in range(count)]


@pytest.mark.parametrize("wrong", ["image", "speech"])
def test_two_processes_equal_one_with_synchronized_batch_norm(tmp_path, wrong):
    (one,), (two, _) = (run_ranks(count, tmp_path / str(count), wrong, True) for count in (1, 2))
    assert one.keys() == two.keys() and any("gradient" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_without_it_the_processes_have_equal_weights_and_statistics_of_their_own(tmp_path):
    """Each rank normalises by its own images, as the published code does on several GPUs."""
    first, second = run_ranks(2, tmp_path / "2", "image", False)
    differ = {name for name in first if not torch.equal(first[name], second[name])}
    assert differ and all("running_" in name for name in differ), differ


def test_a_single_image_a_process_is_refused_before_training(monkeypatch):
    """Batch norm over all processes can use it."""
    cfg = load_config(settings=["TRAIN.BATCH_SIZE=2"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match="one image a process .* make TRAIN.BATCH_SIZE 4 or more, it is 2, or give --sync_bn"
    ):
        setup.train(GeneratorOptions(), cfg, "run")
    require_two(1, True, "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UserError, match="^one image a process is too few for batch norm: more$"):
        require_two(1, True, "more")


def test_a_batch_made_ahead_is_the_same():
    plain, ahead = make_batches(), Ahead(make_batches())
    for iteration in (0, 1, 2, 9, 10):  # a jump, as after a resume, included
        for one, other in zip(vars(plain(iteration)).values(), vars(ahead(iteration)).values()):
            torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert ahead.epoch(7) == plain.epoch(7)
