"""Fused Adam that is also fast for channels_last weights on a CPU."""

import torch


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015): the same updates, state and state dict.

    On a CPU, torch first copies every gradient that is not contiguous in the order of its dimensions. A channels_last
    gradient is contiguous in another order, and here the update runs over it in that order without a copy.
    """

    def __init__(self, parameters, lr: float, **options):
        super().__init__(parameters, lr, fused=True, **options)

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None or any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        for group in self.param_groups:
            lists = [[] for _ in range(6)]
            self._init_group(group, *lists)
            *tensors, _, steps = lists
            torch._foreach_add_(steps, 1)
            beta1, beta2 = group["betas"]
            torch._fused_adam_(
                *zip(*map(_in_memory_order, *tensors)),
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def _in_memory_order(*tensors) -> list[torch.Tensor]:
    """The tensors of one parameter (weight, gradient, averages), as contiguous views if all are channels_last."""

    if all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
        return [t.permute(0, 2, 3, 1) for t in tensors]
    return list(tensors)
