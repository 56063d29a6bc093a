"""TensorFlow checkpoints of float tensors, written by hand in both of their formats."""

import struct

from toy_caffemodel import field, varint

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)


def snappy(data: bytes) -> bytes:
    """`data` packed: runs of one byte as a literal and copies of it, all else as literals."""
    out, position = bytearray(varint(len(data))), 0
    while position < len(data):
        run = 1
        while run < 65 and data[position : position + run + 1] == data[position : position + 1] * (run + 1):
            run += 1
        if run > 8:
            out += bytes([0, data[position], (run - 2) << 2 | 2, 1, 0])  # a literal, a copy with offset 1
            position += run
        else:
            piece = data[position : position + 50]
            out += bytes([(len(piece) - 1) << 2]) + piece
            position += len(piece)
    return bytes(out)


def table(entries: list[tuple[bytes, bytes]], packed: bool, per_block: int = 2) -> bytes:
    """A LevelDB table; keys share their beginnings."""
    file, index = bytearray(), []

    def block(pairs) -> bytes:
        body, before = bytearray(), b""
        for key, value in pairs:
            shared = next((i for i, (a, b) in enumerate(zip(key, before)) if a != b), min(len(key), len(before)))
            body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            before = key
        body += struct.pack("<II", 0, 1)
        handle = varint(len(file))
        body = snappy(bytes(body)) if packed else bytes(body)
        file.extend(body + bytes([packed]) + bytes(4))
        return handle + varint(len(body))

    for start in range(0, len(entries), per_block):
        pairs = entries[start : start + per_block]
        index.append((pairs[-1][0], block(pairs)))
    footer = block([]) + block(index)
    return bytes(file) + footer.ljust(40, b"\0") + MAGIC


def shape_proto(array) -> bytes:
    return b"".join(field(2, field(1, size)) for size in array.shape)


def write_v1(path, tensors, packed: bool = False) -> None:
    meta = b"".join(
        field(1, field(1, name.encode()) + field(2, shape_proto(array)) + field(3, 1))
        for name, array in tensors.items()
    )
    entries = [(b"", field(1, meta))]
    for name, array in sorted(tensors.items()):
        tensor = field(1, 1) + field(5, array.astype("<f4").tobytes())
        entries.append((b"\0" + name.encode(), field(2, field(1, name.encode()) + field(2, b"") + field(3, tensor))))
    path.write_bytes(table(entries, packed))


def write_v2(path, tensors) -> None:
    """path: the `.index`."""
    data, entries = bytearray(), [(b"", field(1, 1))]
    for name, array in sorted(tensors.items()):
        raw = array.astype("<f4").tobytes()
        place = field(4, len(data)) if data else b""  # zeros are left out
        entries.append(
            (
                name.encode(),
                field(1, 1) + field(2, shape_proto(array)) + place + field(5, len(raw)) + varint(6 << 3 | 5) + bytes(4),
            )
        )
        data += raw
    path.write_bytes(table(entries, False))
    path.with_suffix(".data-00000-of-00001").write_bytes(data)
