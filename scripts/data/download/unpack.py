"""Unpacking untrusted archives: nothing leaves the folder, no links or devices, bounded in bytes, files and depth.

tarfile (with its data filter) and zipfile write the files; the rules checked before each of them are the same for both.
"""

import bz2
import contextlib
import gzip
import itertools
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from common.cli import UserError
from common.files import is_web_page, unwritable

LARGEST_HEADER = 16 << 20  # bytes that tarfile may ask for at once: a long name, not a gigabyte of it
LARGEST_DEPTH = 64  # folders in each other
LARGEST_NESTING = 4  # archives in each other
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")  # characters that steer a terminal
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.\w+|7z|rar)$", re.IGNORECASE)
_VOLUME = re.compile(r"\.(z?\d{2,3}|part\d+\.rar)$", re.IGNORECASE)
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
_UNREADABLE = (
    (b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"(\xb5/\xfd", "compressed with zstd"),
    (b'\x04"M\x18', "compressed with lz4"),
    (b"\x1f\x9d", "compressed with compress (.Z)"),
    (b"\x1f\xa0", "compressed with compress (.Z)"),
    (b"PK\7\x08", "one part of a zip archive in several"),
    (b"MSCF", "a cabinet archive"),
)
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    RecursionError,
    struct.error,
)
_BY_HAND = "unpack it with another program, pack the folder as .zip or .tar.gz and pass that with --archive FILE"


class BadArchive(UserError):
    """The archive itself is at fault: damaged, cut off, or not to be trusted."""


@dataclass(frozen=True)
class Limits:
    """What unpacking may give at most: bytes and files."""

    bytes: int
    files: int = 1_000_000


@dataclass
class _Guard:
    """The rules for members, and what has been unpacked so far. `archive`: its name in messages."""

    archive: str
    folder: Path
    limits: Limits
    bytes: int = 0
    files: int = 0

    def admit(self, name: str, is_folder: bool, size: int, special: str | None = None) -> str | None:
        """The path below the folder that a file is to be written to, whose parent is there; None for what needs no
        writing (folders, which are made here, and macOS's resource files). BadArchive if the member is refused."""
        shown = name[:120] if name.isprintable() else name[:120].encode("unicode_escape", "backslashreplace").decode()
        if special:
            raise BadArchive(f"{self.archive} holds a {special} ('{shown}'); refused, nothing was unpacked")
        path = name.replace("\\", "/")  # as some Windows programs write
        parts = [part for part in path.split("/") if part not in ("", ".")]
        leaves = path.startswith("/") or path[1:2] == ":" or any(not part.strip(". ") for part in parts)
        if leaves or _CONTROL.search(name) or len(parts) > LARGEST_DEPTH or not (parts or is_folder):
            raise BadArchive(
                f"{self.archive} has a member that leaves its folder or is nested too deep ('{shown}'); "
                f"refused, nothing was unpacked"
            )
        self.files += not is_folder
        self.bytes += size
        if self.files > self.limits.files:
            raise BadArchive(f"{self.archive} holds more than {self.limits.files:,} files; refused")
        if size < 0 or self.bytes > self.limits.bytes:
            raise BadArchive(
                f"{self.archive} unpacks to more than {self.limits.bytes:,} bytes (at '{shown}' of "
                f"{size:,} bytes); refused as an archive made to fill the disk"
            )
        if "__MACOSX" in parts or parts[-1:] == [".DS_Store"]:
            return None
        target = self.folder.joinpath(*parts)
        (target if is_folder else target.parent).mkdir(parents=True, exist_ok=True)
        if not is_folder and os.path.lexists(target):  # on some disks names that differ in case only, too
            raise BadArchive(f"{self.archive} holds '{shown}' twice; refused")
        return None if is_folder else "/".join(parts)


def unpack(archive, folder, limits: Limits, progress=None) -> tuple[int, int]:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip into the empty folder `folder`; returns (files, bytes).

    An archive that holds nothing but another archive is unpacked through. progress: a tqdm bar or None; it is moved by
    the bytes written. Raises BadArchive, whose sentence names the archive and the member, or UserError for a full disk;
    the caller then removes `folder`.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError(
            "archives are not unpacked by this version of Python, whose tarfile lacks the data filter; use "
            "Python 3.10.12, 3.11.4, 3.12 or newer"
        )
    guard = _Guard(str(archive), Path(folder), limits)
    bar = progress.update if progress is not None else (lambda count: None)
    file = open(archive, "rb")
    for _ in range(LARGEST_NESTING):
        with file, _told(guard):
            _unpack_file(file, guard, bar)
        inner = _only_archive(guard.folder)
        if inner is None:
            return guard.files, guard.bytes
        guard.archive, guard.files = f"{archive} (in it {inner.name})", 0
        file = open(inner, "rb")
        for entry in guard.folder.iterdir():  # the open file keeps the bytes of the inner archive
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    file.close()
    raise BadArchive(f"{archive} holds more than {LARGEST_NESTING} archives in each other; refused")


@contextlib.contextmanager
def _told(guard: _Guard):
    """Errors of the libraries as sentences."""
    try:
        yield
    except _DAMAGE as error:
        part = " as one part of several, which are to be joined first" if _VOLUME.search(guard.archive) else ""
        raise BadArchive(f"{guard.archive} is damaged or cut off{part} ({_text(error)}); fetch it again") from None
    except NotImplementedError as error:
        raise BadArchive(
            f"{guard.archive} is packed by a method that is not read here ({_text(error)}); {_BY_HAND}"
        ) from None
    except OSError as error:
        if error.errno is None:  # bz2 and gzip report damage as a bare OSError
            raise BadArchive(f"{guard.archive} is damaged ({_text(error)}); fetch it again") from None
        raise unwritable(error.filename or guard.folder, error) from None


def _unpack_file(file, guard: _Guard, bar) -> None:
    head = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    for magic, what in _UNREADABLE:
        if head.startswith(magic):
            raise BadArchive(f"{guard.archive} is {what}, which is not read here; {_BY_HAND}")
    if head[:2] == b"PK":
        _unpack_zip(file, guard, bar)
    elif opener := next((opener for magic, opener in _OPENERS if head.startswith(magic)), None):
        with opener(file) as stream:
            _unpack_tar(stream, guard, bar)
    elif _is_tar(head):
        _unpack_tar(file, guard, bar)
    else:
        what = " but a web page" if is_web_page(head) else ""
        raise BadArchive(
            f"{guard.archive} is no tar or zip archive{what}; get it in a browser and pass it with --archive FILE"
        )
    if not guard.files:
        raise BadArchive(f"{guard.archive} holds no files; fetch it again")


def _is_tar(head: bytes) -> bool:
    """Whether the first block is a header, by its checksum: tars from before POSIX have no magic bytes."""
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.TarError:
        return head[257:262] == b"ustar"


class _Stream:
    """A tar's bytes after decompression; refuses giant single reads, and remembers the last one."""

    def __init__(self, file, archive: str):
        self.file, self.archive, self.last = file, archive, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise BadArchive(f"{self.archive} has a header of {size:,} bytes; refused")
        self.last = self.file.read(size)
        return self.last


def _unpack_tar(file, guard: _Guard, bar) -> None:
    stream = _Stream(file, guard.archive)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # else tarfile keeps every member it has seen
            path = guard.admit(member.name, member.isdir(), member.size, _special(member))
            if path is not None:
                tar.extract(member.replace(name=path, deep=False), guard.folder, set_attrs=False, filter="data")
            bar(member.size)
    # tarfile takes a cut or damaged header for the end; the real end is a block of zeros.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end of the archive is missing")
    for _ in range(16):  # to the end, where the compressor's checksum stands
        if not file.read(1 << 20):
            break


def _special(member: tarfile.TarInfo) -> str | None:
    if member.isreg() or member.isdir():
        return None
    return (
        "symbolic link"
        if member.issym()
        else "hard link"
        if member.islnk()
        else "pipe"
        if member.isfifo()
        else "device"
        if member.isdev()
        else "special file"
    )


def _unpack_zip(file, guard: _Guard, bar) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 22))
    _, found, record = file.read().rpartition(b"PK\5\6")  # the end of a zip says which part of how many it is
    if found and record[:2] not in (b"\0\0", b"\xff\xff"):
        raise BadArchive(f"{guard.archive} is one part of a zip archive in several, which is not read here; {_BY_HAND}")
    with zipfile.ZipFile(file) as zipped:
        for member in zipped.infolist():
            mode = stat.S_IFMT(member.external_attr >> 16)
            special = (
                None
                if mode in (0, stat.S_IFREG, stat.S_IFDIR)
                else ("symbolic link" if mode == stat.S_IFLNK else "special file")
            )
            if member.flag_bits & 1:
                raise BadArchive(f"{guard.archive} is encrypted; {_BY_HAND}")
            path = guard.admit(member.filename, member.filename.endswith(("/", "\\")), member.file_size, special)
            if path is not None:
                member.filename = path
                zipped.extract(member, guard.folder)
            bar(member.file_size)


def _only_archive(folder: Path) -> Path | None:
    """The archive that is the only file below a folder, hidden ones aside."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name[0] != ".")
    first = list(itertools.islice(files, 2))
    return first[0] if len(first) == 1 and _ARCHIVE.search(first[0].name) else None


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
