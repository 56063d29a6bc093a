"""Painting a test split: pictures in small batches that are written one by one, and our sampler with its writers."""
import sys
import tempfile
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):        # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import measure  # noqa: E402
from common import cli  # noqa: E402

PLAIN_BATCH = 24                                   # the published cfg paints in training's batches


def main(argv=None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("--batch_size", type=cli.positive_int, metavar="N",
                        help="pictures that ours paints at once (default: 256 on a GPU, 8 on a CPU)")
    args = parser.parse_args(argv)
    device, precision = measure.start(args)
    on_gpu = device.type == "cuda"
    batch, count = (2, 2) if args.quick else (args.batch_size or (256 if on_gpu else 8), 1024 if on_gpu else 16)
    import itertools
    import numpy as np
    import torch
    from benchmarks import generator_step, material
    from benchmarks.plain_gan import PlainNetworks, plain_paint
    from PIL import Image
    from StackGAN_v2 import sampler
    from StackGAN_v2.trainer import Networks
    cfg = generator_step.published(256, 24, args.quick)
    networks = Networks(cfg, material.TEACHER_WIDTH, device)
    simple = PlainNetworks(cfg, networks, device).generator.eval()
    generator = networks.average
    size = generator.sizes[-1]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        split = material.draw_pictures(folder, -(-count // 10), 64)
        items = len(split.items)
        rows = [random.standard_normal((10, material.TEACHER_WIDTH)).astype(np.float32) for _ in range(items)]
        noises = torch.randn(count, generator.z_dim + generator.embedding_dim)
        speech = torch.from_numpy(np.concatenate(rows)[:count])
        numbers = itertools.count()

        def plain(_):
            for first in range(0, count, PLAIN_BATCH):
                some = slice(first, first + PLAIN_BATCH)
                for i, pixels in enumerate(plain_paint(simple, speech[some].to(device), noises[some].to(device))[-1]):
                    Image.fromarray(pixels).save(Path(folder) / f"plain_{first + i}.png")

        def ours(how):
            def run(_):
                out = Path(folder) / f"{next(numbers)}" / "single_samples" / "valid"
                written, _ = sampler.paint_split(generator, split, rows, out, seed=0, batch_size=batch, precision=how,
                                                 all_sizes=False, limit=count, progress=False)
                assert written == count, (written, count)
            return run

        one = measure.flops_of(lambda: plain_paint(simple, speech[:1].to(device), noises[:1].to(device)))
        own = measure.flops_of(lambda: sampler.paint(generator, speech[:1], noises[:1], precision))
        ways = [measure.Way("plain", plain, count, flops=one * count),
                measure.Way("ours", ours(precision), count, flops=own * count, precision=precision)]
        if precision == "bf16":
            ways += [measure.Way("ours, fp32", ours("fp32"), count, flops=own * count, off="bf16")]
        results = measure.compare(ways, device, args)
    measure.report("sampling", "picture", results, args, device, precision, pixels=size, batch=batch, pictures=count)
    return 0


if __name__ == "__main__":
    cli.run(main)
