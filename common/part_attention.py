"""A small network with attention to learnt parts of an image: for attribute probe, matching network and encoders."""

import torch
import torch.nn.functional as F
from torch import nn

SIZE = 64  # images are read at this size: enough for the colours of parts


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class PartsReader(nn.Module):
    """`forward(images [N, 3, 64, 64] in [−1, 1])` → features of each learnt part, `[N, parts, 6·width]`.

    There are feature maps of three scales: fine (32 × 32), middle (16 × 16) and context (8 × 8). Each part has an
    attention distribution over the 32 × 32 positions, computed from all scales and a learnt prior; its features are
    the mean under it.
    """

    def __init__(self, parts: int, width: int = 16):
        super().__init__()
        self.out_features = 6 * width
        self.stem = _conv(3, width, stride=2)
        self.fine = _conv(width, width)
        self.middle = _conv(width, 2 * width, stride=2)
        self.context = nn.Sequential(
            _conv(2 * width, 2 * width, stride=2),
            _conv(2 * width, 3 * width),
            _conv(3 * width, 3 * width),
            _conv(3 * width, 3 * width),
        )
        self.fuse = _conv(5 * width, 3 * width)
        self.where_fine = nn.Conv2d(width, parts, 1, bias=False)
        self.where_fused = nn.Conv2d(3 * width, parts, 1, bias=False)
        self.prior = nn.Parameter(torch.zeros(parts, SIZE // 2, SIZE // 2))
        rows = torch.eye(SIZE // 4)[:, None]  # each place of a line alone, doubled: [32, 16]
        doubling = F.interpolate(rows, scale_factor=2, mode="linear")[:, 0].T.contiguous()
        self.register_buffer("doubling", doubling, persistent=False)

    def forward(self, images):
        assert images.shape[1:] == (3, SIZE, SIZE), tuple(images.shape)
        stem = self.stem(images)
        fine, middle = self.fine(stem), self.middle(stem)
        fused = self.fuse(torch.cat((middle, _doubled(self.context(middle))), 1))
        where = self.where_fine(fine) + _doubled(self.where_fused(fused)) + self.prior
        where = where.flatten(2).softmax(2)
        # the mean of doubled maps is that of the maps themselves under halved attention: 12 maps instead of 80
        halved = self.doubling.T @ where.unflatten(2, (SIZE // 2, SIZE // 2)) @ self.doubling
        parts = (_mean(where, fine), _mean(halved.flatten(2), torch.cat((middle, fused), 1)))
        return torch.cat(parts, 2)


def _mean(where, values):
    """`[N, parts, positions]`, `[N, C, H, W]` → `[N, parts, C]`"""
    return where @ values.flatten(2).transpose(1, 2)


def _doubled(x):
    """`[N, C, H, W]` → `[N, C, 2H, 2W]`"""
    return F.interpolate(x, scale_factor=2, mode="bilinear")
