"""Float tensors out of TensorFlow checkpoints, without TensorFlow: one file (V1), or `.index` and
`.data-00000-of-00001` (V2).

Both are tables of sorted keys in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/table_format.md),
whose values are protobuf messages: SavedTensorSlices in V1, BundleEntryProto in V2. Sizes in an untrusted file are
claims: each is checked against the bytes that are there before anything is allocated. Checksums are not verified.
"""

import math
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.untrusted.protobuf import BYTES, FIXED32, VARINT, fields, messages, varint

MAX_FILE_BYTES = 1 << 30  # Inception with its momenta and averages has a third of that
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5  # bytes; a block's trailer: its compression and a checksum
_LONGEST_KEY, _MOST_AXES = 4096, 8
_FLOAT = 1  # DT_FLOAT
_DATA = ".data-00000-of-00001"


def is_checkpoint(path) -> bool:
    """Whether the file at `path` is a V1 checkpoint or the `.index` of a V2 one, by its last bytes."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size < _FOOTER:
        return False
    with open(path, "rb") as file:
        file.seek(-len(_MAGIC), 2)
        return file.read() == _MAGIC


def read_floats(path, wanted) -> dict[str, np.ndarray]:
    """Name → float32 array of those tensors of `wanted` that the checkpoint has.

    path: the file of V1, or the `.index` of V2. UserError if it is missing, damaged, or holds another type or only
    parts.
    """
    path, wanted = Path(path), set(wanted)
    try:
        entries = _table(_read(path))
        if path.suffix == ".index":
            return _bundle(entries, _read(path.with_suffix(_DATA)), wanted)
        return _slices(entries, wanted)
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged or no TensorFlow checkpoint ({error}); download it again") from None


def _read(path: Path) -> memoryview:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is too large for a checkpoint of Inception ({path.stat().st_size >> 20} MiB)")
        return memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; a TensorFlow checkpoint is one file, or an .index "
            f"and a {_DATA} of the same name"
        ) from None


# ---- the table ------------------------------------------------------------------------------------------------------


def _table(data: memoryview):
    """(key, value) of all entries, in order."""
    if len(data) < _FOOTER or data[-len(_MAGIC) :] != _MAGIC:
        raise ValueError("it does not end as one")
    footer = data[-_FOOTER:]
    _, position = varint(footer, 0)  # handle of the metaindex, which is empty
    _, position = varint(footer, position)
    end = 0
    for _, handle in _entries(_block(data, footer, position)):
        offset, _ = varint(handle, 0)
        if offset < end:  # else a small file could have one block unpacked without end
            raise ValueError("blocks out of order")
        end = offset + 1
        yield from _entries(_block(data, handle, 0))


def _block(data: memoryview, handle: memoryview, position: int) -> memoryview:
    """The block whose offset and size stand in `handle` at `position`, unpacked."""
    offset, position = varint(handle, position)
    size, _ = varint(handle, position)
    if offset + size + _TRAILER > len(data):
        raise ValueError("a block beyond its end")
    block, compression = data[offset : offset + size], data[offset + size]
    if compression > 1:
        raise ValueError(f"compression {compression}")
    return memoryview(_snappy(block)) if compression else block


def _entries(block: memoryview):
    if len(block) < 4:
        raise ValueError("an empty block")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")  # there stand the places of unshortened keys
    position, key = 0, b""
    while position < end:
        shared, position = varint(block, position)
        own, position = varint(block, position)
        length, position = varint(block, position)
        if shared > len(key) or shared + own > _LONGEST_KEY or position + own + length > end:
            raise ValueError("an entry beyond its block")
        key = key[:shared] + bytes(block[position : position + own])
        position += own + length
        yield key, block[position - length : position]
    if position != end:
        raise ValueError("a block of another length")


def _snappy(data: memoryview) -> bytearray:
    """Unpack https://github.com/google/snappy/blob/main/format_description.txt: literals, and copies of what was
    unpacked."""
    length, position = varint(data, 0)
    if length > 32 * len(data):  # a copy of 64 bytes takes 3
        raise ValueError("a packed block that claims more than it can hold")
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        if tag & 3 == 0:
            size = (tag >> 2) + 1
            if size > 60:
                extra = size - 60
                size = int.from_bytes(data[position : position + extra], "little") + 1
                position += extra
            if position + size > len(data):
                raise ValueError("a packed block that is cut short")
            out += data[position : position + size]
            position += size
        else:
            extra = (0, 1, 2, 4)[tag & 3]
            offset = int.from_bytes(data[position : position + extra], "little")
            size = (tag >> 2) + 1
            if extra == 1:
                offset, size = (tag >> 5) << 8 | offset, (tag >> 2 & 7) + 4
            position += extra
            if not 0 < offset <= len(out):
                raise ValueError("a packed block that refers to what is not there")
            piece = out[len(out) - offset : len(out) - offset + size]
            out += (piece * -(-size // len(piece)))[:size]  # a copy may run into itself
        if len(out) > length:
            break
    if len(out) != length:
        raise ValueError("a packed block of another length than it claims")
    return out


# ---- what the entries hold ------------------------------------------------------------------------------------------


def _slices(entries, wanted: set[str]) -> dict[str, np.ndarray]:
    """V1: an entry with the shapes of all tensors, then one with the numbers of each."""
    shapes: dict[str, list[int]] = {}
    found: dict[str, np.ndarray] = {}
    for _, value in entries:
        for number, content in messages(value):  # SavedTensorSlices: meta (1), data (2)
            if number == 1:
                shapes.update(_shape_of_meta(meta) for field, meta in messages(content) if field == 1)
            elif number == 2:
                parts = dict(messages(content))  # SavedSlice: name (1), slice (2), data (3)
                name = _text(parts.get(1, b""))
                if name in wanted:
                    if name in found or name not in shapes:
                        raise ValueError(f"{name[:80]} is in parts or has no shape")
                    found[name] = _array(_tensor_bytes(parts.get(3, b"")), shapes[name], name)
    return found


def _shape_of_meta(view) -> tuple[str, list[int]]:
    parts = dict(messages(view))  # SavedSliceMeta: name (1), shape (2), type (3), slice (4)
    return _text(parts.get(1, b"")), _shape(parts.get(2, b""))


def _tensor_bytes(view) -> bytes:
    """TensorProto: dtype (1), tensor_content (4), float_val (5), packed or one by one."""
    data = bytearray()
    for number, wire, value in fields(view):
        if number == 1 and wire == VARINT and value != _FLOAT:
            raise ValueError(f"a tensor of type {value}, not float")
        if number in (4, 5) and wire in (BYTES, FIXED32):
            data += value
    return bytes(data)


def _bundle(entries, data: memoryview, wanted: set[str]) -> dict[str, np.ndarray]:
    """V2: an entry for each tensor, which says where its numbers lie in the other file."""
    found = {}
    for key, value in entries:
        name = _text(key)
        if name in wanted:
            parts = {number: content for number, _, content in fields(value)}
            kind, offset, size = (parts.get(number, 0) for number in (1, 4, 5))
            if kind != _FLOAT or parts.get(3, 0) or not isinstance(offset, int) or not isinstance(size, int):
                raise ValueError(f"{name[:80]} is not float, or in another file")
            if offset + size > len(data):
                raise ValueError(f"{name[:80]} lies beyond the end of its file")
            shape = parts.get(2, b"")
            found[name] = _array(data[offset : offset + size], _shape(b"" if isinstance(shape, int) else shape), name)
    return found


def _shape(view) -> list[int]:
    """TensorShapeProto: dim (2), each with its size (1)."""
    shape = [
        next((value for field, wire, value in fields(dim) if field == 1 and wire == VARINT), 0)
        for number, dim in messages(view)
        if number == 2
    ]
    if len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes")
    return shape


def _array(data, shape: list[int], name: str) -> np.ndarray:
    if 4 * math.prod(shape) != len(data):
        raise ValueError(f"{name[:80]} has {len(data)} bytes, not those of shape {shape}")
    return np.frombuffer(data, "<f4").reshape(shape).copy()


def _text(view) -> str:
    return str(bytes(view), "utf-8", "replace")
