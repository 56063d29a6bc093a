"""Data parallelism: what torchrun's variables say, and the few collective operations that the trainers use.

Without torchrun every function here is that of a world of one.
"""

import contextlib
import datetime
import os
import re

import torch
import torch.distributed as dist

from common.cli import Lost

_LOST = re.compile(r"gloo/|Connection|timed? ?out|unreachable|NCCL", re.IGNORECASE)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def ranks_here() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main() -> bool:
    return rank() == 0


@contextlib.contextmanager
def together():
    """A context for operations of all ranks: where another one has gone, they end in `Lost`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        reason = str(error).splitlines()[0][:200]
        raise Lost(
            f"another process of this training has ended or cannot be reached ({reason}); the same command goes on "
            "from the last resume file"
        ) from None


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes (NCCL on GPUs, Gloo on CPUs). Nothing to do for one process."""
    if world_size() > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with together():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(minutes=10))


def finish() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    if dist.is_available() and dist.is_initialized():
        with together():
            dist.barrier()


def broadcast_module(module: torch.nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if world_size() > 1:
        with together():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor.data, 0)


def all_reduce(value: torch.Tensor, operation=None) -> torch.Tensor:
    """Make `value`, in place, the sum (or the result of another operation) of the ranks' values."""
    if world_size() > 1:
        with together():
            dist.all_reduce(value, operation or dist.ReduceOp.SUM)
    return value


def average_gradients(module: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the ranks: one collective over a flat buffer."""
    if world_size() == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = all_reduce(torch._utils._flatten_dense_tensors(grads))
    flat /= world_size()
    for grad, value in zip(grads, torch._utils._unflatten_dense_tensors(flat, grads)):
        grad.copy_(value)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.rows = rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        with together():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = all_reduce(grad.clone(memory_format=torch.contiguous_format))  # the gradient is not ours to change
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """`[B, …]` of every rank → `[ranks·B, …]` on every rank, in rank order.

    The backward pass sums the ranks' gradients. If every rank computes the same loss L of the global batch, each
    row's gradient is `ranks · dL/drow`; `average_gradients` divides by the ranks again, which leaves dL exactly.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on every rank if it is True on one (a stop signal that only one process got, say)."""
    return flag if world_size() == 1 else bool(all_reduce(torch.tensor(float(flag), device=device), dist.ReduceOp.MAX))
