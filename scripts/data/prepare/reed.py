"""Reed et al.'s captions (CVPR 2016) for birds and flowers: ten lines an image, lists of classes, and their speech."""

import re
from pathlib import Path

from common.cli import UserError
from scripts.data.prepare import sources
from scripts.data.prepare.sources import Listing

CAPTIONS = 10


def text_folder(given: Path | None, folder: Path, archive: str) -> Path:
    """Where `<class>/<image>.txt` lie: below `given`, else below the set's folder, as in the archive or bare."""
    if given:
        candidates = [given / "text_c10", given / archive / "text_c10", given]
        if not given.is_dir():
            raise UserError(f"--captions {given} is not a folder")
    else:
        candidates = [folder / archive / "text_c10", folder / "text_c10", folder / archive / archive / "text_c10"]
    return sources.find(candidates, f"Reed's captions ({archive})", "--captions")


def class_split(texts: Path) -> dict[int, str]:
    """Class number → 'train' or 'test', from trainvalclasses.txt and testclasses.txt in or above the captions' folder.

    UserError if a list is missing or a class is in both.
    """
    split, origin = {}, {}
    for name, part in (("trainvalclasses.txt", "train"), ("testclasses.txt", "test")):
        path = sources.find([texts.parent / name, texts / name], f"Reed's list of classes {name}", "--captions")
        for line in sources.read_lines(path):
            number = class_number(line, path)
            if number in split:
                where = "in both splits" if split[number] != part else "named twice"
                raise UserError(
                    f"{path}: the class {line} is {where} (also in {origin[number]}); take it out of one list"
                )
            split[number], origin[number] = part, path
    return split


def class_number(name: str, source) -> int:
    """'001.Black_footed_Albatross' or 'class_00001' → 1: species names differ between archives, numbers do not."""
    match = re.fullmatch(r"(?:class_)?(\d{1,9})(?:\..*)?", name)
    if not match or not int(match[1]):
        raise UserError(f"{source}: '{name[:80]}' is no class such as 001.Black_footed_Albatross or class_00001")
    return int(match[1])


def caption_files(texts: Path, listing: Listing) -> dict[tuple[int, int], Path]:
    """(class number, image number) → caption file. UserError if two files claim one image."""
    found, folders = {}, {}
    for name in sources.subfolders(texts):
        number = class_number(name, texts)
        if number in folders:
            raise UserError(f"{texts}: the folders {folders[number]} and {name} have one class number; take one out")
        folders[number] = name
        for file in listing.files(texts / name):
            if file.endswith(".txt"):
                image = sources.last_number(file)
                if image is None:
                    raise UserError(
                        f"{texts / name / file}: no number of an image in its name; unpack the captions again"
                    )
                path = texts / name / file
                if found.setdefault((number, image), path) != path:
                    raise UserError(f"{path} and {found[number, image].name} have one image number; take one out")
    if not found:
        raise UserError(f"{texts} holds no caption files <class>/<image>.txt; unpack the captions again")
    return found


def read_captions(path: Path) -> list[str]:
    """The ten captions of a file, one space between words. UserError if there are fewer; lines beyond ten are left out.

    The files hold stray bytes that are no UTF-8; they stand between words and become spaces.
    """
    lines = [" ".join(line.replace("\ufffd", " ").split()) for line in sources.read_text(path, "replace").split("\n")]
    lines = [line for line in lines if line]
    if len(lines) < CAPTIONS:
        raise UserError(f"{path} has {len(lines)} captions, {CAPTIONS} are expected; unpack the captions again")
    return lines[:CAPTIONS]


def add_speech(items: dict[str, dict], field: str, root: Path, listing: Listing) -> list[str]:
    """Name the recordings `<root>/<person>/<class>/<image>_<k>.wav` in the items, if every caption has one.

    `items` maps '<class>/<image>' to a split file's item, whose `field` becomes the list. Gives notes for the user.
    """
    if not root.is_dir():
        return []
    spoken = {}
    for person in sources.subfolders(root):
        for folder in sources.subfolders(root / person):
            for name in listing.files(root / person / folder):
                if name.endswith(".wav"):
                    spoken.setdefault(sources.tidy(f"{folder}/{name[:-4]}"), f"{person}/{folder}/{name}")
    wanted = [f"{stem}_{k}" for stem in items for k in range(CAPTIONS)]
    lacking = [name for name in wanted if name not in spoken]
    if len(lacking) == len(wanted):
        return []
    if lacking:
        return [
            f"{root} has recordings of {len(wanted) - len(lacking):,} of the {len(wanted):,} captions (none of "
            f"{lacking[0]}), so the split files name none; text_to_speech.py makes the rest"
        ]
    for stem, item in items.items():
        item[field] = [spoken[f"{stem}_{k}"] for k in range(CAPTIONS)]
    return []
