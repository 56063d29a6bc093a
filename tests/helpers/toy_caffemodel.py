"""A random GoogLeNet as a .caffemodel, written by hand in each of the file's encodings."""

import struct

import numpy as np

from Audio_to_Image.teachers import googlenet


def random_weights():
    """He-scaled random weights of all GoogLeNet layers: {name: (weight, bias)}."""
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.normal(0, np.sqrt(2 / (cin * k * k)), (cout, cin, k, k)).astype(np.float32),
            rng.normal(0, 0.1, cout).astype(np.float32),
        )
        for name, cin, cout, k, _ in googlenet.convolutions()
    }


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
            layer = field(4, name.encode()) + field(5, 4)  # LayerType CONVOLUTION
            message += field(2, layer + b"".join(field(6, blob(array, "legacy")) for array in blobs))
    return message


def deploy_prototxt(views: int = 10) -> str:
    """The network as a Caffe `deploy.prototxt` for `views` images: for OpenCV as a cross-check."""
    text = [f'name: "GoogleNet" input: "data" input_shape {{ dim: {views} dim: 3 dim: 224 dim: 224 }}']
    convs = {name: (width, kernel, stride) for name, _, width, kernel, stride in googlenet.convolutions()}

    def layer(kind, name, bottoms, parameters="", top=None):
        bottom = " ".join(f'bottom: "{b}"' for b in bottoms)
        text.append(f'layer {{ name: "{name}" type: "{kind}" {bottom} top: "{top or name}" {parameters} }}')
        return top or name

    def conv(name, bottom):
        width, kernel, stride = convs[name]
        layer(
            "Convolution",
            name,
            [bottom],
            f"convolution_param {{ num_output: {width} pad: {kernel // 2} kernel_size: {kernel} stride: {stride} }}",
        )
        return layer("ReLU", name.replace("/", "/relu_", 1), [name], top=name)

    def pool(name, bottom, kind="MAX", kernel=3, stride=2, pad=0):
        return layer(
            "Pooling",
            name,
            [bottom],
            f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} }}",
        )

    def lrn(name, bottom):
        return layer("LRN", name, [bottom], "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    x = lrn("pool1/norm1", pool("pool1/3x3_s2", conv("conv1/7x7_s2", "data")))
    x = pool("pool2/3x3_s2", lrn("conv2/norm2", conv("conv2/3x3", conv("conv2/3x3_reduce", x))))
    for block in googlenet.INCEPTION:
        name = f"inception_{block}"
        pooled = pool(f"{name}/pool", x, stride=1, pad=1)
        x = layer(
            "Concat",
            f"{name}/output",
            [
                conv(f"{name}/1x1", x),
                conv(f"{name}/3x3", conv(f"{name}/3x3_reduce", x)),
                conv(f"{name}/5x5", conv(f"{name}/5x5_reduce", x)),
                conv(f"{name}/pool_proj", pooled),
            ],
        )
        if block in googlenet.POOL_AFTER:
            x = pool(f"pool{block[0]}/3x3_s2", x)
    pool("pool5/7x7_s1", x, "AVE", 7, 1)
    return "\n".join(text) + "\n"
