"""Which sentences the page shows, and what a generator makes of them."""

from dataclasses import dataclass

import numpy as np

from StackGAN_v2 import sampler

MORE_NOISES = 4
STEPS = 11  # images of the interpolation, both ends included


@dataclass
class Sentence:
    """One caption. What `page_data` fills in for the templates comes after `place`.

    real: uint8 pixels of its image, or None; audio: its sound as a data: URI, or ''.
    """

    item: object  # common.splits.Item
    number: int  # which caption of the item
    place: int  # which item of the split
    real: np.ndarray | None = None
    audio: str = ""

    @property
    def words(self) -> str:
        return self.item.texts[self.number] if self.number < len(self.item.texts) else ""

    @property
    def sound(self):
        return self.item.audio[self.number] if self.number < len(self.item.audio) else None


@dataclass
class Generated:
    """branches: an image a branch of the generator, uint8 `[s, s, 3]`; more: the last branch's with other noises."""

    branches: list[np.ndarray]
    more: list[np.ndarray]


def choose(split, captions: list[int], count: int) -> list[Sentence]:
    """`count` sentences, or all if there are fewer, by a rule that does not look at the images.

    captions: how many each item has. Classes are taken evenly from first to last, again from the start when there are
    fewer than `count`; within a class, item and caption change from one sentence to the next.
    """
    groups = {}
    for place, (item, number) in enumerate(zip(split.items, captions)):
        groups.setdefault(item.label, []).extend((k, place) for k in range(number))
    # first all images' first captions, then their second ones: neighbours are of different images
    groups = [[(place, k) for k, place in sorted(groups[label])] for label in sorted(groups) if groups[label]]
    if len(groups) > count:
        groups = [groups[int((i + 0.5) * len(groups) / count)] for i in range(count)]
    chosen, used = [], set()
    for turn in range(max(map(len, groups), default=0)):
        for i, group in enumerate(groups):
            images = len({place for place, _ in group})
            start = (turn + i * (images + 1)) % len(group)  # the next class: the next image, its next caption
            free = next((pair for pair in group[start:] + group[:start] if pair not in used), None)
            if free and len(chosen) < count:
                used.add(free)
                chosen.append(Sentence(split.items[free[0]], free[1], free[0]))
    return sorted(chosen, key=lambda sentence: (sentence.item.label, sentence.place, sentence.number))


def generate(generator, rows, sentences: list[Sentence], precision: str, seed: int = 0) -> list[Generated]:
    """Each sentence's images. The first noise is that of the evaluated images (main.py with --manualSeed)."""
    import torch

    generated = []
    for sentence in sentences:
        key = (seed, sentence.place, sentence.number)
        others = (sampler.noise(generator, *key, n) for n in range(1, MORE_NOISES + 1))
        noises = torch.stack([sampler.noise(generator, *key), *others])
        speech = _embedding(rows, sentence).expand(1 + MORE_NOISES, -1)
        branches = sampler.generate(generator, speech, noises, precision)
        generated.append(Generated([branch[0] for branch in branches], list(branches[-1][1:])))
    return generated


def furthest(rows, sentences: list[Sentence]):
    """The two sentences whose embeddings differ most in direction; None if there are not two."""
    if len(sentences) < 2:
        return None
    speech = np.stack([rows[s.place][s.number] for s in sentences]).astype(np.float64)
    speech /= np.linalg.norm(speech, axis=1, keepdims=True) + 1e-12
    first, second = np.unravel_index(np.argmin(speech @ speech.T), (len(speech),) * 2)
    return (sentences[first], sentences[second]) if first != second else (sentences[0], sentences[1])


def interpolate(generator, rows, first: Sentence, second: Sentence, precision: str, seed: int = 0) -> list[np.ndarray]:
    """STEPS images on the straight line between two embeddings, one noise along it, as interpolation.py does."""
    import torch

    weights = torch.linspace(0, 1, STEPS)[:, None]
    noises = sampler.noise(generator, seed).expand(STEPS, -1)
    speech = (1 - weights) * _embedding(rows, first) + weights * _embedding(rows, second)
    return list(sampler.generate(generator, speech, noises, precision)[-1])


def _embedding(rows, sentence: Sentence):
    import torch

    return torch.from_numpy(np.ascontiguousarray(rows[sentence.place][sentence.number], np.float32))
