"""Convolutions on a CPU in float32: the same sums by the quickest of the ways that torch and its matrix products offer.

Measured in channels_last on AVX2, one core of 96 GFLOP/s, as GFLOP/s of products, gradients of the input, of the weight:
4×4 maps of 1024 to 2048 channels 34, 36, 14 by torch's convolution and 75, 59, 45 as matrix products of patches; 64×64
maps of 64 to 128 channels 97, 96, 45, and the last 69 where it is taken from contiguous copies.
"""
import torch
import torch.nn.functional as F
from torch import nn

SMALL = 64                  # pixels of an output map up to which patches pay: more, and copying them costs too much
_rewriting = True


def rewrite(on: bool) -> None:
    """Whether this process computes convolutions in cheaper, equal ways, or just as the papers write them."""
    global _rewriting
    _rewriting = on


def rewriting() -> bool:
    return _rewriting


def on_plain_cpu(x) -> bool:
    """Whether x is computed with on a CPU in float32 or wider: elsewhere torch's own convolution is the quickest."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def conv2d(x, weight, bias=None, stride: int = 1, padding: int = 0):
    """`F.conv2d` of x `[N, i, H, W]` and a square kernel, equal to float32's rounding, gradients of gradients too."""
    if not (_rewriting and on_plain_cpu(x)):
        return F.conv2d(x, weight, bias, stride, padding)
    height, width = ((length + 2 * padding - weight.shape[2]) // stride + 1 for length in x.shape[2:])
    if height * width > SMALL:
        y = _Convolution.apply(x, weight, stride, padding)
        return y if bias is None else y + bias[:, None, None]
    edge = (0, 0, padding, padding, padding, padding)
    patches = _Patches.apply(F.pad(x.permute(0, 2, 3, 1), edge), weight.shape[2], stride)      # [N·H'·W', k·k·i]
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    y = patches @ kernel.T if bias is None else torch.addmm(bias, patches, kernel.T)
    return y.view(len(x), height, width, -1).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """A square convolution through `conv2d`."""

    def forward(self, x):
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class _Convolution(torch.autograd.Function):
    """torch's convolution; the weight's gradient, slow in channels_last, is computed from contiguous copies."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.options = (None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(grad, x, weight, *ctx.options, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            copies = (value.contiguous() for value in (grad, x, weight))
            of_weight = torch.ops.aten.convolution_backward(*copies, *ctx.options, [False, True, False])[1]
        return of_x, of_weight, None, None


class _Patches(torch.autograd.Function):
    """`[N, H, W, C]` → every k×k patch as a row, `[N·H'·W', k·k·C]`. Its adjoint is `_Overlay`."""

    @staticmethod
    def forward(ctx, x, kernel, stride):
        ctx.where = x.shape, kernel, stride
        return x.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3).reshape(
            -1, kernel * kernel * x.shape[3])

    @staticmethod
    def backward(ctx, grad):
        return _Overlay.apply(grad, *ctx.where), None, None


class _Overlay(torch.autograd.Function):
    """The patches, each added where `_Patches` took it from."""

    @staticmethod
    def forward(ctx, patches, shape, kernel, stride):
        ctx.where = kernel, stride
        x = patches.new_zeros(shape)
        height, width = ((length - kernel) // stride + 1 for length in shape[1:3])
        patches = patches.view(shape[0], height, width, kernel, kernel, shape[3])
        for row in range(kernel):
            for column in range(kernel):
                place = x[:, row:row + stride * height:stride, column:column + stride * width:stride]
                place += patches[:, :, :, row, column]
        return x

    @staticmethod
    def backward(ctx, grad):
        return _Patches.apply(grad, *ctx.where), None, None, None
