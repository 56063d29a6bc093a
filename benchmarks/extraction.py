"""Embedding spoken captions with an encoder: one clip at a time over padded maps, and ours in batches."""

import functools
import tempfile

from benchmarks import harness
from common import cli


def main(argv=None) -> int:
    args = harness.parser(__doc__, __file__).parse_args(argv)
    device, precision = harness.start(args, argv)
    import torch

    from Audio_to_Image.datasets import embed_clips
    from Audio_to_Image.speech_encoder import FRAMES_PER_POSITION
    from benchmarks.encoder_step import SyntheticTraining, trainer
    from benchmarks.log_mel import plain_log_mel
    from benchmarks.synthetic_data import write_sounds

    on_gpu = device.type == "cuda"
    count, few, width = (2, 1, 16) if args.quick else (4096, 128, 1024) if on_gpu else (128, 16, 1024)
    missing = harness.have("librosa", "soundfile")

    @functools.cache
    def job():
        data_set = SyntheticTraining(count, 2, device, width=width)
        return trainer(data_set, precision=precision).network.eval(), data_set.set.clips

    def plain(paths=()):
        """paths: sounds to read; without any, log-mels from memory."""
        encoder, clips = job()
        encoder.whole_maps, encoder.convolve = True, lambda x: encoder.Conv(x[:, None])

        @torch.inference_mode()
        def embed_one(mels, frames):
            encoder(mels.to(device), [frames // FRAMES_PER_POSITION])[1].cpu()

        def run(_):
            for clip in clips.usable[:few]:
                mels = torch.from_numpy(plain_log_mel(paths[clip])).float()[None] if paths else clips.mels([clip])
                embed_one(mels, int(clips.n_frames[clip]))

        return harness.Variant(run, few)

    def ours(precision, off=""):
        harness.as_ours(device, precision)
        encoder, clips = job()
        return harness.Variant(
            lambda _: embed_clips(encoder, {"max_frames": 2048}, clips, 64, precision).cpu(),
            count,
            precision=precision,
            off=off,
        )

    variants = {"plain": plain, "ours": lambda: ours(precision)}
    if precision == "bf16":
        variants["ours, fp32"] = lambda: ours("fp32", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        if not missing:
            variants["plain, with loading"] = lambda: plain(write_sounds(folder, few))
        rows = harness.compare(variants, device, args)
    harness.report(
        "extraction",
        "clip",
        rows,
        args,
        device,
        precision,
        [f"plain, with loading: {missing}"] if missing else [],
        frames=2048,
        frames_mean=550,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
