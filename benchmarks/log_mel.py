"""Log-mels of spoken captions: librosa one clip at a time, and ours by all cores."""

import functools
import tempfile

import numpy as np

from benchmarks import harness
from common import cli


def plain_log_mel(path) -> np.ndarray:
    """As the method's authors go: librosa.load, the filters made for every clip, padded to 2048 frames."""
    import librosa

    samples, _ = librosa.load(path, sr=16000)
    samples = samples - samples.mean()
    samples = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    spectrum = librosa.stft(
        samples, n_fft=400, hop_length=160, win_length=400, window=np.hamming(400), center=True, pad_mode="reflect"
    )
    filters = librosa.filters.mel(sr=16000, n_fft=400, n_mels=40, fmin=20, fmax=8000)
    decibels = librosa.power_to_db(filters @ np.abs(spectrum) ** 2, ref=np.max, top_db=80)[:, :2048]
    return np.pad(decibels, ((0, 0), (0, 2048 - decibels.shape[1])))


def variants_from_files(folder, made, times, few, device):
    """In one repetition, plain reads `few` of the files, ours all of them `times` times."""
    from Audio_to_Image.audio import iter_clips, load_log_mel
    from Audio_to_Image.mel_cache import quantize
    from benchmarks.synthetic_data import write_sounds

    paths = functools.cache(lambda: write_sounds(folder, made))

    def one_by_one(load):
        return harness.Variant(lambda _: [load(path) for path in paths()[:few]], few)

    def ours(off="", **how):
        harness.as_ours(device, "fp32")
        everything = paths() * times

        def run(_):
            for _, clip in iter_clips(everything, encode=quantize, **how):
                assert not clip.error, clip.error

        return harness.Variant(run, len(everything), off=off)

    return {
        "plain": lambda: one_by_one(plain_log_mel),
        "ours": ours,
        "ours, one thread": lambda: ours("threads", jobs=1),
        "ours, one by one from a file": lambda: one_by_one(load_log_mel),
    }


def main(argv=None) -> int:
    args = harness.parser(__doc__, __file__).parse_args(argv)
    device, _ = harness.start(args, argv)
    made, times, few = (3, 2, 2) if args.quick else (300, 40, 100)
    missing = harness.have("librosa", "soundfile")
    with tempfile.TemporaryDirectory() as folder:
        rows = [] if missing else harness.compare(variants_from_files(folder, made, times, few, device), device, args)
    skipped = [f"both sides, which read sound: {missing}"] if missing else []
    harness.report("log-mel", "clip", rows, args, device, "fp32", skipped, clips=made * times, frames_mean=550)
    return 0


if __name__ == "__main__":
    cli.run(main)
