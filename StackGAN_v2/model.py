"""StackGAN-v2 (Zhang et al., TPAMI 2018, section 4), conditioned on a speech embedding as in Li et al. 2020.

The generator has up to three branches, for images of base_size, 2·base_size and 4·base_size pixels; each size has a
discriminator of its own. Parameter names and shapes are those of the published weights.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from StackGAN_v2.networks.condition_init import init_condition
from StackGAN_v2.networks.convolution import SMALL, Conv, conv2d, conv_up, rewrites_apply, rewriting


class GLU(nn.Module):
    """Gated linear unit over channels, a · sigmoid(b): `[N, 2C, …] → [N, C, …]` (Dauphin et al. 2017)."""

    def forward(self, x):
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):  # keeps the gradient in that order
            return F.glu(x.permute(0, 2, 3, 1), dim=3).permute(0, 3, 1, 2)
        return F.glu(x, dim=1)


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return Conv(channels_in, channels_out, 3, 1, 1, bias=False)


class UpConv(nn.Conv2d):
    """Nearest ×2 upsampling and a 3×3 convolution in one: `[N, i, H, W] → [N, o, 2H, 2W]`, weight `[o, i, 3, 3]`.

    Each input pixel contributes to 4×4 output pixels through sums of the kernel's rows and columns. That is a
    transposed convolution of stride 2, with 16 products a pixel where upsampling first takes 36. The smallest maps
    are computed in two steps on a CPU, since there preparing the kernel takes longer than the products.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, bias=False)

    def forward(self, x):
        if not rewriting() or rewrites_apply(x) and 4 * x[0, 0].numel() <= SMALL:
            return conv2d(F.interpolate(x, scale_factor=2.0), self.weight, self.bias, padding=1)
        return conv_up(x, self.kernel(), self.bias)

    def kernel(self):
        """The weight of the transposed convolution, `[i, o, 4, 4]`."""
        kernel = self.weight.transpose(0, 1)
        for dim in (2, 3):
            near, middle, far = kernel.unbind(dim)
            kernel = torch.stack((far, middle + far, near + middle, near), dim)
        return kernel


def up_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """`[N, i, H, W] → [N, o, 2H, 2W]`. The convolution is number 1, as in the published files."""
    return nn.Sequential(nn.Identity(), UpConv(channels_in, 2 * channels_out), nn.BatchNorm2d(2 * channels_out), GLU())


class JointConv(nn.Conv2d):
    """3×3 convolution of concat(c tiled over the map, h): c `[N, E]`, h `[N, C, H, W]` → `[N, o, H, W]`.

    The weight is `[o, E + C, 3, 3]`. A tiled condition is constant, so its contribution to a pixel depends only on
    which of the kernel's taps lie inside the map: nine cases, computed on a 3×3 map and expanded to H×W.
    """

    def __init__(self, condition_dim: int, channels_in: int, channels_out: int):
        super().__init__(condition_dim + channels_in, channels_out, 3, 1, 1, bias=False)
        self.condition_dim = condition_dim

    def forward(self, joined):
        c, h = joined
        assert c.shape == (len(h), self.condition_dim) and min(h.shape[2:]) >= 3, (c.shape, h.shape)
        assert h.shape[1] == self.in_channels - self.condition_dim, h.shape
        if not rewriting():
            c = c.to(h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])
            return F.conv2d(torch.cat((c, h), 1), self.weight, self.bias, padding=1)
        of_c, of_h = self.weight.split((self.condition_dim, self.in_channels - self.condition_dim), 1)
        c = c.to(h.dtype)[:, :, None, None].expand(-1, -1, 3, 3)
        cases = conv2d(c, of_c, self.bias, padding=1)  # [N, o, 3, 3]
        for dim in (2, 3):
            first, inner, last = cases.split(1, dim)
            length = h.shape[dim] - 2
            inner = inner.expand(-1, -1, length, -1) if dim == 2 else inner.expand(-1, -1, -1, length)
            cases = torch.cat((first, inner, last), dim)
        return conv2d(h, of_h, padding=1) + cases


class ResBlock(nn.Module):
    """Residual block (He et al. 2016): `[N, C, H, W] → [N, C, H, W]`."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            GLU(),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return self.block(x) + x


class ConditioningAugmentation(nn.Module):
    """Speech `[N, text_dim]` → a sample c of a Gaussian, its mu and logvar, all `[N, embedding_dim]`.

    Zhang et al., StackGAN, ICCV 2017, section 3.2: c = mu + eps · exp(logvar / 2), where eps is drawn if not given.
    """

    def __init__(self, text_dim: int, embedding_dim: int):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.fc = nn.Linear(text_dim, 4 * embedding_dim)
        self.glu = GLU()

    def forward(self, speech, eps=None):
        mu, logvar = self.glu(self.fc(speech)).float().split(self.embedding_dim, dim=1)
        eps = torch.randn_like(mu) if eps is None else eps
        return mu + eps * torch.exp(0.5 * logvar), mu, logvar


class FirstBranch(nn.Module):
    """Condition c `[N, E]` and noise z `[N, Z]` → features `[N, gf_dim, base_size, base_size]`."""

    def __init__(self, condition_dim: int, z_dim: int, gf_dim: int, base_size: int):
        super().__init__()
        self.blocks = _log2(base_size // 4)
        self.width = gf_dim * 2**self.blocks
        self.fc = nn.Sequential(
            nn.Linear(condition_dim + z_dim, self.width * 4 * 4 * 2, bias=False),
            nn.BatchNorm1d(self.width * 4 * 4 * 2),
            GLU(),
        )
        for i in range(self.blocks):
            setattr(self, f"upsample{i + 1}", up_block(self.width >> i, self.width >> (i + 1)))

    def forward(self, c, z):
        h = self.fc(torch.cat((c, z), 1)).view(-1, self.width, 4, 4)
        for i in range(self.blocks):
            h = getattr(self, f"upsample{i + 1}")(h)
        return h


class NextBranch(nn.Module):
    """Features h `[N, g, H, W]` of the branch before and condition c `[N, E]` → features `[N, g/2, 2H, 2W]`."""

    def __init__(self, condition_dim: int, gf_dim: int, r_num: int):
        super().__init__()
        self.jointConv = nn.Sequential(JointConv(condition_dim, gf_dim, 2 * gf_dim), nn.BatchNorm2d(2 * gf_dim), GLU())
        self.residual = nn.Sequential(*(ResBlock(gf_dim) for _ in range(r_num)))
        self.upsample = up_block(gf_dim, gf_dim // 2)

    def forward(self, h, c):
        return self.upsample(self.residual(self.jointConv((c, h))))


class ToImage(nn.Module):
    """Features `[N, g, H, W]` → image `[N, 3, H, W]` in [−1, 1]."""

    def __init__(self, gf_dim: int):
        super().__init__()
        self.img = nn.Sequential(conv3x3(gf_dim, 3), nn.Tanh())

    def forward(self, h):
        return self.img(h)


class Generator(nn.Module):
    """Speech embedding and noise → `branch_num` images, each twice the size of the one before (section 4.1).

    branch_num     1, 2 or 3
    base_size      side of the first branch's images in pixels: 8 or a higher power of two
    gf_dim         channels of the first branch's features; every further branch has half as many
    z_dim          width of the noise
    embedding_dim  width of the condition
    text_dim       width of the speech embedding
    r_num          residual blocks of every branch but the first

    ValueError for sizes that do not go together.
    """

    name = "stackgan_v2"
    remark = ""

    def __init__(self, branch_num=3, base_size=64, gf_dim=64, z_dim=100, embedding_dim=128, text_dim=1024, r_num=2):
        super().__init__()
        if branch_num not in (1, 2, 3):
            raise ValueError(f"branch_num is {branch_num}; 1, 2 or 3 are known")
        if min(gf_dim, z_dim, embedding_dim, text_dim) < 1 or r_num < 0:
            raise ValueError(
                f"gf_dim {gf_dim}, z_dim {z_dim}, embedding_dim {embedding_dim} and text_dim {text_dim} "
                f"must be 1 or more, r_num {r_num} 0 or more"
            )
        if base_size < 8 or base_size & (base_size - 1):
            raise ValueError(f"base_size is {base_size}; it must be 8, 16, 32, 64 or a higher power of two")
        if gf_dim % 2 ** (branch_num - 1):
            raise ValueError(
                f"gf_dim is {gf_dim}; with {branch_num} branches it must divide by {2 ** (branch_num - 1)}"
            )
        self.branch_num, self.base_size, self.gf_dim, self.z_dim = branch_num, base_size, gf_dim, z_dim
        self.embedding_dim, self.text_dim, self.r_num = embedding_dim, text_dim, r_num
        self.ca_net = ConditioningAugmentation(text_dim, embedding_dim)
        self.h_net1 = FirstBranch(embedding_dim, z_dim, gf_dim, base_size)
        self.img_net1 = ToImage(gf_dim)
        for branch in range(2, branch_num + 1):
            width = gf_dim >> (branch - 2)
            setattr(self, f"h_net{branch}", NextBranch(embedding_dim, width, r_num))
            setattr(self, f"img_net{branch}", ToImage(width // 2))

    @classmethod
    def from_settings(cls, cfg, text_dim: int):
        tree, gan = cfg.TREE, cfg.GAN
        return cls(tree.BRANCH_NUM, tree.BASE_SIZE, gan.GF_DIM, gan.Z_DIM, gan.EMBEDDING_DIM, text_dim, gan.R_NUM)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "ca_net.fc.weight" in state

    @classmethod
    def from_state(cls, state: dict):
        return cls(**generator_settings(state))

    @property
    def widest_map(self) -> int:
        """Channels of the last and largest map."""
        return 2 * (self.gf_dim >> (self.branch_num - 1))

    def discriminators(self, cfg) -> list[nn.Module]:
        return [Discriminator(size, cfg.GAN.DF_DIM, self.embedding_dim) for size in self.sizes]

    def initialise(self) -> None:
        self.apply(init_weights)

    def init_condition(self, speech) -> None:
        init_condition(self.ca_net, speech)

    @property
    def sizes(self) -> list[int]:
        """Side of each branch's images, in pixels."""
        return [self.base_size << branch for branch in range(self.branch_num)]

    def forward(self, z, speech, eps=None):
        """z `[N, z_dim]`, speech `[N, text_dim]` → (images, mu, logvar).

        images: for each branch `[N, 3, s, s]` in [−1, 1]; mu, logvar: `[N, embedding_dim]`; eps `[N, embedding_dim]`:
        the noise of the conditioning augmentation, drawn if not given.
        """
        assert z.dim() == 2 and z.shape[1] == self.z_dim, f"z is {tuple(z.shape)}, not [N, {self.z_dim}]"
        assert speech.shape == (len(z), self.text_dim), f"speech is {tuple(speech.shape)}, not [N, {self.text_dim}]"
        assert eps is None or eps.shape == (len(z), self.embedding_dim), f"eps is {tuple(eps.shape)}"
        c, mu, logvar = self.ca_net(speech, eps)
        h = self.h_net1(c, z)
        images = [self.img_net1(h)]
        for branch in range(2, self.branch_num + 1):
            h = getattr(self, f"h_net{branch}")(h, c)
            images.append(getattr(self, f"img_net{branch}")(h))
        return images, mu, logvar


def _down(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        Conv(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.2, inplace=True),
    ]


def _same(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [conv3x3(channels_in, channels_out), nn.BatchNorm2d(channels_out), nn.LeakyReLU(0.2, inplace=True)]


class FullMapConv(nn.Conv2d):
    """A convolution whose kernel covers the map, computed as a linear layer: `[N, C, k, k] → [N, o, 1, 1]`.

    The convolution of oneDNN 3.12 gives wrong values here in bf16 and channels_last, with 16 and 24 channels.
    """

    def forward(self, x):
        assert x.shape[2:] == self.weight.shape[2:], (x.shape, self.weight.shape)
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class Discriminator(nn.Module):
    """For images of one size, two logits: is the image real, and is it real and matches the condition (section 4.1)?

    image_size: 16, 32, 64, 128 or 256 pixels. Blocks of stride 2 halve the image down to a map of 4×4. Above 64 pixels,
    further blocks double the channels and as many 3×3 blocks reduce them to 8·df_dim again; below 64, the widest blocks
    are left out. df_dim: channels of the first block; embedding_dim: width of the condition.
    """

    def __init__(self, image_size: int, df_dim=64, embedding_dim=128):
        super().__init__()
        if image_size < 16 or image_size > 256 or image_size & (image_size - 1):
            raise ValueError(f"image_size is {image_size}; 16, 32, 64, 128 and 256 are known")
        self.image_size = image_size
        downs = _log2(image_size // 4)
        widths = [df_dim << i for i in range(downs)]
        layers = [Conv(3, df_dim, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, min(downs, 4)):
            layers += _down(widths[i - 1], widths[i])
        self.img_code_s16 = nn.Sequential(*layers)
        self.tail = []  # names of the blocks for more than 64 pixels, in their order
        if downs >= 5:
            self._add("img_code_s32", _down(widths[3], widths[4]))
        if downs == 5:
            self._add("img_code_s32_1", _same(widths[4], widths[3]))
        if downs == 6:
            self._add("img_code_s64", _down(widths[4], widths[5]))
            self._add("img_code_s64_1", _same(widths[5], widths[4]))
            self._add("img_code_s64_2", _same(widths[4], widths[3]))
        self.code_dim = widths[min(downs, 4) - 1]
        self.jointConv = nn.Sequential(
            JointConv(embedding_dim, self.code_dim, self.code_dim), *_same(1, self.code_dim)[1:]
        )
        self.logits = nn.Sequential(FullMapConv(self.code_dim, 1, 4, 4))
        self.uncond_logits = nn.Sequential(FullMapConv(self.code_dim, 1, 4, 4))

    def _add(self, name: str, layers: list[nn.Module]) -> None:
        setattr(self, name, nn.Sequential(*layers))
        self.tail.append(name)

    def initialise(self) -> None:
        self.apply(init_weights)

    def forward(self, image, c):
        """image `[N, 3, s, s]`, c `[N, embedding_dim]` → (cond_logits `[N]`, uncond_logits `[N]`, code `[N, 16·C]`).

        The published network ends in a sigmoid; here it is part of the loss.
        """
        code = self.encode(image)
        return self.condition_logits(code, c), self.uncond_logits(code).flatten().float(), code.flatten(1).float()

    def encode(self, image, groups: int = 1):
        """image `[N, 3, s, s]` → code `[N, C, 4, 4]`.

        groups: `image` holds that many batches of equal size, one after the other; batch norm treats each by itself.
        """
        size = self.image_size
        assert image.shape[1:] == (3, size, size), f"image is {tuple(image.shape)}, not [N, 3, {size}, {size}]"
        code = _in_groups(self.img_code_s16, image, groups)
        for name in self.tail:
            code = _in_groups(getattr(self, name), code, groups)
        return code

    def condition_logits(self, code, c, groups: int = 1):
        """code `[N, C, 4, 4]`, c `[N, embedding_dim]` → cond_logits `[N]`; groups as in `encode`."""
        joint, *rest = self.jointConv
        return self.logits(_in_groups(rest, joint((c, code)), groups)).flatten().float()


def _in_groups(layers, x, groups: int):
    """x through `layers`: all groups at once, except that batch norms see one after the other."""
    for layer in layers:
        apart = groups > 1 and isinstance(layer, nn.modules.batchnorm._BatchNorm)
        x = torch.cat([layer(group) for group in x.chunk(groups)]) if apart else layer(x)
    return x


def _log2(n: int) -> int:
    return n.bit_length() - 1


def init_weights(module: nn.Module) -> None:
    """For `apply`: orthogonal weights of convolutions and linear layers, batch-norm weights N(1, 0.02), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.orthogonal_(module.weight)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def generator_settings(state: dict) -> dict:
    """The arguments of the `Generator` that has this state dict. KeyError or IndexError if there is none."""
    embedding_dim = state["ca_net.fc.weight"].shape[0] // 4
    blocks = sum(f"h_net1.upsample{i}.1.weight" in state for i in range(1, 8))
    gf_dim = state["img_net1.img.0.weight"].shape[1]
    return dict(
        branch_num=sum(f"img_net{i}.img.0.weight" in state for i in (1, 2, 3)),
        base_size=4 << blocks,
        gf_dim=gf_dim,
        z_dim=state["h_net1.fc.0.weight"].shape[1] - embedding_dim,
        embedding_dim=embedding_dim,
        text_dim=state["ca_net.fc.weight"].shape[1],
        r_num=_residual_blocks(state),
    )


def _residual_blocks(state: dict) -> int:
    if not any(key.startswith("h_net2.") for key in state):
        return 2  # one branch has none, and the default does no harm
    return sum(bool(re.fullmatch(r"h_net2\.residual\.\d+\.block\.0\.weight", key)) for key in state)
