"""Sampling a test split: images in small batches that are written one by one, and our sampler with its writers."""
import functools
import itertools
import tempfile
from pathlib import Path

from benchmarks import measure
from common import cli

PLAIN_BATCH = 24                                   # the published cfg generates in training's batches


def main(argv=None) -> int:
    parser = measure.parser(__doc__, __file__)
    parser.add_argument("--batch_size", type=cli.positive_int, metavar="N",
                        help="images that ours generates at once (default: 256 on a GPU, 16 on a CPU)")
    args = parser.parse_args(argv)
    device, precision = measure.start(args, argv)
    on_gpu = device.type == "cuda"
    batch, count = (2, 2) if args.quick else (args.batch_size or (256 if on_gpu else 16), 1024 if on_gpu else 32)
    with tempfile.TemporaryDirectory() as folder:
        job = functools.cache(lambda: Job(folder, count, device, args.quick))
        ways = {"plain": lambda: job().plain(),
                "ours": lambda: job().ours(batch, precision),
                "ours, batch norms apart": lambda: job().ours(batch, precision, "folding", fold=False)}
        if precision == "bf16":
            ways["ours, fp32"] = lambda: job().ours(batch, "fp32", "bf16")
        if not on_gpu:
            ways["ours, memory given back"] = lambda: job().ours(batch, precision, "kept memory", keep=False)
        ways["sampling alone"] = lambda: job().sampling(batch, precision)
        rows = measure.compare(ways, device, args)
    measure.report("sampling", "image", rows, args, device, precision, pixels=256, batch=batch, images=count)
    return 0


class Job:
    """`count` sentences of made-up speech, and a generator of the published size to generate them with."""

    def __init__(self, folder, count: int, device, tiny: bool):
        import numpy as np
        import torch

        from benchmarks import synthetic_data
        from benchmarks.plain_gan import PlainGenerator
        from StackGAN_v2.model import Generator
        self.folder, self.count, self.device = Path(folder), count, device
        size = dict(base_size=16, gf_dim=4) if tiny else {}
        self.generator = Generator(**size).to(device, memory_format=torch.channels_last).eval()
        self.simple = PlainGenerator(**size).to(device).eval()
        self.split = synthetic_data.draw_images(folder, -(-count // 10), 64)
        random = np.random.default_rng(0)
        self.rows = [random.standard_normal((10, synthetic_data.TEACHER_WIDTH)).astype(np.float32) for _ in self.split.items]
        self.speech = torch.from_numpy(np.concatenate(self.rows)[:count])
        self.noises = torch.randn(count, self.generator.z_dim + self.generator.embedding_dim)
        self.numbers = itertools.count()

    def plain(self) -> measure.Way:
        from PIL import Image

        from benchmarks.plain_gan import plain_generate

        def run(_):
            for first in range(0, self.count, PLAIN_BATCH):
                speech, noises = (rows[first:first + PLAIN_BATCH].to(self.device) for rows in (self.speech, self.noises))
                for i, pixels in enumerate(plain_generate(self.simple, speech, noises)[-1]):
                    Image.fromarray(pixels).save(self.folder / f"plain_{first + i}.png")

        one = (rows[:1].to(self.device) for rows in (self.speech, self.noises))
        return measure.Way(run, self.count, flops=measure.flops_of(lambda: plain_generate(self.simple, *one)) * self.count)

    def ours(self, batch: int, precision: str, off="", fold=True, keep=True) -> measure.Way:
        from StackGAN_v2 import sampler
        if keep:
            measure.as_ours(self.device, precision)

        def run(_):
            out = self.folder / f"{next(self.numbers)}" / "single_samples" / "valid"
            written, _ = sampler.sample_split(self.generator, self.split, self.rows, out, seed=0, batch_size=batch, fold=fold,
                                             precision=precision, all_sizes=False, limit=self.count, progress=False)
            assert written == self.count, (written, self.count)
        return measure.Way(run, self.count, flops=self._flops(precision), precision=precision, off=off)

    def sampling(self, batch: int, precision: str) -> measure.Way:
        from StackGAN_v2 import sampler
        from StackGAN_v2.folding import folded
        measure.as_ours(self.device, precision)
        generator = folded(self.generator, precision)

        def run(_):
            for first in range(0, self.count, batch):
                sampler.generate(generator, self.speech[first:first + batch], self.noises[first:first + batch], precision)
        return measure.Way(run, self.count, flops=self._flops(precision), precision=precision, off="writing")

    def _flops(self, precision: str) -> float:
        from StackGAN_v2 import sampler
        return self.count * measure.flops_of(lambda: sampler.generate(self.generator, self.speech[:1], self.noises[:1],
                                                                   precision))


if __name__ == "__main__":
    cli.run(main)
