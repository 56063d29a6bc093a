"""Conditional affine generator and its discriminator (Tao et al., DF-GAN, CVPR 2022).

The condition reaches the image through channel-wise scales and shifts alone: there is no normalisation, and one
discriminator for one size of image. Predicted masks that gate them are SSA-GAN's (Liao et al., CVPR 2022).
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from StackGAN_v2.model import FullMapConv, JointConv, UpConv, conv3x3
from StackGAN_v2.networks.condition_init import init_projection
from StackGAN_v2.networks.convolution import Conv

SLOPE = 0.2  # of every LeakyReLU


def channel_plan(width: int, max_factor: int, size: int) -> list[int]:
    """Channels of the maps of `size`, size/2, …, 4 pixels: width · min(2^i, max_factor)."""
    return [width * min(1 << i, max_factor) for i in range(size.bit_length() - 2)]


class Modulations(nn.Module):
    """`[N, d]` → scales γ and shifts β of every affine layer, by one network of two layers for each of them.

    widths: the channels of each affine layer. The first layers of all networks are one product, and the second ones a
    batched product for each width. All layers start as the identity: γ = 1, β = 0.
    """

    def __init__(self, input_dim: int, widths: list[int]):
        super().__init__()
        # by width, the numbers of the affine layers that have it
        self.groups = {width: [i for i, one in enumerate(widths) if one == width] for width in dict.fromkeys(widths)}
        self.hidden = nn.Linear(input_dim, 2 * sum(widths))
        self.weights, self.biases = nn.ParameterDict(), nn.ParameterDict()
        for width, layers in self.groups.items():  # of γ and then β of each of these layers
            self.weights[str(width)] = nn.Parameter(torch.zeros(2 * len(layers), width, width))
            bias = torch.tensor([1.0, 0.0]).repeat(len(layers))[:, None, None]
            self.biases[str(width)] = nn.Parameter(bias.repeat(1, 1, width))

    def forward(self, x):
        """→ for each affine layer (γ, β), both `[N, C, 1, 1]`."""
        sizes = [2 * len(layers) * width for width, layers in self.groups.items()]
        found = {}
        for (width, layers), hidden in zip(self.groups.items(), F.relu(self.hidden(x)).split(sizes, 1)):
            hidden = hidden.unflatten(1, (-1, width)).transpose(0, 1)  # [2k, N, C]
            out = torch.baddbmm(self.biases[str(width)].to(hidden.dtype), hidden, self.weights[str(width)])
            for layer, (scale, shift) in zip(layers, out[..., None, None].unflatten(0, (-1, 2))):
                found[layer] = scale, shift
        return [found[layer] for layer in sorted(found)]


def modulate(h, layers, mask=None):
    """Affine layers, each before a LeakyReLU: h `[N, C, H, W]`; mask `[N, 1, H, W]`: where they apply, else all over."""
    for scale, shift in layers:
        scale, shift = scale.to(h.dtype), shift.to(h.dtype)
        if mask is None:
            h = torch.addcmul(shift, h, scale)
        else:
            h = h + mask * torch.addcmul(shift, h, scale - 1)
        h = F.leaky_relu(h, SLOPE)
    return h


class AffineBlock(nn.Module):
    """h `[N, i, H, W]` and four affine layers → `[N, o, 2H, 2W]`: nearest upsampling, then a residual of two times
    [affine, LeakyReLU, affine, LeakyReLU, 3×3 convolution], beside a 1×1 convolution.

    What works pixel by pixel comes before the upsampling, at a quarter of the work; the result is the same.
    mask: channels of the network that predicts where the affine layers apply; 0: everywhere. SSA-GAN predicts it with
    batch norm, this one without.
    """

    def __init__(self, channels_in: int, channels_out: int, mask: int = 0):
        super().__init__()
        self.conv1, self.conv2 = UpConv(channels_in, channels_out), conv3x3(channels_out, channels_out)
        self.shortcut = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.mask = None
        if mask:
            self.mask = nn.Sequential(Conv(channels_in, mask, 3, 1, 1), nn.ReLU(), nn.Conv2d(mask, 1, 1), nn.Sigmoid())

    def forward(self, h, layers):
        mask = fine = None
        if self.mask is not None:
            mask = self.mask(h)
            fine = F.interpolate(mask, scale_factor=2.0, mode="bilinear")
        residual = self.conv1(modulate(h, layers[:2], mask))
        residual = self.conv2(modulate(residual, layers[2:], fine))
        return residual + F.interpolate(self.shortcut(h), scale_factor=2.0)


class AffineGenerator(nn.Module):
    """Speech embedding and noise → one image.

    widths         channels of the maps of 4, 8, … pixels; the last is that of the image's size
    z_dim          width of the noise
    text_dim       width of the speech embedding
    condition_dim  width that a linear layer brings the speech embedding to; 0: it is the condition itself
    mask           channels of the network that predicts the masks of the affine layers; 0: no masks

    ValueError for sizes that do not go together.
    """

    name = "affine"
    remark = ""
    embedding_dim = 0  # of the noise eps, which only conditioning augmentation has

    def __init__(self, widths=(256, 256, 128, 64, 32), z_dim=100, text_dim=1024, condition_dim=0, mask=0):
        super().__init__()
        if not 2 <= len(widths) <= 8 or min(*widths, z_dim, text_dim) < 1 or min(condition_dim, mask) < 0:
            raise ValueError(
                f"channels {list(widths)}, z_dim {z_dim}, text_dim {text_dim}, condition_dim {condition_dim} and mask "
                f"{mask} do not go together"
            )
        self.widths, self.z_dim, self.text_dim = list(widths), z_dim, text_dim
        self.condition_dim, self.widest_map = condition_dim or text_dim, widths[-1]
        self.projection = nn.Linear(text_dim, condition_dim) if condition_dim else nn.Identity()
        self.fc = nn.Linear(z_dim, 16 * widths[0])
        pairs = list(zip(widths, widths[1:]))
        self.blocks = nn.ModuleList(AffineBlock(*pair, mask) for pair in pairs)
        self.modulations = Modulations(z_dim + self.condition_dim, [width for i, o in pairs for width in (i, i, o, o)])
        self.to_image = nn.Sequential(nn.LeakyReLU(SLOPE), Conv(widths[-1], 3, 3, 1, 1), nn.Tanh())

    @classmethod
    def from_settings(cls, cfg, text_dim: int):
        gan, size = cfg.GAN, cfg.TREE.image_size
        widths = channel_plan(gan.GF_DIM, gan.MAX_FACTOR, size)[::-1]
        return cls(widths, gan.Z_DIM, text_dim, gan.CONDITION_DIM, gan.MASK)

    @staticmethod
    def recognises(state: dict) -> bool:
        return {"modulations.hidden.weight", "to_image.1.weight"} <= state.keys()

    @classmethod
    def from_state(cls, state: dict):
        blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.conv1\.weight", key)) for key in state)
        widths = [state["blocks.0.conv1.weight"].shape[1]]
        widths += [state[f"blocks.{i}.conv1.weight"].shape[0] for i in range(blocks)]
        z_dim, condition_dim = state["fc.weight"].shape[1], 0
        text_dim = state["modulations.hidden.weight"].shape[1] - z_dim
        if "projection.weight" in state:
            condition_dim, text_dim = state["projection.weight"].shape
        mask = state["blocks.0.mask.0.weight"].shape[0] if "blocks.0.mask.0.weight" in state else 0
        return cls(widths, z_dim, text_dim, condition_dim, mask)

    @property
    def sizes(self) -> list[int]:
        """Side of the image, in pixels."""
        return [4 << len(self.blocks)]

    def discriminators(self, cfg) -> list[nn.Module]:
        widths = channel_plan(cfg.GAN.DF_DIM, cfg.GAN.MAX_FACTOR, self.sizes[0])
        return [AffineDiscriminator(widths, self.condition_dim)]

    def initialise(self) -> None:
        """The weights are initialised where the layers are made, as torch does it and DF-GAN leaves it."""

    def init_condition(self, speech: torch.Tensor) -> None:
        """Start the projection with conditions of mean 0 and variance 1; without a projection nothing is done."""
        if isinstance(self.projection, nn.Linear):
            init_projection(self.projection, speech)

    def forward(self, z, speech, eps=None):
        """z `[N, z_dim]`, speech `[N, text_dim]` → ([image `[N, 3, s, s]` in [−1, 1]], condition `[N, E]`, None).

        eps is not used: a condition here is a function of the speech alone, so that there is no logvar.
        """
        assert z.dim() == 2 and z.shape[1] == self.z_dim, f"z is {tuple(z.shape)}, not [N, {self.z_dim}]"
        assert speech.shape == (len(z), self.text_dim), f"speech is {tuple(speech.shape)}, not [N, {self.text_dim}]"
        condition = self.projection(speech).float()
        layers = self.modulations(torch.cat((z, condition), 1))
        h = self.fc(z).view(-1, 4, 4, self.widths[0]).permute(0, 3, 1, 2)  # channels_last
        for i, block in enumerate(self.blocks):
            h = block(h, layers[4 * i : 4 * i + 4])
        return [self.to_image(h)], condition, None


class DownBlock(nn.Module):
    """`[N, i, H, W]` → `[N, o, H/2, W/2]`: γ · [4×4 convolution of stride 2, LeakyReLU, 3×3, LeakyReLU], beside average
    pooling and a 1×1 convolution, in this order, since it is the same at a quarter of the work. γ starts at 0.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.residual = nn.Sequential(
            Conv(channels_in, channels_out, 4, 2, 1, bias=False),
            nn.LeakyReLU(SLOPE, inplace=True),
            conv3x3(channels_out, channels_out),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.shortcut = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return torch.addcmul(self.shortcut(F.avg_pool2d(x, 2)), self.gamma.to(x.dtype), self.residual(x))


class AffineDiscriminator(nn.Module):
    """One logit: is an image real, and does it match the condition? There is no unconditional logit.

    widths: channels of the maps of the image's size, of half of it, … down to 4 pixels; condition_dim: width of the
    condition.
    """

    uncond_logits = None

    def __init__(self, widths: list[int], condition_dim: int):
        super().__init__()
        self.image_size = 2 << len(widths)
        self.image = Conv(3, widths[0], 3, 1, 1)
        self.blocks = nn.Sequential(*(DownBlock(*pair) for pair in zip(widths, widths[1:])))
        joint = 2 * widths[0]
        self.joint = JointConv(condition_dim, widths[-1], joint)
        self.logits = FullMapConv(joint, 1, 4, 4, bias=False)

    def initialise(self) -> None:
        """The weights are initialised where the layers are made, as torch does it and DF-GAN leaves it."""

    def encode(self, image, groups: int = 1):
        """image `[N, 3, s, s]` → code `[N, C, 4, 4]`; without batch norm it is one whatever the number of groups."""
        size = self.image_size
        assert image.shape[1:] == (3, size, size), f"image is {tuple(image.shape)}, not [N, 3, {size}, {size}]"
        return self.blocks(self.image(image))

    def condition_logits(self, code, c, groups: int = 1):
        """code `[N, C, 4, 4]`, c `[N, E]` → logits `[N]`."""
        return self.logits(F.leaky_relu(self.joint((c, code)), SLOPE)).flatten().float()

    def forward(self, image, c):
        """image `[N, 3, s, s]`, c `[N, E]` → logits `[N]`."""
        return self.condition_logits(self.encode(image), c)
