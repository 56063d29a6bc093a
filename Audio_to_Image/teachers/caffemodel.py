"""Weights out of a published `.caffemodel`: a protobuf message `NetParameter`, of which a few fields are needed.

Neither Caffe nor protobuf has to be installed; field numbers are those of caffe.proto.
"""

import math

import numpy as np

from common.cli import UserError
from common.untrusted.protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, messages, varint

MAX_BLOBS = 16  # of one layer: a convolution has 2


def read_caffemodel(data: bytes, path, wanted=None) -> dict[str, list[np.ndarray]]:
    """Layer name → its float32 blobs, from a serialised `NetParameter`; layers without blobs are left out.

    Reads the `layers` of before 2014 (V1LayerParameter, field 2) and the newer `layer` (LayerParameter, field 100).
    `wanted` limits the layers decoded. `path` names the file in a UserError, raised for anything malformed.
    """
    blobs = {}
    try:
        for number, value in messages(memoryview(data)):
            if number in (2, 100):
                name, found = _layer(value, *((4, 6) if number == 2 else (1, 7)))
                if found and (wanted is None or name in wanted):
                    blobs[name] = [_blob(blob) for blob in found]
    except ValueError as error:
        raise UserError(f"{path} is damaged or no .caffemodel ({error}); download it again") from None
    return blobs


def _layer(view: memoryview, name_field: int, blob_field: int) -> tuple[str, list[memoryview]]:
    """(name, undecoded blobs) of a layer."""
    name, blobs = "", []
    for number, value in messages(view):
        if number == name_field:
            name = str(value, "utf-8", "replace")
        elif number == blob_field:
            blobs.append(value)
            if len(blobs) > MAX_BLOBS:
                raise ValueError(f"a layer of more than {MAX_BLOBS} blobs")
    return name, blobs


def _blob(view: memoryview) -> np.ndarray:
    """BlobProto → float32 array of its shape: legacy num, channels, height, width (1–4) or `shape` (7)."""
    legacy, shape, data, kind = {}, None, bytearray(), np.dtype("<f4")
    for number, wire, value in fields(view):
        if 1 <= number <= 4 and wire == VARINT:
            legacy[number] = value
        elif number == 7 and wire == BYTES:
            shape = _blob_shape(value)
        elif number == 5 and wire in (BYTES, FIXED32):  # `data`, packed or one by one
            data += value
        elif number == 8 and wire in (BYTES, FIXED64):  # `double_data`
            kind = np.dtype("<f8")
            data += value
    shape = shape if shape is not None else [legacy.get(number, 1) for number in (1, 2, 3, 4)]
    if len(shape) > 8 or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"a blob of shape {shape[:8]} with {len(data)} bytes of numbers")
    return np.frombuffer(data, kind).reshape(shape).astype(np.float32, copy=False)


def _blob_shape(view: memoryview) -> list[int]:
    """BlobShape: the field `dim` (1), packed or one by one. More than 32 axes are not looked at (Caffe allows 32)."""
    dims = []
    for number, wire, value in fields(view):
        if number == 1 and wire == VARINT:
            dims.append(value)
        elif number == 1 and wire == BYTES:
            position = 0
            while position < len(value) and len(dims) <= 32:
                dim, position = varint(value, position)
                dims.append(dim)
        if len(dims) > 32:
            break
    return dims
