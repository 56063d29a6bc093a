"""Batch norm over the batches of all ranks, on any device: torch's own SyncBatchNorm runs on GPUs only."""

import torch
from torch import nn

from common.cli import UserError
from common.distributed import ranks


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks. Each rank's loss depends on every rank's input, so the gradients are summed as well."""

    @staticmethod
    def forward(ctx, value):
        return ranks.all_reduce(value.clone())

    @staticmethod
    def backward(ctx, grad):
        return _SumOverRanks.apply(grad)  # itself differentiable: penalties of gradients go through it again


class _SyncedNorm(nn.modules.batchnorm._BatchNorm):
    """Normalises by the mean and variance over the ranks together; the ranks' maps must be of equal size,
    the rows of 2-D inputs need not."""

    def _check_input_dim(self, input):
        pass

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.numel() // x.shape[1] * ranks.world_size()
        if x.dim() == 2:  # rows may be columns of clips, of which each rank has another number
            count = ranks.all_reduce(torch.tensor(float(len(x)), device=x.device))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _SumOverRanks.apply(wide.sum(axes)) / count
        centred = wide - mean.view(1, -1, *[1] * (x.dim() - 2))
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count  # two passes: no cancellation
        with torch.no_grad():
            running_mean, running_var, batches = self.running_mean, self.running_var, self.num_batches_tracked
            assert running_mean is not None and running_var is not None and batches is not None and self.momentum
            batches += 1
            running_mean.lerp_(mean.detach(), self.momentum)
            running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def sum_over_ranks(value: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """The sum of the ranks' values, differentiable, if `norm` is synchronised; else `value`."""
    return _SumOverRanks.apply(value) if isinstance(norm, _SyncedNorm) else value


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Make every batch norm of `module` one over all ranks, in place; names and values in its state dict stay.

    For one rank nothing changes. The norms must have weights and running statistics, as all of this project's have.
    """
    if ranks.world_size() > 1:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.__class__ = _SyncedNorm
    return module


def require_two(images: int, synchronized: bool, remedy: str) -> None:
    """UserError if a batch leaves batch norm a single image, which has no variance; `remedy` says how to get two.

    images: of one process; synchronized: whether batch norm goes over all processes.
    """
    if images < 2 and not (synchronized and ranks.world_size() > 1):
        raise UserError(
            f"one image a process is too few for batch norm: {remedy}"
            + (", or give --sync_bn" if ranks.world_size() > 1 else "")
        )
