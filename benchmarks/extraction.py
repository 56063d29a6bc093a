"""Embedding spoken captions with a trained encoder: one clip at a time over whole maps, and ours in batches."""
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":                         # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import measure  # noqa: E402
from common import cli  # noqa: E402


def main(argv=None) -> int:
    args = measure.parser(__doc__).parse_args(argv)
    device, precision = measure.start(args)
    import copy
    import torch
    from Audio_to_Image.datasets import embed_clips
    from Audio_to_Image.speech_encoder import FRAMES_PER_POSITION
    from benchmarks.encoder_step import Material, trainer
    from benchmarks.log_mel import plain_log_mel
    from benchmarks.material import write_sounds
    on_gpu = device.type == "cuda"
    count, few, width = (2, 1, 16) if args.quick else (4096, 128, 1024) if on_gpu else (128, 16, 1024)
    clips = Material(count, 2, device, width=width)
    encoder = trainer(clips, precision=precision).network.eval()
    simple = copy.deepcopy(encoder)
    simple.whole_maps, simple.convolve = True, lambda x: simple.Conv(x[:, None])
    clips, meta = clips.set.clips, {"max_frames": 2048}
    missing = measure.have("librosa", "soundfile")

    @torch.inference_mode()
    def embed_one(mels, frames):
        simple(mels.to(device), [frames // FRAMES_PER_POSITION])[1].cpu()

    def plain(_):
        for clip in clips.usable[:few]:
            embed_one(clips.mels([clip]), int(clips.n_frames[clip]))

    def ours(how):
        return lambda _: embed_clips(encoder, meta, clips, 64, how).cpu()

    ways = [measure.Way("plain", plain, few), measure.Way("ours", ours(precision), count, precision=precision)]
    if precision == "bf16":
        ways += [measure.Way("ours, fp32", ours("fp32"), count, off="bf16")]
    with tempfile.TemporaryDirectory() as folder:
        if not missing:
            paths = write_sounds(folder, few)

            def with_loading(_):
                for path, frames in zip(paths, clips.n_frames):
                    embed_one(torch.from_numpy(plain_log_mel(path)).float()[None], int(frames))
            ways += [measure.Way("plain, with loading", with_loading, few)]
        rows = measure.compare(ways, device, args)
    measure.report("extraction", "clip", rows, args, device, precision,
                   [f"plain, with loading: {missing}"] if missing else [], frames=2048, frames_mean=550)
    return 0


if __name__ == "__main__":
    cli.run(main)
