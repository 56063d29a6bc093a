"""common.files on .npy files: headers whose length is filled in later, and files that are opened without trust."""

import numpy as np

from common.files import npy_header, npy_or_none


def test_a_header_filled_in_at_the_end(tmp_path):
    path, values = tmp_path / "a.npy", np.arange(12, dtype=np.uint8).reshape(4, 3)
    with open(path, "wb") as file:
        file.write(npy_header("|u1", (0, 3)) + values.tobytes())
        file.seek(0)
        file.write(npy_header("|u1", (4, 3)))
    assert (np.load(path) == values).all()
    assert (npy_or_none(path, np.uint8, mmap_mode="c") == values).all()
    assert len(npy_header("<i2", (10**12,))) == len(npy_header("<i2", (0,))) == 128


def test_what_cannot_be_used_is_none(tmp_path):
    path = tmp_path / "a.npy"
    assert npy_or_none(path, np.uint8) is None
    np.save(path, np.zeros(3, np.int16))
    assert npy_or_none(path, np.uint8) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert npy_or_none(path, np.int16) is None
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert npy_or_none(path, object) is None
