"""Exemplar generator: a VAE of image segments whose prior is the codes of the training images, for small compute budgets.

The prior is that of Norouzi et al. (Exemplar VAE, NeurIPS 2020; compare the VampPrior of Tomczak & Welling, AISTATS
2018): to generate is to take the code of a training image, perturb it within its posterior and decode it with another
sentence. So pose and outline of every generated image come from a training image: they are decoded from its code, not
copied pixel by pixel, and there are at most twice as many poses (mirrored ones too) as images in the bank. What is
said decides the colours.

The spatial code sees an image after a random linear map of its colours (`recolour`), so that it cannot hold them; the
global code, of few numbers, sees the true image: background and light. The decoder makes masks of the spatial code
alone, and for each mask the mean of its own features under it, its slot (compare Locatello et al., Slot Attention,
NeurIPS 2020). What a sentence says of a slot is a distribution over a fixed set of colours, as in Zhang et al. (Colorful
Image Colorization, ECCV 2016): a mean of colours, which a distance of pixels teaches, is grey where hearing is unsure.
"""

import dataclasses
import re

import torch
import torch.nn.functional as F
from torch import nn

from StackGAN_v2.networks.affine import SLOPE
from StackGAN_v2.networks.condition_init import init_projection

CODE_SIDE = 16  # of the spatial code, whatever the image's size
DRAWS = 12  # normal numbers an image that `recolour` takes: a 3×3 map and a shift
SHIFT = 0.3  # standard deviation of that shift
LOGVAR = (-8.0, 4.0)  # bounds of the codes' log-variances
SHARPNESS = 2.0  # factor of the masks' logits, which interpolation flattens
MASK_SCALE = 3.0  # of the masks' first weights: masks that differ from the first step on become parts sooner
RESIDUAL = 0.5  # bound of what the residual adds to a colour
TEMPERATURE = 0.3  # of the distribution over colours, whose mean is shown (section 2.3 of Zhang et al.: 0.38)
PART_DIM = 16  # width of the learnt vector that tells one mask from another
ENCODER_WIDTHS = (24, 48, 64)  # channels of the spatial encoder: before the code's size, at it, at half of it
GLOBAL_WIDTHS = (16, 32, 48, 48)  # of the global encoder, each of half the side of the one before
GLOBAL_SIDE = 64  # larger images are scaled to it for the global code
_BANK = ("bank_mean", "bank_logvar", "bank_global_mean", "bank_global_logvar")  # buffers, as the encoder gives them


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of an exemplar generator. ValueError for those that do not go together.

    widths                 channels of the decoder's maps of 16, 32, … pixels, up to half of the image
    parts, colours         masks, and the colours that each of them may have
    hidden                 width of the two hidden layers that choose a mask's colour
    z_dim, text_dim        widths of the noise and of the speech embedding
    condition_dim          width of the speech embedding's projection
    spatial_dim            channels of the spatial code, of 16×16 positions
    global_dim             width of the global code
    constants              channels of the learnt constant maps
    """

    widths: tuple[int, ...] = (48, 32)
    parts: int = 16
    colours: int = 48
    hidden: int = 128
    z_dim: int = 100
    text_dim: int = 1024
    condition_dim: int = 32
    spatial_dim: int = 4
    global_dim: int = 8
    constants: int = 8

    def __post_init__(self):
        numbers = [value for name, value in vars(self).items() if name != "widths"]
        if not 1 <= len(self.widths) <= 4 or min(*self.widths, *numbers) < 1 or self.z_dim < self.global_dim + 3:
            raise ValueError(f"{self} do not go together")

    @property
    def image(self) -> int:
        """Side in pixels: 32, 64, 128 or 256."""
        return CODE_SIDE << len(self.widths)


def decoder_widths(image: int, coarse: int, fine: int) -> tuple[int, ...]:
    """Channels of the maps of 16, 32, … image/2 pixels: coarse, fine, and half of the one before, 16 at the least."""
    levels = (image // CODE_SIDE).bit_length() - 1
    return (coarse, *(max(fine >> i, min(fine, 16)) for i in range(levels - 1)))


def recolour(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Images `[N, 3, s, s]` after a random linear map of their colours; draws `[N, 12]`: normal numbers.

    Each channel of the result is a random direction of unit length in colour space, about the image's mean colour.
    """
    assert draws.shape == (len(images), DRAWS), tuple(draws.shape)
    turn, shift = F.normalize(draws[:, :9].unflatten(1, (3, 3)), dim=2), SHIFT * draws[:, 9:]
    flat = images.permute(0, 2, 3, 1).flatten(1, 2)  # [N, s·s, 3]
    flat = torch.baddbmm(shift[:, None], flat - flat.mean(1, keepdim=True), turn.transpose(1, 2))
    return flat.unflatten(1, images.shape[2:]).permute(0, 3, 1, 2)  # channels_last


def compose(masks: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """Masks `[N, K, H, W]`, which add up to 1, and a palette `[N, K, 3]` → images `[N, 3, H, W]`."""
    flat = masks.permute(0, 2, 3, 1).flatten(1, 2) @ palette
    return flat.unflatten(1, masks.shape[2:]).permute(0, 3, 1, 2)


def mean_colours(masks: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Masks `[N, K, H, W]` and images `[N, 3, H, W]` → the mean colour under each mask, `[N, K, 3]`.

    Of masks of less than a pixel it is drawn to 0.
    """
    masks = masks.flatten(2)
    return masks @ images.permute(0, 2, 3, 1).flatten(1, 2) / (masks.sum(2, keepdim=True) + 1)


def common_colours(pixels: torch.Tensor, count: int, rounds: int = 20) -> torch.Tensor:
    """Pixels `[M, 3]` → `[count, 3]`: their means by k-means from the first `count` of them (Lloyd, 1982)."""
    colours = pixels[torch.arange(count) % len(pixels)].clone()
    for _ in range(rounds):
        nearest = torch.cdist(pixels, colours).argmin(1)
        sums = torch.zeros_like(colours).index_add_(0, nearest, pixels)
        number = nearest.bincount(minlength=count)[:, None]
        colours = torch.where(number > 0, sums / number.clamp(min=1), colours)
    return colours


def perturbed(mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(mean, noise, (0.5 * logvar).exp())


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _chain(widths, stride: int) -> nn.Sequential:
    return nn.Sequential(*(_conv(*pair, stride) for pair in zip(widths, widths[1:])))


class ImageEncoder(nn.Module):
    """Images `[N, 3, s, s]` → means and log-variances of the spatial `[N, c, 16, 16]` and of the global code `[N, g]`."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        first, fine, context = ENCODER_WIDTHS
        self.fine = _chain([3, *[first] * (len(sizes.widths) - 1), fine], 2)
        self.context = nn.Sequential(_conv(fine, context, 2), _conv(context, context), _conv(context, context))
        self.spatial_code = nn.Conv2d(fine + context, 2 * sizes.spatial_dim, 1)
        self.whole = _chain([3, *GLOBAL_WIDTHS], 2)
        side = min(sizes.image, GLOBAL_SIDE) >> len(GLOBAL_WIDTHS)
        self.global_code = nn.Linear(GLOBAL_WIDTHS[-1] * side * side, 2 * sizes.global_dim)
        with torch.no_grad():
            self.global_code.weight *= 0.3  # begin near the posterior that is the prior

    def forward(self, recoloured, images):
        """→ (spatial mean, its log-variance, global mean, its log-variance), all float32."""
        fine = self.fine(recoloured)
        context = F.interpolate(self.context(fine), scale_factor=2.0)
        spatial = self.spatial_code(torch.cat((fine, context), 1)).float()
        if images.shape[3] > GLOBAL_SIDE:
            images = F.avg_pool2d(images, images.shape[3] // GLOBAL_SIDE)
        (mean, logvar), (of_all, logvar_of_all) = (
            code.chunk(2, 1) for code in (spatial, self.global_code(self.whole(images).flatten(1)).float())
        )
        return mean, logvar.clamp(*LOGVAR), of_all, logvar_of_all.clamp(*LOGVAR)


class DecoderBlock(nn.Module):
    """h `[N, i, H, W]` → `[N, o, H, W]`: two 3×3 convolutions with batch norm beside a 1×1 convolution (ResNet)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1, self.conv2 = _conv(channels_in, channels_out), _conv(channels_out, channels_out)[:2]
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, h):
        return F.leaky_relu(self.shortcut(h) + self.conv2(self.conv1(h)), SLOPE)


class ExemplarGenerator(nn.Module):
    """Speech embedding and noise → one image. It holds the encoder that it is trained with, and the bank.

    sizes: see `Sizes`; images: rows of the bank, at least 1.
    """

    name = "exemplar"
    embedding_dim = 0  # of the noise eps, which only conditioning augmentation has

    def __init__(self, sizes: Sizes = Sizes(), images: int = 1):
        super().__init__()
        self.shape, self.z_dim, self.text_dim = sizes, sizes.z_dim, sizes.text_dim
        widths, constants = sizes.widths, sizes.constants
        self.widest_map = max(sizes.parts, widths[-1])  # of the image's size, or near it
        self.encoder = ImageEncoder(sizes)
        self.projection = nn.Linear(sizes.text_dim, sizes.condition_dim)
        self.constants = nn.ParameterList(
            nn.Parameter(0.5 * torch.randn(1, constants, CODE_SIDE << i, CODE_SIDE << i)) for i in range(len(widths))
        )
        self.first = nn.Conv2d(sizes.spatial_dim + constants, widths[0], 3, 1, 1)
        ins = [widths[0], *(width + constants for width in widths[:-1])]
        self.blocks = nn.ModuleList(map(DecoderBlock, ins, widths))
        # both at twice the side: masks by interpolation, so that they keep smooth outlines, the residual by pixel shuffle
        self.masks = nn.Conv2d(widths[-1], sizes.parts, 3, 1, 1)
        self.residual = nn.Conv2d(widths[-1], 12, 3, 1, 1)
        self.slot_norm = nn.LayerNorm(widths[-1] + 2)
        self.part = nn.Parameter(0.5 * torch.randn(sizes.parts, PART_DIM))
        joint = sizes.condition_dim + widths[-1] + 2 + PART_DIM + sizes.global_dim
        self.palette = nn.Sequential(
            nn.Linear(joint, sizes.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(sizes.hidden, sizes.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(sizes.hidden, sizes.colours),
        )
        self.register_buffer("colours", torch.zeros(sizes.colours, 3))
        # noise → a perturbation of unit variance at every position of the spatial code
        spread = torch.randn(sizes.z_dim - 2 - sizes.global_dim, sizes.spatial_dim * CODE_SIDE**2)
        self.register_buffer("spread", F.normalize(spread, dim=0))
        self.hold(images)

    def hold(self, images: int) -> None:
        """Make room for the codes of so many images, all of them 0 until `fill`."""
        if images < 1:
            raise ValueError(f"a bank of {images} images")
        spatial, of_all = (self.shape.spatial_dim, CODE_SIDE, CODE_SIDE), (self.shape.global_dim,)
        for name, shape in zip(_BANK, (spatial, spatial, of_all, of_all)):
            device = self.spread.device
            self.register_buffer(name, torch.zeros(images, *shape, dtype=torch.float16, device=device))

    @torch.no_grad()
    def fill(self, codes) -> None:
        """Set the bank to four tensors as `ImageEncoder` gives them, of as many images as it holds."""
        for name, code in zip(_BANK, codes, strict=True):
            getattr(self, name).copy_(code)

    @classmethod
    def from_settings(cls, cfg, text_dim: int):
        own = cfg.EXEMPLAR
        return cls(
            Sizes(
                decoder_widths(cfg.TREE.image_size, own.COARSE_DIM, own.FINE_DIM),
                parts=own.PARTS,
                colours=own.COLOURS,
                hidden=own.HIDDEN_DIM,
                z_dim=cfg.GAN.Z_DIM,
                text_dim=text_dim,
                condition_dim=own.CONDITION_DIM,
                spatial_dim=own.SPATIAL_DIM,
                global_dim=own.GLOBAL_DIM,
                constants=own.CONSTANTS,
            )
        )

    @staticmethod
    def recognises(state: dict) -> bool:
        return "bank_mean" in state

    @classmethod
    def from_state(cls, state: dict):
        blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.conv2\.0\.weight", key)) for key in state)
        images, spatial_dim = state["bank_mean"].shape[:2]
        global_dim = state["bank_global_mean"].shape[1]
        condition_dim, text_dim = state["projection.weight"].shape
        colours, hidden = state["palette.4.weight"].shape
        sizes = Sizes(
            tuple(state[f"blocks.{i}.conv2.0.weight"].shape[0] for i in range(blocks)),
            parts=state["masks.weight"].shape[0],
            colours=colours,
            hidden=hidden,
            z_dim=state["spread"].shape[0] + 2 + global_dim,
            text_dim=text_dim,
            condition_dim=condition_dim,
            spatial_dim=spatial_dim,
            global_dim=global_dim,
            constants=state["constants.0"].shape[1],
        )
        return cls(sizes, images)

    @property
    def sizes(self) -> list[int]:
        """Side of the image, in pixels."""
        return [self.shape.image]

    def discriminators(self, cfg) -> list[nn.Module]:
        return []

    @torch.no_grad()
    def initialise(self) -> None:
        """Masks that differ at once; the rest is initialised as torch does it."""
        self.masks.weight *= MASK_SCALE

    def init_condition(self, speech: torch.Tensor) -> None:
        """Start the projection with conditions of mean 0 and variance 1 on embeddings `[M, text_dim]`."""
        init_projection(self.projection, speech)

    def segment(self, spatial):
        """Spatial code `[N, c, 16, 16]` → masks `[N, K, s, s]`, which add up to 1, residual `[N, 3, s, s]` within
        ±RESIDUAL, slots `[N, K, F]` and the masks' shares of the image `[N, K]`; all float32."""
        n = len(spatial)
        h = self.first(torch.cat((spatial, self.constants[0].expand(n, -1, -1, -1)), 1))
        for i, block in enumerate(self.blocks):
            if i:
                h = F.interpolate(h, scale_factor=2.0)
                h = torch.cat((h, self.constants[i].to(h.dtype).expand(n, -1, -1, -1)), 1)
                h = h.contiguous(memory_format=torch.channels_last)
            h = block(h)
        logits = F.interpolate(SHARPNESS * self.masks(h), scale_factor=2.0, mode="bilinear")
        masks, residual = logits.float().softmax(1), RESIDUAL * F.pixel_shuffle(self.residual(h), 2).float().tanh()
        with torch.autocast(masks.device.type, enabled=False):
            small = F.avg_pool2d(masks, 2).flatten(2)
            values = torch.cat((h.float().flatten(2), _positions(h).expand(n, -1, -1)), 1)
            areas = small.mean(2)
            means = small @ values.transpose(1, 2) / small.shape[2] / (areas[:, :, None] + 1e-6)
            return masks, residual, self.slot_norm(means), areas

    def colour_logits(self, condition, slots, of_all):
        """condition `[N, E]`, slots `[N, K, F]`, global code `[N, g]` → logits of the colours `[N, K, C]`, float32."""
        k = slots.shape[1]
        common = torch.cat((condition, of_all), 1).float()[:, None].expand(-1, k, -1)
        with torch.autocast(slots.device.type, enabled=False):
            return self.palette(torch.cat((common, slots, self.part.expand(len(slots), -1, -1)), 2))

    def shown(self, logits):
        """Logits `[N, K, C]` → the colours that the masks show, `[N, K, 3]`: the mean under a sharpened softmax."""
        with torch.autocast(logits.device.type, enabled=False):
            return (logits / TEMPERATURE).softmax(2) @ self.colours

    def decode(self, condition, spatial, of_all):
        """condition `[N, E]`, spatial code `[N, c, 16, 16]`, global code `[N, g]` → images `[N, 3, s, s]`, float32.

        The residual may bring them out of [−1, 1].
        """
        masks, residual, slots, _ = self.segment(spatial)
        with torch.autocast(masks.device.type, enabled=False):
            return compose(masks, self.shown(self.colour_logits(condition, slots, of_all))) + residual

    def exemplars(self, z):
        """Noise `[N, z_dim]` → spatial codes, global codes and, `[N]`, whether the image is to be mirrored.

        The first number of the noise chooses the row of the bank (each is equally likely), the sign of the second one
        says whether it is mirrored, and the others perturb both codes within their posterior.
        """
        z = z.float()
        rows = len(self.bank_mean)
        row = (torch.special.ndtr(z[:, 0]) * rows).long().clamp(max=rows - 1)
        of_all, rest = z[:, 2:].split((self.shape.global_dim, len(self.spread)), 1)
        mean, logvar, mean_of_all, logvar_of_all = (getattr(self, name)[row].float() for name in _BANK)
        with torch.autocast(z.device.type, enabled=False):
            noise = (rest @ self.spread).view_as(mean)
        return perturbed(mean, logvar, noise), perturbed(mean_of_all, logvar_of_all, of_all), z[:, 1] < 0

    def forward(self, z, speech, eps=None):
        """z `[N, z_dim]`, speech `[N, text_dim]` → ([image `[N, 3, s, s]` in [−1, 1]], condition `[N, E]`, None).

        eps is not used. In training, `encoder` and `decode` are called instead.
        """
        assert z.dim() == 2 and z.shape[1] == self.z_dim, f"z is {tuple(z.shape)}, not [N, {self.z_dim}]"
        assert speech.shape == (len(z), self.text_dim), f"speech is {tuple(speech.shape)}, not [N, {self.text_dim}]"
        condition = self.projection(speech).float()
        spatial, of_all, mirrored = self.exemplars(z)
        image = self.decode(condition, spatial, of_all).clamp(-1, 1)
        return [torch.where(mirrored[:, None, None, None], image.flip(3), image)], condition, None


def bank_of(generator) -> dict[str, torch.Tensor]:
    """The bank's part of a generator's state dict; {} for a generator that has none."""
    return {name: getattr(generator, name) for name in _BANK if hasattr(generator, name)}


def _positions(h):
    """`[1, 2, H·W]`: row and column of each position of a map, from −1 to 1."""
    axes = (torch.linspace(-1, 1, side, device=h.device) for side in h.shape[2:])
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)[None]
