"""Split files: `data/<set>/{train,test}.json` of birds, flowers, places or any set in one of these forms.

A split file is `{"image_base_path", "audio_base_path", "image_feature_path", "data": [item, …]}`. The items of the
three published sets differ in names; here they all become `Item`. Relative base paths count from the project's root.
Several items may have one image (one row a caption). Where published sets keep their split files: `locate`.
"""

import contextlib
import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common import ROOT
from common.cli import UserError, first_few
from common.files import read_json
from common.listed_files import UNUSABLE, WINDOWS_DRIVE, find_file, is_long

_HALF = re.compile("[\ud800-\udfff]")  # halves of characters, which JSON can write and no file can hold
_NUMBERED = re.compile(r"(\d{1,6})(?!\d)[\W_]*(.*)", re.DOTALL)  # "001.Black_footed_Albatross"
_SPLITS = ("train", "val", "test")  # whose classes are numbered together
_FORMS = ("{}.json", "metadata/{}.json", "metadata/{}_split.json")  # the last two: the published Places
_SHOWN = 12  # names that a message lists

PLACES_CLASSES = ("bedroom", "dinette", "dining_room", "home_office", "hotel_room", "kitchenette", "living_room")


@dataclass(frozen=True)
class Item:
    """One image with its captions. `key` is the image's path below the image folder, without suffix.

    Either of `texts` and `audio` may be empty; so may both.
    """

    key: str
    image: Path
    label: int
    class_name: str
    texts: tuple[str, ...]
    audio: tuple[Path, ...]

    @property
    def sentences(self) -> int:
        """How many of its captions are used: those with a recording, the first ones; all where none is named."""
        return len(self.audio) or len(self.texts)


@dataclass(frozen=True)
class Split:
    """One split of a data set; `labels` are class numbers from 0, or the images' own numbers if there are no classes."""

    name: str
    path: Path
    items: tuple[Item, ...]
    image_root: Path
    audio_root: Path | None
    has_classes: bool
    image_features: Path | None = None  # what a published file names as its features

    @property
    def folder(self) -> Path:
        """The data set's folder."""
        return folder_of(self.path)

    @property
    def labels(self) -> list[int]:
        return [item.label for item in self.items]

    @property
    def image_numbers(self) -> list[int]:
        """For each item the number of its image, counted from 0: items that list the same image share one."""
        return _numbered(item.image for item in self.items)

    def captions_used(self) -> str:
        """Which captions are used where recordings are named of the first ones alone; "" where all are."""
        used = sum(item.sentences for item in self.items)
        given = sum(max(item.sentences, len(item.texts)) for item in self.items)
        most = max(item.sentences for item in self.items)
        return f"the first {most} of each image, {used:,} of {given:,}" if used < given else ""

    def digest(self) -> str:
        """Hash of the order of items and captions: what row i of a feature file means."""
        text = "\n".join(f"{item.key} {item.sentences}" for item in self.items)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_dir(dataset: str, root=None) -> Path:
    """The folder of a data set: `<root>/<dataset>`, root `data/` of the project. UserError if it is not there.

    As in the published commands, `places` is the folder Places_subset.
    """
    parent = Path(root) if root else ROOT / "data"
    folder = parent / dataset
    if dataset == "places" and not folder.is_dir():
        folder = parent / "Places_subset"
    if not folder.is_dir():
        present = sorted(path.name for path in parent.glob("*/") if splits_in(path))
        there = f"; prepared sets there: {', '.join(first_few(dict.fromkeys(present), _SHOWN))}" if present else ""
        raise UserError(
            f"--dataset {dataset}: the folder {folder} does not exist{there}; prepare the set first (docs/datasets.md)"
        )
    return folder


def locate(folder, name: str) -> Path:
    """The split file `name` of a set: `<folder>/<name>.json`, or where a published set has it.

    The published Places have theirs in `metadata/`, as `<name>.json` or `<name>_split.json`; the published birds and
    Places call the test split `val`. Without such a file: `<folder>/<name>.json`, which does not exist.
    """
    for alias in (name, "val") if name == "test" else (name,):
        for form in _FORMS:
            path = Path(folder) / form.format(alias)
            if path.is_file():
                return path
    return Path(folder) / f"{name}.json"


def folder_of(path: Path) -> Path:
    """The data set's folder of a split file."""
    return path.parent.parent if path.parent.name == "metadata" else path.parent


def splits_in(folder) -> list[str]:
    """The names of the splits that a set has as files."""
    return [name for name in _SPLITS if any((Path(folder) / form.format(name)).is_file() for form in _FORMS)]


def load_split(folder, name: str) -> Split:
    """Read the split file `name` of a set, see `locate`. UserError names the file, and the item where one is wrong.

    Labels are the same in every split of the folder; see `_labels`.
    """
    if not name or "/" in name or UNUSABLE.search(name):
        raise UserError(f"{name[:80]!r} is not the name of a split, such as train or test")
    path = locate(folder, name)
    if not path.is_file():
        present = splits_in(folder)
        there = f"; the splits there are {', '.join(present)}" if present else ""
        raise UserError(f"{path} does not exist{there}; prepare the set first (docs/datasets.md)")
    return _load(path, name)


def load_split_file(path) -> Split:
    """Read a split file that is named by its path. Its name is the file's, without `_split`; a `val.json` without a
    test split beside it is the published sets' test split."""
    path = Path(path)
    name = path.stem.removesuffix("_split")
    return _load(path, "test" if name == "val" and locate(folder_of(path), "test").stem == path.stem else name)


def _load(path: Path, name: str) -> Split:
    content = _content(path)
    base = _base(content, "image_base_path", path, "data")
    image_root = _image_root(base, content["data"][0])
    audio_root = _audio_root(content, path)
    dropped = _dropped(audio_root, content["data"])
    items = []
    for number, raw in enumerate(content["data"]):
        try:
            items.append(_item(raw, number, image_root, audio_root, dropped))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: item {number} is not of a known form: {reason}") from None
    classes = [item.class_name for item in items]
    _check_classes(items, path)
    labels = _labels(classes, path) if any(classes) else _numbered(item.image for item in items)
    items = [Item(i.key, i.image, label, i.class_name, i.texts, i.audio) for i, label in zip(items, labels)]
    return Split(name, path, tuple(items), image_root, audio_root, any(classes), _named_features(content, path))


def _content(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list) or not content["data"]:
        raise UserError(f"{path} is not a split file: it needs a list 'data' with at least one item")
    return content


def _named(content: dict, field: str):
    """A field of a split file; the published birds write `a_` before it."""
    return content.get(field, content.get(f"a_{field}"))


def _base(content: dict, field: str, path: Path, usual: str) -> Path:
    """The folder that `field` names. Published files that name none, or one of their authors' machine, mean a folder of
    the set itself: `usual`, or the one with the same last parts."""
    value, own = _named(content, field), folder_of(path)
    usable = isinstance(value, str) and value and not UNUSABLE.search(value) and not is_long(value)
    if path.parent != own and (own / usual).is_dir() and not (usable and (ROOT / value).is_dir()):
        return own / usual
    if not usable:
        raise UserError(f"{path}: '{field}' is missing or not a path")
    if WINDOWS_DRIVE.match(value):
        raise UserError(f"{path}: '{field}' is a path of Windows, {value}; write the folder's path on this machine")
    if "\\" in value and not (ROOT / value).is_dir():
        value = value.replace("\\", "/")
    return _within(own, value) or ROOT / value  # an absolute path stays as it is


def _within(own: Path, value: str) -> Path | None:
    """What `<own>/<last parts of value>` is there, for a path `…/<name of own>/<last parts>` that is not."""
    parts = PurePosixPath(value).parts
    if (ROOT / value).exists() or own.name not in parts or ".." in parts:
        return None
    rest = parts[len(parts) - parts[::-1].index(own.name) :]
    return own.joinpath(*rest) if rest and own.joinpath(*rest).exists() else None


def _audio_root(content: dict, path: Path) -> Path | None:
    own = folder_of(path)
    return (
        _base(content, "audio_base_path", path, "audios")
        if _named(content, "audio_base_path") or (path.parent != own and (own / "audios").is_dir())
        else None
    )


def _named_features(content: dict, path: Path) -> Path | None:
    """The feature file that a published split file names; None if there is none, or only a folder."""
    for field in ("image_feature_path", "image_feature"):
        value = _named(content, field)
        if isinstance(value, str) and value.endswith(".pickle") and not UNUSABLE.search(value) and not is_long(value):
            found = _within(folder_of(path), value) or ROOT / value
            if found.is_file():
                return found
    return None


# ---- files that items name -------------------------------------------------------------------------------------------


def _image_root(base: Path, first) -> Path:
    """Published split files give the image folder with or without its last part, `images`: accept both."""
    name = first.get("image", first.get("img")) if isinstance(first, dict) else None
    with contextlib.suppress(ValueError, OSError):  # what is wrong with the item is said where all are read
        inner = base / "images"
        if isinstance(name, str) and not find_file(base, name).is_file() and find_file(inner, name).is_file():
            return inner
    return base


def _dropped(audio_root: Path | None, data: list) -> int:
    """How many characters at the start of a recording's name are not part of its path: five ("wavs/") in published
    Places files, none in others, unless the first recording is there only under the other of these two names."""
    first = next((raw for raw in data if isinstance(raw, dict) and _recordings(raw)), None)
    if first is None or audio_root is None:
        return 0
    usual, other = (5, 0) if "asr_text" in first else (0, 5)
    with contextlib.suppress(ValueError, OSError, TypeError, KeyError):  # a fault is told where all are read
        name = _recordings(first)[0]
        if not find_file(audio_root, name[usual:]).is_file() and find_file(audio_root, name[other:]).is_file():
            return other
    return usual


def _recordings(raw: dict) -> list:
    named = raw.get("audio", raw.get("wav", []))
    return [named] if isinstance(named, str) else named


def _item(raw: dict, number: int, image_root: Path, audio_root: Path | None, dropped: int) -> Item:
    image = find_file(image_root, _image_name(raw))
    texts = raw.get("text", [raw["asr_text"]] if "asr_text" in raw else [])
    texts = [texts] if isinstance(texts, str) else texts
    if not all(isinstance(text, str) and not _HALF.search(text) for text in texts):
        raise ValueError("'text' is not a list of sentences")
    audio = [wav[dropped:] if isinstance(wav, str) else wav for wav in _recordings(raw)]
    if audio and audio_root is None:
        raise ValueError("it names sound, but the file has no 'audio_base_path'")
    name = image.relative_to(image_root).as_posix()
    key = str(PurePosixPath(name).with_suffix(""))
    return Item(
        key,
        image,
        number,
        _class_of(raw, name),
        tuple(texts),
        tuple(find_file(audio_root, wav) for wav in audio) if audio_root else (),
    )


def _image_name(raw: dict) -> str:
    """What an item calls its image; published Places files write "./" before it."""
    name = raw["image"] if "image" in raw else raw["img"]
    return name.removeprefix("./") if isinstance(name, str) else name


def _class_of(raw: dict, image_name: str) -> str:
    """The class of an item, "" if it has none. ValueError if it is neither a name nor a number."""
    given = raw.get("class", _places_class(image_name) if "asr_text" in raw else "")
    name = str(given).strip() if isinstance(given, (str, int)) and not isinstance(given, bool) else "\0"
    if len(name) > 200 or UNUSABLE.search(name):
        raise ValueError("its 'class' is neither a name nor a number")
    return name


def _places_class(name: str) -> str:
    """ "kitchenette/1.jpg", or as in the archive of Places "k/kitchenette/1.jpg" → "kitchenette"."""
    first, *more = name.split("/")
    return more[0] if len(first) == 1 and len(more) > 1 and more[0].startswith(first) else first


# ---- classes ---------------------------------------------------------------------------------------------------------


def _check_classes(items: list[Item], path: Path) -> None:
    """UserError if some items have a class and others have none."""
    without = [item for item in items if not item.class_name]
    if without and len(without) < len(items):
        example = next(item for item in items if item.class_name)
        raise UserError(
            f"{path}: '{without[0].key}' (item {without[0].label}) has no class, but '{example.key}' has "
            f"'{example.class_name}' ({len(without)} of {len(items)} items have none); give every item a "
            f"class, or none"
        )


def _numbered(values) -> list[int]:
    """Equal values → equal numbers, from 0 in the order of their first appearance."""
    numbers: dict = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _labels(names: list[str], path: Path) -> list[int]:
    """Class names → numbers from 0, the same in every split of the folder: Places' fixed order; a leading number minus
    one; else the order of the alphabet over all splits together. UserError if classes are named in two ways."""
    shared = _classes_of_others(path)
    every = {*names, *shared}
    _check_forms(every, path)
    if every <= set(PLACES_CLASSES):
        return [PLACES_CLASSES.index(name) for name in names]
    matches = {name: _NUMBERED.fullmatch(name) for name in every}
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    same = {name: unicodedata.normalize("NFC", name) for name in every}
    if (
        len(numbers) == len(every)
        and min(numbers.values()) >= 1
        and len(set(numbers.values())) == len({str(int(name)) if name.isdecimal() else same[name] for name in every})
    ):
        return [numbers[name] - 1 for name in names]
    # a split of another name than the usual ones comes last, so that it changes no label of theirs
    usual = {same[name] for name in (every if path.stem in _SPLITS else shared)}
    order = [*sorted(usual), *sorted({*same.values()} - usual)]
    label = {name: number for number, name in enumerate(order)}
    return [label[same[name]] for name in names]


def _classes_of_others(path: Path) -> set[str]:
    """The classes that the other splits of the folder name; none of a file that cannot be read, since whoever loads it
    is told why."""
    found: set[str] = set()
    for other in _SPLITS:
        beside = locate(folder_of(path), other)
        if beside == path or not beside.is_file():
            continue
        with contextlib.suppress(UserError, TypeError, ValueError, AttributeError, KeyError):
            found |= {_class_of(raw, _image_name(raw).replace("\\", "/")) for raw in _content(beside)["data"]}
    return found - {""}


def _check_forms(names: set[str], path: Path) -> None:
    """UserError if one class seems to be named in two ways: 1 and "001.kind", or "kind" and "001.kind"."""
    by_number: dict[int, str] = {}
    by_words: dict[str, str] = {}
    for name in sorted(names):
        match = _NUMBERED.fullmatch(name)
        if match and match[2] and not name.isdecimal():
            by_number[int(match[1])] = by_words[match[2].casefold()] = name
    for name in sorted(names):
        twin = by_number.get(int(name)) if name.isdecimal() and len(name) < 7 else by_words.get(name.casefold())
        if twin:
            raise UserError(
                f"{path} and the splits beside it name classes in two ways, '{name}' and '{twin}'; write "
                f"each class in one way"
            )
