"""Where in an unpacked archive the data set lies: archives differ in the folders around it."""

import os
from pathlib import Path

_DEPTH = 3  # folders around the data set


def lacking(folder: Path, needs) -> str | None:
    """The first of `needs`, paths or patterns below `folder`, that nothing there matches."""
    return next((need for need in needs if not any(folder.glob(need))), None)


def gathered(unpacked: Path, name: str, needs) -> Path:
    """The folder in or at `unpacked` that is to get the name `name`: one that holds all of `needs`, or called so.

    What stands beside it in the archive is moved inside (CUB's `attributes.txt`). If all needs lie in one folder that
    the archive leaves out (`audio/<person>/…` packed as `<person>/…`), it is made. Without success: `unpacked`.
    """
    if not needs:
        top = unpacked / name if (unpacked / name).is_dir() else unpacked
        return _with_neighbours(top, unpacked)
    level = [unpacked]
    for _ in range(_DEPTH):
        for folder in level:
            if not lacking(folder, needs):
                return _with_neighbours(folder, unpacked)
            if inner := _left_out(needs):
                if not lacking(folder, [need.removeprefix(f"{inner}/") for need in needs]):
                    return _wrapped(folder, inner, unpacked)
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    return unpacked


def _left_out(needs) -> str | None:
    """The plain folder that all needs begin with, if there is one."""
    first = needs[0].partition("/")[0] + "/"
    return first[:-1] if all(need.startswith(first) for need in needs) and not set("*?[") & set(first) else None


def _wrapped(folder: Path, inner: str, unpacked: Path) -> Path:
    """A new folder with the files of `folder`, and its folders below `inner`."""
    outer = unpacked / ".layout"
    (outer / inner).mkdir(parents=True)
    for child in sorted(folder.iterdir()):
        if child != outer:
            os.rename(child, (outer / inner if child.is_dir() else outer) / child.name)
    return outer


def _with_neighbours(folder: Path, unpacked: Path) -> Path:
    place = folder
    while place != unpacked:
        for other in sorted(place.parent.iterdir()):
            if other != place and not (folder / other.name).exists():
                os.rename(other, folder / other.name)
        place = place.parent
    return folder
