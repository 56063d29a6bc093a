"""Sampling a test split: small batches whose images are written one by one, and ours, which writes in threads."""

import functools
import itertools
import tempfile
from pathlib import Path

from benchmarks import harness
from common import cli

PLAIN_BATCH = 24  # the published cfg generates in training's batches


def main(argv=None) -> int:
    parser = harness.parser(__doc__, __file__)
    parser.add_argument(
        "--batch_size",
        type=cli.positive_int,
        metavar="N",
        help="images that ours generates at once (default: 256 on a GPU, 16 on a CPU)",
    )
    args = parser.parse_args(argv)
    device, precision = harness.start(args, argv)
    on_gpu = device.type == "cuda"
    batch, count = (2, 2) if args.quick else (args.batch_size or (256 if on_gpu else 16), 1024 if on_gpu else 32)
    with tempfile.TemporaryDirectory() as folder:
        job = functools.cache(lambda: Job(folder, count, device, args.quick))
        variants = {"plain": lambda: job().plain(), "ours": lambda: job().ours(batch, precision)}
        if precision == "bf16":
            variants["ours, fp32"] = lambda: job().ours(batch, "fp32", "bf16")
        if not on_gpu:
            variants["ours, memory given back"] = lambda: job().ours(batch, precision, "kept memory", keep=False)
        variants["sampling alone"] = lambda: job().sampling(batch, precision)
        rows = harness.compare(variants, device, args)
    harness.report("sampling", "image", rows, args, device, precision, pixels=256, batch=batch, images=count)
    return 0


class Job:
    """`count` sentences of synthetic speech embeddings, and a generator of the published size."""

    def __init__(self, folder, count: int, device, tiny: bool):
        import numpy as np
        import torch

        from benchmarks import synthetic_data
        from benchmarks.plain_gan import PlainGenerator
        from StackGAN_v2.model import Generator

        self.folder, self.count, self.device = Path(folder), count, device
        size = dict(base_size=16, gf_dim=4) if tiny else {}
        self.generator = Generator(**size).to(device, memory_format=torch.channels_last).eval()
        self.plain_generator = PlainGenerator(**size).to(device).eval()
        self.split = synthetic_data.draw_images(folder, -(-count // 10), 64)
        random = np.random.default_rng(0)
        self.rows = [
            random.standard_normal((10, synthetic_data.TEACHER_WIDTH)).astype(np.float32) for _ in self.split.items
        ]
        self.speech = torch.from_numpy(np.concatenate(self.rows)[:count])
        self.noises = torch.randn(count, self.generator.z_dim + self.generator.embedding_dim)
        self.numbers = itertools.count()

    def plain(self) -> harness.Variant:
        from PIL import Image

        from benchmarks.plain_gan import plain_generate

        def run(_):
            for first in range(0, self.count, PLAIN_BATCH):
                speech, noises = (
                    rows[first : first + PLAIN_BATCH].to(self.device) for rows in (self.speech, self.noises)
                )
                for i, pixels in enumerate(plain_generate(self.plain_generator, speech, noises)[-1]):
                    Image.fromarray(pixels).save(self.folder / f"plain_{first + i}.png")

        one = (rows[:1].to(self.device) for rows in (self.speech, self.noises))
        flops = harness.flops_of(lambda: plain_generate(self.plain_generator, *one))
        return harness.Variant(run, self.count, flops=flops * self.count)

    def ours(self, batch: int, precision: str, off="", keep=True) -> harness.Variant:
        from StackGAN_v2 import sampler

        if keep:
            harness.as_ours(self.device, precision)

        def run(_):
            out = self.folder / f"{next(self.numbers)}" / "single_samples" / "valid"
            how = sampler.Sampling(batch_size=batch, precision=precision, limit=self.count, progress=False)
            written, _ = sampler.sample_split(self.generator, self.split, self.rows, out, how)
            assert written == self.count, (written, self.count)

        return harness.Variant(run, self.count, flops=self._flops(precision), precision=precision, off=off)

    def sampling(self, batch: int, precision: str) -> harness.Variant:
        from StackGAN_v2 import sampler

        harness.as_ours(self.device, precision)

        def run(_):
            for first in range(0, self.count, batch):
                speech, noises = (rows[first : first + batch] for rows in (self.speech, self.noises))
                sampler.generate(self.generator, speech, noises, precision)

        return harness.Variant(run, self.count, flops=self._flops(precision), precision=precision, off="writing")

    def _flops(self, precision: str) -> float:
        from StackGAN_v2 import sampler

        return self.count * harness.flops_of(
            lambda: sampler.generate(self.generator, self.speech[:1], self.noises[:1], precision)
        )


if __name__ == "__main__":
    cli.run(main)
