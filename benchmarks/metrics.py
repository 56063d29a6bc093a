"""The numbers of a painted set: pictures read and seen one at a time and SciPy's matrix root, and ours.

The network is torchvision's Inception-v3 with random weights, which changes no time.
"""
import sys
import tempfile
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):        # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import measure  # noqa: E402
from common import cli  # noqa: E402


def random_inception(device):
    """uint8 `[N, 3, s, s]` → features `[N, 2048]`."""
    import torch
    from torch.nn import functional
    from torchvision.models import inception_v3
    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False, aux_logits=False).eval().to(device)
    network.fc = torch.nn.Identity()

    @torch.inference_mode()
    def see(pictures, precision="fp32"):
        from common.devices import autocast
        views = functional.interpolate(pictures.to(device).float(), size=(299, 299), mode="bilinear") / 127.5 - 1
        with autocast(device, precision):
            return network(views).float()
    return see


def main(argv=None) -> int:
    args = measure.parser(__doc__).parse_args(argv)
    device, _ = measure.start(args)
    import numpy as np
    import torch
    from PIL import Image
    from scipy import linalg
    from common.parallel import default_jobs
    from StackGAN_v2.metrics import Moments, frechet_distance
    from StackGAN_v2.picture_sets import batches, load_generated
    on_gpu = device.type == "cuda"
    count, few, width = (2, 2, 64) if args.quick else (2048, 256, 2048) if on_gpu else (48, 24, 2048)
    see, random = random_inception(device), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(min(count, 256))]
        for path in paths:
            low = random.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(low).resize((256, 256), Image.Resampling.BICUBIC).save(path)
        paths = [paths[i % len(paths)] for i in range(count)]

        def plain(_):
            rows = []
            for path in paths[:few]:
                picture = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None]
                rows.append(see(picture).cpu().numpy())
            rows = np.concatenate(rows)
            return rows.mean(0), np.cov(rows, rowvar=False)

        def ours(_):
            moments = Moments(2048, device)
            for pictures in batches(lambda i: load_generated(paths[i], 256), count, 64, default_jobs()):
                moments.update(see(pictures))
            return moments.mean, moments.covariance

        flops = measure.flops_of(lambda: see(torch.zeros(1, 3, 256, 256, dtype=torch.uint8)))
        rows = measure.compare([measure.Way("plain", plain, few, flops=flops * few),
                                measure.Way("ours", ours, count, flops=flops * count)],
                               device, args)
    factors = random.standard_normal((2, width, 2 * width))
    first, second = (factor @ factor.T / factor.shape[1] for factor in factors)
    mean = np.zeros(width)
    root = measure.compare([
        measure.Way("plain", lambda _: np.trace(first + second - 2 * linalg.sqrtm(first @ second).real), 1),
        measure.Way("ours", lambda _: frechet_distance(mean, first, mean, second), 1)], device, args)
    distance = {f"frechet_{row['name']}_s": round(row["seconds"], 3) for row in root}
    measure.report("metrics", "picture", rows, args, device, "fp32", pixels=256, width=width, **distance)
    return 0


if __name__ == "__main__":
    cli.run(main)
