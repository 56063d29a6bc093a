"""From an entry of the registry to the thing in its place: room, fetch, check, unpack, rename, record."""
import contextlib
import datetime
import fcntl
import hashlib
import os
import shutil
import sys
from pathlib import Path

from common.cli import UserError
from common.files import atomic_path, read_note, write_json
from scripts.data.download.fetch import Patience, fetch, fetch_drive, progress_bar, source_path
from scripts.data.download.registry import SUM_LENGTHS, Entry
from scripts.data.download.unpack import BadArchive, Limits, settled, unpack

RECORD = ".downloaded.json"            # beside the goals: what this command has put there
SPARE = 64 << 20                       # bytes that stay free
_STORE = ".downloads"                  # below the data folder: parts and archives on their way


def status(entry: Entry, root) -> str:
    """'absent'; 'complete' as recorded; 'yours', there but not from this command; else a sentence on what is wrong."""
    goal = Path(root) / entry.goal
    if not goal.exists() or (goal.is_dir() and not any(goal.iterdir())):
        return "absent"
    record = _record(goal).get(goal.name)
    if not isinstance(record, dict):
        if goal.is_file() and entry.sum and _sum(goal, entry.sum[0]) != entry.sum[1]:
            return f"{goal} is there but its {entry.sum[0].upper()} is not the published one"
        return "yours"
    if goal.is_dir():
        files, size = _measure(goal)
        all_files, all_bytes = record.get("files", 0), record.get("bytes", 0)
        if files < all_files or size < all_bytes:               # more is no fault: caches may stand beside
            return (f"{goal} holds {files:,} files ({size:,} bytes) of the {all_files:,} ({all_bytes:,} bytes) that "
                    f"were unpacked")
        return "complete"
    kind, _, digits = str(record.get("sum", "")).partition(":")
    if kind not in SUM_LENGTHS or _sum(goal, kind) != digits:
        return f"{goal} has changed since it was fetched"
    if entry.sum and (kind, digits) != entry.sum and _sum(goal, entry.sum[0]) != entry.sum[1]:
        return f"{goal} is another version than the registry's"
    return "complete"


def get(entry: Entry, root, archive=None, keep_archive: bool = False, patience: Patience = Patience()) -> str:
    """Put one entry in its place below `root` unless it is there; returns a sentence on what was done.

    archive: a copy already on disk, used instead of the network and left where it is. Raises UserError; what stood at
    the goal before stands there still.
    """
    root = Path(root)
    goal, store = root / entry.goal, root / _STORE / entry.name
    _make_folder(root / _STORE)
    with _lock(root / _STORE / f"{entry.name}.lock"):
        for left in goal.parent.glob(f".{goal.name}.unpacking-*"):        # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        found = status(entry, root)
        if found == "complete":
            if not _record(goal)[goal.name].get("archive_kept"):         # a run was killed before it came to that
                shutil.rmtree(store, ignore_errors=True)
            return f"{entry.name}: {goal} is complete already; nothing to do"
        if found == "yours":
            return f"{entry.name}: {goal} is there already, not from this command; it is used as it is"
        if found != "absent":
            raise UserError(f"{found}; move it away and run this again")
        if entry.by_hand and archive is None:
            raise UserError(f"{entry.name} cannot be fetched by a program: {entry.by_hand}; then run "
                            f"scripts/download.py {entry.name} --archive FILE")
        _make_folder(goal.parent)
        _make_folder(store)
        copy = Path(archive) if archive else store / entry.file_name
        if not archive and not copy.exists():
            _fetch(entry, copy, goal, patience)
        source = str(archive) if archive else read_note(source_path(copy)).get("url")      # perhaps of the run before
        try:
            kind, digits = _verified(entry, copy)
            record = {"name": entry.name, "source": source, "sum": f"{kind}:{digits}", "archive_kept": keep_archive}
            note = _install(entry, copy, goal, record)
        except BadArchive:
            if not archive:                    # else the next run would take it for a good one
                copy.unlink(missing_ok=True)
            raise
        if not archive and not keep_archive:
            shutil.rmtree(store, ignore_errors=True)
    unproven = "" if entry.sum else f"; no checksum is published, the SHA-256 of what came is {digits}"
    return f"{entry.name}: {note} in {goal}{unproven}"


def _fetch(entry: Entry, copy: Path, goal: Path, patience: Patience) -> None:
    if entry.drive:
        _check_room(goal, entry.expected_size + entry.expected_unpacked, entry.name)
        fetch_drive(entry.drive, copy, patience)
        return

    def make_room(still: int) -> None:
        _check_room(goal, still + entry.expected_unpacked, entry.name)

    part = copy.with_name(copy.name + ".part")
    make_room(max(0, entry.expected_size - (part.stat().st_size if part.exists() else 0)))
    fetch(entry.urls, copy, entry.size, make_room, patience)


def _verified(entry: Entry, copy: Path) -> tuple[str, str]:
    """(algorithm, digits) of a file that has the published size and sum; BadArchive if it has not."""
    size = copy.stat().st_size
    if entry.size is not None and size != entry.size:
        raise BadArchive(f"{copy} has {size:,} bytes where {entry.size:,} are expected: it is cut off or another file; "
                         f"fetch it again")
    kind, expected = entry.sum or ("sha256", None)
    digits = _sum(copy, kind)
    if expected not in (None, digits):
        raise BadArchive(f"{copy} is damaged or another file: its {kind.upper()} is {digits} where {expected} is "
                         f"expected; fetch it again")
    return kind, digits


def _install(entry: Entry, copy: Path, goal: Path, record: dict) -> str:
    """Unpack or copy to the goal and record it; what was done, in words.

    The record comes first: a goal without one counts as the user's own, a record without a goal for nothing.
    """
    if not entry.unpack:
        size = copy.stat().st_size
        _check_room(goal, size, entry.name)
        _write_record(goal, record | {"files": 1, "bytes": size})
        with atomic_path(goal) as temporary:
            shutil.copyfile(copy, temporary)
        return f"{size:,} bytes"
    archive_size = copy.stat().st_size
    expected = entry.unpacked or 2 * archive_size
    free = _check_room(goal, expected, entry.name)
    # Stated sizes are rough; without one, sound and pictures do not compress more than this.
    limit = 2 * entry.unpacked if entry.unpacked else 50 * archive_size + SPARE
    temporary = goal.with_name(f".{goal.name}.unpacking-{os.getpid()}")
    try:
        temporary.mkdir()
        with progress_bar(desc=f"unpacking {entry.name}"[:40]) as bar:
            files, size = unpack(copy, temporary, Limits(min(limit, free)), bar)
        whole = settled(temporary, goal.name)
        # The files are not synced one by one, which would take minutes; the record tells if a crash cost any.
        files, size = _measure(whole)
        _write_record(goal, record | {"files": files, "bytes": size})
        os.rename(whole, goal)                                   # one step: the goal is whole or not there
    except OSError as error:
        raise UserError(f"{goal} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{files:,} files ({size:,} bytes)"


def _check_room(goal: Path, needed: int, name: str) -> int:
    """Bytes that may be written; UserError if `needed` are not free where the goal will be."""
    free = shutil.disk_usage(goal.parent).free - SPARE
    if needed > max(0, free):
        raise UserError(f"{name} needs {human(needed)} on the disk of {goal.parent}, where {human(max(0, free))} are "
                        f"free; free some space or choose another --data_root")
    return max(0, free)


def human(size: float) -> str:
    """Bytes in words of three digits: 1.07 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            break
        size /= 1024
    else:
        unit = "TiB"
    return f"{size:.3g} {unit}"


def _record(goal: Path) -> dict:
    return read_note(goal.parent / RECORD)


def _write_record(goal: Path, record: dict) -> None:
    with _lock(goal.parent / f"{RECORD}.lock"):
        date = datetime.datetime.now().isoformat(timespec="seconds")
        write_json(goal.parent / RECORD, _record(goal) | {goal.name: record | {"date": date}})


def _measure(folder: Path) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    files = size = 0
    for parent, _, names in os.walk(folder):
        files += len(names)
        size += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    return files, size


def _sum(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data_root: {folder} cannot be made: {error.strerror}") from None


@contextlib.contextmanager
def _lock(path: Path):
    """Keep a second run of this command away from the same files; the lock goes with the process."""
    try:
        file = open(path, "a")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another download that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
