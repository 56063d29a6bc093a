"""Log-mels of spoken captions: librosa one clip at a time, and ours by all cores."""
import functools
import sys
import tempfile
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):        # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402

from benchmarks import measure  # noqa: E402
from common import cli  # noqa: E402


def plain_log_mel(path) -> np.ndarray:
    """As the method's authors go: librosa.load, the filters made for every clip, padded to 2048 frames."""
    import librosa
    samples, _ = librosa.load(path, sr=16000)
    samples = samples - samples.mean()
    samples = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    spectrum = librosa.stft(samples, n_fft=400, hop_length=160, win_length=400, window=np.hamming(400), center=True,
                            pad_mode="reflect")
    filters = librosa.filters.mel(sr=16000, n_fft=400, n_mels=40, fmin=20, fmax=8000)
    decibels = librosa.power_to_db(filters @ np.abs(spectrum) ** 2, ref=np.max, top_db=80)[:, :2048]
    return np.pad(decibels, ((0, 0), (0, 2048 - decibels.shape[1])))


def ways_from_files(folder, made, times, few, device):
    """plain goes through `few` of the files in a turn, ours through all of them `times` times."""
    from Audio_to_Image.audio import iter_log_mels, load_log_mel
    from Audio_to_Image.mel_cache import quantize
    from benchmarks.material import write_sounds
    paths = functools.cache(lambda: write_sounds(folder, made))

    def one_by_one(load):
        return measure.Way(lambda _: [load(path) for path in paths()[:few]], few)

    def ours(off="", times=times, **how):
        measure.as_ours(device, "fp32")
        everything = paths() * times

        def run(_):
            for _, _, reason in iter_log_mels(everything, encode=quantize, **how):
                assert not reason, reason
        return measure.Way(run, len(everything), off=off)

    some = -(-times // 8)
    return {"plain": lambda: one_by_one(plain_log_mel), "ours": ours,
            "ours, threads": lambda: ours("processes", some, processes=False),
            "ours, one worker": lambda: ours("workers", some, jobs=1),
            "ours, one by one from a file": lambda: one_by_one(load_log_mel)}


def way_from_samples(count):
    """For machines that cannot read sound: from samples in memory, with filters of the right size."""
    from Audio_to_Image import audio
    random = np.random.default_rng(0)
    sounds = [random.standard_normal(160 * 550).astype(np.float32) for _ in range(count)]
    bands = [(slice(low, low + 8), slice(4 * low, 4 * low + 200), np.ones((200, 8), np.float32))
             for low in range(0, 40, 8)]
    transform = lambda _: [audio.log_mel(sound, bands=bands) for sound in sounds]
    return measure.Way(transform, count)


def main(argv=None) -> int:
    args = measure.parser(__doc__, __file__).parse_args(argv)
    device, _ = measure.start(args, argv)
    made, times, few = (3, 2, 2) if args.quick else (300, 80, 100)
    missing = measure.have("librosa", "soundfile")
    with tempfile.TemporaryDirectory() as folder:
        if missing:
            ways = {"ours, transform alone": lambda: way_from_samples(few)}
            skipped = [f"the plain side and reading files: {missing}"]
        else:
            ways, skipped = ways_from_files(folder, made, times, few, device), []
        rows = measure.compare(ways, device, args)
    measure.report("log-mel", "clip", rows, args, device, "fp32", skipped, clips=made * times, frames_mean=550)
    return 0


if __name__ == "__main__":
    cli.run(main)
