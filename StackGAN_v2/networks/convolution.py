"""Convolutions on a CPU: equal to torch's up to rounding, by the fastest method for each size of map.

Measured in channels_last on one core with batches of 4, in GFLOP/s of the forward pass, the input's gradient and the
weight's gradient; in brackets: large matrix products.

                                                       AVX-512, bf16 (210)    AVX2, float32 (96)
4×4 maps, 1024 → 2048 channels, torch's convolution      45,  62,  17           34, 36, 14
the same as matrix products of patches                  189, 154,  88           75, 59, 45
64×64 maps, 64 → 128 channels, torch's convolution      230, 231, 193           97, 96, 45 (contiguous copies: 69)
"""

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 64  # pixels of an output map up to which copying patches costs less than it gains
_COPY = torch.backends.cpu.get_cpu_capability() == "AVX2"  # compute gradients of weights from contiguous copies
_rewriting = True


def rewrite(on: bool) -> None:
    """Switch the rewritten convolutions of this process on or off; off, they are computed as the papers write them."""
    global _rewriting
    _rewriting = on


def rewriting() -> bool:
    return _rewriting


def rewrites_apply(x) -> bool:
    """Whether the method for x is chosen here: on a CPU, uncompiled. Elsewhere torch's convolution is the fastest."""
    return _rewriting and x.device.type == "cpu" and not torch.compiler.is_compiling()


def in_working_precision(*tensors) -> list:
    """The tensors (or None), cast as autocast casts the arguments of a convolution."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [tensor if tensor is None else tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def conv2d(x, weight, bias=None, stride: int = 1, padding: int = 0):
    """`F.conv2d` of x `[N, i, H, W]` and a square kernel `[o, i, k, k]`, up to rounding; twice differentiable."""
    if not rewrites_apply(x):
        return F.conv2d(x, weight, bias, stride, padding)
    x, weight, bias = in_working_precision(x, weight, bias)
    height, width = ((length + 2 * padding - weight.shape[2]) // stride + 1 for length in x.shape[2:])
    if height * width > SMALL:
        if not _COPY or x.dtype != torch.float32:
            return F.conv2d(x, weight, bias, stride, padding)
        y = _Convolution.apply(x, weight, stride, padding)
        return y if bias is None else y + bias[:, None, None]
    patches = patches_of(x, weight.shape[2], stride, padding).flatten(0, 2)  # [N·H'·W', k·k·i]
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    y = patches @ kernel.T if bias is None else torch.addmm(bias, patches, kernel.T)
    return y.view(len(x), height, width, -1).permute(0, 3, 1, 2)


def patches_of(x, kernel: int, stride: int = 1, padding: int = 0):
    """x `[N, C, H, W]` → all patches of its padded maps, `[N, H', W', kernel·kernel·C]`; the channel varies fastest."""
    edge = (0, 0, padding, padding, padding, padding)
    return _Patches.apply(F.pad(x.permute(0, 2, 3, 1), edge), kernel, stride)


def conv_up(x, kernel, bias=None):
    """`F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)` of x `[N, i, H, W]` and a kernel `[i, o, 4, 4]`.

    Small maps by four matrix products: the output pixels whose rows and columns have one parity are a 2×2 convolution.
    """
    if 4 * x[0, 0].numel() > SMALL or not rewrites_apply(x):
        return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
    x, kernel, bias = in_working_precision(x, kernel, bias)
    n, _, height, width = x.shape
    patches = patches_of(x, 2, padding=1)  # [N, H + 1, W + 1, 4·i]
    kernel, parities = kernel.flip(2, 3), []
    for row in (0, 1):
        for column in (0, 1):
            inputs = patches[:, row : row + height, column : column + width].flatten(0, 2)
            parities.append(inputs @ kernel[:, :, row::2, column::2].permute(2, 3, 0, 1).flatten(0, 2))
    y = torch.stack(parities).view(2, 2, n, height, width, -1)
    y = y if bias is None else y + bias
    return y.permute(2, 3, 0, 4, 1, 5).reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


class Conv(nn.Conv2d):
    """A convolution with a square kernel, computed by `conv2d`."""

    def forward(self, x):
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


class _Convolution(torch.autograd.Function):
    """torch's convolution, with the weight's gradient from contiguous copies: it is slow in channels_last."""

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
    """`[N, H, W, C]` → all k×k patches, `[N, H', W', k·k·C]`. Its adjoint is `_AddPatches`."""

    @staticmethod
    def forward(ctx, x, kernel, stride):
        ctx.geometry = x.shape, kernel, stride
        return x.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3).flatten(3)

    @staticmethod
    def backward(ctx, grad):
        return _AddPatches.apply(grad, *ctx.geometry), None, None


class _AddPatches(torch.autograd.Function):
    """Patches `[N, H', W', k·k·C]` → `[N, H, W, C]`: each added where `_Patches` took it from."""

    @staticmethod
    def forward(ctx, patches, shape, kernel, stride):
        ctx.geometry = kernel, stride
        x = patches.new_zeros(shape)
        height, width = ((length - kernel) // stride + 1 for length in shape[1:3])
        patches = patches.reshape(shape[0], height, width, kernel, kernel, shape[3])
        for row in range(kernel):
            for column in range(kernel):
                rows, columns = (
                    slice(start, start + stride * length, stride) for start, length in ((row, height), (column, width))
                )
                x[:, rows, columns] += patches[:, :, :, row, column]
        return x

    @staticmethod
    def backward(ctx, grad):
        return _Patches.apply(grad, *ctx.geometry), None, None, None
