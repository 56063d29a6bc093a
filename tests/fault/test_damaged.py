"""Damaged files of every kind end in success or one clear sentence, in bounded time and memory."""

import random
import re

import originals
import pytest
from damage import variants


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return originals.make(tmp_path_factory.mktemp("originals"))


KINDS = {
    "sound": "sound",
    "image": "image",
    "pickle": "features|pickle",
    "checkpoint": "checkpoint|encoder|generator",
    "text": "split|json|places|registry|cfg|boxes",
    "network": "caffemodel|googlenet",
    "archive": "archive|labels",
}


@pytest.mark.parametrize("group", KINDS)
def test_damage(group, worker, whole, tmp_path, seeds, count):
    """Each original is read first, to show that the limits leave room for whole files."""
    chosen = [(one, kind) for one in whole for kind in one.kinds if re.fullmatch(KINDS[group], kind)]
    tried = 0
    for seed in seeds(0.02):
        for one, kind in chosen:
            path = tmp_path / one.name
            path.write_bytes(one.data)
            if kind != "googlenet":
                assert worker.read(kind, path) is None, (kind, one.name)
            for what, data in variants(one.data, one.copies, random.Random(f"{seed} {one.name}")):
                path.write_bytes(data)
                try:
                    worker.read(kind, path)
                except AssertionError as error:
                    raise AssertionError(f"{kind} {one.name}, {what}, seed {seed}: {error}") from None
                tried += 1
    count("damaged", tried)


def test_wrong_extensions(worker, whole, tmp_path, count):
    """Every reader is given a file of every other kind, under the name that it would have there."""
    tried = 0
    for one in whole:
        for other in whole[::3]:
            if other.kinds[0] != one.kinds[0]:
                path = tmp_path / one.name
                path.write_bytes(other.data)
                worker.read(one.kinds[0], path)
                tried += 1
    count("damaged", tried)


@pytest.mark.parametrize(
    "kind, names",
    [
        ("mels", ("log_mels.npy", "log_mels.json", ".log_mels.partial.jsonl")),
        ("images", ("images_16.npy", "images_16.json")),
    ],
)
def test_damaged_caches_are_made_again(kind, names, worker, tmp_path, seeds, count):
    """Caches lie in a data set's folder, which may come from another machine, or a disk that failed."""
    originals.make_cached(tmp_path)
    assert worker.read(kind, tmp_path / names[0]) is None
    whole = {
        name: (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b'{"end": 1, "records": {}}\n'
        for name in names
    }
    for seed in seeds(0.01):
        for name in names:
            for what, data in variants(whole[name], 24, random.Random(f"{seed} {name}")):
                (tmp_path / name).write_bytes(data)
                assert worker.read(kind, tmp_path / name) is None, f"{name}, {what}, seed {seed}"
                count("damaged")
