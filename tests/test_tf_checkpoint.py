"""TensorFlow checkpoints: both formats are read, and what is damaged or hostile ends in one sentence."""

import numpy as np
import pytest
from tf_checkpoint_writer import MAGIC, snappy, table, write_v1, write_v2
from toy_caffemodel import field, varint

from common.cli import UserError
from common.untrusted import tf_checkpoint
from common.untrusted.tf_checkpoint import is_checkpoint, read_floats

TENSORS = {
    "conv0/weights": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv0/BatchNorm/beta": np.zeros(300, np.float32),
    "logits/biases": np.float32([1.5, -2, 3]),
    "scalar": np.float32(7),
}


def write(folder, form):
    path = folder / ("model.ckpt.index" if form == "V2" else "model.ckpt-5000")
    if form == "V2":
        write_v2(path, TENSORS)
    else:
        write_v1(path, TENSORS, packed=form == "V1 packed")
    return path


@pytest.mark.parametrize("form", ["V1", "V1 packed", "V2"])
def test_tensors_come_back(tmp_path, form):
    path = write(tmp_path, form)
    assert is_checkpoint(path) and not is_checkpoint(tmp_path)
    found = read_floats(path, [*TENSORS, "absent"])
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert found[name].dtype == np.float32 and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert read_floats(path, ["scalar"]).keys() == {"scalar"}


@pytest.mark.parametrize("form", ["V1", "V1 packed", "V2"])
def test_every_truncation_and_flipped_byte_ends_in_a_value_or_a_sentence(tmp_path, form):
    path = write(tmp_path, form)
    data, refused = path.read_bytes(), 0
    changes = [data[:length] for length in range(len(data))]
    changes += [data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :] for i in range(len(data)) for flip in (1, 0x80)]
    for change in changes:
        path.write_bytes(change)
        try:
            found = read_floats(path, TENSORS)
            assert all(array.dtype == np.float32 for array in found.values())
        except UserError as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error)
    assert refused > len(data)


def test_the_other_file_of_v2(tmp_path):
    path = write(tmp_path, "V2")
    other = path.with_suffix(".data-00000-of-00001")
    other.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(UserError, match="model.ckpt.index is damaged .*beyond the end"):
        read_floats(path, TENSORS)
    other.unlink()
    with pytest.raises(UserError, match="data-00000-of-00001 cannot be read"):
        read_floats(path, TENSORS)


HOSTILE = {
    "huge packed": b"\xff\xff\xff\xff\x0f" + bytes(50),
    "refers back": varint(4) + bytes([2, 9, 0]),
    "endless literal": varint(1000) + b"\xfc\xff\xff\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_packing_is_refused(data):
    with pytest.raises((ValueError, IndexError)):
        tf_checkpoint._snappy(memoryview(data))


def test_copies_may_run_into_themselves():
    data = b"abc" + b"x" * 60 + bytes(range(80))
    assert tf_checkpoint._snappy(memoryview(snappy(data))) == data
    assert (
        tf_checkpoint._snappy(memoryview(varint(8) + bytes([2 << 2]) + b"abc" + bytes([1 << 2 | 1, 3]))) == b"abcabcab"
    )


@pytest.mark.parametrize(
    "value",
    [
        field(2, field(1, b"a") + field(3, field(1, 1) + field(5, bytes(8)))),  # no shape
        field(1, field(1, field(1, b"a") + field(2, field(2, field(1, 1 << 62)) * 3)))
        + field(2, field(1, b"a") + field(3, field(1, 1) + field(5, bytes(8)))),  # a shape that is not there
        field(1, field(1, field(1, b"a") + field(2, field(2, field(1, 2)))))
        + field(2, field(1, b"a") + field(3, field(1, 2) + field(5, bytes(8)))),
    ],
)  # double
def test_claims_are_refused(tmp_path, value):
    (tmp_path / "a.ckpt").write_bytes(table([(b"", value)], False))
    with pytest.raises(UserError, match="a.ckpt is damaged"):
        read_floats(tmp_path / "a.ckpt", ["a"])


def test_other_files_are_named(tmp_path, monkeypatch):
    for content in (b"", b"<html>404</html>", bytes(100) + MAGIC, b"\xff" * 200 + MAGIC):
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(UserError, match="a.ckpt is damaged or no TensorFlow checkpoint"):
            read_floats(tmp_path / "a.ckpt", ["a"])
    with pytest.raises(UserError, match="none.ckpt cannot be read"):
        read_floats(tmp_path / "none.ckpt", ["a"])
    monkeypatch.setattr(tf_checkpoint, "MAX_FILE_BYTES", 10)
    with pytest.raises(UserError, match="a.ckpt is too large"):
        read_floats(tmp_path / "a.ckpt", ["a"])
