"""Training iterations of the generator and its discriminators: as published, ours, and ours with each switch off."""

import functools
import tempfile

from benchmarks import harness
from common import cli

BRANCHES = {64: 1, 128: 2, 256: 3}


def published(size, batch, tiny=False):
    """The birds' cfg at `size` pixels; tiny: with a sixteenth of the channels and pixels."""
    from common import ROOT
    from StackGAN_v2.config import load_config

    small = ["TREE.BASE_SIZE=16", "GAN.GF_DIM=4", "GAN.DF_DIM=4"] if tiny else []
    return load_config(
        ROOT / "StackGAN_v2/cfg/birds_3stages.yml",
        [f"TREE.BRANCH_NUM={BRANCHES[size]}", f"TRAIN.BATCH_SIZE={batch}", *small],
    )


def made_batches(folder, cfg, images, device):
    """→ (our batches of a drawn set, its split)."""
    import numpy as np

    from benchmarks import synthetic_data
    from StackGAN_v2.data import image_cache
    from StackGAN_v2.data.datasets import Batches, BatchPlan, SpeechFeatures

    size = cfg.TREE.BASE_SIZE << (cfg.TREE.BRANCH_NUM - 1)
    split = synthetic_data.draw_images(folder, images, 2 * size)
    random = np.random.default_rng(0)
    rows = [random.standard_normal((10, synthetic_data.TEACHER_WIDTH)).astype(np.float32) for _ in split.items]
    cache = image_cache.build(split, folder, size, progress=False).to(device)
    sizes = [cfg.TREE.BASE_SIZE << i for i in range(cfg.TREE.BRANCH_NUM)]
    plan = BatchPlan(sizes, cfg.TRAIN.BATCH_SIZE, cfg.GAN.Z_DIM, cfg.GAN.EMBEDDING_DIM, 0)
    return Batches(cache, SpeechFeatures(rows), split.labels, plan, device), split


def counted(step, data) -> float:
    """Operations of one step, counted in the second one, since the first may do more."""
    step(data)
    return harness.flops_of(lambda: step(data))


def ours(cfg, batches, device, precision, off="", compiled=False, rewrites=True, keep=True) -> harness.Variant:
    """keep: keep freed memory in the process, as the commands do; rewrites: those of convolutions."""
    import torch

    from StackGAN_v2.networks import convolution
    from StackGAN_v2.training.networks import Networks
    from StackGAN_v2.training.step import Stepper

    if keep:
        harness.as_ours(device, precision)
    convolution.rewrite(rewrites)
    torch.manual_seed(0)
    networks = Networks(cfg, batches.features.width, device)
    stepper, iteration = Stepper(networks, cfg.TRAIN, device, precision, compiled), iter(range(1 << 40))
    step = lambda data: stepper(data, 1)
    flops = counted(step, batches(0)) if not compiled else 0.0
    return harness.Variant(step, cfg.TRAIN.BATCH_SIZE, lambda: batches(next(iteration)), flops, precision, off)


def plain(cfg, batches, device, feed=None) -> harness.Variant:
    import torch

    from benchmarks.plain_gan import PlainNetworks, plain_step
    from StackGAN_v2.training.networks import Networks

    torch.manual_seed(0)
    networks = PlainNetworks(cfg, Networks(cfg, batches.features.width, device), device)
    data = batches(0)
    step = lambda data: plain_step(networks, data, cfg)
    return harness.Variant(step, cfg.TRAIN.BATCH_SIZE, feed or (lambda: data), counted(step, data))


def plain_feed(split, batches):
    """Real and wrong images read from their files, one by one, in every step; the rest of a batch as ours."""
    from dataclasses import replace

    import torch

    from benchmarks.plain_gan import plain_images
    from common.bounding_boxes import bounding_boxes

    boxes = bounding_boxes(split)

    def load(indices):
        items = [split.items[i] for i in indices]
        images = [plain_images(item.image, boxes.get(item.key), batches.plan.sizes) for item in items]
        return [torch.stack(one_size).to(batches.device) for one_size in zip(*images)]

    def take():
        real, wrong, _ = batches.images(0)
        return replace(batches(0), real=load(real), wrong=load(wrong))

    return take


def main(argv=None) -> int:
    parser = harness.parser(__doc__, __file__)
    parser.add_argument("--size", type=int, choices=BRANCHES, default=256, help="side of the largest images, pixels")
    parser.add_argument(
        "--batch_size",
        type=cli.positive_int,
        metavar="N",
        help="images an iteration (default: the published 24 on a GPU, 4 on a CPU)",
    )
    args = parser.parse_args(argv)
    device, precision = harness.start(args, argv)
    on_gpu = device.type == "cuda"
    batch = 2 if args.quick else args.batch_size or (24 if on_gpu else 4)
    cfg = published(args.size, batch, args.quick)
    with tempfile.TemporaryDirectory() as folder:
        data = functools.cache(lambda: made_batches(folder, cfg, 2 if args.quick else 48, device))

        def our(precision=precision, **switches):
            return lambda: ours(cfg, data()[0], device, precision, **switches)

        variants = {
            "plain": lambda: plain(cfg, data()[0], device),
            "ours": our(),
            "ours, plain operations": our(off="exact rewrites", rewrites=False),
            "plain, with loading": lambda: plain(cfg, data()[0], device, plain_feed(data()[1], data()[0])),
        }
        if precision == "bf16":
            variants["ours, fp32"] = our("fp32", off="bf16")
        if not on_gpu:
            variants["ours, memory given back"] = our(off="kept memory", keep=False)
        if on_gpu and not args.quick:
            variants["ours, compiled"] = our(off="no compilation", compiled=True)
        rows = harness.compare(variants, device, args)
    harness.report(
        f"generator step {args.size}",
        "image",
        rows,
        args,
        device,
        precision,
        batch=batch,
        pixels=cfg.TREE.BASE_SIZE << (cfg.TREE.BRANCH_NUM - 1),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
