"""Exemplar generator: a training image that goes with the sentence, in the colours that the sentence says.

For small compute budgets: minutes on one CPU core. It is semi-parametric (compare Qi et al., Semi-parametric Image
Synthesis, CVPR 2018, and for text Guu et al., Generating Sentences by Editing Prototypes, TACL 2018): a bank holds
training images, each cut into regions of one colour, and what is learnt is which exemplar goes with what is said and
which colour each of its regions then has. So outlines and shading of every generated image are those of a training
image, mirrored, turned and stretched a little; there are no other poses.

A region's colour is a distribution over a fixed set of colours, as in Zhang et al. (Colorful Image Colorization, ECCV
2016): a mean of colours, which a distance of pixels teaches, is grey where hearing is unsure. The network that tells one
region from another sees images after a random linear map of their colours (`recolour`), so that only the sentence can
say them.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from StackGAN_v2.networks.affine import SLOPE
from StackGAN_v2.networks.condition_init import init_projection

DRAWS = 12  # normal numbers an image that `recolour` takes: a 3×3 map and a shift
SHIFT = 0.3  # standard deviation of that shift
SEEN_SIDE = 64  # larger images are scaled to it for the network
CLUSTERED_SIDE = 32  # of the grid of pixels that the regions' centres are found on
PLACE = 0.3  # weight of a pixel's place, from −1 to 1, beside its colours when images are cut into regions
ROUNDS = 8  # of k-means
GEOMETRY = 5  # numbers of a slot beside its features: mean and deviations of its place, logarithm of its area
TEMPERATURE = 0.3  # of the distribution over colours, whose mean is shown (section 2.3 of Zhang et al.: 0.38)
NEARNESS = 0.15  # standard deviation, in units of colours, within which one of the common colours is a region's own
MOVES = 7  # numbers of the noise that move an exemplar: mirrored or not, turn, two stretches, shear, two shifts
TURN, STRETCH, SHEAR, SHIFTED = 0.07, 0.05, 0.05, 0.04  # standard deviations: radians, shares, half an image
LEVELS = 127  # of details between 0 and 1, as the bank holds them
LIGHTNESS = (0.299, 0.587, 0.114)  # shares of red, green and blue (ITU-R BT.601)
_BANK = ("bank_regions", "bank_details", "bank_colours", "bank_slots", "bank_keys", "bank_spread")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of an exemplar generator. ValueError for those that do not go together.

    image                  side in pixels: 32, 64, 128 or 256
    regions, colours       regions of an image, and the colours that each of them may have
    width                  channels of the network's maps of half the side that it sees
    hidden                 width of the two hidden layers that choose a region's colour
    z_dim, text_dim        widths of the noise and of the speech embedding
    condition_dim          width of the speech embedding's projection
    """

    image: int = 64
    regions: int = 12
    colours: int = 48
    width: int = 32
    hidden: int = 128
    z_dim: int = 100
    text_dim: int = 1024
    condition_dim: int = 32

    def __post_init__(self):
        if min(vars(self).values()) < 1 or self.image not in (32, 64, 128, 256) or self.z_dim <= MOVES:
            raise ValueError(f"{self} do not go together")
        if self.regions > 256:
            raise ValueError(f"{self.regions} regions are more than a byte tells apart")

    @property
    def slot(self) -> int:
        return self.width + GEOMETRY


def recolour(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Images `[N, 3, s, s]` after a random linear map of their colours; draws `[N, 12]`: normal numbers.

    Each channel of the result is a random direction of unit length in colour space, about the image's mean colour.
    """
    assert draws.shape == (len(images), DRAWS), tuple(draws.shape)
    turn, shift = F.normalize(draws[:, :9].unflatten(1, (3, 3)), dim=2), SHIFT * draws[:, 9:]
    flat = images.permute(0, 2, 3, 1).flatten(1, 2)  # [N, s·s, 3]
    flat = torch.baddbmm(shift[:, None], flat - flat.mean(1, keepdim=True), turn.transpose(1, 2))
    return flat.unflatten(1, images.shape[2:]).permute(0, 3, 1, 2)  # channels_last


def cut(images: torch.Tensor, count: int) -> torch.Tensor:
    """Images `[N, 3, s, s]` in [−1, 1] → the number of each pixel's region, uint8 `[N, s, s]`, below `count`.

    k-means of colours and, with less weight, places (Lloyd 1982), from centres each of which is the pixel farthest from
    those before (Gonzalez 1985): equal images give equal regions, and small spots of another colour are found.
    """
    side = images.shape[2]
    places = _places(side, images.device).expand(len(images), -1, -1)
    points = torch.cat((images.float().flatten(2), PLACE * places), 1).transpose(1, 2)  # [N, s·s, 5]
    every = max(1, side // CLUSTERED_SIDE)
    few = points.unflatten(1, (side, side))[:, ::every, ::every].flatten(1, 2)
    centres = [few.mean(1)]
    far = (few - centres[0][:, None]).square().sum(2)
    for _ in range(count - 1):
        centres.append(few[torch.arange(len(few), device=few.device), far.argmax(1)])
        far = torch.minimum(far, (few - centres[-1][:, None]).square().sum(2))
    centres = torch.stack(centres, 1)
    for _ in range(ROUNDS):
        members = (_nearest(few, centres)[:, None] == torch.arange(count, device=few.device)[:, None]).to(few)
        number = members.sum(2, keepdim=True)
        centres = torch.where(number > 0, members @ few / number.clamp(min=1), centres)
    return _nearest(points, centres).to(torch.uint8).unflatten(1, (side, side))


def _nearest(points, centres):
    """Points `[N, P, d]`, centres `[N, K, d]` → `[N, P]`: the number of the nearest centre."""
    return torch.baddbmm(centres.square().sum(2)[:, None], points, centres.transpose(1, 2), alpha=-2).argmin(2)


def masks_of(regions: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers of regions `[N, s, s]` → masks `[N, count, s, s]`, 1 or 0, channels_last."""
    return (regions[..., None] == torch.arange(count, device=regions.device)).float().permute(0, 3, 1, 2)


def softened(masks: torch.Tensor) -> torch.Tensor:
    """Masks `[N, K, s, s]` with edges as soft as those of a photograph: means of 3×3 pixels."""
    return F.avg_pool2d(F.pad(masks, (1, 1, 1, 1), mode="replicate"), 3, 1)


def compose(masks: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """Masks `[N, K, H, W]`, which add up to 1, and a palette `[N, K, 3]` → images `[N, 3, H, W]`."""
    flat = masks.permute(0, 2, 3, 1).flatten(1, 2) @ palette
    return flat.unflatten(1, masks.shape[2:]).permute(0, 3, 1, 2)


def mean_colours(masks: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Masks `[N, K, H, W]` and images `[N, 3, H, W]` → the mean colour under each mask, `[N, K, 3]`; 0 if it is empty."""
    masks = masks.flatten(2)
    return masks @ images.permute(0, 2, 3, 1).flatten(1, 2) / masks.sum(2, keepdim=True).clamp(min=1)


def details(images: torch.Tensor, masks: torch.Tensor, palette: torch.Tensor) -> torch.Tensor:
    """How much lighter each pixel of images `[N, 3, s, s]` is than its region's colour, `[N, s, s]` in [−1, 1]."""
    shares = torch.tensor(LIGHTNESS, device=images.device)
    return torch.einsum("nchw,c->nhw", images - compose(masks, palette), shares).clamp(-1, 1)


def common_colours(pixels: torch.Tensor, count: int, rounds: int = 20) -> torch.Tensor:
    """Pixels `[M, 3]` → `[count, 3]`: their means by k-means from the first `count` of them (Lloyd, 1982)."""
    colours = pixels[torch.arange(count) % len(pixels)].clone()
    for _ in range(rounds):
        nearest = torch.cdist(pixels, colours).argmin(1)
        sums = torch.zeros_like(colours).index_add_(0, nearest, pixels)
        number = nearest.bincount(minlength=count)[:, None]
        colours = torch.where(number > 0, sums / number.clamp(min=1), colours)
    return colours


def nearness(wanted: torch.Tensor, colours: torch.Tensor, width: float) -> torch.Tensor:
    """Colours `[N, K, 3]` as distributions over the C common `colours`: logarithms, `[N, K, C]`; width: deviation."""
    # not by matrix products, whose short factors on GPUs (tf32) lose the small distances
    distances = torch.cdist(wanted, colours.expand(len(wanted), -1, -1), compute_mode="donot_use_mm_for_euclid_dist")
    return (-(distances**2) / (2 * width**2)).log_softmax(2)


def moved(images: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """Images `[N, 3, s, s]`, mirrored where the first of the moves `[N, 7]` is negative, then turned, stretched, sheared
    and shifted by an amount that the others, normal numbers, give; beyond their borders they go on as at the border."""
    assert moves.shape == (len(images), MOVES), tuple(moves.shape)
    mirror = torch.where(moves[:, 0] < 0, -1.0, 1.0)
    turn, across, down, shear = TURN * moves[:, 1], *(STRETCH * moves[:, 2:4]).exp().unbind(1), SHEAR * moves[:, 4]
    rows = (
        (across * turn.cos() * mirror, (shear - turn.sin()) * mirror, SHIFTED * moves[:, 5]),
        (turn.sin(), down * turn.cos(), SHIFTED * moves[:, 6]),
    )
    maps = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class RegionNetwork(nn.Module):
    """Recoloured images `[N, 3, s, s]` → features `[N, width, s/2, s/2]`: a small U-Net (Ronneberger et al. 2015)."""

    def __init__(self, width: int):
        super().__init__()
        middle, coarse = width * 3 // 2, 2 * width
        self.fine = nn.Sequential(_conv(3, (width + 1) // 2, 2), _conv((width + 1) // 2, width))
        self.middle = nn.Sequential(_conv(width, middle, 2), _conv(middle, middle))
        self.coarse = nn.Sequential(_conv(middle, coarse, 2), _conv(coarse, coarse), _conv(coarse, coarse))
        self.to_middle = _conv(coarse + middle, middle)
        self.to_fine = _conv(middle + width, width)

    def forward(self, images):
        fine = self.fine(images)
        middle = self.middle(fine)
        h = torch.cat((F.interpolate(self.coarse(middle), scale_factor=2.0), middle), 1)
        return self.to_fine(torch.cat((F.interpolate(self.to_middle(h), scale_factor=2.0), fine), 1))


class ExemplarGenerator(nn.Module):
    """Speech embedding and noise → one image. It holds the bank of exemplars.

    sizes: see `Sizes`; images: rows of the bank, at least 1.
    keep: probability that a region has its exemplar's own colour before anything is said.
    choice: temperature at which exemplars are chosen by how well they go with the sentence; the less, the fewer.
    """

    name = "exemplar"
    remark = "Outlines and shading are those of training images: what is said chooses the image and the colours of its regions."
    embedding_dim = 0  # of the noise eps, which only conditioning augmentation has

    def __init__(self, sizes: Sizes = Sizes(), images: int = 1, keep: float = 0.3, choice: float = 0.02):
        super().__init__()
        self.shape, self.z_dim, self.text_dim = sizes, sizes.z_dim, sizes.text_dim
        self.widest_map = sizes.regions  # of the image's size
        self.network = RegionNetwork(sizes.width)
        self.slot_norm = nn.LayerNorm(sizes.slot)
        self.projection = nn.Linear(sizes.text_dim, sizes.condition_dim)
        self.palette = nn.Sequential(
            nn.Linear(sizes.condition_dim + sizes.slot, sizes.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(sizes.hidden, sizes.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(sizes.hidden, sizes.colours),
        )
        self.register_buffer("colours", torch.zeros(sizes.colours, 3))
        self.register_buffer("keep", torch.tensor(float(keep)))
        self.register_buffer("choice", torch.tensor(float(choice)))
        self.hold(images)

    # ---- the bank ----

    def hold(self, images: int) -> None:
        """Make room for so many exemplars, all of them empty until `fill`."""
        if images < 1:
            raise ValueError(f"a bank of {images} images")
        sizes, device = self.shape, self.colours.device
        shapes = (
            ((images, sizes.image, sizes.image), torch.uint8),
            ((images, sizes.image, sizes.image), torch.int8),
            ((images, sizes.regions, 3), torch.float16),
            ((images, sizes.regions, sizes.slot), torch.float16),
            ((images, sizes.condition_dim), torch.float16),
            ((sizes.z_dim - MOVES, images), torch.float16),
        )
        for name, (shape, dtype) in zip(_BANK, shapes):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

    @torch.no_grad()
    def fill(self, regions, shading, colours, slots, keys, spread) -> None:
        """Set the bank, of as many images as it holds.

        regions `[B, s, s]` as `cut` gives them, shading `[B, s, s]` as `details` does, each region's own colour
        `[B, K, 3]` and slot `[B, K, F]`, keys `[B, E]`: the directions of the condition that an image goes with, of
        length 1 or less; spread `[z_dim − 7, B]`: columns of length 1, how the noise prefers exemplars.
        """
        held = (regions, (LEVELS * shading).round(), colours, slots, keys, spread)
        for name, value in zip(_BANK, held, strict=True):
            getattr(self, name).copy_(value)

    def exemplars(self, condition, noise):
        """condition `[N, E]`, noise `[N, z_dim − 7]` → rows of the bank `[N]`.

        Row i is chosen with probability softmax(cosine of condition and key i / choice) over the noise (Gumbel 1954), and
        for one noise the choice changes with the condition only where another row comes to be better.
        """
        likeness = F.normalize(condition) @ self.bank_keys.float().T
        chance = torch.special.ndtr(noise @ self.bank_spread.float()).clamp(1e-6, 1 - 1e-6)
        return (likeness / self.choice - (-chance.log()).log()).argmax(1)

    # ---- settings and files ----

    @classmethod
    def from_settings(cls, cfg, text_dim: int):
        own = cfg.EXEMPLAR
        sizes = Sizes(
            cfg.TREE.image_size,
            regions=own.REGIONS,
            colours=own.COLOURS,
            width=own.WIDTH,
            hidden=own.HIDDEN_DIM,
            z_dim=cfg.GAN.Z_DIM,
            text_dim=text_dim,
            condition_dim=own.CONDITION_DIM,
        )
        return cls(sizes, keep=own.KEEP, choice=own.CHOICE)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "bank_regions" in state

    @classmethod
    def from_state(cls, state: dict):
        images, side = state["bank_regions"].shape[:2]
        condition_dim, text_dim = state["projection.weight"].shape
        colours, hidden = state["palette.4.weight"].shape
        sizes = Sizes(
            side,
            regions=state["bank_colours"].shape[1],
            colours=colours,
            width=state["network.to_fine.0.weight"].shape[0],
            hidden=hidden,
            z_dim=state["bank_spread"].shape[0] + MOVES,
            text_dim=text_dim,
            condition_dim=condition_dim,
        )
        return cls(sizes, images)

    @property
    def sizes(self) -> list[int]:
        """Side of the image, in pixels."""
        return [self.shape.image]

    def discriminators(self, cfg) -> list[nn.Module]:
        return []

    def initialise(self) -> None:
        """All is initialised as torch does it."""

    def init_condition(self, speech: torch.Tensor) -> None:
        """Start the projection with conditions of mean 0 and variance 1 on embeddings `[M, text_dim]`."""
        init_projection(self.projection, speech)

    # ---- from regions to colours ----

    def describe(self, images, masks, draws):
        """Images `[N, 3, s, s]`, masks of their regions, draws `[N, 12]` → slots `[N, K, F]`, areas `[N, K]`; float32.

        A slot holds the means of the network's features and of the place over the region, the deviations of the place
        and the logarithm of the region's share of the image, its area.
        """
        small = images if images.shape[2] <= SEEN_SIDE else F.avg_pool2d(images, images.shape[2] // SEEN_SIDE)
        h = self.network(recolour(small, draws).contiguous(memory_format=torch.channels_last)).float()
        with torch.autocast(images.device.type, enabled=False):
            weights = F.avg_pool2d(masks.float(), masks.shape[2] // h.shape[2]).flatten(2)
            areas = weights.mean(2)
            weights = weights / (weights.sum(2, keepdim=True) + 1e-6)
            places = _places(h.shape[2], h.device).expand(len(h), -1, -1)
            means = weights @ torch.cat((h.flatten(2), places, places.square()), 1).transpose(1, 2)
            features, place, square = means.split((h.shape[1], 2, 2), 2)
            deviations = (square - place.square()).clamp(min=1e-6).sqrt()
            logs = (areas + 1e-4).log()[:, :, None]
            return self.slot_norm(torch.cat((features, place, deviations, logs), 2)), areas

    def colour_logits(self, condition, slots):
        """condition `[N, E]`, slots `[N, K, F]` → logits of the colours `[N, K, C]`, float32. The condition 0 says
        nothing."""
        with torch.autocast(slots.device.type, enabled=False):
            return self.palette(torch.cat((condition.float()[:, None].expand(-1, slots.shape[1], -1), slots), 2))

    def shown(self, logits):
        """Logits `[N, K, C]` → colours `[N, K, 3]`: the mean under a sharpened softmax."""
        with torch.autocast(logits.device.type, enabled=False):
            return (logits / TEMPERATURE).softmax(2) @ self.colours

    def repainted(self, condition, slots, own):
        """condition `[N, E]`, slots `[N, K, F]` and own colours `[N, K, 3]` of regions → the colours shown, `[N, K, 3]`.

        With probability `keep` a region has its own colour, which the sentence makes more or less likely by the ratio of
        its probability with and without the sentence; otherwise it has one of the common colours, as the sentence says.
        """
        said = self.colour_logits(condition, slots).log_softmax(2)
        unsaid = self.colour_logits(torch.zeros_like(condition), slots).log_softmax(2)
        kept = (nearness(own, self.colours, NEARNESS) + said - unsaid).logsumexp(2, keepdim=True) + self.keep.log()
        weights = (torch.cat((said + (-self.keep).log1p(), kept), 2) / TEMPERATURE).softmax(2)
        return weights[:, :, :-1] @ self.colours + weights[:, :, -1:] * own

    def forward(self, z, speech, eps=None):
        """z `[N, z_dim]`, speech `[N, text_dim]` → ([image `[N, 3, s, s]` in [−1, 1]], condition `[N, E]`, None).

        eps is not used. In training, `describe` and `colour_logits` are called instead.
        """
        assert z.dim() == 2 and z.shape[1] == self.z_dim, f"z is {tuple(z.shape)}, not [N, {self.z_dim}]"
        assert speech.shape == (len(z), self.text_dim), f"speech is {tuple(speech.shape)}, not [N, {self.text_dim}]"
        with torch.autocast(z.device.type, enabled=False):
            condition, (moves, noise) = self.projection(speech.float()), z.float().split((MOVES, self.z_dim - MOVES), 1)
            rows = self.exemplars(condition, noise)
            regions, shading, own, slots = (getattr(self, name)[rows] for name in _BANK[:4])
            palette = self.repainted(condition, slots.float(), own.float())
            image = compose(softened(masks_of(regions, self.shape.regions)), palette)
            image = moved(image + shading[:, None] / LEVELS, moves)
        return [image.clamp(-1, 1)], condition, None


def bank_of(generator) -> dict[str, torch.Tensor]:
    """The bank's part of a generator's state dict; {} for a generator that has none."""
    return {name: getattr(generator, name) for name in _BANK if hasattr(generator, name)}


def _places(side: int, device) -> torch.Tensor:
    """`[1, 2, side·side]`: row and column of each position of a map, from −1 to 1."""
    axis = torch.linspace(-1, 1, side, device=device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)[None]
