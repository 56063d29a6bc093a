"""Weights and nodes of an ONNX file, read without its library: https://onnx.ai/onnx/repo-docs/IR.html

Only float32 tensors that stand in the file itself as raw bytes are read; nothing is run. Lengths are checked against
the bytes that are there (protobuf.py).
"""

import math

import numpy as np

from common.cli import UserError
from common.untrusted.protobuf import BYTES, VARINT, fields, messages, varint

_LARGEST = 1 << 28  # bytes of a file
_FLOAT = 1  # TensorProto.DataType
_MOST_DIMENSIONS = 8


def read_onnx(path) -> tuple[dict[str, np.ndarray], list[tuple[str, tuple[str, ...]]]]:
    """→ ({name: float32 array} of the graph's weights, [(operation, names of its inputs)] in the graph's order).

    UserError for a file that is missing, too large or not of this form.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        return _read(memoryview(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no ONNX file that can be used: {error}") from None


def _read(data: memoryview):
    tensors: dict[str, np.ndarray] = {}
    nodes = []
    for number, graph in messages(data):
        if number != 7:  # ModelProto.graph
            continue
        for field, content in messages(graph):
            if field == 1:  # GraphProto.node
                nodes.append(_node(content))
            elif field == 5:  # GraphProto.initializer
                name, array = _tensor(content)
                if array is not None:
                    tensors[name] = array
    return tensors, nodes


def _node(view: memoryview) -> tuple[str, tuple[str, ...]]:
    inputs, kind = [], ""
    for number, content in messages(view):
        if number == 1:
            inputs.append(bytes(content).decode())
        elif number == 4:
            kind = bytes(content).decode()
    return kind, tuple(inputs)


def _tensor(view: memoryview) -> tuple[str, np.ndarray | None]:
    """(name, array); None in place of an array that is not of float32 in raw bytes."""
    shape: list[int] = []
    kind, name, raw = 0, "", None
    for number, wire, value in fields(view):
        if number == 1 and wire == VARINT:
            shape.append(value)
        elif number == 1 and wire == BYTES:  # packed
            position = 0
            while position < len(value):
                size, position = varint(value, position)
                shape.append(size)
        elif number == 2 and wire == VARINT:
            kind = value
        elif number == 8 and wire == BYTES:
            name = bytes(value).decode()
        elif number == 9 and wire == BYTES:
            raw = value
        if len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of more than {_MOST_DIMENSIONS} dimensions")
    if kind != _FLOAT or raw is None:
        return name, None
    if 4 * math.prod(shape) != len(raw):
        raise ValueError(f"{name[:80]} of shape {shape} has {len(raw)} bytes")
    return name, np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
