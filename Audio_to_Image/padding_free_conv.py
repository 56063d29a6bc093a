"""The encoder's convolutions without the padding: equal columns of a padded batch are computed once.

A clip of 5 s fills a quarter of its map of 2048 frames. Beyond the last frame (plus the kernels' reach) all columns of
the map are equal, within a clip and between clips. Only at the right end, where the kernels reach the zeros outside the
map, they differ again, but equally in all clips. A batch is therefore stored as a list of columns `[M, C]`: first those
that a clip's sound reaches, clip after clip, then one *tail* shared by all clips: the constant column and the right
end. A convolution gathers the columns under each tap of its kernel and is one matrix product. Batch norm weights
every column by how often it occurs in the padded maps. Values, gradients and running statistics equal those of the
padded maps up to rounding.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.distributed.sync_bn import sum_over_ranks

_TAIL = 256  # frames; enough at every layer for the columns that see the right end (194 frames in the last one)


@dataclass(frozen=True)
class _Layout:
    """Which columns represent N maps of `frames` columns: `widths[i]` of map i, for i = 0 … N − 1, then `tail` more.

    If `ended[i]`, map i consists of its own columns, repetitions of the tail's first column, and the tail. Otherwise
    its own columns are the complete map.
    """

    widths: np.ndarray
    ended: np.ndarray
    frames: int
    tail: int

    @classmethod
    def of(cls, n_frames, frames: int, geometry) -> "_Layout":
        """Layout of the input: maps of `frames`, 0 from `n_frames[i]` on. geometry: (kernel, stride) of every layer."""
        layout = cls(np.asarray(n_frames), np.full(len(n_frames), True), frames, _TAIL)
        fits = layout.widths + _TAIL <= frames
        for kernel, stride in geometry:
            layout = layout.after(kernel, stride)
            fits &= layout.widths + layout.tail <= layout.frames
        return cls(np.where(fits, n_frames, frames), fits, frames, _TAIL)

    def after(self, kernel: int, stride: int) -> "_Layout":
        """Layout of the output of a layer that pads by kernel // 2 on both sides."""
        reached = -(-(self.widths + kernel // 2) // stride)
        return _Layout(
            np.where(self.ended, reached, self.frames // stride), self.ended, self.frames // stride, self.tail // stride
        )

    @property
    def first(self) -> np.ndarray:
        """`[N + 1]`: number of the first column of every map, and of the tail."""
        return np.concatenate([[0], np.cumsum(self.widths)])

    def counts(self) -> torch.Tensor:
        """float32 `[M]`: how often each column occurs in the padded maps."""
        own = self.first[-1]
        counts = np.ones(own + self.tail, np.float32)
        counts[own:] = self.ended.sum()
        counts[own] += (self.frames - self.tail - self.widths)[self.ended].sum()
        return torch.from_numpy(counts)

    def own(self) -> tuple[np.ndarray, np.ndarray]:
        """`[M − tail]` each: map and time of the maps' own columns."""
        maps = np.repeat(np.arange(len(self.widths)), self.widths)
        return maps, np.arange(len(maps)) - self.first[maps]

    def find(self, maps: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Number of the column at `time` of each of `maps`; outside the map M, which stands for a column of zeros."""
        constant = self.first[-1]
        from_end = time - (self.frames - self.tail)
        in_tail = constant + np.clip(from_end, 0, self.tail - 1)
        found = np.where(time < self.widths[maps], self.first[maps] + time, in_tail)
        return np.where((time < 0) | (time >= self.frames), constant + self.tail, found)

    def gather(self, kernel: int, stride: int) -> torch.Tensor:
        """int64 `[M' · kernel]`: the input column under each tap of the kernel, for every column of the output."""
        output, taps = self.after(kernel, stride), np.arange(kernel) - kernel // 2
        maps, time = output.own()
        own = self.find(maps[:, None], stride * time[:, None] + taps)
        # Before the tail's first column come more columns equal to it.
        time = stride * np.arange(output.tail)[:, None] + taps
        constant = self.first[-1]
        tail = np.where(time < self.tail, constant + np.maximum(time, 0), constant + self.tail)
        return torch.from_numpy(np.concatenate([own, tail]).ravel())


def convolve_columns(layers: nn.Sequential, x: torch.Tensor, n_frames) -> torch.Tensor:
    """The encoder's `Conv` over x `[N, bands, T]`, whose clip i is 0 from frame `n_frames[i]` on → `[N, C, 1, T/64]`.

    In training, the running statistics of the batch norms are updated as by the padded maps.
    """
    assert x.dim() == 3 and len(x) == len(n_frames), (tuple(x.shape), len(n_frames))
    first, (tall, tall_norm, _), *rest = layers
    geometry = [_geometry(layer) for layer in rest]
    layout = _Layout.of(n_frames, x.shape[2], geometry)
    own = [clip[:, :width].T for clip, width in zip(x, layout.widths.tolist())]
    columns = torch.cat([*own, x.new_zeros(_TAIL, x.shape[1])])
    counts, total, bands = layout.counts().to(x), len(x) * layout.frames, x.shape[1]
    columns = counted_norm(columns.reshape(-1, 1), first, counts.repeat_interleave(bands), total * bands)
    columns = F.linear(columns.view(-1, bands), tall.weight.flatten(1))
    columns = counted_norm(columns, tall_norm, counts, total).relu_()
    for layer, (kernel, stride) in zip(rest, geometry):
        gather = layout.gather(kernel, stride).to(x.device, non_blocking=True)
        inputs = F.pad(columns, (0, 0, 0, 1)).index_select(0, gather)
        layout = layout.after(kernel, stride)
        if isinstance(layer, nn.MaxPool2d):  # after a ReLU, padding with 0 is as good as with −∞
            parts = inputs.view(-1, kernel, columns.shape[1]).unbind(1)
            columns = torch.maximum(torch.maximum(parts[0], parts[1]), parts[2])
        else:
            conv, norm, _ = layer
            kernels = conv.weight[:, :, 0].transpose(1, 2).flatten(1)
            columns = F.linear(inputs.view(-1, kernels.shape[1]), kernels)
            columns = counted_norm(columns, norm, layout.counts().to(x), len(x) * layout.frames).relu_()
    numbers = layout.find(*np.indices((len(x), layout.frames))).ravel()
    maps = columns.index_select(0, torch.from_numpy(numbers).to(x.device, non_blocking=True))
    return maps.view(len(x), 1, layout.frames, -1).permute(0, 3, 1, 2)


def _geometry(layer) -> tuple[int, int]:
    """(kernel, stride) of a layer of the encoder over time."""
    if isinstance(layer, nn.MaxPool2d):
        assert layer.kernel_size[1] == 3 and layer.padding[1] == 1, layer
        return layer.kernel_size[1], layer.stride[1]
    assert layer[0].padding[1] == layer[0].kernel_size[1] // 2, layer[0]
    return layer[0].kernel_size[1], layer[0].stride[1]


def counted_norm(x: torch.Tensor, norm: nn.Module, counts: torch.Tensor, total: int) -> torch.Tensor:
    """Batch norm, in the mode of `norm`, of x `[M, C]` whose row m occurs `counts[m]` times, `total` in all."""

    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = sum_over_ranks(counts.new_full((1,), total), norm)
        mean = sum_over_ranks(counts @ wide, norm) / total
        centred = wide - mean
        variance = sum_over_ranks(counts @ centred.square(), norm) / total  # two passes: no cancellation
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.detach(), norm.momentum)
            norm.running_var.lerp_(variance.detach() * total / (total - 1), norm.momentum)
        return torch.addcmul(norm.bias, centred, norm.weight * torch.rsqrt(variance + norm.eps)).to(x.dtype)
