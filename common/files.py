"""Complete files or none: everything is written to a temporary name in the same folder, flushed and then renamed."""
import codecs
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from pathlib import Path

from common.cli import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is synced and takes `path`'s place, on an error it goes.

    The temporary name keeps the suffix, since image and sound writers choose their format by it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary_file(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise
    finally:
        os.close(handle)                           # and with it the lock


def unwritable(path, error: OSError) -> UserError:
    """The sentence for a file or folder that could not be written."""
    hint = "; free some space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return UserError(f"{path} cannot be written: {error.strerror or f'{error} (is the disk full?)'}{hint}")


def _temporary_file(path: Path) -> tuple[int, Path]:
    """(handle, name) of an empty file beside `path`, locked while it is open.

    Its name is always the same, and what a killed writer has left there is taken over: such files never gather. While
    another writer of the same path is at work, one of the two gets a name of its own.
    """
    usual, handle = path.with_name(f".{path.stem[:80]}.tmp{path.suffix}"), None
    with contextlib.suppress(OSError):             # held by another writer, of another user, or no locks here
        handle = os.open(usual, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(usual)):     # else its writer has just given it its final name
            os.ftruncate(handle, 0)
            return handle, usual
    if handle is not None:
        os.close(handle)
    own = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(8)}.tmp{path.suffix}")
    return os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), own


def write_bytes(path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text: str) -> None:
    write_bytes(path, text.encode(errors="backslashreplace"))     # file names may hold bytes that are no UTF-8


def write_json(path, value, indent: int | None = 1) -> None:
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n")


def read_text(path, errors: str = "strict") -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one; line ends become "\\n".

    errors: as of `bytes.decode`; "replace" for texts whose stray bytes do no harm. UserError names the file and the
    first byte that cannot be read, counted from 0.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    position = data.find(0) if encoding == "utf-8-sig" and errors == "strict" else -1       # UTF-16 without its mark
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark.
        position = error.start + 3 * (encoding == "utf-8-sig" and data.startswith(codecs.BOM_UTF8))
    if position >= 0:
        raise UserError(f"{path} is not text in UTF-8 or UTF-16: byte {position} (0x{data[position]:02x}) cannot be "
                        f"read; save it as UTF-8 or download it again")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path):
    """The value in a JSON file; UserError if it cannot be read or is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({' '.join(str(error).split())[:200]}); make or download it again") from None


def read_note(path) -> dict:
    """The object in a small JSON file that describes one of ours. {} if it is missing, damaged or no object: then what
    it describes is made again."""
    try:
        note = read_json(path)
    except UserError:
        return {}
    return note if isinstance(note, dict) else {}


def append_bytes(path, data: bytes) -> None:
    """Add to a file, all of `data` or nothing: where it does not fit, the file is what it was before."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def append_line(path, record: dict) -> None:
    """Add one JSON line; a single write, so that a reader never sees half a line."""
    append_bytes(path, (json.dumps(record) + "\n").encode())


def link(target, name) -> None:
    """Make `name` a relative link to `target` in the same folder, replacing an older one in one step."""
    target, name = Path(target), Path(name)
    temporary = name.with_name(f".{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(target.name, temporary)
    os.replace(temporary, name)


def keep_as(path, name) -> None:
    """Give the file at `path` a second name in the same folder, for when it is replaced; an older `name` goes.

    Where the file system has no second names, the file moves: until its successor is there, `name` stands for both.
    """
    path, name = Path(path), Path(name)
    temporary = name.with_name(f".{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
        os.replace(temporary, name)
    except OSError:
        os.replace(path, name)


def is_web_page(head: bytes) -> bool:
    """Whether a file that begins so is HTML or XML: what a server gives with status 200 instead of the file."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


def checksum(path, kind: str = "sha256") -> str:
    """Hexadecimal digits; kind: any algorithm of hashlib."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path) -> str:
    return checksum(path, "sha256")
