"""A trained generator made ready to generate: batch norms become part of other layers, kernels are laid out once."""
import copy

import torch
from torch import nn

from StackGAN_v2.model import Generator, UpConv
from StackGAN_v2.networks.convolution import conv_up


class _Up(nn.ConvTranspose2d):
    """An `UpConv` whose kernel stands as it is used."""

    def forward(self, x):
        return conv_up(x, self.weight, self.bias)


@torch.no_grad()
def folded(generator: Generator, precision: str = "fp32") -> Generator:
    """A copy in evaluation mode that computes the same images, up to float32's rounding, with fewer passes over memory.

    A batch norm in evaluation mode is a fixed scale and shift a channel: w·(k ∗ x) + b = (w·k) ∗ x + b. The kernel that
    an `UpConv` derives from its weight at every call is derived here, once. For bf16, weights are kept as autocast would
    hand them to the products; they are of use under autocast only.
    """
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    for chain in [module for module in generator.modules() if isinstance(module, nn.Sequential)]:
        for place, (layer, norm) in enumerate(zip(chain, list(chain)[1:])):
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
                layer.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
                chain[place + 1] = nn.Identity()
                if isinstance(layer, UpConv):
                    chain[place] = _transposed(layer)
    return generator.bfloat16() if precision == "bf16" else generator


def _transposed(layer: UpConv) -> nn.ConvTranspose2d:
    whole = _Up(layer.in_channels, layer.out_channels, 4, stride=2, padding=1)
    whole.weight, whole.bias = nn.Parameter(layer.kernel().contiguous(), requires_grad=False), layer.bias
    return whole.to(layer.weight.device, memory_format=torch.channels_last)
