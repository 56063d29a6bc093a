"""A random GoogLeNet as a .caffemodel, written by hand in each of the file's encodings."""
import struct

import numpy as np

from Audio_to_Image.teachers import googlenet


def random_weights():
    """He-scaled random weights of all GoogLeNet layers: {name: (weight, bias)}."""
    rng = np.random.default_rng(0)
    return {name: (rng.normal(0, np.sqrt(2 / (cin * k * k)), (cout, cin, k, k)).astype(np.float32),
                   rng.normal(0, 0.1, cout).astype(np.float32))
            for name, cin, cout, k, _ in googlenet.convolutions()}


def varint(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + bytes(content)


def blob(array, shape="new", numbers="packed"):
    """BlobProto; `shape` new (BlobShape) or legacy (num, channels, height, width); `numbers` packed or not."""
    if shape == "new":
        header = field(7, field(1, b"".join(map(varint, array.shape))))
    else:
        header = b"".join(field(n + 1, size) for n, size in enumerate((1,) * (4 - array.ndim) + array.shape))
    if numbers == "single":
        return header + b"".join(varint(5 << 3 | 5) + struct.pack("<f", number) for number in array.ravel())
    if numbers == "double":
        return header + field(8, array.astype("<f8").tobytes())
    return header + field(5, array.astype("<f4").tobytes())


def caffemodel(weights, encoding):
    """NetParameter with the layers of `weights` {name: (weight, bias)}; encoding new (LayerParameter) or V1."""
    message = field(1, b"GoogleNet")
    for name, blobs in weights.items():
        if encoding == "new":
            layer = field(1, name.encode()) + field(2, b"Convolution")
            message += field(100, layer + b"".join(field(7, blob(array)) for array in blobs))
        else:
            layer = field(4, name.encode()) + field(5, 4)              # LayerType CONVOLUTION
            message += field(2, layer + b"".join(field(6, blob(array, "legacy")) for array in blobs))
    return message
