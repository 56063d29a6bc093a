"""The outlines of one bird: smooth closed curves in pixels, from a species' shape and an individual's posture.

A bird is built facing right in its own frame, y downwards, with a body of length 1 centred on the origin; then it is
mirrored, turned, scaled and put in its place.
"""

from dataclasses import dataclass, field

import numpy as np

POSES = ("branch", "ground", "water", "flying")
_POSE_CHANCES = (0.52, 0.19, 0.15, 0.14)
# Build by body size: head radius, half depth of the body, length of neck, legs and tail, in body lengths. The crop
# hides a bird's true size, so small birds are round with a big head and large ones slender with a long neck and legs.
_BUILD = {
    "small": {"head": 0.275, "depth": 0.345, "neck": 0.00, "legs": 0.13, "tail": 0.40},
    "medium": {"head": 0.235, "depth": 0.310, "neck": 0.06, "legs": 0.20, "tail": 0.48},
    "large": {"head": 0.200, "depth": 0.275, "neck": 0.20, "legs": 0.33, "tail": 0.46},
}
_SCALE = {"small": 0.93, "medium": 1.0, "large": 1.07}


@dataclass
class Bird:
    """Outlines `[N, 2]` in pixels. `regions` are clipped to `body` and drawn in order; `unit` is the body length."""

    pose: str
    unit: float
    facing: int  # 1 right, -1 left
    body: np.ndarray
    regions: dict[str, np.ndarray]
    wing: np.ndarray
    wing_bar: np.ndarray
    wing_feathers: list[np.ndarray]
    tail: np.ndarray
    tail_feathers: list[np.ndarray]
    beak: np.ndarray
    beak_line: np.ndarray
    eye: np.ndarray  # centre
    eye_radius: float
    far_wing: np.ndarray | None = None
    legs: list[np.ndarray] = field(default_factory=list)  # open lines, hip to toe
    feet: np.ndarray | None = None  # middle of the feet on their perch
    waterline: float | None = None  # y below which the bird is under water


def spline(points, steps: int = 7, closed: bool = True) -> np.ndarray:
    """Catmull-Rom curve through `points` `[N, 2]`, as a polyline with `steps` points a segment."""
    points = np.asarray(points, dtype=float)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.arange(steps)[:, None] / steps
    basis = 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1
    )  # [steps, 4]
    windows = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)  # [segments, 4, 2]
    curve = (basis @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def stroke(line: np.ndarray, start: float, end: float) -> np.ndarray:
    """Outline of a line `[N, 2]` drawn with a pen whose width goes from `start` to `end`."""
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    side = along[:, ::-1] * (-1, 1) * np.linspace(start, end, len(line))[:, None] / 2
    return np.concatenate([line + side, (line - side)[::-1]])


def make_bird(traits: dict[str, str], image_size: int, rng: np.random.Generator) -> Bird:
    """A bird of this species in a random posture, somewhere in a square image of `image_size` pixels."""
    pose = str(rng.choice(POSES, p=_POSE_CHANCES))
    build = {name: value * rng.uniform(0.94, 1.06) for name, value in _BUILD[traits["size"]].items()}
    parts = _Frame(pose, build, traits["beak_shape"], rng).parts()
    facing = 1 if rng.random() < 0.5 else -1
    turn = np.radians(rng.uniform(-4, 4)) if pose != "water" else 0.0
    turn_matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).T * (facing, 1)
    parts = _map(parts, lambda points: points @ turn_matrix)

    outer = [parts["body"], parts["wing"], parts["tail"], parts["beak"], *parts["legs"]]
    if parts["far_wing"] is not None:
        outer.append(parts["far_wing"])
    outer = np.concatenate(outer)
    low, high = outer.min(axis=0), outer.max(axis=0)
    if pose == "water":
        high[1] = parts["waterline"][1]
    width = min(rng.uniform(0.45, 0.70) * _SCALE[traits["size"]], 0.75)
    unit = float(image_size * min(width / (high - low)[0], 0.84 / (high - low)[1]))
    room = image_size - unit * (high - low)  # left over to move the bird about in
    # The mean of two uniforms: any place, but more often near the middle, as photographers hold it.
    corner = room * np.clip((rng.uniform(-0.05, 1.05, 2) + rng.uniform(-0.05, 1.05, 2)) / 2, 0.16, 0.84)
    parts = _map(parts, lambda points: (points - low) * unit + corner)
    if parts["waterline"] is not None:
        parts["waterline"] = float(parts["waterline"][1])
    return Bird(pose=pose, unit=unit, facing=facing, eye_radius=0.215 * build["head"] * unit, **parts)


def _map(value, function):
    """Apply `function` to every array in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: _map(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map(item, function) for item in value]
    return None if value is None else function(value)


class _Frame:
    """The bird's own frame: a body axis that leans by an angle, and a head that stays level."""

    def __init__(self, pose: str, build: dict, beak_shape: str, rng: np.random.Generator):
        self.pose, self.build, self.beak_shape, self.rng = pose, build, beak_shape, rng
        lean = np.radians(
            {
                "branch": rng.uniform(18, 42),
                "ground": rng.uniform(8, 30),
                "water": rng.uniform(2, 9),
                "flying": rng.uniform(-6, 14),
            }[pose]
        )
        self.forward = np.array([np.cos(lean), -np.sin(lean)])  # along the body, towards the head
        self.dorsal = np.array([-np.sin(lean), -np.cos(lean)])  # across it, towards the back
        nod = np.radians(rng.uniform(-9, 9))
        self.head_axes = np.array([[np.cos(nod), np.sin(nod)], [-np.sin(nod), np.cos(nod)]])
        neck, radius = build["neck"], build["head"]
        if pose == "flying":
            self.head_centre = self.at(0.44 + neck, 0.15) + radius * np.array([0.40, -0.25])
        else:
            self.head_centre = self.at(0.40, 0.2) + neck * np.array([0.25, -1.0]) + radius * np.array([0.25, -0.70])

    def at(self, along: float, across: float) -> np.ndarray:
        """Body coordinates → frame: `along` in body lengths from the centre, `across` in half depths, back positive."""
        return along * self.forward + across * self.build["depth"] * self.dorsal

    def head(self, x: float, y: float) -> np.ndarray:
        """Head coordinates, in head radii from its centre (x to the beak, y down) → frame."""
        return self.head_centre + self.build["head"] * (np.array([x, y]) @ self.head_axes)

    def parts(self) -> dict:
        wing = self._flying_wing() if self.pose == "flying" else self._folded_wing()
        tail, tail_feathers = self._tail()
        beak, beak_line = self._beak()
        legs, feet = self._legs()
        return {
            "body": self._body(),
            "regions": self._regions(),
            **wing,
            "tail": tail,
            "tail_feathers": tail_feathers,
            "beak": beak,
            "beak_line": beak_line,
            "eye": self.head(0.36, -0.06),
            "legs": legs,
            "feet": feet,
            "waterline": self.at(0, -0.86) if self.pose == "water" else None,
        }

    # Outlines, several points a line.
    # fmt: off

    def _body(self) -> np.ndarray:
        at, head = self.at, self.head
        shoulder, hindhead = at(0.19, 0.99), head(-0.96, 0.16)
        inside = (at(0.32, 0.1) + head(0.0, 0.4)) / 2
        neck_back = 0.42 * (shoulder + hindhead) + 0.16 * inside  # a shallow curve from head to back, at any lean
        neck_front = (at(0.47, -0.35) + head(0.70, 0.80)) / 2
        return spline([
            at(-0.54, 0.16), at(-0.30, 0.70), at(-0.02, 1.0), shoulder, neck_back, hindhead, head(-0.74, -0.66),
            head(-0.05, -1.0), head(0.66, -0.74), head(0.95, -0.10), head(0.80, 0.52), neck_front,
            at(0.44, -0.52), at(0.24, -0.94), at(-0.06, -1.02), at(-0.34, -0.66), at(-0.54, -0.22),
        ])

    def _regions(self) -> dict[str, np.ndarray]:
        """Fields of colour inside the body, each reaching beyond its outline; later ones cover earlier ones."""
        at, head = self.at, self.head
        # The neck's length is shared by nape (behind), throat (top of the front) and breast (rest of the front).
        return {
            "belly": spline([
                at(-0.62, -0.05), at(-0.30, -0.10), at(0.0, -0.16), at(0.30, -0.10), at(0.8, -0.3), at(0.7, -1.6),
                at(0.0, -1.6), at(-0.62, -1.2),
            ]),
            "breast": spline([
                at(0.12, -1.4), at(0.11, -0.75), at(0.15, -0.15), at(0.24, 0.35), at(0.33, 0.80), head(0.0, 0.3),
                head(1.6, 0.9), at(0.95, -0.3), at(0.6, -1.4),
            ]),
            "nape": spline([
                head(-1.3, -0.9), head(0.2, -0.6), head(1.2, -0.3), head(1.1, 0.12), head(0.3, 0.30),
                head(-0.25, 0.72), (head(-0.35, 1.2) + at(0.30, 0.45)) / 2, at(0.20, 0.75), at(0.10, 1.4),
                (head(-1.7, 0.6) + at(0.15, 1.5)) / 2,
            ]),
            "throat": spline([
                head(1.3, 0.05), head(0.55, 0.20), head(0.0, 0.36), head(-0.30, 0.85), head(-0.15, 1.35),
                head(0.55, 1.55), head(1.5, 1.3),
            ]),
            "crown": spline([
                head(1.4, -0.30), head(0.80, -0.27), head(0.3, -0.36), head(-0.35, -0.26), head(-0.85, -0.12),
                head(-1.06, -0.2), head(-1.0, -1.0), head(-0.2, -1.4), head(0.8, -1.4),
            ]),
        }

    def _folded_wing(self) -> dict:
        at, droop = self.at, self.rng.uniform(-0.08, 0.06)
        wing = spline([
            at(0.29, 0.30), at(0.10, 0.50), at(-0.18, 0.46), at(-0.46, 0.28 + droop), at(-0.72, 0.02 + droop),
            at(-0.44, -0.22 + droop), at(-0.14, -0.48), at(0.14, -0.50), at(0.28, -0.18),
        ])
        bar = spline([
            at(0.055, 0.56), at(0.02, 0.2), at(0.02, -0.2), at(0.07, -0.56), at(-0.035, -0.60), at(-0.095, -0.2),
            at(-0.095, 0.2), at(-0.055, 0.58),
        ])
        feathers = [
            spline([at(-0.14, y), at(-0.40, y * 0.75), at(-0.66, 0.02 + droop + y * 0.25)], closed=False)
            for y in (0.22, 0.0, -0.22)
        ]
        return {"wing": wing, "wing_bar": bar, "wing_feathers": feathers, "far_wing": None}

    def _flying_wing(self) -> dict:
        """A wing spread up or down: spans run from the shoulder along `span`, chords back along the body."""
        up = self.rng.random() < 0.7
        angle = np.radians(self.rng.uniform(62, 104) if up else -self.rng.uniform(70, 100))
        length = self.rng.uniform(0.74, 0.86) if up else self.rng.uniform(0.62, 0.72)
        chord = self.rng.uniform(0.35, 0.40)

        def outline(angle: float, shoulder: np.ndarray):
            span = length * np.array([np.cos(angle), -np.sin(angle)])
            back = -chord * self.forward

            def on(s: float, c: float) -> np.ndarray:
                return shoulder + s * span + c * back

            edge = [on(-0.04, 0.05), on(0.28, -0.16), on(0.60, -0.10), on(0.88, 0.16), on(1.0, 0.46)]
            for s, c in ((0.90, 0.62), (0.78, 0.80), (0.64, 0.92), (0.48, 1.0), (0.30, 1.06)):  # feather tips
                edge += [on(s, c), on(s - 0.045, c - 0.035)]
            return spline(edge + [on(0.06, 1.05), on(-0.10, 0.80), on(-0.14, 0.4)], steps=4), on

        wing, on = outline(angle, self.at(0.20, 0.05))
        far, _ = outline(angle - np.radians(self.rng.uniform(24, 36)) * (1 if up else -1), self.at(0.27, 0.45))
        bar = spline([
            on(0.36, -0.2), on(0.33, 0.3), on(0.28, 0.75), on(0.20, 1.12), on(0.33, 1.10), on(0.43, 0.75),
            on(0.48, 0.3), on(0.50, -0.2),
        ])
        feathers = [
            spline([on(s0, c0), on((s0 + s1) / 2 + 0.02, (c0 + c1) / 2), on(s1, c1)], closed=False)
            for s0, c0, s1, c1 in ((0.55, 0.2, 0.86, 0.6), (0.53, 0.4, 0.73, 0.78), (0.51, 0.6, 0.58, 0.9))
        ]
        return {"wing": wing, "wing_bar": bar, "wing_feathers": feathers, "far_wing": far}

    def _tail(self):
        root, length, rng = self.at(-0.42, 0.05), self.build["tail"], self.rng
        fan = rng.uniform(0.17, 0.21) if self.pose == "flying" else rng.uniform(0.115, 0.15)
        lift = np.radians(rng.uniform(-10, 10) if self.pose != "water" else rng.uniform(-22, -10))
        back = -np.array(
            [
                np.cos(lift) * self.forward[0] - np.sin(lift) * self.forward[1],
                np.sin(lift) * self.forward[0] + np.cos(lift) * self.forward[1],
            ]
        )
        side = np.array([-back[1], back[0]])
        notch = rng.uniform(-0.05, 0.05)  # forked or rounded end

        def on(along: float, across: float) -> np.ndarray:
            return root + (0.12 + length) * along * back + across * side

        tail = spline([
            on(0, 0.10), on(0.5, 0.75 * fan), on(0.95, fan), on(1.0, 0.75 * fan), on(1.0 - notch, 0),
            on(1.0, -0.75 * fan), on(0.95, -fan), on(0.5, -0.75 * fan), on(0, -0.10),
        ])
        feathers = [
            spline([on(0.4, y * fan * 0.6), on(0.7, y * fan * 0.9), on(0.96, y * fan)], closed=False)
            for y in (-0.45, 0.0, 0.45)
        ]
        return tail, feathers

    def _beak(self):
        head = self.head
        if self.beak_shape == "conical":
            outline = [head(0.80, -0.34), head(1.15, -0.22), head(1.62, 0.10), head(1.25, 0.26), head(0.78, 0.38)]
            line = [head(0.85, 0.06), head(1.2, 0.05), head(1.56, 0.10)]
        elif self.beak_shape == "pointed":
            outline = [
                head(0.82, -0.22), head(1.5, -0.12), head(2.55, 0.07), head(2.6, 0.10), head(1.5, 0.18),
                head(0.80, 0.26),
            ]
            line = [head(0.85, 0.03), head(1.6, 0.03), head(2.5, 0.09)]
        elif self.beak_shape == "hooked":
            outline = [
                head(0.78, -0.42), head(1.18, -0.40), head(1.56, -0.10), head(1.60, 0.34), head(1.50, 0.58),
                head(1.36, 0.30), head(1.10, 0.30), head(0.78, 0.40),
            ]
            line = [head(0.85, 0.10), head(1.15, 0.08), head(1.40, 0.22)]
        else:
            outline = [
                head(0.78, -0.40), head(1.05, -0.22), head(1.45, -0.04), head(1.85, -0.05), head(2.05, 0.14),
                head(1.85, 0.36), head(1.3, 0.40), head(0.76, 0.40),
            ]
            line = [head(0.85, 0.14), head(1.35, 0.20), head(1.98, 0.18)]
        return spline(outline, steps=5), spline(line, closed=False)

    # fmt: on

    def _legs(self):
        """Two legs as open lines with toes; none on the water, tucked up behind in flight."""
        if self.pose == "water":
            return [], None
        if self.pose == "flying":
            legs = [
                np.array([self.at(-0.26, -0.70), self.at(-0.46, -0.62 + y), self.at(-0.58, -0.58 + y)])
                for y in (-0.12, 0.10)
            ]
            return legs, None
        hips = [self.at(-0.06, -0.86), self.at(-0.20, -0.74)]
        ground = max(hip[1] for hip in hips) + self.build["legs"] + 0.06
        legs, feet = [], []
        for hip in hips:
            ankle = np.array([hip[0] + 0.02 + self.rng.uniform(-0.02, 0.02), ground])
            legs.append(np.array([hip, (hip + ankle) / 2 + (-0.025, 0), ankle]))
            legs += [np.array([ankle, ankle + (dx, 0.015)]) for dx in (0.085, -0.05)]
            feet.append(ankle)
        return legs, np.mean(feet, axis=0)
