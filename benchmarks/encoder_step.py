"""Training steps of the speech encoder: as published, ours, and ours without each of its switches."""
import functools
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import measure
from common import cli


class Material:
    """A training set of `items` made-up items with one caption each, and the means to make its batches.

    frames: of a map; width: of the teacher's features and of the embedding.
    """

    def __init__(self, items, batch, device, frames=2048, width=1024, where=None):
        import numpy as np
        import torch

        from Audio_to_Image.datasets import SpeechClips, TrainingSet
        from benchmarks import synthetic_data
        from common.splits import Item, Split
        self.batch, self.device = batch, device
        random = np.random.default_rng(0)
        split = Split("train", Path("train.json"),
                      tuple(Item(str(i), Path(f"{i}.jpg"), i % synthetic_data.CLASSES, str(i % synthetic_data.CLASSES), (),
                                 (Path(f"{i}.wav"),)) for i in range(items)), Path("."), Path("."), True)
        clips = SpeechClips(split, synthetic_data.log_mels(items), frames, device, where)
        features = random.standard_normal((items, 10, width)).astype(np.float32)
        self.set = TrainingSet(clips, list(abs(features)))
        self.plan = self.set.plan(0, 0, batch)
        torch.manual_seed(0)

    def make(self, step):
        return self.set.batch(self.plan, step % len(self.plan), slice(0, self.batch))

    def feed(self):
        """A function that hands out batches which a thread makes one ahead, as the trainer's does."""
        threads, ahead, step = ThreadPoolExecutor(1), deque(), iter(range(1 << 40))

        def take():
            while len(ahead) < 2:
                ahead.append(threads.submit(self.make, next(step)))
            return ahead.popleft().result()
        return take


def trainer(material, **settings):
    """Our trainer, without a run's folder or a test side."""
    import torch

    from Audio_to_Image.speech_encoder import CNNRNN
    from Audio_to_Image.trainer import Settings, Trainer
    torch.manual_seed(0)
    network = CNNRNN(embedding_dim=material.set.width, nhidden=material.set.width, bidirectional=True)
    return Trainer(network.train(), material.set, None, torch.zeros(1, material.set.width), {},
                   Settings(batch_size=material.batch, **settings), None)


def ours(material, off="", keep=True, **settings) -> measure.Way:
    """keep: freed memory, as the commands do."""
    if keep:
        measure.as_ours(material.device, settings["precision"])
    job = trainer(material, **settings)

    def step(batch):
        job._train_step(batch)
        job.window.clear()                         # which a tick does
    data = material.make(0)
    step(data)                                     # compiles, if it is to be compiled
    flops = measure.flops_of(lambda: step(data)) if not settings.get("compile") else 0.0
    return measure.Way(step, material.batch, material.feed(), flops, settings["precision"], off)


def plain(material, feed=None) -> measure.Way:
    """Contiguous float32 over whole maps, the first convolution as a tall kernel, Adam tensor by tensor."""
    import torch

    from Audio_to_Image.speech_encoder import FRAMES_PER_POSITION
    from Audio_to_Image.trainer import loss_terms
    job = trainer(material, precision="fp32", whole_maps=True)
    job.network.convolve = lambda x: job.network.Conv(x[:, None])
    optimizer = torch.optim.Adam(job.network.parameters(), 1e-3, weight_decay=1e-5, foreach=False)

    def step(batch):
        _, sentence = job.network(batch.mels, batch.n_frames // FRAMES_PER_POSITION)
        total, _ = loss_terms(sentence, batch.image, batch.labels, job.settings)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return float(total.detach())               # the published loop prints it
    batch = material.make(0)
    flops = measure.flops_of(lambda: step(batch))
    return measure.Way(step, material.batch, feed or (lambda: batch), flops)


def plain_feed(material, paths):
    """Every clip decoded and transformed when it is wanted, one after the other; the rest of a batch as ours."""
    from dataclasses import replace

    import numpy as np
    import torch

    from benchmarks.log_mel import plain_log_mel

    def take():
        mels = torch.from_numpy(np.stack([plain_log_mel(path) for path in paths]).astype(np.float32))
        return replace(material.make(0), mels=mels.to(material.device))
    return take


def main(argv=None) -> int:
    parser = measure.parser(__doc__, __file__)
    parser.add_argument("--batch_size", type=cli.positive_int, default=64, metavar="N", help="clips a step")
    args = parser.parse_args(argv)
    device, precision = measure.start(args, argv)
    from benchmarks.synthetic_data import write_sounds
    args.batch_size = 2 if args.quick else args.batch_size
    missing, on_gpu = measure.have("librosa", "soundfile"), device.type == "cuda"
    made = functools.cache(lambda: Material(4 * args.batch_size, args.batch_size, device,
                                            **dict(width=16) if args.quick else {}))

    def our(**settings):
        return lambda: ours(made(), **{"precision": precision, "compile": False, **settings})

    # what a device chooses by itself is one switch, and the other choice is measured too
    other, off = ("ours, columns", "whole maps") if on_gpu else ("ours, whole maps", "columns")
    ways = {"plain": lambda: plain(made()), "ours": our(), other: our(off=off, whole_maps=not on_gpu)}
    if precision == "bf16":
        ways["ours, fp32"] = our(off="bf16", precision="fp32")
    if not on_gpu:
        ways["ours, memory given back"] = our(off="kept memory", keep=False)
    if on_gpu and not args.quick:
        ways["ours, compiled"] = our(off="no compilation", compile=True)
    with tempfile.TemporaryDirectory() as folder:
        if not missing:
            ways["plain, with loading"] = lambda: plain(
                made(), plain_feed(made(), write_sounds(folder, args.batch_size)))
        rows = measure.compare(ways, device, args)
    measure.report("encoder step", "clip", rows, args, device, precision,
                   [f"plain, with loading: {missing}"] if missing else [], batch=args.batch_size, frames=2048,
                   frames_mean=550)
    return 0


if __name__ == "__main__":
    cli.run(main)
