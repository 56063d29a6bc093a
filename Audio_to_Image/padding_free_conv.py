"""The encoder's convolutions over only those columns of a padded batch that differ.

A clip of 5 s fills a quarter of its map of 2048 frames. Behind its last frame, as far as the convolutions see, all
columns are equal, and equal in all clips; only the map's right end, which sees the zeros beyond, differs again, alike
in all clips. So a batch is a list of columns `[M, C]`: those that a clip's sound reaches, clip after clip, and last
one *tail*, the constant column and the right end. A convolution gathers the columns below each place of its kernel
and is one matrix product; batch norm counts every column as often as it stands in the whole maps. Values, gradients
and running statistics are those of the whole maps, to rounding.
"""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.distributed.sync_bn import sum_over_ranks

_TAIL = 256     # frames: at every layer it holds what sees the right end (194 frames at last) and what a kernel spans


@dataclass(frozen=True)
class _Layout:
    """Which columns stand for N maps of `frames` columns: `widths[i]` of map i, for i = 0 … N − 1, then `tail` more.

    Behind its own columns, map i goes on with the tail's first one and ends in the whole tail, if `ended[i]`; else its
    own columns are the whole map.
    """
    widths: np.ndarray
    ended: np.ndarray
    frames: int
    tail: int

    @classmethod
    def of(cls, n_frames, frames: int, geometry) -> "_Layout":
        """Of the input: maps of `frames`, zero from `n_frames[i]` on. geometry: (kernel, stride) of every layer."""
        layout = cls(np.asarray(n_frames), np.full(len(n_frames), True), frames, _TAIL)
        fits = layout.widths + _TAIL <= frames
        for kernel, stride in geometry:
            layout = layout.behind(kernel, stride)
            fits &= layout.widths + layout.tail <= layout.frames
        return cls(np.where(fits, n_frames, frames), fits, frames, _TAIL)

    def behind(self, kernel: int, stride: int) -> "_Layout":
        """Of the output of a layer that pads by kernel // 2 on both sides."""
        reached = -(-(self.widths + kernel // 2) // stride)
        return _Layout(np.where(self.ended, reached, self.frames // stride), self.ended, self.frames // stride,
                       self.tail // stride)

    @property
    def first(self) -> np.ndarray:
        """`[N + 1]`: the first column of every map, and of the tail."""
        return np.concatenate([[0], np.cumsum(self.widths)])

    def counts(self) -> torch.Tensor:
        """float32 `[M]`: how often each column stands in the whole maps."""
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
        """Number of the column at `time` of each of `maps`; M, for a column of zeros, outside the map."""
        constant = self.first[-1]
        from_end = time - (self.frames - self.tail)
        behind = constant + np.clip(from_end, 0, self.tail - 1)
        found = np.where(time < self.widths[maps], self.first[maps] + time, behind)
        return np.where((time < 0) | (time >= self.frames), constant + self.tail, found)

    def gather(self, kernel: int, stride: int) -> torch.Tensor:
        """int64 `[M' · kernel]`: the columns below each place of the kernel, for every column of the layer's output."""
        output, places = self.behind(kernel, stride), np.arange(kernel) - kernel // 2
        maps, time = output.own()
        own = self.find(maps[:, None], stride * time[:, None] + places)
        # The tail is the end of any map that has ended; before its first column come others like that.
        time = stride * np.arange(output.tail)[:, None] + places
        constant = self.first[-1]
        tail = np.where(time < self.tail, constant + np.maximum(time, 0), constant + self.tail)
        return torch.from_numpy(np.concatenate([own, tail]).ravel())


def convolve_columns(layers: nn.Sequential, x: torch.Tensor, n_frames) -> torch.Tensor:
    """The encoder's `Conv` over `x` `[N, bands, T]`, which is 0 from frame `n_frames[i]` on in clip i.

    Returns `[N, C, 1, T/64]`. In training the running statistics of the batch norms move as they would.
    """
    first, (tall, tall_norm, _), *rest = layers
    geometry = [_geometry(layer) for layer in rest]
    layout = _Layout.of(n_frames, x.shape[2], geometry)
    spoken = [clip[:, :width].T for clip, width in zip(x, layout.widths.tolist())]
    columns = torch.cat([*spoken, x.new_zeros(_TAIL, x.shape[1])])
    counts, total, bands = layout.counts().to(x), len(x) * layout.frames, x.shape[1]
    columns = counted_norm(columns.reshape(-1, 1), first, counts.repeat_interleave(bands), total * bands)
    columns = F.linear(columns.view(-1, bands), tall.weight.flatten(1))
    columns = counted_norm(columns, tall_norm, counts, total).relu_()
    for layer, (kernel, stride) in zip(rest, geometry):
        gather = layout.gather(kernel, stride).to(x.device, non_blocking=True)
        seen = F.pad(columns, (0, 0, 0, 1)).index_select(0, gather)
        layout = layout.behind(kernel, stride)
        if isinstance(layer, nn.MaxPool2d):                     # behind a ReLU, zeros are as good as nothing
            parts = seen.view(-1, kernel, columns.shape[1]).unbind(1)
            columns = torch.maximum(torch.maximum(parts[0], parts[1]), parts[2])
        else:
            conv, norm, _ = layer
            kernels = conv.weight[:, :, 0].transpose(1, 2).flatten(1)
            columns = F.linear(seen.view(-1, kernels.shape[1]), kernels)
            columns = counted_norm(columns, norm, layout.counts().to(x), len(x) * layout.frames).relu_()
    every = layout.find(*np.indices((len(x), layout.frames))).ravel()
    maps = columns.index_select(0, torch.from_numpy(every).to(x.device, non_blocking=True))
    return maps.view(len(x), 1, layout.frames, -1).permute(0, 3, 1, 2)


def _geometry(layer) -> tuple[int, int]:
    """(kernel, stride) over time."""
    if isinstance(layer, nn.MaxPool2d):
        assert layer.kernel_size[1] == 3 and layer.padding[1] == 1, layer
        return layer.kernel_size[1], layer.stride[1]
    assert layer[0].padding[1] == layer[0].kernel_size[1] // 2, layer[0]
    return layer[0].kernel_size[1], layer[0].stride[1]


def counted_norm(x: torch.Tensor, norm: nn.Module, counts: torch.Tensor, total: int) -> torch.Tensor:
    """Batch norm of `x` `[M, C]`, of whose row m there are `counts[m]`, `total` in all; as `norm` would in its mode."""
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = sum_over_ranks(counts.new_full((1,), total), norm)
        mean = sum_over_ranks(counts @ wide, norm) / total
        centred = wide - mean
        variance = sum_over_ranks(counts @ centred.square(), norm) / total              # two passes: no cancellation
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.detach(), norm.momentum)
            norm.running_var.lerp_(variance.detach() * total / (total - 1), norm.momentum)
        return torch.addcmul(norm.bias, centred, norm.weight * torch.rsqrt(variance + norm.eps)).to(x.dtype)
