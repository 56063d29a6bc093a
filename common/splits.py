"""Split files: `data/<set>/{train,test}.json` of birds, flowers, places or any set in one of these forms.

A split file is `{"image_base_path", "audio_base_path", "image_feature_path", "data": [item, …]}`. The items of the three
published sets differ in names; here they all become `Item`. Relative base paths count from the project's root.
"""
import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common import ROOT
from common.cli import UserError
from common.files import read_json

_HALF = re.compile("[\ud800-\udfff]")              # halves of characters, which JSON can write and no file can hold
_UNUSABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]")      # and what steers a terminal

PLACES_CLASSES = ("bedroom", "dinette", "dining_room", "home_office", "hotel_room", "kitchenette", "living_room")


@dataclass(frozen=True)
class Item:
    """One image with its captions. `key` is the image's path below the image folder, without suffix."""
    key: str
    image: Path
    label: int
    class_name: str
    texts: tuple[str, ...]
    audio: tuple[Path, ...]


@dataclass(frozen=True)
class Split:
    """One split of a data set; `labels` are class numbers from 0, or the items' own numbers if there are no classes."""
    name: str
    path: Path
    items: tuple[Item, ...]
    image_root: Path
    audio_root: Path | None
    has_classes: bool

    @property
    def labels(self) -> list[int]:
        return [item.label for item in self.items]

    def digest(self) -> str:
        """Hash of the order of items and captions: what row i of a feature file means."""
        text = "\n".join(f"{item.key} {max(len(item.audio), len(item.texts))}" for item in self.items)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def project_path(path) -> str:
    """'./data/…' below the project's root, else absolute: what base paths in split files look like."""
    path = Path(os.path.abspath(path))
    return f"./{path.relative_to(ROOT).as_posix()}" if path.is_relative_to(ROOT) else path.as_posix()


def data_dir(dataset: str, root=None) -> Path:
    """The folder of a data set: `<root>/<dataset>`, root `data/` of the project. UserError if it is not there."""
    folder = Path(root) / dataset if root else ROOT / "data" / dataset
    if not folder.is_dir():
        raise UserError(f"--dataset {dataset}: the folder {folder} does not exist; "
                        f"prepare the set first (README, 'Data sets')")
    return folder


def load_split(folder, name: str) -> Split:
    """Read `<folder>/<name>.json`. UserError names the file, and the item where one is wrong."""
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist; prepare the set first (README, 'Data sets')")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list) or not content["data"]:
        raise UserError(f"{path} is no split file: it needs a list 'data' with at least one item")
    image_root = _image_root(_base(content, "image_base_path", path), content["data"][0])
    audio_root = _base(content, "audio_base_path", path) if content.get("audio_base_path") else None
    items = []
    for number, raw in enumerate(content["data"]):
        try:
            items.append(_item(raw, number, image_root, audio_root))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: item {number} is not of a known form: {reason}") from None
    classes = [item.class_name for item in items]
    has_classes = any(classes)
    labels = _labels(classes) if has_classes else range(len(items))
    items = [Item(i.key, i.image, label, i.class_name, i.texts, i.audio) for i, label in zip(items, labels)]
    return Split(name, path, tuple(items), image_root, audio_root, has_classes)


def _base(content: dict, field: str, path: Path) -> Path:
    value = content.get(field)
    if not isinstance(value, str) or not value or _UNUSABLE.search(value) or _is_long(value):
        raise UserError(f"{path}: '{field}' is missing or not a path")
    return Path(value) if Path(value).is_absolute() else ROOT / value


def _image_root(base: Path, first) -> Path:
    """Published split files give the image folder with or without its last part, `images`: accept both."""
    name = first.get("image", first.get("img")) if isinstance(first, dict) else None
    with contextlib.suppress(ValueError, OSError):           # what is wrong with the item is said where all are read
        inner = base / "images"
        if not inside(base, name).is_file() and inside(inner, name).is_file():
            return inner
    return base


def inside(base: Path, relative: str) -> Path:
    """`base / relative`; ValueError if `relative` is absolute, climbs out of `base`, or is no name that a file can have.

    Links below `base` are followed: only the user can have made them, since archives that hold links are refused.
    """
    if not isinstance(relative, str) or not relative or _UNUSABLE.search(relative):
        raise ValueError(f"{str(relative)[:80]!r} is not a path")
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError(f"'{relative[:80]}' leaves its base folder")
    if _is_long(relative):
        raise ValueError(f"'{relative[:80]}…' is too long for the name of a file")
    return base / pure


def _is_long(path: str) -> bool:
    return len(path.encode()) > 2048 or any(len(part.encode()) > 255 for part in path.split("/"))


def _item(raw: dict, number: int, image_root: Path, audio_root: Path | None) -> Item:
    places = "asr_text" in raw
    name = raw["image"] if "image" in raw else raw["img"]
    if places and isinstance(name, str) and name.startswith("./"):
        name = name[2:]
    texts = raw.get("text", [raw["asr_text"]] if places else [])
    audio = raw.get("audio", raw.get("wav", []))
    texts, audio = ([value] if isinstance(value, str) else value for value in (texts, audio))
    if places:                                     # published Places files carry a folder of five characters
        audio = [wav[5:] for wav in audio]
    if not all(isinstance(text, str) and not _HALF.search(text) for text in texts):
        raise ValueError("'text' is not a list of sentences")
    if audio and audio_root is None:
        raise ValueError("it names sound, but the file has no 'audio_base_path'")
    image = inside(image_root, name)
    class_name = str(raw["class"]) if "class" in raw else name.split("/")[0] if places else ""
    if not isinstance(raw.get("class", ""), (str, int)) or len(class_name) > 200 or _UNUSABLE.search(class_name):
        raise ValueError("its 'class' is neither a name nor a number")
    key = str(PurePosixPath(name).with_suffix(""))
    return Item(key, image, number, class_name, tuple(texts), tuple(inside(audio_root, wav) for wav in audio))


def _labels(names: list[str]) -> list[int]:
    """Class names → numbers from 0: Places' fixed order, a leading number minus one, else the alphabet's order."""
    if all(name in PLACES_CLASSES for name in names):
        return [PLACES_CLASSES.index(name) for name in names]
    numbers = [re.match(r"\d{1,6}(?!\d)", name) for name in names]
    if all(numbers):
        labels = [int(match.group()) - 1 for match in numbers]
        if len(set(zip(labels, names))) == len(set(labels)) and min(labels) >= 0:
            return labels
    order = {name: label for label, name in enumerate(sorted(set(names)))}
    return [order[name] for name in names]
