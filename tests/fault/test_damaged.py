"""Damaged files of every kind end in success or one clear sentence, in bounded time and memory."""
import random
import re

import pytest

import originals
from damage import variants


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return originals.make(tmp_path_factory.mktemp("originals"))


KINDS = {"sound": "sound", "picture": "picture", "pickle": "features|pickle", "checkpoint": "checkpoint|encoder|generator",
         "text": "split|json|places|registry|cfg|boxes", "network": "caffemodel|googlenet", "archive": "archive|labels"}


@pytest.mark.parametrize("group", KINDS)
def test_damage(group, worker, whole, tmp_path, seeds, count):
    """Each original is read first, to show that the limits leave room for whole files."""
    chosen = [(one, kind) for one in whole for kind in one.kinds if re.fullmatch(KINDS[group], kind)]
    tried = 0
    for seed in seeds(0.05):
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
