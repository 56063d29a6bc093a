"""BVLC GoogLeNet in torch up to `pool5/7x7_s1`, with weights read straight from the original `.caffemodel`.

Network: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015, arXiv 1409.4842), as trained by BVLC in Caffe. A
`.caffemodel` is a protobuf message `NetParameter`; the few fields needed are decoded here, so that neither Caffe nor
protobuf has to be installed. Lengths in the file are claims of a stranger: each is checked against the bytes there.
"""
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError

WIDTH = 1024
MEAN_BGR = (104.00699, 116.66877, 122.67892)       # spatial mean of ilsvrc_2012_mean.npy
PUBLISHED_SHA1 = "405fc5acd08a3bb12de8ee5e23a96bec22f08204"
MAX_FILE_BYTES = 1 << 28                           # the published file has 53 MB
MAX_BLOBS = 16                                     # of one layer: a convolution has 2

# inception block: channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}
POOL_AFTER = ("3b", "4e")                          # pool3/3x3_s2, pool4/3x3_s2


def convolutions():
    """(Caffe's layer name, input channels, output channels, kernel, stride) in the order of the network."""
    yield "conv1/7x7_s2", 3, 64, 7, 2
    yield "conv2/3x3_reduce", 64, 64, 1, 1
    yield "conv2/3x3", 64, 192, 3, 1
    channels = 192
    for block, (one, three_in, three, five_in, five, pool) in INCEPTION.items():
        name = f"inception_{block}"
        yield f"{name}/1x1", channels, one, 1, 1
        yield f"{name}/3x3_reduce", channels, three_in, 1, 1
        yield f"{name}/3x3", three_in, three, 3, 1
        yield f"{name}/5x5_reduce", channels, five_in, 1, 1
        yield f"{name}/5x5", five_in, five, 5, 1
        yield f"{name}/pool_proj", channels, pool, 1, 1
        channels = one + three + five + pool


class GoogLeNet(nn.Module):
    """`forward(images [N, 3, 224, 224])`, BGR, 0..255, `MEAN_BGR` subtracted → `[N, 1024]`, blob `pool5/7x7_s1`.

    Parameters are named by Caffe's layers: `conv1/7x7_s2.weight`, `inception_3a/5x5.bias`, …
    """

    def __init__(self):
        super().__init__()
        for name, channels_in, channels_out, kernel, stride in convolutions():
            self.add_module(name, nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2))
        self.requires_grad_(False).eval()

    def forward(self, x):
        assert x.dim() == 4 and x.shape[1:] == (3, 224, 224), f"expected [N, 3, 224, 224], got {tuple(x.shape)}"
        x = _lrn(_max_pool(self._conv("conv1/7x7_s2", x.contiguous(memory_format=torch.channels_last))))
        x = self._conv("conv2/3x3", self._conv("conv2/3x3_reduce", x))
        x = _max_pool(_lrn(x))
        for block in INCEPTION:
            x = self._inception(f"inception_{block}", x)
            if block in POOL_AFTER:
                x = _max_pool(x)
        assert x.shape[1:] == (WIDTH, 7, 7)
        return x.mean((2, 3))

    def _conv(self, name, x):
        return F.relu(getattr(self, name)(x), inplace=True)

    def _inception(self, name, x):
        return torch.cat([
            self._conv(f"{name}/1x1", x),
            self._conv(f"{name}/3x3", self._conv(f"{name}/3x3_reduce", x)),
            self._conv(f"{name}/5x5", self._conv(f"{name}/5x5_reduce", x)),
            self._conv(f"{name}/pool_proj", F.max_pool2d(x, 3, 1, padding=1))], dim=1)


def _max_pool(x):
    return F.max_pool2d(x, 3, 2, ceil_mode=True)   # Caffe rounds the output size up


def _lrn(x):
    return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


def load_googlenet(path, warn=print) -> GoogLeNet:
    """GoogLeNet with the weights in the `.caffemodel` at `path`, frozen, float32, in eval mode, on the CPU.

    `warn` gets one line if the file is not BVLC's published one (by SHA-1); any GoogLeNet of the right shapes works.
    UserError if the file is missing, damaged or another network.
    """
    path = Path(path)
    data = _read(path)
    sha1 = hashlib.sha1(data).hexdigest()
    blobs = read_caffemodel(data, path, wanted={name for name, *_ in convolutions()})
    if sha1 != PUBLISHED_SHA1:
        warn(f"warning: {path} is not the published bvlc_googlenet.caffemodel (SHA-1 {sha1}): features will differ")
    state = {}
    for name, *_ in convolutions():
        if len(blobs.get(name, ())) != 2:
            raise UserError(f"{path} is no BVLC GoogLeNet: it lacks the weights of layer {name}")
        weight, bias = blobs[name]
        state[f"{name}.weight"] = torch.from_numpy(weight.copy())
        state[f"{name}.bias"] = torch.from_numpy(bias.reshape(-1).copy())      # (C) or, before 2015, (1, 1, 1, C)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise UserError(f"{path} is damaged: it holds weights that are not finite; download it again")
    network = GoogLeNet()
    checkpoint.load_into(network, state, path)
    return network.to(memory_format=torch.channels_last)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise UserError(f"{path} is too large for a GoogLeNet ({size >> 20} MiB)")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get bvlc_googlenet.caffemodel with "
                        f"scripts/download.py, or name your copy with --weights") from None


# ---- protobuf wire format: https://protobuf.dev/programming-guides/encoding; field numbers from caffe.proto ----------

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_caffemodel(data: bytes, path, wanted=None) -> dict[str, list[np.ndarray]]:
    """Layer name → its float32 blobs, from a serialised `NetParameter`; layers without blobs are left out.

    Reads the `layers` of before 2014 (V1LayerParameter, field 2) and the newer `layer` (LayerParameter, field 100).
    `wanted` limits the layers decoded. `path` names the file in a UserError, raised for anything malformed.
    """
    blobs = {}
    try:
        for number, value in _messages(memoryview(data)):
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
    for number, value in _messages(view):
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
    for number, wire, value in _fields(view):
        if 1 <= number <= 4 and wire == VARINT:
            legacy[number] = value
        elif number == 7 and wire == BYTES:
            shape = _blob_shape(value)
        elif number == 5 and wire in (BYTES, FIXED32):         # `data`, packed or one by one
            data += value
        elif number == 8 and wire in (BYTES, FIXED64):         # `double_data`
            kind = np.dtype("<f8")
            data += value
    shape = shape if shape is not None else [legacy.get(number, 1) for number in (1, 2, 3, 4)]
    if len(shape) > 8 or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"a blob of shape {shape[:8]} with {len(data)} bytes of numbers")
    return np.frombuffer(data, kind).reshape(shape).astype(np.float32, copy=False)


def _blob_shape(view: memoryview) -> list[int]:
    """BlobShape: the field `dim` (1), packed or one by one. More than 32 axes are not looked at (Caffe allows 32)."""
    dims = []
    for number, wire, value in _fields(view):
        if number == 1 and wire == VARINT:
            dims.append(value)
        elif number == 1 and wire == BYTES:
            position = 0
            while position < len(value) and len(dims) <= 32:
                dim, position = _varint(value, position)
                dims.append(dim)
        if len(dims) > 32:
            break
    return dims


def _messages(view: memoryview):
    """(field number, content) of the fields with a length: strings and nested messages."""
    return ((number, value) for number, wire, value in _fields(view) if wire == BYTES)


def _fields(view: memoryview):
    """(field number, wire type, value) one by one. Values are slices of `view`, so nothing is allocated on a claim."""
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field with number 0")
        if wire == VARINT:
            value, position = _varint(view, position)
        else:
            if wire == BYTES:
                length, position = _varint(view, position)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire}")
            if length > len(view) - position:
                raise ValueError(f"a field of {length} bytes where {len(view) - position} are left")
            value, position = view[position:position + length], position + length
        yield number, wire, value


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """(unsigned integer of at most 64 bits, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends within a number")
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 10 bytes")


# ---- the same network as Caffe's own description --------------------------------------------------------------------

def deploy_prototxt(views: int = 10) -> str:
    """The network as a Caffe `deploy.prototxt` for `views` images: for pycaffe, and for OpenCV as a cross-check."""
    text = [f'name: "GoogleNet" input: "data" input_shape {{ dim: {views} dim: 3 dim: 224 dim: 224 }}']
    convs = {name: (width, kernel, stride) for name, _, width, kernel, stride in convolutions()}

    def layer(kind, name, bottoms, parameters="", top=None):
        bottom = " ".join(f'bottom: "{b}"' for b in bottoms)
        text.append(f'layer {{ name: "{name}" type: "{kind}" {bottom} top: "{top or name}" {parameters} }}')
        return top or name

    def conv(name, bottom):
        width, kernel, stride = convs[name]
        layer("Convolution", name, [bottom], f"convolution_param {{ num_output: {width} pad: {kernel // 2} "
                                             f"kernel_size: {kernel} stride: {stride} }}")
        return layer("ReLU", name.replace("/", "/relu_", 1), [name], top=name)

    def pool(name, bottom, kind="MAX", kernel=3, stride=2, pad=0):
        return layer("Pooling", name, [bottom], f"pooling_param {{ pool: {kind} kernel_size: {kernel} "
                                                f"stride: {stride} pad: {pad} }}")

    def lrn(name, bottom):
        return layer("LRN", name, [bottom], "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    x = lrn("pool1/norm1", pool("pool1/3x3_s2", conv("conv1/7x7_s2", "data")))
    x = pool("pool2/3x3_s2", lrn("conv2/norm2", conv("conv2/3x3", conv("conv2/3x3_reduce", x))))
    for block in INCEPTION:
        name = f"inception_{block}"
        pooled = pool(f"{name}/pool", x, stride=1, pad=1)
        x = layer("Concat", f"{name}/output", [
            conv(f"{name}/1x1", x), conv(f"{name}/3x3", conv(f"{name}/3x3_reduce", x)),
            conv(f"{name}/5x5", conv(f"{name}/5x5_reduce", x)), conv(f"{name}/pool_proj", pooled)])
        if block in POOL_AFTER:
            x = pool(f"pool{block[0]}/3x3_s2", x)
    pool("pool5/7x7_s1", x, "AVE", 7, 1)
    return "\n".join(text) + "\n"
