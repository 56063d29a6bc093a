"""No room on the disk, at any moment of every stage: one sentence, nothing half written, and what was there stays."""

import json
import os
import random
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import compare
import pytest
import stages

ROOT = Path(__file__).resolve().parents[2]
# stage → errors when a file or folder is made, drawn by chance; and when a file has reached a size, as shares of that
# of the largest
ERRORS = {
    "data": (1, (0.5, 0.97)),
    "speech": (1, (0.3,)),
    "image features": (1, (0.9,)),
    "encoder": (2, (0.0001, 0.9)),
    "speech features": (1, (0.5,)),
    "generator": (2, (0.0001, 0.9)),
    "images": (1, (0.3,)),
    "speech numbers": (0, (0,)),
    "image numbers": (1, (0.5,)),
    "report": (1, (0.2,)),
}
_NEED_ROOM = ("open ", "os.mkdir ", "os.symlink ")
SPLITS = ("data/toybirds/train.json", "data/toybirds/test.json")  # the speech stage names its sound in them


def drawn(trial, name, seed):
    dice = random.Random(seed + zlib.crc32(name.encode()))
    makes = [number for number, change in enumerate(trial.ended[name].changes) if change.startswith(_NEED_ROOM)]
    by_chance, shares = ERRORS[name]
    yield from ({"change": dice.choice(makes)} for _ in range(by_chance if makes else 0))
    yield from ({"at_bytes": int(share * max(trial.sizes[name], default=0))} for share in shares)


@pytest.mark.parametrize("name", ERRORS)
def test_a_full_disk_is_one_sentence(name, trial, count, seeds):
    trial.make(name)
    for seed in seeds(0.15 / len(ERRORS)):
        for error in drawn(trial, name, seed):
            stages.restore(trial.saved(name), trial.place)
            before = compare.contents(trial.place)
            ended = trial.run(name, full=True, **error)
            told = f"{name}, disk full {error}: {ended.output}"
            sentences = [line for line in ended.output.splitlines() if ": error: " in line]
            assert ended.status == 2 and len(sentences) == 1 and "Traceback" not in ended.output, told
            assert "cannot be" in sentences[0], told
            after = compare.contents(trial.place)  # also: every file that is there is whole
            lost = [file for file in before if after.get(file) != before[file] and file not in SPLITS]
            assert not lost, (told, lost)
            left = [file for file in compare.temporaries(trial.place) if ".partial" not in file]  # kept to go on
            assert not left, (told, left)
            count("write errors")


@pytest.mark.parametrize("size", [0, 1, 700, 5000, 60_000])
def test_every_way_of_writing(size, tmp_path, count):
    """A limit on the size of files stops each writer of common/ in the middle: the old file stays, and nothing else."""
    result = subprocess.run(
        [sys.executable, __file__, tmp_path, str(size)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    refused, written = json.loads(result.stdout)
    assert len(refused) + len(written) == 10 and len(refused) >= 6, result.stdout
    count("write errors", len(refused))


def writers(folder: Path):
    """Name → (file, what writes it)."""
    import numpy as np
    import torch
    from PIL import Image

    from common import checkpoint, events, features, files, splits
    from StackGAN_v2 import sampler

    items = tuple(splits.Item(str(n), Path(f"{n}.jpg"), n, "", ("a", "b"), ()) for n in range(3))
    split = splits.Split("train", Path("train.json"), items, Path(), None, False)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    log = events.Events(folder, 0)
    log.path = folder / "events"
    names = {f"name {n}": float(n) for n in range(2000)}

    def shard(path):
        with files.atomic_path(path) as temporary:
            np.save(temporary, noise)

    return {
        "bytes": lambda p: files.write_bytes(p, bytes(100_000)),
        "text": lambda p: files.write_text(p, "ü" * 50_000),
        "json": lambda p: files.write_json(p, list(range(20_000))),
        "x.npy": shard,
        "lines": lambda p: files.append_line(p, {"x": "y" * 100_000}),
        "events": lambda p: log.add(1, names),
        "x.pth": lambda p: checkpoint.save(p, {"a": torch.zeros(50_000)}),
        "x.png": lambda p: sampler.save_image(p, noise),
        "x.jpg": lambda p: _save_jpeg(files, Image.fromarray(noise), p),
        "x.pickle": lambda p: features.save_features(p, np.zeros((3, 2, 5000)), split),
    }


def _save_jpeg(files, image, path):
    with files.atomic_path(path) as temporary:
        image.save(temporary, quality=99)


def main(folder: Path, size: int) -> None:
    """Write every file under a limit of `size` bytes; print the names of those refused and of those written."""
    from common.cli import UserError

    kinds, refused, written = writers(folder), [], []
    for name in kinds:
        (folder / name).write_bytes(b"old\n")
    (folder / "x.json").write_text('{"order": "of before"}')  # x.pickle is ours, and so may be replaced
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    for name, write in kinds.items():
        try:
            write(folder / name)
            written.append(name)
        except UserError as error:
            told = str(error)
            assert f"{folder / Path(name).stem}" in told and "cannot be written" in told and "\n" not in told, told
            assert (folder / name).read_bytes() == b"old\n", name
            refused.append(name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    left = {path.name for path in folder.iterdir()} - kinds.keys() - {"x.json"}  # that of features
    assert not left, left
    print(json.dumps([refused, written]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
