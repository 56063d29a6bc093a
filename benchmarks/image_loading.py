"""Training pictures: each decoded, cropped and scaled when it is wanted, and cut from the cache in batches."""
import sys
import tempfile
import time
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):        # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import measure  # noqa: E402
from common import cli  # noqa: E402

SIZES = [64, 128, 256]


def main(argv=None) -> int:
    args = measure.parser(__doc__).parse_args(argv)
    device, _ = measure.start(args)
    import torch
    from benchmarks import material
    from benchmarks.plain_gan import plain_pictures
    from StackGAN_v2 import image_cache
    count, batch, side = (2, 2, 320) if args.quick else (96, 24, 500)
    random = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        split = material.draw_pictures(folder, count, side)
        boxes = image_cache.bounding_boxes(split)
        began = time.perf_counter()
        cache = image_cache.build(split, folder, max(SIZES), progress=False).to(device)
        built = time.perf_counter() - began

        def ours(_):
            indices = torch.randint(len(cache), (batch,), generator=random)
            mirror = torch.rand(batch, generator=random) < 0.5
            return cache.batch(indices, torch.rand(batch, 2, generator=random), mirror, SIZES)

        def plain(_):
            items = [split.items[i] for i in torch.randint(len(cache), (batch,), generator=random)]
            pictures = [plain_pictures(item.image, boxes.get(item.key), SIZES) for item in items]
            return [torch.stack(one_size).to(device) for one_size in zip(*pictures)]

        rows = measure.compare([measure.Way("plain", plain, batch), measure.Way("ours", ours, batch)], device, args)
    measure.report("image loading", "picture", rows, args, device, "fp32", batch=batch, pixels=max(SIZES),
                   cache_pictures_per_s=round(len(split.items) / built, 1))
    return 0


if __name__ == "__main__":
    cli.run(main)
