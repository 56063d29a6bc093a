"""Complete files or none: everything is written to a temporary name in the same folder, flushed and then renamed."""

import codecs
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Literal

from common import ROOT
from common.cli import UserError

MADE_BY = "direct-speech-to-image"  # stands in the head of files of ours; see `is_ours`
_HEAD = 4096  # bytes in which the mark is looked for
_CHECKSUM = re.compile(rb"sha256 [0-9a-f]{64}$")  # at the end of a checkpoint of ours
_REPORT = b"by scripts/report.py"  # in the last line of pages of before the mark
_NOTE_KEYS = {"made_by", "order", "started_from", "key", "settings"}  # one is in every note beside a file of ours
_FOLDER_OPTIONS = {"data_root", "data_dir", "DATA_DIR"}
_PATH_OPTIONS = {"output_dir", "cfg", "model", "eval_net_g", "resume", "weights", "NET_G", "NET_D"}


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
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # that of a progress bar
            raise unwritable(path, error) from error
        raise
    finally:
        os.close(handle)  # and with it the lock


def unwritable(path, error: OSError) -> UserError:
    """The sentence for a file or folder that could not be written."""
    hint = "; free some space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return UserError(f"{path} cannot be written: {error.strerror or f'{error} (is the disk full?)'}{hint}")


def _temporary_file(path: Path) -> tuple[int, Path]:
    """(handle, name) of an empty file beside `path`, locked while it is open.

    Its name is always the same, and what a killed writer has left there is taken over: such files never gather. While
    another writer of the same path is at work, one of the two gets a name of its own.
    """
    stem = shortened(path.stem, 80)
    usual, handle = path.with_name(f".{stem}.tmp{path.suffix}"), None
    with contextlib.suppress(OSError):  # held by another writer, of another user, or no locks here
        handle = os.open(usual, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(usual)):  # else its writer has just given it its final name
            os.ftruncate(handle, 0)
            return handle, usual
    if handle is not None:
        os.close(handle)
    own = path.with_name(f".{stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    return os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), own


def write_bytes(path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text: str) -> None:
    write_bytes(path, text.encode(errors="backslashreplace"))  # file names may hold bytes that are no UTF-8


def write_json(path, value, indent: int | None = 1) -> None:
    write_text(path, _json(value, indent=indent, ensure_ascii=False, default=str) + "\n")


def _json(value, **options) -> str:
    """JSON text. Numbers that are not finite become null: JSON has none, and readers stumble over the word NaN."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), **options)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    position = data.find(0) if encoding == "utf-8-sig" and errors == "strict" else -1  # UTF-16 without its mark
    try:
        text = data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark.
        position = error.start + 3 * (encoding == "utf-8-sig" and data.startswith(codecs.BOM_UTF8))
    if position >= 0:
        raise UserError(
            f"{path} is not text in UTF-8 or UTF-16: byte {position} (0x{data[position]:02x}) cannot be "
            f"read; save it as UTF-8 or download it again"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path):
    """The value in a JSON file; UserError if it cannot be read or is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({' '.join(str(error).split())[:200]}); make or download it again"
        ) from None


def read_note(path) -> dict:
    """The object in a small JSON file that describes one of ours. {} if it is missing, damaged or no object: then what
    it describes is made again."""
    try:
        note = read_json(path)
    except UserError:
        return {}
    return note if isinstance(note, dict) else {}


# ---- what is ours ----------------------------------------------------------------------------------------------------


def is_ours(path) -> bool:
    """Whether this project has written the file at `path`: then a command may replace it.

    Its marks are MADE_BY in the head of the file (web pages, JSON, images), the checksum at the end of a checkpoint, or
    the note `<name>.json` beside a file of features or a cache.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 80))
            tail = file.read()
    except OSError:
        return False
    if MADE_BY.encode() in head or head.startswith(b"PK") and _CHECKSUM.search(tail) or _REPORT in tail:
        return True
    keys = _NOTE_KEYS - {"key", "settings"} if path.suffix == ".json" else _NOTE_KEYS  # which others may use, too
    return not keys.isdisjoint(read_note(path.with_suffix(".json")))


def require_ours(path, option: str) -> None:
    """UserError if there is a file at `path` that this project did not write. option: what names another place."""
    if os.path.lexists(path) and not is_ours(path):
        raise UserError(f"{path} is there and was not written by this project; move it away or give another {option}")


def set_aside(path) -> Path | None:
    """Give a file that is not ours the name `<name>.old` (`.old2`, …), since the user asked for it to be made again.

    → its new name; None if there is no file, or one of ours, which may be replaced.
    """
    path = Path(path)
    if not os.path.lexists(path) or is_ours(path):
        return None
    number, goal = 1, path.with_name(f"{path.name}.old")
    while os.path.lexists(goal):
        number += 1
        goal = path.with_name(f"{path.name}.old{number}")
    try:
        os.rename(path, goal)
    except OSError as error:
        raise unwritable(path, error) from error
    return goal


def claim_folder(folder, note: str, names, option: str) -> None:
    """UserError if `folder` has files of the names that a command is about to write, and no `note` that says they are
    ours. note: name of the JSON file in it that this project writes first. names: glob patterns below `folder`.
    """
    folder = Path(folder)
    if not folder.is_dir() or read_note(folder / note).keys() & {"options", *_NOTE_KEYS}:
        return
    for name in (note, *names):
        for path in sorted(folder.glob(name)):
            if not path.is_file() or not is_ours(path):
                raise UserError(
                    f"{option}: {folder} holds {path.name}, which this project did not write; give another "
                    f"folder or move it away"
                )


# ---- names and paths -------------------------------------------------------------------------------------------------


def shortened(text: str, most: int) -> str:
    """The beginning of `text` that takes at most `most` bytes in the name of a file."""
    size = 0
    for position, letter in enumerate(text):
        try:
            size += len(os.fsencode(letter))
        except UnicodeEncodeError:  # half of a character, which no name can hold
            size += 3
        if size > most:
            return text[:position]
    return text


def named_folder(text, parent) -> Path:
    """What a user means by the name of a run: a bare name is a folder in `parent`; anything with a slash (`./x`,
    `../x`, `/x`, `a/b`), and `.` and `..`, is a path from where the user stands."""
    text = str(text)
    return Path(text) if "/" in text or text in (".", "..") else Path(parent) / text


def project_path(path) -> str:
    """'./data/…' below the project's root, else absolute: a path that means the same from every folder."""
    path = Path(os.path.abspath(path))
    return f"./{path.relative_to(ROOT).as_posix()}" if path.is_relative_to(ROOT) else path.as_posix()


def portable_options(options: dict) -> dict:
    """Options and cfg keys of a command as JSON values whose paths are those of `project_path`."""
    return {
        key: portable_options(value) if isinstance(value, dict) else _portable(key, value)
        for key, value in options.items()
    }


def _portable(key: str, value):
    if isinstance(value, Path):
        return project_path(value)
    named = isinstance(value, str) and value and (key in _FOLDER_OPTIONS or key in _PATH_OPTIONS and "/" in value)
    return project_path(value) if named else value


def file_state(path) -> list[int] | None:
    """[size in bytes, time of change in ns]: what a cache knows a file by; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """The head of a .npy file of C order. It has room for the numbers to grow, always 128 bytes, so that the rows can
    be counted at the end."""
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    assert len(buffer.getvalue()) == 128, shape
    return buffer.getvalue()


def npy_or_none(path, dtype, mmap_mode: Literal["r", "r+"] | None = None):
    """The array in the .npy file at `path`; None if it is missing, damaged or of another dtype: then it is made again."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except Exception:  # a damaged header can raise anything at all
        return None
    return array if isinstance(array, np.ndarray) and array.dtype == dtype else None


# ---- small changes ---------------------------------------------------------------------------------------------------


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
    append_bytes(path, (_json(record) + "\n").encode())


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
