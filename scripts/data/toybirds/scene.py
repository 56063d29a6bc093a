"""Backgrounds: soft, out-of-focus sky, leaves, water or grass, and the branch or ground that a bird stands on.

A scene is chosen by the bird's posture and by chance, never by its species.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scripts.data.toybirds.masks import outline_mask
from scripts.data.toybirds.pose import Bird, spline, stroke

SCENES = ("sky", "leaves", "water", "grass")
_CHANCES = {
    "branch": (0.35, 0.45, 0.10, 0.10),
    "ground": (0.0, 0.25, 0.0, 0.75),
    "water": (0, 0, 1, 0),
    "flying": (0.55, 0.20, 0.15, 0.10),
}
_WORK = 160  # pixels of the side on which backgrounds are made: they are blurred anyway, enlarging costs little


def mix(one, other, share):
    """`one` where `share` is 0, `other` where it is 1; colours `[3]`, `share` an array or a number."""
    return np.asarray(one, np.float32) + np.asarray(share, np.float32)[..., None] * (
        np.asarray(other, np.float32) - np.asarray(one, np.float32)
    )


def clouds(rng: np.random.Generator, size: int, cells) -> np.ndarray:
    """Smooth noise `[size, size]` of mean 0 and deviation near 1; `cells` = (rows, columns) of the coarsest grid."""
    total = np.zeros((size, size), np.float32)
    for octave, weight in ((1, 1.0), (2, 0.5), (4, 0.25)):
        grid = rng.standard_normal((cells[0] * octave, cells[1] * octave), dtype=np.float32)
        total += weight * np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
    return total


def draw_scene(bird: Bird, image_size: int, rng: np.random.Generator) -> Image.Image:
    """The image `[image_size, image_size]`, RGB, without its bird."""
    kind = str(rng.choice(SCENES, p=_CHANCES[bird.pose]))
    size = min(_WORK, image_size)
    horizon = rng.uniform(0.25, 0.6)
    if bird.pose == "ground":
        horizon = min(horizon, bird.feet[1] / image_size - 0.12)
    colours = {"sky": _sky, "leaves": _leaves, "water": _water, "grass": _grass}[kind](rng, size, horizon)
    warm = rng.uniform(-0.04, 0.04)
    light = rng.uniform(0.92, 1.18) * np.array([1 + warm, 1, 1 - warm])
    grey = colours.mean(axis=-1, keepdims=True)
    colours = (grey + rng.uniform(0.6, 0.95) * (colours - grey)) * light
    image = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(size * 0.012)).resize((image_size,) * 2, Image.Resampling.BICUBIC)
    if bird.pose == "branch":
        _branch(image, bird, rng)
    elif bird.pose == "ground":
        _shadow(image, bird.feet, bird.unit * 0.55, bird.unit * 0.07, 0.35)
    elif bird.pose == "water":
        middle = np.array([bird.body[:, 0].mean(), bird.waterline])
        _shadow(image, middle, bird.unit * 0.75, bird.unit * 0.10, 0.30)
    return image


def _rows(size: int) -> np.ndarray:
    """Height in the image, 0 at the top and 1 at the bottom, `[size, size]`."""
    return np.broadcast_to(np.linspace(0, 1, size, dtype=np.float32)[:, None], (size, size))


def _sky(rng, size, horizon):
    tops = ((112, 160, 212), (140, 172, 206), (168, 182, 198), (128, 168, 196))
    lows = ((206, 222, 236), (220, 222, 222), (228, 220, 208), (200, 212, 224))
    sky = mix(tops[rng.integers(len(tops))], lows[rng.integers(len(lows))], _rows(size) ** rng.uniform(0.6, 1.4))
    cover = np.clip(clouds(rng, size, (3, 2)) * 0.45 + rng.uniform(-0.3, 0.4), 0, 1) * 0.75
    return sky + cover[..., None] * (np.array([238, 240, 242], np.float32) - sky)


def _leaves(rng, size, horizon):
    greens = ((74, 104, 62), (96, 116, 70), (120, 128, 84), (88, 112, 92), (138, 126, 84), (110, 132, 96))
    dark, light = (np.array(greens[i], np.float32) for i in rng.choice(len(greens), 2, replace=False))
    field = mix(
        dark * rng.uniform(0.65, 1.0),
        light * rng.uniform(0.95, 1.3),
        np.clip(0.5 + 0.35 * clouds(rng, size, (3, 3)), 0, 1),
    )
    image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.integers(25, 50)):  # leaves and gaps out of focus
        x, y, radius = *rng.uniform(0, size, 2), size * rng.uniform(0.02, 0.07)
        shade = rng.uniform(0.8, 1.35)
        colour = np.clip(mix(dark, light, rng.random()) * shade, 0, 255).astype(int)
        stretch = rng.uniform(0.6, 1.0)
        draw.ellipse((x - radius, y - radius * stretch, x + radius, y + radius * stretch), fill=(*colour, 90))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(size * 0.018)), np.float32)


def _water(rng, size, horizon):
    colours = ((104, 140, 160), (118, 146, 146), (140, 160, 172), (92, 122, 136), (128, 150, 138))
    near, far = (colours[i] for i in rng.choice(len(colours), 2, replace=False))
    field = mix(np.array(far) * 1.15, near, _rows(size))
    ripples = clouds(rng, size, (14, 2)) * rng.uniform(5, 10) * (0.5 + 0.7 * _rows(size))
    return field + ripples[..., None]


def _grass(rng, size, horizon):
    greens = ((112, 136, 78), (132, 142, 88), (156, 148, 100), (98, 126, 80), (140, 128, 96))
    skies = ((196, 210, 222), (150, 160, 130), (176, 186, 176))
    near, far = (np.array(greens[i], np.float32) for i in rng.choice(len(greens), 2, replace=False))
    rows = _rows(size)
    field = mix(far * 1.1, near, np.clip((rows - horizon) / (1 - horizon), 0, 1))
    edge = np.clip((rows - horizon) / 0.12 + 0.2 * clouds(rng, size, (1, 4)), 0, 1)
    sky = np.array(skies[rng.integers(len(skies))], np.float32)
    field = sky + edge[..., None] * (field - sky)
    image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(60):  # blades
        x, y = rng.uniform(0, size), size * rng.uniform(horizon + 0.1, 1.1)
        length, bend = size * rng.uniform(0.06, 0.16), size * rng.uniform(-0.05, 0.05)
        colour = np.clip(mix(near, far, rng.random()) * rng.uniform(0.8, 1.25), 0, 255).astype(int)
        line = np.array([(x, y), (x + bend * 0.3, y - length * 0.6), (x + bend, y - length)])
        outline = stroke(spline(line, 4, closed=False), size * 0.018, size * 0.004)
        draw.polygon([tuple(p) for p in outline.tolist()], fill=(*colour, 130))
    return np.asarray(image, np.float32)


def _shadow(image: Image.Image, centre, half_width: float, half_height: float, depth: float) -> None:
    """Darken a soft ellipse, so that a bird stands on its ground or lies in its water."""
    reach = np.array([half_width, half_height]) * 1.6
    x0, y0 = np.floor(centre - reach).astype(int)
    x1, y1 = np.ceil(centre + reach).astype(int)
    x, y = np.meshgrid((np.arange(x0, x1) - centre[0]) / half_width, (np.arange(y0, y1) - centre[1]) / half_height)
    mask = np.clip(1.3 - np.hypot(x, y), 0, 1) * 255 * depth
    image.paste((38, 44, 40), (int(x0), int(y0)), Image.fromarray(mask.astype(np.uint8)))


def _branch(image: Image.Image, bird: Bird, rng: np.random.Generator) -> None:
    """A thin branch under the feet from one edge of the image to the other or to a tip, with a few soft leaves."""
    size, thick = image.width, bird.unit * rng.uniform(0.055, 0.085)
    foot = bird.feet + (0, thick * 0.42)
    slope = rng.uniform(-0.22, 0.22)
    ends = [-0.1 * size, 1.1 * size]
    if rng.random() < 0.5:  # a tip some way beyond the feet
        ends[rng.integers(2)] = None
    left, right = (
        foot[0] + side * bird.unit * rng.uniform(0.5, 0.9) if end is None else end for side, end in zip((-1, 1), ends)
    )
    sag = rng.uniform(-0.04, 0.04, 2) * size

    def at(x: float, bend: float):
        return x, foot[1] + slope * (x - foot[0]) + bend

    line = spline(
        [
            at(left, sag[0]),
            foot - (bird.unit * 0.2, slope * bird.unit * 0.2),
            foot,
            foot + (bird.unit * 0.2, slope * bird.unit * 0.2),
            at(right, sag[1]),
        ],
        closed=False,
    )
    widths = (thick * (0.5 if ends[0] is None else 1.15), thick * (0.5 if ends[1] is None else 1.15))
    bark = np.array(((98, 80, 64), (112, 100, 88), (84, 76, 70), (126, 106, 82))[rng.integers(4)])
    bark = bark * rng.uniform(0.8, 1.15)

    def fill(outline, colour, opacity=1.0):
        mask, corner = outline_mask(outline, image.size, 2 if size > 256 else 4)
        colour = tuple(int(v) for v in np.clip(colour, 0, 255))
        image.paste(colour, corner, mask if opacity == 1 else mask.point(lambda value: int(value * opacity)))

    for _ in range(rng.integers(0, 4)):  # leaves hang from it, behind the bird
        start = line[rng.integers(len(line))]
        tilt, length = rng.uniform(0, 2 * np.pi), bird.unit * rng.uniform(0.16, 0.28)
        along = length * np.array([np.cos(tilt), np.sin(tilt)])
        across = 0.28 * np.array([-along[1], along[0]])
        green = np.array(((104, 128, 74), (128, 136, 84), (92, 118, 88))[rng.integers(3)]) * rng.uniform(0.85, 1.15)
        fill(spline([start, start + along * 0.4 + across, start + along, start + along * 0.4 - across]), green, 0.75)
    fill(stroke(line, *widths), bark * 0.72)
    fill(stroke(line - (0, thick * 0.13), widths[0] * 0.62, widths[1] * 0.62), bark)
    fill(stroke(line - (0, thick * 0.26), widths[0] * 0.22, widths[1] * 0.22), bark * 1.22)
