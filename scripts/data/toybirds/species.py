"""Species: combinations of plumage colours, beak and body size, split into training and test species."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.cli import UserError

# Colour words and their sRGB values, chosen to stay apart in an image of 64 pixels under warm and cold light.
COLOURS = {
    "red": (204, 38, 40),
    "orange": (240, 130, 24),
    "yellow": (246, 214, 46),
    "green": (70, 148, 62),
    "blue": (42, 98, 204),
    "brown": (120, 74, 42),
    "black": (32, 32, 38),
    "white": (244, 243, 238),
    "grey": (140, 146, 152),
}
PLUMAGE = ("crown", "nape", "throat", "breast", "belly", "back", "wing", "tail")
BAR_COLOURS = ("none", "white", "yellow", "orange", "red", "black")
BEAK_COLOURS = ("black", "grey", "yellow", "orange", "red")
BEAK_SHAPES = ("conical", "pointed", "hooked", "flat")
SIZES = ("small", "medium", "large")
# Every attribute with its possible values; this order is the order of the lists in attributes.json.
ATTRIBUTES = {part: tuple(COLOURS) for part in PLUMAGE} | {
    "wing_bar": BAR_COLOURS,
    "beak": BEAK_COLOURS,
    "beak_shape": BEAK_SHAPES,
    "size": SIZES,
}

MIN_DIFFERENCES = 3  # attributes in which any two species differ, so that ten captions can tell them apart
_TRIES = 400  # candidates for one species before giving up: the space is vast, so only absurd requests do

_EPITHETS = {
    "red": ("Scarlet", "Crimson", "Ruby"),
    "orange": ("Orange", "Amber", "Copper"),
    "yellow": ("Golden", "Lemon", "Saffron"),
    "green": ("Emerald", "Olive", "Moss"),
    "blue": ("Azure", "Cobalt", "Sapphire"),
    "brown": ("Chestnut", "Umber", "Russet"),
    "black": ("Ebony", "Sable", "Raven"),
    "white": ("Snowy", "Ivory", "Pearl"),
    "grey": ("Ashy", "Slaty", "Silver"),
}
_FAMILIES = {
    "conical": {"small": ("Finch", "Siskin"), "medium": ("Bunting", "Sparrow"), "large": ("Grosbeak", "Hawfinch")},
    "pointed": {"small": ("Sunbird", "Spinebill"), "medium": ("Kingfisher", "Starling"), "large": ("Heron", "Rail")},
    "hooked": {"small": ("Lovebird", "Parrotlet"), "medium": ("Shrike", "Parakeet"), "large": ("Falcon", "Kite")},
    "flat": {"small": ("Tody", "Broadbill"), "medium": ("Teal", "Duck"), "large": ("Spoonbill", "Goose")},
}
_NAMED_PARTS = {
    "crown": "crowned",
    "nape": "naped",
    "throat": "throated",
    "breast": "breasted",
    "belly": "bellied",
    "back": "backed",
    "wing": "winged",
    "tail": "tailed",
}
_REGIONS = (
    "Northern Southern Eastern Western Mountain Island Forest Marsh "
    "Coastal Desert River Valley Lesser Greater Common Royal"
).split()


@dataclass(frozen=True)
class Species:
    """One class of the set. `number` counts from 1 as in CUB; `traits` gives every attribute its value."""

    number: int
    name: str
    traits: dict[str, str]
    is_test: bool

    @property
    def class_name(self) -> str:
        return f"{self.number:03d}.{self.name}"


class _Deck:
    """Deals values in shuffled rounds, so that each occurs equally often: rare colours would not be learnt."""

    def __init__(self, rng: np.random.Generator, values):
        self.rng, self.values, self.cards = rng, tuple(values), []

    def deal(self) -> str:
        if not self.cards:
            self.cards = [self.values[i] for i in self.rng.permutation(len(self.values))]
        return self.cards.pop()


class _Palette:
    """Draws the traits of plausible birds: an upper colour, a lower one and an accent, repeated over the parts."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.decks = {
            name: _Deck(rng, values)
            for name, values in (
                ("upper", COLOURS),
                ("lower", COLOURS),
                ("accent", COLOURS),
                ("bar", BAR_COLOURS[1:]),
                ("beak", BEAK_COLOURS),
                ("beak_shape", BEAK_SHAPES),
                ("size", SIZES),
            )
        }

    def _other(self, deck: str, *avoid: str) -> str:
        """The next card that is none of `avoid`."""
        while (card := self.decks[deck].deal()) in avoid:
            pass
        return card

    def _pick(self, **weights: float) -> str:
        names = list(weights)
        chances = np.array([weights[name] for name in names])
        return names[self.rng.choice(len(names), p=chances / chances.sum())]

    def draw(self) -> dict[str, str]:
        upper, lower = self.decks["upper"].deal(), self.decks["lower"].deal()
        if upper == lower and self.rng.random() < 0.8:  # a bird of one colour is rare
            lower = self._other("lower", upper)
        accent = self._other("accent", upper, lower)
        colour = {"upper": upper, "lower": lower, "accent": accent}
        crown = self._pick(accent=0.55, upper=0.3, lower=0.15)
        nape = self._pick(upper=0.55, crown=0.35, lower=0.1)
        throat = self._pick(lower=0.45, accent=0.35, upper=0.2)
        breast = self._pick(lower=0.6, throat=0.25, accent=0.15)
        wing = colour[self._pick(upper=0.7, accent=0.3)]
        colour |= {"crown": colour[crown]}
        colour |= {"throat": colour[throat]}
        has_bar = self.rng.random() < 0.65
        traits = {
            "crown": colour["crown"],
            "nape": colour[nape],
            "throat": colour["throat"],
            "breast": colour[breast],
            "belly": lower,
            "back": upper,
            "wing": wing,
            "tail": colour[self._pick(upper=0.5, accent=0.3, lower=0.2)],
            "wing_bar": self._other("bar", wing) if has_bar else "none",
            "beak": self._other("beak", colour["crown"]),
            "beak_shape": self.decks["beak_shape"].deal(),
            "size": self.decks["size"].deal(),
        }
        return {name: traits[name] for name in ATTRIBUTES}


def shared_values_needed(train_classes: int) -> int:
    """How many training species must show a value before a test species may: 3 in a set of useful size."""
    return max(1, min(3, train_classes // 20))


def _differences(one: dict, other: dict) -> int:
    return sum(one[name] != other[name] for name in ATTRIBUTES)


def _add(found: list, count: int, draw, complaint: str) -> None:
    """Append `count` draws to `found`, each MIN_DIFFERENCES attributes from all others; or UserError(complaint)."""
    for _ in range(count):
        for _ in range(_TRIES):
            traits = draw()
            if all(_differences(traits, other) >= MIN_DIFFERENCES for other in found):
                found.append(traits)
                break
        else:
            raise UserError(complaint)


def invent_species(classes: int, test_classes: int, seed: int) -> list[Species]:
    """`classes` different species in CUB's order (by number), `test_classes` of them, spread evenly, for testing.

    No two species are alike, and every value of a test species occurs in several training species: what is new in
    the test is the combination, never the attribute.
    """
    rng = np.random.default_rng([seed, 0])
    palette, found = _Palette(rng), []
    train_classes = classes - test_classes
    _add(
        found, train_classes, palette.draw, f"--classes {classes} is more species than can be told apart; ask for fewer"
    )
    counts = {name: Counter(traits[name] for traits in found) for name in ATTRIBUTES}
    needed = shared_values_needed(train_classes)
    known = {name: [value for value in ATTRIBUTES[name] if counts[name][value] >= needed] for name in ATTRIBUTES}

    def draw_known() -> dict[str, str]:
        traits = palette.draw()
        for name, value in traits.items():
            if value not in known[name]:
                traits[name] = str(rng.choice(known[name]))
        if traits["wing_bar"] == traits["wing"] and "none" in known["wing_bar"]:
            traits["wing_bar"] = "none"
        return traits

    _add(
        found,
        test_classes,
        draw_known,
        f"--classes {classes} leaves {train_classes} training species, too few to share their attributes with "
        f"{test_classes} new ones; raise --classes or lower --test_classes",
    )
    order = rng.permutation(classes)
    names = _names([found[i] for i in order], rng)
    return [Species(n + 1, names[n], found[i], bool(i >= train_classes)) for n, i in enumerate(order)]


def _names(all_traits: list[dict], rng: np.random.Generator) -> list[str]:
    """Unique names in CUB's manner, such as Scarlet_crowned_Finch; a region or a number is added when one is taken."""
    names, taken = [], set()
    for traits in all_traits:
        part = str(rng.choice(list(_NAMED_PARTS)))
        epithet = rng.choice(_EPITHETS[traits[part]])
        family = rng.choice(_FAMILIES[traits["beak_shape"]][traits["size"]])
        plain = f"{epithet}_{_NAMED_PARTS[part]}_{family}"
        choices = [plain] + [f"{_REGIONS[i]}_{plain}" for i in rng.permutation(len(_REGIONS))]
        name = next((choice for choice in choices if choice not in taken), f"{plain}_{len(names) + 1}")
        names.append(name)
        taken.add(name)
    return names
