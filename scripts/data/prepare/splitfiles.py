"""Split files: written completely or not at all, kept where they are there already, and checked either way."""

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import UserError
from common.files import MADE_BY, set_aside, write_bytes, write_json
from common.splits import Split, load_split
from scripts.data.prepare.sources import Listing

PUBLISHED = ("published_split", "published", "flowers_audio")  # where download.py puts split files of others


@dataclass(frozen=True)
class Expected:
    """What the complete set shows in one split; None where it is not known."""

    images: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Rules:
    """What a prepared set must be like."""

    dataset: str  # its name in messages
    expected: dict[str, Expected]  # split → counts, in the order of writing
    captions: int  # captions an image
    recorded: bool = False  # people's recordings: a caption without its wav is an error
    apart: bool = False  # zero-shot: no class in two splits
    classes: tuple[str, ...] | None = None  # the only ones allowed
    any_size: bool = False  # a part of the set: no comparison of counts


@dataclass
class Built:
    """What a set's builder gives: split → the content of its file, and folders to be linked (name → target)."""

    contents: dict[str, dict]
    links: dict[Path, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare(folder: Path, rules: Rules, build: Callable[[], Built], overwrite: bool = False) -> None:
    """Make the split files of `rules` in `folder`, or keep those that are there; check all and print the counts.

    A published file in one of `PUBLISHED` comes before one of ours. `overwrite`: every file is made from the archives.
    `build` is called only if one is to be made. UserError says what is wrong; then the folder is as it was.
    """
    names = list(rules.expected)
    kept = [name for name in names if (folder / f"{name}.json").exists() and not overwrite]
    given = {name: path for name in names if name not in kept and not overwrite and (path := published(folder, name))}
    written = [name for name in names if name not in kept]
    built = build() if len(kept) + len(given) < len(names) else Built({})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".preparing.*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        staging = tempfile.TemporaryDirectory(dir=folder, prefix=".preparing.")
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be written to: {error.strerror}") from None
    # New files stand in a folder of their own until everything is checked: a fault leaves what was there before.
    with staging, _linked(built.links):
        places = {
            name: folder if name in kept else given[name].parent if name in given else Path(staging.name)
            for name in names
        }
        for name in written:
            if name not in given:
                write_json(places[name] / f"{name}.json", {"made_by": MADE_BY, **built.contents[name]})
        lines = check([load_split(places[name], name) for name in names], rules)
        for name, path in given.items():
            write_bytes(Path(staging.name) / f"{name}.json", path.read_bytes())
        try:
            for name in written:
                if moved := set_aside(folder / f"{name}.json"):
                    print(f"{folder / name}.json that was there is now {moved.name}")
                os.replace(Path(staging.name) / f"{name}.json", folder / f"{name}.json")
        except OSError as error:
            raise UserError(f"{folder / name}.json cannot be replaced: {error.strerror}") from None
    for name, line in zip(names, lines):
        what = "is kept as it was" if name in kept else f"copied from {given[name]}" if name in given else "written"
        print(f"{folder / name}.json {what}: {line}")
    for note in built.notes:
        print(note)


def published(folder: Path, name: str) -> Path | None:
    """A published `<name>.json` up to two folders deep in one of `PUBLISHED`; None if there is none.

    UserError if two lie equally deep: only a person can say which is meant.
    """
    for place in PUBLISHED:
        for between in ("", "*/", "*/*/"):
            found = sorted((folder / place).glob(f"{between}{name}.json"))
            if len(found) > 1:
                raise UserError(
                    f"{found[0]} and {found[1]} could both be the published split; copy the right one to "
                    f"{folder / name}.json"
                )
            if found:
                return found[0]
    return None


@contextlib.contextmanager
def _linked(links: dict[Path, Path]):
    """Links to folders; on an error those made here go again."""
    made = []
    try:
        for name, target in links.items():
            if not os.path.lexists(name):
                made += [path for path in [name.parent] if not path.exists()]
                name.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(os.path.abspath(target), name, target_is_directory=True)
                made.append(name)
            elif not name.is_dir() or not name.samefile(target):
                raise UserError(
                    f"{name} is there but not the folder {target}; move it away, or give its parent folder as --images"
                )
        yield
    except BaseException as error:
        for path in reversed(made):
            path.unlink() if path.is_symlink() else path.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename2 or error.filename} cannot be made: {error.strerror}") from None
        raise


# ---- checks ---------------------------------------------------------------------------------------------------------


def check(splits: list[Split], rules: Rules) -> list[str]:
    """Everything that later stages rely on; one line of counts a split. UserError names the first fault found."""
    listing = Listing()
    lines = []
    for split in splits:
        _check_items(split, rules)
        _check_images(split, listing)
        sound = _check_sound(split, rules, listing)
        classes = f" of {len(set(split.labels))} classes" if split.has_classes else ""
        captions = sum(item.sentences for item in split.items)
        lines.append(f"{len(split.items):,} images{classes}, {captions:,} captions, {sound}")
    _check_apart(splits, rules)
    if not rules.any_size:
        _check_counts(splits, rules)
    return lines


def _check_items(split: Split, rules: Rules) -> None:
    keys = Counter(item.key for item in split.items)
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise UserError(
            f"{split.name}.json names {twice[0]} twice ({len(twice)} images in all); make it again from "
            f"the archives with --overwrite"
        )
    spoken = max(len(item.audio) for item in split.items)  # text_to_speech.py may speak the first few alone
    for item in split.items:
        if item.class_name in (".", "..") or "/" in item.class_name or not item.class_name.isprintable():
            raise UserError(f"{split.name}.json: the class {item.class_name!r} of {item.key} is no name")
        if rules.classes and item.class_name not in rules.classes:
            raise UserError(
                f"{split.name}.json: {item.key} is of none of the classes {', '.join(rules.classes)}; if "
                f"it is the release's own file, move it out of the way (its place is metadata/)"
            )
        given = max(len(item.texts), len(item.audio))
        if given != rules.captions and not (rules.any_size and rules.recorded and given):
            raise UserError(
                f"{split.name}.json: {item.key} has {given} captions, {rules.captions} are expected; make "
                f"the file again with --overwrite"
            )
        named = len(item.texts) if rules.recorded else min(spoken, len(item.texts))
        if item.audio and item.texts and len(item.audio) != named:
            raise UserError(
                f"{split.name}.json: {item.key} has {len(item.texts)} captions but {len(item.audio)} "
                f"recordings; make the file again with --overwrite"
            )


def _check_images(split: Split, listing: Listing) -> None:
    absent = [item.image for item in split.items if not listing.size(item.image)]
    if absent:
        state = "is empty" if listing.size(absent[0]) == 0 else "is not there"
        raise UserError(
            f"the image {absent[0]} {state} ({len(absent):,} of the {len(split.items):,} that "
            f"{split.name} needs); unpack the images again, or correct 'image_base_path' in the file"
        )


def _check_sound(split: Split, rules: Rules, listing: Listing) -> str:
    named = [wav for item in split.items for wav in item.audio]
    absent = [wav for wav in named if listing.size(wav) is None]
    empty = [wav for wav in named if listing.size(wav) == 0]
    if empty:
        hint = "unpack the recordings again" if rules.recorded else "delete it and run text_to_speech.py again"
        raise UserError(
            f"the recording {empty[0]} has zero bytes ({len(empty):,} of {len(named):,} in {split.name}); {hint}"
        )
    if rules.recorded:
        silent = [item.key for item in split.items if not item.audio]
        if silent:
            raise UserError(f"{split.name}.json names no recording of {silent[0]}; make it again with --overwrite")
        if absent:
            raise UserError(
                f"the recording {absent[0]} is not there ({len(absent):,} of the {len(named):,} that "
                f"{split.name} needs); unpack the recordings again"
            )
    if not named:
        return "no recordings yet (text_to_speech.py makes them)"
    if absent:
        return (
            f"{len(named) - len(absent):,} of {len(named):,} recordings (text_to_speech.py makes the others; the "
            f"first is {absent[0]})"
        )
    return f"{len(named):,} recordings"


def _check_apart(splits: list[Split], rules: Rules) -> None:
    for n, first in enumerate(splits):
        for second in splits[n + 1 :]:
            pairs = [("image", *({item.key for item in split.items} for split in (first, second)))]
            if rules.apart:
                pairs.append(("class", *({item.class_name for item in split.items} for split in (first, second))))
            for what, ours, theirs in pairs:
                if both := sorted(ours & theirs):
                    raise UserError(
                        f"the {what} {both[0]} is both in {first.name} and in {second.name} ({len(both):,} "
                        f"such); correct the list that says so, or make both files again with --overwrite"
                    )


def _check_counts(splits: list[Split], rules: Rules) -> None:
    wrong = []
    for split in splits:
        expected = rules.expected[split.name]
        for what, seen, wanted in (
            ("images", len(split.items), expected.images),
            ("classes", len(set(split.labels)), expected.classes),
        ):
            if wanted is not None and seen != wanted:
                wrong.append(
                    f"{split.name} has {seen:,} {what} where {wanted:,} are expected "
                    f"({abs(seen - wanted):,} {'fewer' if seen < wanted else 'more'})"
                )
    if wrong:
        raise UserError(
            f"{rules.dataset}: {'; '.join(wrong)}: unpack the archives again, or give --any_size for a part of the set"
        )
