"""Operations of a generator's training, counted in its steps, and the GPU hours that follow from them.

Multiplications and additions of convolutions and matrix products, forward and backward, of generator and discriminators
(torch.utils.flop_counter), over as many iterations as lie between two gradient penalties. Not counted: normalisation,
activations, augmentation, the optimizer, and the matching network. The count is of two images and grows with the batch.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness
from common import ROOT, cli
from common.cli import positive_float

CFGS = ("birds_3stages.yml", "birds_modern.yml")
COUNTED = 2  # images; batch normalisation needs two


@dataclass(frozen=True)
class Count:
    """What a cfg's training does. per_image: operations an image and iteration, the penalties' share included."""

    name: str
    size: int
    iterations: int
    batch: int
    per_image: float

    @property
    def total(self) -> float:
        return self.per_image * self.batch * self.iterations


def count(path: Path, images: int, more=(), width: int = 1024) -> Count:
    """Count the steps of a cfg. images: of the training split; more: settings such as 'GAN.GF_DIM=8'; width: of the
    speech features."""
    import torch

    from StackGAN_v2.config import load_config
    from StackGAN_v2.networks import convolution
    from StackGAN_v2.training.exemplar_step import ExemplarStepper
    from StackGAN_v2.training.networks import Networks
    from StackGAN_v2.training.step import Stepper
    from StackGAN_v2.training.trainer import total_iterations

    cfg = load_config(path, more)
    plain = ["TRAIN.COEFF.MATCHING=0", "TRAIN.DIFFAUGMENT=''"]
    small = load_config(path, [*more, f"TRAIN.BATCH_SIZE={COUNTED}", *plain])
    convolution.rewrite(True)
    torch.manual_seed(0)
    device = torch.device("cpu")
    networks = Networks(small, width, device)
    if small.MODEL == "exemplar":
        stepper = ExemplarStepper(networks, small, device, "fp32", 0, lambda step: 0.0)
    else:
        stepper = Stepper(networks, small.TRAIN, device, "fp32")
    batch = _batch(small, networks.generator.sizes, width)
    every = small.TRAIN.MA_PENALTY_EVERY if small.TRAIN.COEFF.MA_PENALTY else 1
    stepper(batch, 1)  # the first one may do more
    operations = sum(harness.flops_of(lambda i=i: stepper(batch, i)) for i in range(every))
    return Count(
        path.stem,
        networks.generator.sizes[-1],
        total_iterations(cfg.TRAIN, images),
        cfg.TRAIN.BATCH_SIZE,
        operations / every / COUNTED,
    )


def _batch(cfg, sizes, width: int):
    import torch

    from StackGAN_v2.data.datasets import Batch

    images = [[torch.rand(COUNTED, 3, size, size) * 2 - 1 for size in sizes] for _ in range(2)]
    noises = [torch.randn(COUNTED, n) for n in (width, cfg.GAN.Z_DIM, cfg.GAN.EMBEDDING_DIM)]
    speech, z, eps = noises
    return Batch(*images, speech, torch.arange(COUNTED), z, eps)


def table(counts: list[Count], tflops: float) -> list[str]:
    lines = [
        "| cfg | pixels | iterations × batch | GFLOP an image and iteration | EFLOP in all | hours |",
        "|---|---|---|---|---|---|",
    ]
    for one in counts:
        hours = one.total / (tflops * 1e12) / 3600
        lines.append(
            f"| {one.name} | {one.size} | {one.iterations:,} × {one.batch} | {one.per_image / 1e9:.1f} | "
            f"{one.total / 1e18:.3g} | {hours:.3g} |"
        )
    return lines


def main(argv=None) -> int:
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add(
        "cfg",
        nargs="*",
        type=cli.existing_file,
        help="cfg files (default: the published one and the modern one of birds)",
    )
    add(
        "--images",
        type=cli.positive_int,
        default=8855,
        help="images of the training split, for a cfg that counts epochs",
    )
    add("--tflops", type=positive_float, default=100.0, help="rate that the GPU sustains, in 10^12 operations a second")
    add("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="change a cfg key")
    args = parser.parse_args(argv)
    own = [path for name in CFGS if (path := ROOT / "StackGAN_v2/cfg" / name).is_file()]
    counts = [count(path, args.images, args.settings) for path in args.cfg or own]
    print(*table(counts, args.tflops), sep="\n")
    print(f"hours at {args.tflops:g} TFLOP/s sustained")
    return 0


if __name__ == "__main__":
    cli.run(main)
