"""Unpacking an archive from strangers: nothing leaves its folder, no links or devices, and bounded in bytes and files.

Members are checked and written here one by one; neither tarfile's nor zipfile's own extraction is used, so that the
rules are the same for both and for every version of Python.
"""
import bz2
import contextlib
import errno
import gzip
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
from pathlib import Path, PurePosixPath

from common.cli import UserError
from scripts.data.download.fetch import full_disk

BLOCK = 1 << 20
LARGEST_HEADER = 16 << 20              # bytes that tarfile may ask for at once: a long name, not a gigabyte of it
LARGEST_DEPTH = 64                     # folders in each other
_STEERS = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")      # no letter of a name, but an order to a terminal
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError,
           NotImplementedError, RecursionError, struct.error)


class BadArchive(UserError):
    """The archive itself is at fault: damaged, cut off, or not to be trusted."""


@dataclass(frozen=True)
class Limits:
    """What unpacking may give at most: bytes and files."""
    bytes: int
    files: int = 1_000_000


@dataclass
class _Budget:
    """What has been unpacked, held against the limits."""
    archive: Path
    limits: Limits
    bytes: int = 0
    files: int = 0

    def file(self, name: str, size: int) -> None:
        self.files += 1
        self.bytes += size
        if self.files > self.limits.files:
            raise BadArchive(f"{self.archive} holds more than {self.limits.files:,} files; refused")
        if size < 0 or self.bytes > self.limits.bytes:
            raise BadArchive(f"{self.archive} unpacks to more than {self.limits.bytes:,} bytes (at '{_shown(name)}' of "
                             f"{size:,} bytes); refused as an archive made to fill the disk")


def unpack(archive, folder, limits: Limits, progress=None) -> tuple[int, int]:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip into the empty folder `folder`; returns (files, bytes).

    progress: a tqdm bar or None; it is moved by the bytes written. Raises BadArchive, whose sentence names the
    archive and the member, or UserError for a full disk; the caller then removes `folder`.
    """
    archive, folder = Path(archive), Path(folder)
    budget = _Budget(archive, limits)
    bar = progress.update if progress is not None else (lambda count: None)
    with open(archive, "rb") as file:
        head = file.read(512)
    try:
        if head[:2] == b"PK":
            _unpack_zip(archive, folder, budget, bar)
        else:
            _unpack_tar(archive, head, folder, budget, bar)
    except _DAMAGE as error:
        raise BadArchive(f"{archive} is damaged or cut off ({_text(error)}); fetch it again") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(folder) from None
        if error.errno is None:                                # bz2 and lzma report damage as a bare OSError
            raise BadArchive(f"{archive} is damaged ({_text(error)}); fetch it again") from None
        raise UserError(f"{archive} cannot be unpacked: {error.filename or folder}: {error.strerror}") from None
    if not budget.files:
        raise BadArchive(f"{archive} holds no files; fetch it again")
    return budget.files, budget.bytes


class _Stream:
    """A tar's bytes after decompression; refuses giant single reads, and remembers the last one."""

    def __init__(self, file, archive: Path):
        self.file, self.archive, self.last = file, archive, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise BadArchive(f"{self.archive} has a header of {size:,} bytes; refused")
        self.last = self.file.read(size)
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        return self.file.seek(position, whence)

    def tell(self) -> int:
        return self.file.tell()


def _unpack_tar(archive: Path, head: bytes, folder: Path, budget: _Budget, bar) -> None:
    opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
    if opener is None and head[257:262] != b"ustar" and not _is_old_tar(head):
        what = " but a web page" if head.lstrip()[:1] == b"<" else ""
        raise BadArchive(f"{archive} is no tar or zip archive{what}; get it in a browser and pass it with --archive "
                         f"FILE")
    with (opener or open)(archive, "rb") as file:
        stream = _Stream(file, archive)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []                                 # else tarfile keeps every member it has seen
                _check_kind(archive, member)
                target = _place(archive, folder, member.name)
                if member.isdir():
                    _make_folder(target)
                    continue
                budget.file(member.name, member.size)
                with contextlib.closing(tar.extractfile(member)) as source:
                    _write(archive, source, target, member.name, member.size, bar)
        # tarfile takes a cut or damaged header for the end; the real end is a block of zeros.
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end of the archive is missing")
        for _ in range(LARGEST_HEADER // BLOCK):                 # to the end, where the compressor's checksum stands
            if not file.read(BLOCK):
                break


def _is_old_tar(head: bytes) -> bool:
    """Whether the first block is a header from before POSIX, which has no magic bytes but a checksum."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _check_kind(archive: Path, member: tarfile.TarInfo) -> None:
    if member.isreg() or member.isdir():
        return
    kind = ("symbolic link" if member.issym() else "hard link" if member.islnk() else
            "device" if member.isdev() and not member.isfifo() else "pipe" if member.isfifo() else "special file")
    raise BadArchive(f"{archive} holds a {kind} ('{_shown(member.name)}'); refused, nothing was unpacked")


def _unpack_zip(archive: Path, folder: Path, budget: _Budget, bar) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "symbolic link" if stat.S_ISLNK(mode) else "special file"
                raise BadArchive(f"{archive} holds a {kind} ('{_shown(member.filename)}'); refused, nothing was "
                                 f"unpacked")
            if member.flag_bits & 1:
                raise BadArchive(f"{archive} is encrypted ('{_shown(member.filename)}'); unpack it by hand")
            target = _place(archive, folder, member.filename)
            if member.filename.endswith("/"):
                _make_folder(target)
                continue
            budget.file(member.filename, member.file_size)
            with zipped.open(member) as source:
                _write(archive, source, target, member.filename, member.file_size, bar)


def _place(archive: Path, folder: Path, name: str) -> Path:
    """Where a member goes; BadArchive if that is not below `folder`."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    leaves = not name or _STEERS.search(name) or path.is_absolute() or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":"
    if leaves or len(parts) > LARGEST_DEPTH:
        raise BadArchive(f"{archive} has a member that leaves its folder or is nested too deep ('{_shown(name)}'); "
                         f"refused, nothing was unpacked")
    return folder.joinpath(*parts)


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _write(archive: Path, source, target: Path, name: str, size: int, bar) -> None:
    """Copy exactly `size` bytes to a new file; the folder above is made as an ordinary one."""
    _make_folder(target.parent)
    try:
        file = open(target, "xb")
    except (FileExistsError, IsADirectoryError):
        raise BadArchive(f"{archive} holds '{_shown(name)}' twice; refused") from None
    left = size
    with file:
        while left:
            block = source.read(min(BLOCK, left))
            if not block:
                raise tarfile.ReadError(f"'{_shown(name)}' ends {left:,} bytes early")
            file.write(block)
            left -= len(block)
            bar(len(block))
        source.read(1)                                           # a zip compares the member's checksum at its end


def settled(unpacked, name: str) -> Path:
    """The folder in or at `unpacked` that is to get the name `name`.

    It is a top folder of that very name, with what stands beside it in the archive moved inside (CUB's `attributes.txt`);
    macOS's resource files go.
    """
    unpacked = Path(unpacked)
    top = unpacked / name
    shutil.rmtree(unpacked / "__MACOSX", ignore_errors=True)
    if not top.is_dir():
        return unpacked
    for other in sorted(unpacked.iterdir()):
        if other != top and not (top / other.name).exists():
            os.rename(other, top / other.name)
    return top


def _shown(name: str) -> str:
    """A member's name, safe to print."""
    return name[:120].encode("unicode_escape", "backslashreplace").decode() if not name.isprintable() else name[:120]


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
