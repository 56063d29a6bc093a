"""A process with a limit on its memory that reads file after file as the project does, and says how each one ended.

Lines come in as `<kind><tab><path>`; for each a line of JSON goes out: {} for success, {"sentence": …} for a UserError,
{"fault": traceback} for anything else.
"""

import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOM = 1 << 30  # bytes above what the libraries take


def readers() -> dict:
    import numpy as np
    import torch

    from Audio_to_Image import audio, mel_cache, speech_encoder
    from Audio_to_Image.teachers import extraction, googlenet
    from common import checkpoint, features, files, splits
    from common.untrusted import images, pickles
    from scripts.data.download import registry, unpack
    from scripts.data.prepare import flowers, places
    from StackGAN_v2 import config, generators
    from StackGAN_v2.data import image_cache

    items = tuple(splits.Item(str(n), Path(f"{n}.jpg"), n, "", ("a", "b"), ()) for n in range(3))
    split = splits.Split("train", Path("train.json"), items, Path(), None, False)

    def unpacked(path):
        folder = path.with_name("unpacked")
        folder.mkdir()
        try:
            unpack.unpack(path, folder, unpack.Limits(1 << 20, 100))
        finally:
            shutil.rmtree(folder)

    def network(load):
        return lambda path: checkpoint.digest(load(path).state_dict())

    def boxes(path):
        root = path.parent / "images"
        return image_cache.bounding_boxes(splits.Split("train", path, items, root, None, False))

    def shard(path):
        shards = extraction._Shards.__new__(extraction._Shards)
        shards.folder, shards.count, shards.row_shape = path.parent, 4, (2, 3)
        return shards._load(0)

    def mels(path):
        wavs = [path.with_name("0.wav"), path.with_name("1.wav")]
        cache = mel_cache.MelCache(path.parent, wavs, jobs=1, progress=False)
        return cache.batch([0, 1], 64)[0].sum()

    def pixels(path):
        names = [path.with_name(f"{n}.png") for n in range(2)]
        items = tuple(splits.Item(str(n), names[n], n, "", ("a",), ()) for n in range(2))
        of = splits.Split("train", path, items, path.parent, None, False)
        cache = image_cache.build(of, path.parent, 16, jobs=1, progress=False)
        return sum(cache.batch(*cache_draw(), [16])[0].sum() for _ in range(2))

    def cache_draw():
        return torch.tensor([0, 1]), torch.full((2, 2), 0.99), torch.tensor([False, True])

    return {
        "shard": shard,
        "mels": mels,
        "images": pixels,
        "sound": audio.load_log_mel,
        "image": lambda path: np.asarray(images.open_rgb(path)).sum(),
        "pickle": pickles.read_pickle,
        "features": lambda path: features.load_features(path, split, "the stage"),
        "checkpoint": checkpoint.load,
        "encoder": lambda path: speech_encoder.load_encoder(path)[1],
        "generator": network(generators.load_generator),
        "googlenet": network(googlenet.load_googlenet),
        "caffemodel": lambda path: googlenet.read_caffemodel(googlenet._read(path), path),
        "split": lambda path: splits.load_split(path.parent, path.stem).digest(),
        "json": files.read_json,
        "places": places.rooms,
        "labels": flowers.read_labels,
        "boxes": boxes,
        "registry": lambda path: registry.load((path,)),
        "cfg": config.load_config,
        "archive": unpacked,
    }


def register_extension() -> None:
    """As libraries may: a number for a function, which pickle then keeps where no reader is asked about it."""
    import copyreg
    import pickle

    from hostile import EXTENSION

    copyreg.add_extension("os", "mkdir", EXTENSION)
    assert pickle.loads(b"\x80\x02\x82" + bytes([EXTENSION]) + b".") is os.mkdir


def end_of(read, path: Path) -> dict:
    from common.cli import UserError

    try:
        read(path)
        return {}
    except UserError as error:
        return {"sentence": str(error)}
    except BaseException:
        return {"fault": traceback.format_exc()}


def main() -> None:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")  # what a library prints must not come between
    os.dup2(2, 1)
    known = readers()
    register_extension()
    import librosa.filters  # noqa: F401             # what is imported on first use is no memory of a file
    import soundfile  # noqa: F401
    from scipy import fft, io  # noqa: F401

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        kind, _, path = line.rstrip("\n").partition("\t")
        print(json.dumps(end_of(known[kind], Path(path))), file=answers, flush=True)


if __name__ == "__main__":
    main()
