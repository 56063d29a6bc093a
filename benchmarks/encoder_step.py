"""Training steps of the speech encoder: as published, ours, and ours with each switch off."""

import functools
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import harness
from common import cli


class SyntheticTraining:
    """A training set of `items` synthetic items with one caption each, and its batches.

    frames: width of a padded map; width: of the teacher's features and of the embedding.
    """

    def __init__(self, items, batch, device, frames=2048, width=1024, where=None):
        import numpy as np
        import torch

        from Audio_to_Image.datasets import SpeechClips, TrainingSet
        from benchmarks import synthetic_data
        from common.splits import Item, Split

        self.batch, self.device = batch, device
        random = np.random.default_rng(0)
        split = Split(
            "train",
            Path("train.json"),
            tuple(
                Item(
                    str(i),
                    Path(f"{i}.jpg"),
                    i % synthetic_data.CLASSES,
                    str(i % synthetic_data.CLASSES),
                    (),
                    (Path(f"{i}.wav"),),
                )
                for i in range(items)
            ),
            Path("."),
            Path("."),
            True,
        )
        clips = SpeechClips(split, synthetic_data.log_mels(items), frames, device, where)
        features = random.standard_normal((items, 10, width)).astype(np.float32)
        self.set = TrainingSet(clips, list(abs(features)))
        self.plan = self.set.plan(0, 0, batch)
        torch.manual_seed(0)

    def make(self, step):
        return self.set.batch(self.plan, step % len(self.plan), slice(0, self.batch))

    def feed(self):
        """A function that returns batches; a thread prepares the next one, as in the trainer."""
        threads, ahead, step = ThreadPoolExecutor(1), deque(), iter(range(1 << 40))

        def take():
            while len(ahead) < 2:
                ahead.append(threads.submit(self.make, next(step)))
            return ahead.popleft().result()

        return take


def trainer(data_set, **settings):
    """Our trainer, without a run folder or a test split."""
    import torch

    from Audio_to_Image.speech_encoder import CNNRNN
    from Audio_to_Image.trainer import Settings, Trainer

    torch.manual_seed(0)
    network = CNNRNN(embedding_dim=data_set.set.width, nhidden=data_set.set.width, bidirectional=True)
    return Trainer(
        network.train(),
        data_set.set,
        None,
        torch.zeros(1, data_set.set.width),
        {},
        Settings(batch_size=data_set.batch, **settings),
        None,
    )


def ours(data_set, off="", keep=True, **settings) -> harness.Variant:
    """keep: keep freed memory in the process, as the commands do."""
    if keep:
        harness.as_ours(data_set.device, settings["precision"])
    job = trainer(data_set, **settings)

    step = job.train_on
    data = data_set.make(0)
    step(data)  # the first step may compile
    flops = harness.flops_of(lambda: step(data)) if not settings.get("compile") else 0.0
    return harness.Variant(step, data_set.batch, data_set.feed(), flops, settings["precision"], off)


def plain(data_set, feed=None) -> harness.Variant:
    """Contiguous float32 over whole maps, the first convolution as a tall kernel, Adam tensor by tensor."""
    import torch

    from Audio_to_Image.objectives import loss_terms
    from Audio_to_Image.speech_encoder import FRAMES_PER_POSITION

    job = trainer(data_set, precision="fp32", whole_maps=True)
    job.network.convolve = lambda x: job.network.Conv(x[:, None])
    optimizer = torch.optim.Adam(job.network.parameters(), 1e-3, weight_decay=1e-5, foreach=False)

    def step(batch):
        _, sentence = job.network(batch.mels, batch.n_frames // FRAMES_PER_POSITION)
        total, _ = loss_terms(sentence, batch.image, batch.labels, job.settings)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return float(total.detach())  # the published loop prints it

    batch = data_set.make(0)
    flops = harness.flops_of(lambda: step(batch))
    return harness.Variant(step, data_set.batch, feed or (lambda: batch), flops)


def plain_feed(data_set, paths):
    """Log-mels computed from the files, clip by clip, in every step; the rest of a batch as ours."""
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks.log_mel import plain_log_mel

    def take():
        mels = torch.from_numpy(np.stack([plain_log_mel(path) for path in paths]).astype(np.float32))
        return replace(data_set.make(0), mels=mels.to(data_set.device))

    return take


def main(argv=None) -> int:
    parser = harness.parser(__doc__, __file__)
    parser.add_argument("--batch_size", type=cli.positive_int, default=64, metavar="N", help="clips a step")
    args = parser.parse_args(argv)
    device, precision = harness.start(args, argv)
    from benchmarks.synthetic_data import write_sounds

    args.batch_size = 2 if args.quick else args.batch_size
    missing, on_gpu = harness.have("librosa", "soundfile"), device.type == "cuda"
    made = functools.cache(
        lambda: SyntheticTraining(4 * args.batch_size, args.batch_size, device, **dict(width=16) if args.quick else {})
    )

    def our(**settings):
        return lambda: ours(made(), **{"precision": precision, "compile": False, **settings})

    # the default depends on the device; the other choice is measured as a switch
    other, off = ("ours, columns", "whole maps") if on_gpu else ("ours, whole maps", "columns")
    variants = {"plain": lambda: plain(made()), "ours": our(), other: our(off=off, whole_maps=not on_gpu)}
    if precision == "bf16":
        variants["ours, fp32"] = our(off="bf16", precision="fp32")
    if not on_gpu:
        variants["ours, memory given back"] = our(off="kept memory", keep=False)
    if on_gpu and not args.quick:
        variants["ours, compiled"] = our(off="no compilation", compile=True)
    with tempfile.TemporaryDirectory() as folder:
        if not missing:
            variants["plain, with loading"] = lambda: plain(
                made(), plain_feed(made(), write_sounds(folder, args.batch_size))
            )
        rows = harness.compare(variants, device, args)
    harness.report(
        "encoder step",
        "clip",
        rows,
        args,
        device,
        precision,
        [f"plain, with loading: {missing}"] if missing else [],
        batch=args.batch_size,
        frames=2048,
        frames_mean=550,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
