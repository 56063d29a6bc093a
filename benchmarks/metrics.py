"""The numbers of a generated set: images read and seen one at a time and SciPy's matrix root, and ours.

The network is torchvision's Inception-v3 with random weights, which changes no time.
"""

import tempfile
from pathlib import Path

from benchmarks import harness
from common import cli


def random_inception(device):
    """uint8 `[N, 3, s, s]` → features `[N, 2048]`."""
    import torch
    from torch.nn import functional
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False, aux_logits=False).eval().to(device)
    network.fc = torch.nn.Identity()

    @torch.inference_mode()
    def see(images, precision="fp32"):
        from common.devices import autocast

        views = functional.interpolate(images.to(device).float(), size=(299, 299), mode="bilinear") / 127.5 - 1
        with autocast(device, precision):
            return network(views).float()

    return see


def main(argv=None) -> int:
    args = harness.parser(__doc__, __file__).parse_args(argv)
    device, _ = harness.start(args, argv)
    import numpy as np
    import torch
    from PIL import Image
    from scipy import linalg

    from common.parallel import default_jobs
    from StackGAN_v2.evaluation.image_sets import batches, load_generated
    from StackGAN_v2.evaluation.metrics import Moments, frechet_distance

    on_gpu = device.type == "cuda"
    count, few, width = (2, 2, 64) if args.quick else (2048, 256, 2048) if on_gpu else (48, 24, 2048)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(min(count, 256))]
        for path in paths:
            low = random.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(low).resize((256, 256), Image.Resampling.BICUBIC).save(path)
        paths = [paths[i % len(paths)] for i in range(count)]

        def variant(run, items):
            extract = random_inception(device)
            flops = harness.flops_of(lambda: extract(torch.zeros(1, 3, 256, 256, dtype=torch.uint8)))
            return harness.Variant(lambda _: run(extract), items, flops=flops * items)

        def plain(extract):
            rows = []
            for path in paths[:few]:
                image = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None]
                rows.append(extract(image).cpu().numpy())
            rows = np.concatenate(rows)
            return rows.mean(0), np.cov(rows, rowvar=False)

        def ours(extract):
            moments = Moments(2048, device)
            for images in batches(lambda i: load_generated(paths[i], 256), count, 64, default_jobs()):
                moments.update(extract(images))
            return moments.mean, moments.covariance

        def our_variant():
            harness.as_ours(device, "fp32")
            return variant(ours, count)

        rows = harness.compare({"plain": lambda: variant(plain, few), "ours": our_variant}, device, args)
    factors = random.standard_normal((2, width, 2 * width))
    first, second = (factor @ factor.T / factor.shape[1] for factor in factors)
    mean = np.zeros(width)
    repeats = 1 if args.quick else 3
    distance = {
        "frechet_plain_s": lambda: np.trace(first + second - 2 * linalg.sqrtm(first @ second).real),
        "frechet_ours_s": lambda: frechet_distance(mean, first, mean, second),
    }
    distance = {name: round(harness.seconds_of(call, repeats), 3) for name, call in distance.items()}
    harness.report("metrics", "image", rows, args, device, "fp32", pixels=256, width=width, **distance)
    return 0


if __name__ == "__main__":
    cli.run(main)
