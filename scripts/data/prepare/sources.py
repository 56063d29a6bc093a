"""Reading what archives hold: folders, lists and listings. All of it is untrusted and checked before use."""

import os
import re
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from common import files
from common.cli import UserError
from common.listed_files import inside
from scripts.data.prepare.options import HOW_TO_GET


class Listing:
    """Sizes of files from one listing a folder: far fewer system calls than a question a file."""

    def __init__(self):
        self._folders: dict[str, dict[str, int]] = {}
        self._spellings: dict[Path, dict[str, str]] = {}

    def files(self, folder) -> dict[str, int]:
        """Name → bytes of the plain files in a folder, hidden ones left out; empty if there is no such folder."""
        folder = str(folder)
        if folder not in self._folders:
            self._folders[folder] = _scan(folder)
        return self._folders[folder]

    def size(self, path) -> int | None:
        """Bytes of a file, or None if it is not there."""
        folder, name = os.path.split(path)
        return self.files(folder).get(name)

    def spelled(self, root, relative: str) -> str:
        """`relative`, a path in composed Unicode as `tidy` gives it, as the disk below `root` spells it.

        macOS decomposes the letters of names. Unchanged if there is nothing of that name.
        """
        if relative.isascii() or self.size(Path(root, relative)) is not None:
            return relative
        folder = Path(root)
        for part in relative.split("/"):
            if folder not in self._spellings:
                self._spellings[folder] = {tidy(name): name for name in os.listdir(folder)} if folder.is_dir() else {}
            folder /= self._spellings[folder].get(part, part)
        return folder.relative_to(root).as_posix()


def _scan(folder: str) -> dict[str, int]:
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    try:
                        status = entry.stat()
                    except OSError:  # a link to nothing
                        continue
                    if stat.S_ISREG(status.st_mode):
                        found[entry.name] = status.st_size
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}; check its permissions") from None
    return found


def subfolders(folder) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from None


def find(candidates, what: str, option: str) -> Path:
    """The first of `candidates` that exists. UserError says what is missing, where it should be and which option names
    another place."""
    candidates = [Path(path) for path in candidates]
    for path in candidates:
        if path.exists():
            return path
    raise UserError(
        f"{what} is not there: {candidates[0]} does not exist; {HOW_TO_GET}, and {option} names a copy elsewhere"
    )


def read_text(path, errors: str = "strict") -> str:
    """A text file of an archive, as `files.read_text` reads it."""
    if not Path(path).exists():
        raise UserError(f"{path} does not exist; unpack its archive again ({HOW_TO_GET})")
    return files.read_text(path, errors)


def read_lines(path, errors: str = "strict") -> list[str]:
    """The lines of a text file without blanks at their ends, empty ones left out."""
    return [line.strip() for line in read_text(path, errors).split("\n") if line.strip()]


def tidy(name: str) -> str:
    """A name or path of a list in one spelling: '/' for the '\\' of Windows, composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def numbered(path) -> dict[int, str]:
    """'<number> <rest>' on every line → {number: rest}. UserError names the line that is not so."""
    found = {}
    for line in read_lines(path):
        match = re.fullmatch(r"(\d{1,9})\s+(.+)", line)
        if not match or int(match[1]) in found:
            raise UserError(
                f"{path}: the line '{line[:80]}' is not a new number and its value; unpack the archive again"
            )
        found[int(match[1])] = match[2]
    if not found:
        raise UserError(f"{path} is empty; unpack the archive again")
    return found


def plain_path(relative: str, source) -> str:
    """`relative`, a path that a list `source` names, tidied; UserError if it is absolute or climbs out."""
    relative = tidy(relative)
    try:
        inside(Path(), relative)
    except ValueError as error:
        raise UserError(f"{source}: {error}; the file is damaged or not the original, download it again") from None
    return str(PurePosixPath(relative))


def last_number(name: str) -> int | None:
    """'Laysan_Albatross_0003_1033.jpg' → 1033: the image's number in the whole set."""
    match = re.search(r"(\d{1,9})(?:\.[A-Za-z]+)?$", name)
    return int(match[1]) if match else None
