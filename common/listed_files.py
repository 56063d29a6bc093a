"""Paths that an untrusted list names, such as a split file or an archive's: only files below a folder are accepted."""

import re
import unicodedata
from pathlib import Path, PurePosixPath

UNUSABLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]")  # what no file name holds, and commands to a terminal
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def inside(base: Path, relative: str) -> Path:
    """`base / relative`; ValueError if `relative` is absolute, climbs out of `base`, or is not a name that a file
    can have.

    Links below `base` are followed: only the user can have made them, since archives that hold links are refused.
    """
    if not isinstance(relative, str) or not relative or UNUSABLE.search(relative):
        raise ValueError(f"{str(relative)[:80]!r} is not a path")
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or WINDOWS_DRIVE.match(relative):
        raise ValueError(f"'{relative[:80]}' leaves its base folder")
    if is_long(relative):
        raise ValueError(f"'{relative[:80]}…' is too long for the name of a file")
    return base / pure


def find_file(base: Path, name: str) -> Path:
    """`inside`, and where there is no such file but one that is written otherwise, that: with slashes for backslashes
    (lists made on Windows), or with accents in another Unicode form (lists or archives made on a Mac)."""
    path = inside(base, name)
    if "\\" in name and not path.exists():
        name = name.replace("\\", "/")
        path = inside(base, name)
    if name.isascii() or path.exists():
        return path
    found = base
    for part in PurePosixPath(name).parts:
        forms = [found / part, *(found / unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
        found = next((other for other in forms if other.exists()), forms[0])
    return found


def is_long(path: str) -> bool:
    return len(path.encode()) > 2048 or any(len(part.encode()) > 255 for part in path.split("/"))
