"""Captions: sentences that name three to five attributes of a species, as people described birds for CUB."""

from dataclasses import dataclass

import numpy as np

from scripts.data.toybirds.species import ATTRIBUTES, PLUMAGE

CAPTIONS_PER_IMAGE = 10
FEWEST, MOST = 3, 5  # attributes that one sentence names
SHORTEST, LONGEST = 8, 25  # words

# Nouns of the parts; a noun marked with + is plural. A frequent word is listed more than once.
_NOUNS = {
    "crown": ("crown", "crown", "crown", "crown", "cap"),
    "nape": ("nape", "nape", "nape", "hindneck"),
    "throat": ("throat",),
    "breast": ("breast", "breast", "breast", "chest"),
    "belly": ("belly", "belly", "belly", "abdomen", "underside", "stomach"),
    "back": ("back", "back", "back", "upper back"),
    "wing": ("wings+", "wings+", "wings+", "wing feathers+"),
    "tail": ("tail", "tail", "tail feathers+", "rectrices+"),
}
# What a clause with a verb may say instead ("the top of its head is red").
_CLAUSE_NOUNS = {
    "crown": ("top of its head", "top of the head"),
    "nape": ("back of its neck",),
    "back": ("upper side of its back",),
    "belly": ("underside of its body",),
}
_BAR_PHRASES = (
    "{a} {colour} wing bar",
    "{colour} wing bars",
    "{colour} wing bars",
    "{colour} wingbars",
    "{a} {colour} stripe on its wings",
    "{a} {colour} band across the wings",
    "{colour} bars on its wings",
)
_SHAPE_WORDS = {
    "conical": ("short conical", "short, cone-shaped", "short thick", "stubby", "short and thick"),
    "pointed": ("long pointed", "long pointy", "long thin", "long, needle-like", "long and thin"),
    "hooked": ("hooked", "curved", "strongly hooked", "downward curved", "hook-shaped"),
    "flat": ("flat", "flat wide", "wide and flat", "broad flat", "flattened"),
}
_SIZE_WORDS = {
    "small": ("small", "small", "small", "tiny", "little", "small sized"),
    "medium": ("medium sized", "medium sized", "medium-sized"),
    "large": ("large", "large", "big", "large sized"),
}
# How often a part is named. Belly or breast, back or wings, and the crown carry most of what an image shows.
_WEIGHTS = {
    "crown": 3.0,
    "nape": 1.0,
    "throat": 1.6,
    "breast": 3.0,
    "belly": 3.2,
    "back": 2.6,
    "wing": 3.2,
    "tail": 1.6,
    "wing_bar": 1.6,
    "beak": 1.6,
    "beak_shape": 1.8,
}

# Sentence forms. {size}: size word; {all}: all noun phrases; {first}: the first one and {rest}: the others;
# {clause}: one part as a clause ("its belly is white"); {clauses}: all parts as clauses.
FORMS = (
    "this bird has {all}",
    "this bird has {all}",
    "the bird has {all}",
    "a bird with {all}",
    "this is a bird with {all}",
    "this {size} bird has {all}",
    "a {size} bird with {all}",
    "this is a {size} bird with {all}",
    "the {size} bird has {all}",
    "this bird is {size} and has {all}",
    "it is a {size} bird that has {all}",
    "this particular bird has {all}",
    "a bird that has {all}",
    "this is a bird that has {all}",
    "the bird shown has {all}",
    "this bird has {first} with {rest}",
    "this bird has {first}, with {rest}",
    "the bird has {first} as well as {rest}",
    "a bird with {first}, plus {rest}",
    "this bird has {first}, and it also has {rest}",
    "{size} bird with {all}",
    "a {size} bird that has {first} and also {rest}",
    "with {first}, this bird also has {rest}",
    "this {size} bird features {all}",
    "a {size} bird has {first}, along with {rest}",
    "this bird has {rest}, and {clause}",
    "a bird with {rest}, and {clause}",
    "the {size} bird has {rest} and {clause}",
    "{clause}, and this bird has {rest}",
    "{clause} while the bird has {rest}",
    "this bird is {size}, and {clauses}",
    "on this bird {clauses}",
    "this is a bird where {clauses}",
    "a {size} bird where {clauses}",
    "this bird can be told by {all}",
    "you can see that this bird has {all}",
)


@dataclass(frozen=True)
class Caption:
    """A sentence and the attributes that it names, in the order of ATTRIBUTES."""

    text: str
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class _Phrase:
    """One thing said of a bird: as a noun phrase, and as a clause."""

    noun_phrase: str
    clause: str


def describe(traits: dict[str, str], rng: np.random.Generator) -> list[Caption]:
    """Ten different captions of a bird of this species."""
    captions, forms = {}, []
    while len(captions) < CAPTIONS_PER_IMAGE:
        if not forms:
            forms = [FORMS[i] for i in rng.permutation(len(FORMS))]
        caption = _sentence(forms.pop(), traits, rng)
        if SHORTEST <= len(caption.text.split()) <= LONGEST:
            captions.setdefault(caption.text, caption)
    return list(captions.values())


def _choose(traits: dict[str, str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` attributes to name, nearly always with one of the lower and one of the upper parts."""
    weights = {name: weight for name, weight in _WEIGHTS.items() if traits[name] != "none"}
    chosen = []

    def take(names, chance):
        names = [name for name in names if name not in chosen]
        if len(chosen) < count and rng.random() < chance:
            shares = np.array([weights[name] for name in names])
            chosen.append(str(rng.choice(names, p=shares / shares.sum())))

    take(("belly", "breast"), 0.92)
    take(("back", "wing"), 0.85)
    take(("crown",), 0.55)
    while len(chosen) < count:
        take(weights, 1.0)
    return chosen


def _sentence(form: str, traits: dict[str, str], rng: np.random.Generator) -> Caption:
    has_size = "{size}" in form
    chosen = _choose(traits, int(rng.integers(FEWEST, MOST + 1)) - has_size, rng)
    phrases = _phrases(chosen, traits, rng)
    if "{rest}" in form and len(phrases) < 2:  # everything has one colour: nothing is left for the rest
        form = "this {size} bird has {all}" if has_size else "this bird has {all}"
    phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    nouns = [phrase.noun_phrase for phrase in phrases]
    clauses = [phrase.clause.replace("its ", "the ") for phrase in phrases]
    text = form.format(
        size=rng.choice(_SIZE_WORDS[traits["size"]]),
        all=_join(nouns, rng),
        first=nouns[0],
        rest=_join(nouns[1:], rng, only_and=True),
        clause=phrases[0].clause,
        clauses=_join(clauses, rng, only_and=True),
    )
    if rng.random() < 0.25:
        text = text.replace("grey", "gray")
    named = set(chosen) | ({"size"} if has_size else set())
    return Caption(text + "." * bool(rng.random() < 0.5), tuple(name for name in ATTRIBUTES if name in named))


def _phrases(chosen: list[str], traits: dict[str, str], rng: np.random.Generator) -> list[_Phrase]:
    """Phrases that name the chosen attributes, parts of one colour often together ("a red crown and nape")."""
    groups: list[list[str]] = []
    for part in (name for name in chosen if name in PLUMAGE):
        mates = [group for group in groups if traits[group[0]] == traits[part] and len(group) < 3]
        if mates and rng.random() < 0.75:
            mates[0].append(part)
        else:
            groups.append([part])
    phrases = [_plumage_phrase(group, traits[group[0]], rng) for group in groups]
    if "wing_bar" in chosen:
        colour = traits["wing_bar"]
        bar = str(rng.choice(_BAR_PHRASES)).format(a=_article(colour), colour=colour)
        phrases.append(_Phrase(bar, f"there {'is' if bar.split()[0] in ('a', 'an') else 'are'} {bar}"))
    if "beak" in chosen or "beak_shape" in chosen:
        phrases.append(
            _beak_phrase(
                traits["beak"] if "beak" in chosen else "", traits["beak_shape"] if "beak_shape" in chosen else "", rng
            )
        )
    return phrases


def _plumage_phrase(parts: list[str], colour: str, rng: np.random.Generator) -> _Phrase:
    nouns = [str(rng.choice(_NOUNS[part])) for part in parts]
    plain = [noun.rstrip("+") for noun in nouns]
    article = "" if nouns[0].endswith("+") else _article(colour) + " "
    noun_phrase = f"{article}{colour} {_and(plain)}"
    if len(parts) == 1 and parts[0] in _CLAUSE_NOUNS and rng.random() < 0.4:
        return _Phrase(noun_phrase, f"the {rng.choice(_CLAUSE_NOUNS[parts[0]])} is {colour}")
    verb = "are" if len(parts) > 1 or nouns[0].endswith("+") else "is"
    return _Phrase(noun_phrase, f"{rng.choice(('its', 'the'))} {_and(plain)} {verb} {colour}")


def _beak_phrase(colour: str, shape: str, rng: np.random.Generator) -> _Phrase:
    noun = str(rng.choice(("beak", "bill")))
    words = str(rng.choice(_SHAPE_WORDS[shape])) if shape else ""
    if colour and words:
        described = f"{words} {colour}" if " and " not in words or rng.random() < 0.5 else f"{colour}, {words}"
        return _Phrase(f"{_article(described)} {described} {noun}", f"its {words} {noun} is {colour}")
    described = colour or words
    return _Phrase(f"{_article(described)} {described} {noun}", f"its {noun} is {described}")


def _article(following: str) -> str:
    return "an" if following[0] in "aeiou" else "a"


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _join(phrases: list[str], rng: np.random.Generator, only_and: bool = False) -> str:
    """A list in words, with or without the last comma, but with it when a phrase holds an "and" itself.

    only_and: the list must not end in "with", as it holds clauses or stands in a form with a "with" of its own.
    """
    if len(phrases) < 2:
        return "".join(phrases)
    compound = any(" and " in phrase for phrase in phrases)
    if len(phrases) == 2 and not only_and and rng.random() < 0.4:
        last = ", with "
    else:
        last = ", and " if compound or (len(phrases) > 2 and rng.random() < 0.5) else " and "
    return ", ".join(phrases[:-1]) + last + phrases[-1]
