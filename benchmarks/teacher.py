"""Teacher features: ten views of every image through GoogLeNet, image by image, and ours in batches or threads.

The weights are random, so that nothing has to be downloaded; they do not affect the time.
"""

import functools
import tempfile

from benchmarks import harness
from common import cli


def random_teacher(device, precision):
    """A GoogLeNetTeacher with random weights instead of a file's."""
    import torch

    from Audio_to_Image.teachers import googlenet

    class Random(googlenet.GoogLeNetTeacher):
        def _load(self):
            torch.manual_seed(0)
            self.network = googlenet.GoogLeNet().to(self.device)
            self.mean = torch.tensor(googlenet.MEAN_BGR, device=self.device).reshape(3, 1, 1)

    return Random("random", "mirror", device, precision)


def main(argv=None) -> int:
    args = harness.parser(__doc__, __file__).parse_args(argv)
    device, precision = harness.start(args, argv)
    import numpy as np
    import torch

    from Audio_to_Image.teachers.extraction import _features
    from benchmarks import synthetic_data
    from common.parallel import default_jobs
    from common.untrusted.images import open_rgb

    on_gpu = device.type == "cuda"
    count, few = (1, 1) if args.quick else (1024, 128) if on_gpu else (24, 12)
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def paths():
            split = synthetic_data.draw_images(folder, min(count, 128), 64 if args.quick else 500)
            return [split.items[i % len(split.items)].image for i in range(count)]

        def flops(network):
            return 10 * harness.flops_of(lambda: network(torch.zeros(1, 3, 224, 224, device=device)))

        def plain():
            teacher = random_teacher(device, "fp32")

            def run(_):
                for path in paths()[:few]:  # contiguous views, each image alone
                    views = torch.from_numpy(np.ascontiguousarray(teacher.views(open_rgb(path)))).to(device)
                    contiguous(teacher.network, views.flip(1) - teacher.mean).cpu()

            return harness.Variant(run, few, flops=flops(teacher.network) * few)

        def ours(precision, off=""):
            harness.as_ours(device, precision)
            teacher = random_teacher(device, precision)
            run = lambda _: list(_features(paths(), teacher, default_jobs(), 32, not on_gpu))
            return harness.Variant(run, count, flops=flops(teacher.network) * count, precision=precision, off=off)

        variants = {"plain": plain, "ours": lambda: ours(precision)}
        if precision == "bf16":
            variants["ours, fp32"] = lambda: ours("fp32", "bf16")
        rows = harness.compare(variants, device, args)
    harness.report("teacher features", "image", rows, args, device, precision, views=10, image_side=500)
    return 0


def contiguous(network, images):
    """The network without its own choice of memory format."""
    from unittest import mock

    import torch

    with torch.inference_mode(), mock.patch.object(torch.Tensor, "contiguous", lambda tensor, **_: tensor):
        return network(images)


if __name__ == "__main__":
    cli.run(main)
