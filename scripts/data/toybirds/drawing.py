"""Draws one image: a softly lit bird before a scene, its bounding box, and light grain over both."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scripts.data.toybirds.masks import outline_mask
from scripts.data.toybirds.pose import Bird, make_bird, stroke
from scripts.data.toybirds.scene import draw_scene
from scripts.data.toybirds.species import COLOURS, PLUMAGE

_BEAK_COLOURS = {
    "black": (44, 42, 44),
    "grey": (134, 138, 144),
    "yellow": (240, 200, 50),
    "orange": (238, 126, 30),
    "red": (200, 44, 38),
}
_NEUTRAL = 128  # value of the shading map that leaves a colour as it is; 255 is twice as bright
BOX_OPACITY = 64  # a pixel belongs to the bird's box when it is covered by at least this much of 255


@dataclass
class Drawing:
    """`image` RGB, `box` = (x, y, width, height) in pixels, tight around the visible bird, `alpha` its opacity."""

    image: Image.Image
    box: tuple[float, float, float, float]
    alpha: Image.Image


def draw_image(traits: dict[str, str], image_size: int, seed) -> Drawing:
    """A square image of `image_size` pixels of a bird of species `traits`; equal `seed`s give equal images."""
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
    bird = make_bird(traits, image_size, streams[0])
    image = draw_scene(bird, image_size, streams[1])
    layers = draw_bird(bird, traits, image_size, streams[2])
    alpha = Image.new("L", image.size)
    alpha.paste(layers.alpha, layers.corner)
    image.paste(layers.image(), layers.corner, layers.alpha)
    return Drawing(_grain(image, streams[3]), _box(alpha), alpha)


def _box(alpha: Image.Image) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = alpha.point(lambda value: 255 * (value >= BOX_OPACITY)).getbbox()
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)


def _grain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sensor noise in brightness: uniform between -3 and 3 of 255, a deviation of 2."""
    pixels = np.asarray(image).astype(np.int16)
    pixels += rng.integers(-3, 4, (image.height, image.width, 1), dtype=np.int8)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


class Layers:
    """A window on the image in which layers are laid over each other: colour, light and opacity, one map each.

    Light is drawn apart from colour, coarsely, and multiplied in once at the end: shading every layer at full size
    would take most of the time.
    """

    def __init__(self, corner: tuple[int, int], size: tuple[int, int], oversample: int, light: np.ndarray):
        self.corner, self.size, self.oversample, self.light = corner, size, oversample, light
        self.colour = Image.new("RGB", size)
        self.shade = Image.new("L", size, _NEUTRAL)
        self.alpha = Image.new("L", size)

    def mask(self, outline: np.ndarray) -> tuple[Image.Image, tuple[int, int]]:
        """Anti-aliased mask of an outline given in the image: (mask, its corner in the window)."""
        return outline_mask(outline - self.corner, self.size, self.oversample)

    def add(self, masked, colour, relief: float = 0.0, depth: float = 0.0) -> None:
        """Lay `colour` (a tuple, or an image of the window) over the mask, rounded like a cushion.

        relief: radius over which the edge falls away, in pixels; depth: contrast of the light on it, 0 to 1.
        """
        mask, at = masked
        box = (*at, at[0] + mask.width, at[1] + mask.height)
        self.colour.paste(colour.crop(box) if isinstance(colour, Image.Image) else colour, box, mask)
        self.alpha.paste(255, box, mask)
        self.shade.paste(self._cushion(mask, relief, depth), box, mask)

    def tint(self, masked, brightness: float, opacity: float) -> None:
        """Change the light where the mask lies, leaving colour and opacity."""
        mask, at = masked
        mask = mask.point(lambda value: int(value * opacity))
        self.shade.paste(int(_NEUTRAL * brightness), (*at, at[0] + mask.width, at[1] + mask.height), mask)

    def _cushion(self, mask: Image.Image, relief: float, depth: float) -> Image.Image:
        """Light on a mask seen as a raised cushion, as a shading map of the mask's size."""
        if not depth:
            return Image.new("L", mask.size, _NEUTRAL)
        step = max(1, int(relief / 3))  # a smooth map needs few pixels
        pad = 3 * step
        coarse = Image.new("L", (mask.width + 2 * pad, mask.height + 2 * pad))
        coarse.paste(mask, (pad, pad))
        coarse = coarse.reduce(step).filter(ImageFilter.GaussianBlur(relief / step))
        height = np.asarray(coarse, np.float32) / 255
        slope_y, slope_x = np.gradient(height * (relief / step))
        bright = 1 + depth * (-1.3 * (slope_x * self.light[0] + slope_y * self.light[1]) + 0.5 * (height - 0.85))
        shade = Image.fromarray(np.clip(bright * _NEUTRAL, 40, 190).astype(np.uint8))
        box = (pad / step, pad / step, (pad + mask.width) / step, (pad + mask.height) / step)
        return shade.resize(mask.size, Image.Resampling.BILINEAR, box=box)

    def image(self) -> Image.Image:
        """The bird's colours under its light, RGB."""
        shade = np.asarray(self.shade, np.uint16)[..., None]
        lit = np.asarray(self.colour, np.uint16) * shade // _NEUTRAL
        return Image.fromarray(np.minimum(lit, 255).astype(np.uint8))


def _jittered(colour, rng: np.random.Generator, light: np.ndarray) -> tuple[int, int, int]:
    """An individual's hue of a colour word: small shifts in hue and brightness under this image's light."""
    colour = np.array(colour) * light * rng.uniform(0.94, 1.06) + rng.uniform(-8, 8, 3)
    return tuple(int(v) for v in np.clip(colour, 12, 248))


def draw_bird(bird: Bird, traits: dict[str, str], image_size: int, rng: np.random.Generator) -> Layers:
    """The bird alone, in a window around it."""
    extent = _extent(bird)
    low = np.maximum(np.floor(extent.min(axis=0)) - 3, 0).astype(int)
    high = np.minimum(np.ceil(extent.max(axis=0)) + 3, image_size).astype(int)
    side = rng.choice([-1, 1])
    layers = Layers(
        tuple(int(v) for v in low),
        tuple(int(v) for v in high - low),
        2 if image_size > 256 else 4,
        light=np.array([side * rng.uniform(0.2, 0.7), -1.0]),
    )
    warm = rng.uniform(-0.03, 0.03)
    light = rng.uniform(0.93, 1.05) * np.array([1 + warm, 1, 1 - warm])
    colours = {part: _jittered(COLOURS[traits[part]], rng, light) for part in PLUMAGE}
    if traits["wing_bar"] != "none":
        colours["wing_bar"] = _jittered(COLOURS[traits["wing_bar"]], rng, light)
    colours["beak"] = _jittered(_BEAK_COLOURS[traits["beak"]], rng, light)
    colours["legs"] = _jittered((108, 92, 80), rng, light)

    if bird.far_wing is not None:
        layers.add(layers.mask(bird.far_wing), colours["wing"], 0.08 * bird.unit, 0.5)
        layers.tint(layers.mask(bird.far_wing), 0.72, 0.8)
    for leg in bird.legs:
        layers.add(layers.mask(stroke(leg, 0.034 * bird.unit, 0.026 * bird.unit)), colours["legs"])
    layers.add(layers.mask(bird.tail), colours["tail"], 0.07 * bird.unit, 0.7)
    _feathers(layers, bird.tail_feathers, bird.unit, 0.75)
    _draw_head_and_body(layers, bird, colours)
    _draw_wing(layers, bird, colours)
    _draw_eye(layers, bird)
    if bird.waterline is not None:
        _sink(layers, bird.waterline, bird.unit, rng)
    return layers


def _extent(bird: Bird) -> np.ndarray:
    outlines = [bird.body, bird.wing, bird.tail, bird.beak, *bird.legs]
    return np.concatenate(outlines + ([bird.far_wing] if bird.far_wing is not None else []))


def _feathers(layers: Layers, lines, unit: float, brightness: float) -> None:
    for line in lines:
        layers.tint(layers.mask(stroke(line, 0.008 * unit, 0.026 * unit)), brightness, 0.8)


def _draw_head_and_body(layers: Layers, bird: Bird, colours: dict) -> None:
    layers.add(layers.mask(bird.beak), colours["beak"], 0.04 * bird.unit, 0.6)
    layers.tint(layers.mask(stroke(bird.beak_line, 0.012 * bird.unit, 0.008 * bird.unit)), 0.55, 0.8)
    plumage = Image.new("RGB", layers.size, colours["back"])
    draw = ImageDraw.Draw(plumage)
    for part, outline in bird.regions.items():
        draw.polygon((outline - layers.corner).ravel().tolist(), fill=colours[part])
    # Feathers of neighbouring parts overlap: their border is soft, while the bird's own outline is sharp.
    plumage = plumage.filter(ImageFilter.GaussianBlur(max(0.6, 0.012 * bird.unit)))
    layers.add(layers.mask(bird.body), plumage, 0.13 * bird.unit, 0.85)


def _draw_wing(layers: Layers, bird: Bird, colours: dict) -> None:
    wing, at = layers.mask(bird.wing)
    drop = max(1, round(0.025 * bird.unit))
    shadow = wing.filter(ImageFilter.GaussianBlur(0.02 * bird.unit))
    layers.tint((shadow, (at[0], at[1] + drop)), 0.72, 0.55)
    feathers = Image.new("RGB", layers.size, colours["wing"])
    if "wing_bar" in colours:
        ImageDraw.Draw(feathers).polygon((bird.wing_bar - layers.corner).ravel().tolist(), fill=colours["wing_bar"])
        feathers = feathers.filter(ImageFilter.GaussianBlur(max(0.5, 0.008 * bird.unit)))
    layers.add((wing, at), feathers, 0.07 * bird.unit, 0.75)
    _feathers(layers, bird.wing_feathers, bird.unit, 0.72)


def _draw_eye(layers: Layers, bird: Bird) -> None:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    radius = bird.eye_radius
    # The pale ring keeps the eye visible on a black head, the dark disc on a white one.
    for scale, shift, colour in ((1.35, 0, (206, 200, 186)), (1.0, 0, (24, 20, 20)), (0.34, -0.34, (250, 250, 250))):
        layers.add(layers.mask(bird.eye + radius * (scale * circle + shift)), colour)


def _sink(layers: Layers, waterline: float, unit: float, rng: np.random.Generator) -> None:
    """Take away what is under water, along a line with small ripples."""
    width, height = layers.size
    x = np.arange(width)
    ripple = 0.012 * unit * np.sin(x / (0.09 * unit) + rng.uniform(0, 6)) + waterline - layers.corner[1]
    above = np.clip(ripple[None] - np.arange(height)[:, None], 0, 1)
    alpha = np.asarray(layers.alpha, np.float32) * above
    layers.alpha = Image.fromarray(np.round(alpha).astype(np.uint8))
