"""Differentiable augmentation of what discriminators see (DiffAugment: Zhao et al., NeurIPS 2020)."""

import torch

DRAWS = 7  # uniform numbers an image: brightness, saturation, contrast, two of a shift, two of a cutout


def augmented(images: torch.Tensor, draws: torch.Tensor, kinds: list[str]) -> torch.Tensor:
    """images `[N, 3, s, s]` in [−1, 1], draws `[N, 7]` in [0, 1), kinds as in config.AUGMENTATIONS → `[N, 3, s, s]`."""
    assert draws.shape == (len(images), DRAWS), tuple(draws.shape)
    if "color" in kinds:
        images = _color(images, *draws[:, :3, None, None, None].unbind(1))
    if "translation" in kinds:
        images = _translation(images, draws[:, 3:5])
    if "cutout" in kinds:
        images = _cutout(images, draws[:, 5:7])
    return images


def _color(x, brightness, saturation, contrast):
    """Brightness ± 0.5, saturation × 0 … 2, contrast × 0.5 … 1.5."""
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translation(x, draws):
    """Shift by whole pixels, at most an eighth of the side each way; what comes in is 0."""
    for dim, draw in ((2, draws[:, 0]), (3, draws[:, 1])):
        size = x.shape[dim]
        most = size // 8
        shift = (draw * (2 * most + 1)).long() - most
        source = torch.arange(size, device=x.device) - shift[:, None]  # [N, s]
        shape = [len(x), 1, 1, 1]
        shape[dim] = size
        inside = ((source >= 0) & (source < size)).view(shape)
        x = x.gather(dim, source.clamp(0, size - 1).view(shape).expand_as(x)) * inside
    return x


def _cutout(x, draws):
    """A square of half the side, with its centre anywhere in the image, is 0."""
    covered = []
    for dim in (2, 3):
        size = x.shape[dim]
        centre = (draws[:, dim - 2] * size).long()[:, None]
        places = torch.arange(size, device=x.device)
        covered.append((places >= centre - size // 4) & (places < centre + size // 4))
    return x * ~(covered[0][:, None, :, None] & covered[1][:, None, None, :])
