"""BVLC GoogLeNet in torch up to `pool5/7x7_s1`, with weights read straight from the original `.caffemodel`.

Network: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015, arXiv 1409.4842), as trained by BVLC in Caffe. It
is the published teacher, and sees images as Caffe shows them.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from Audio_to_Image.teachers.caffemodel import read_caffemodel
from Audio_to_Image.teachers.teacher import Teacher
from Audio_to_Image.teachers.views import MARGIN, caffe_resize
from common import ROOT, checkpoint
from common.cli import UserError

WIDTH = 1024
MEAN_BGR = (104.00699, 116.66877, 122.67892)  # spatial mean of ilsvrc_2012_mean.npy
PUBLISHED_SHA1 = "405fc5acd08a3bb12de8ee5e23a96bec22f08204"
MAX_FILE_BYTES = 1 << 28  # the published file has 53 MB
DEFAULT_WEIGHTS = ROOT / "data" / "pretrained" / "bvlc_googlenet.caffemodel"

# inception block: channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = ("3b", "4e")  # pool3/3x3_s2, pool4/3x3_s2


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
        return torch.cat(
            [
                self._conv(f"{name}/1x1", x),
                self._conv(f"{name}/3x3", self._conv(f"{name}/3x3_reduce", x)),
                self._conv(f"{name}/5x5", self._conv(f"{name}/5x5_reduce", x)),
                self._conv(f"{name}/pool_proj", F.max_pool2d(x, 3, 1, padding=1)),
            ],
            dim=1,
        )


def _max_pool(x):
    return F.max_pool2d(x, 3, 2, ceil_mode=True)  # Caffe rounds the output size up


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
        state[f"{name}.bias"] = torch.from_numpy(bias.reshape(-1).copy())  # (C) or, before 2015, (1, 1, 1, C)
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
        raise UserError(
            f"{path} cannot be read ({error.strerror}); get bvlc_googlenet.caffemodel with "
            f"scripts/download.py, or name your copy with --weights"
        ) from None


def read_mean(path) -> tuple[float, float, float] | None:
    """The means of a `.npy` of Caffe, `[3, H, W]` or `[3]`, BGR; None if they are those that GoogLeNet has here anyway.

    UserError if it is no such file.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a file cannot claim more than it has
        if values.dtype.kind not in "fiu" or values.ndim not in (1, 3) or len(values) != 3:
            raise ValueError(f"an array {list(values.shape)} of {values.dtype}")
        mean = np.asarray(values.reshape(3, -1), np.float64).mean(1)
    except Exception as error:  # a damaged file can raise anything at all
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(
            f"--mean_file {path} holds no mean of three channels ({reason}); give Caffe's "
            "ilsvrc_2012_mean.npy, or leave it out: its means are known"
        ) from None
    if not ((0 <= mean) & (mean <= 255)).all():
        raise UserError(f"--mean_file {path}: its means are {mean.tolist()}, not within 0 … 255")
    blue, green, red = (round(value, 5) for value in mean.tolist())
    same = np.allclose(mean, MEAN_BGR, rtol=0, atol=1e-3)
    return None if same else (blue, green, red)


class GoogLeNetTeacher(Teacher):
    """The published teacher: BVLC GoogLeNet, `pool5/7x7_s1`, images resized as Caffe does."""

    name, width = "googlenet_caffe", WIDTH

    def __init__(self, weights, flip, device, precision, view_size=224):
        super().__init__(weights, flip, device, precision, view_size)
        if view_size != 224:
            raise UserError("--view_size: googlenet_caffe takes views of 224 pixels")
        self._load()

    def _load(self):
        self.network = load_googlenet(self.weights, lambda line: print(line, file=sys.stderr)).to(self.device)
        self.set_mean(MEAN_BGR)

    def set_mean(self, mean_bgr) -> None:
        """Subtract these means `(blue, green, red)`."""
        self.mean = torch.tensor(mean_bgr, device=self.device, dtype=torch.float32).reshape(3, 1, 1)

    @classmethod
    def weights_file(cls, weights=None):
        path = Path(weights) if weights else DEFAULT_WEIGHTS
        if not path.is_file():
            raise UserError(
                f"{path} does not exist; get it with scripts/download.py googlenet, name your copy of "
                f"bvlc_googlenet.caffemodel with --weights, or use --teacher efficientnet_lite0"
            )
        return path

    def prepare(self, image):
        return caffe_resize(np.asarray(image), self.view_size + MARGIN).transpose(2, 0, 1)

    def forward(self, views):
        return self.network(views.float().flip(1) - self.mean)  # RGB → BGR, as MEAN_BGR
