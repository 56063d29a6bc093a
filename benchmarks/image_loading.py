"""Training images: decoded, cropped and scaled one by one, and ours, cut from the cache in batches."""

import functools
import tempfile
import time

from benchmarks import harness
from common import cli

SIZES = [64, 128, 256]


class Job:
    """`count` images of CUB's size, to be cut into batches at random."""

    def __init__(self, folder, count: int, batch: int, side: int, device):
        import torch

        from benchmarks import synthetic_data
        from common.bounding_boxes import bounding_boxes

        self.folder, self.batch, self.device = folder, batch, device
        self.random = torch.Generator().manual_seed(0)
        self.split = synthetic_data.draw_images(folder, count, side)
        self.boxes = bounding_boxes(self.split)

    def build(self):
        from StackGAN_v2.data import image_cache

        return image_cache.build(self.split, self.folder, max(SIZES), progress=False)

    def plain(self) -> harness.Variant:
        import torch

        from benchmarks.plain_gan import plain_images

        def run(_):
            items = [self.split.items[i] for i in torch.randint(len(self.split.items), (self.batch,))]
            images = [plain_images(item.image, self.boxes.get(item.key), SIZES) for item in items]
            return [torch.stack(one_size).to(self.device) for one_size in zip(*images)]

        return harness.Variant(run, self.batch)

    def ours(self, batches: int, sizes) -> harness.Variant:
        """`batches` in one repetition: a single one is too short to be timed."""
        import torch

        harness.as_ours(self.device, "fp32")
        cache, n = self.build().to(self.device), self.batch

        def run(_):
            for _ in range(batches):
                indices = torch.randint(len(cache), (n,), generator=self.random)
                mirror = torch.rand(n, generator=self.random) < 0.5
                cache.batch(indices, torch.rand(n, 2, generator=self.random), mirror, sizes)

        return harness.Variant(run, batches * n)


def main(argv=None) -> int:
    args = harness.parser(__doc__, __file__).parse_args(argv)
    device, _ = harness.start(args, argv)
    count, batch, side, batches = (2, 2, 320, 1) if args.quick else (48, 24, 500, 20)
    with tempfile.TemporaryDirectory() as folder:
        job = functools.cache(lambda: Job(folder, count, batch, side, device))
        variants = {
            "plain": lambda: job().plain(),
            "ours": lambda: job().ours(batches, SIZES),
            "largest size alone": lambda: job().ours(batches, SIZES[-1:]),
        }
        rows = harness.compare(variants, device, args)
        began = time.perf_counter()
        job().build()
        built = time.perf_counter() - began
    harness.report(
        "image loading",
        "image",
        rows,
        args,
        device,
        "fp32",
        batch=batch,
        pixels=max(SIZES),
        cache_images_per_s=round(count / built, 1),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
