"""From an entry of the registry to the thing at its goal: room, fetch, check, unpack, rename, record."""

import contextlib
import datetime
import fcntl
import os
import shutil
import sys
from pathlib import Path

from common.cli import UserError
from common.files import atomic_path, checksum, is_web_page, read_note, unwritable, write_json
from scripts.data.download.fetch import Patience, fetch, fetch_drive, note_path, progress_bar
from scripts.data.download.layout import gathered, lacking
from scripts.data.download.registry import SUM_LENGTHS, Entry
from scripts.data.download.unpack import BadArchive, Limits, unpack

RECORD = ".downloaded.json"  # beside the goals: what this command has installed there
SPARE = 64 << 20  # bytes that stay free
_STORE = ".downloads"  # below the data folder: parts and archives on their way


def status(entry: Entry, root) -> str:
    """'absent'; 'complete' as recorded; 'yours', there but not from this command; else a sentence on what is wrong."""
    goal = Path(root) / entry.goal
    if not goal.exists() or (goal.is_dir() and not any(goal.iterdir())):
        return "absent"
    record = read_note(goal.parent / RECORD).get(goal.name)
    if goal.is_dir():
        if isinstance(record, dict):
            (files, size), all_files, all_bytes = _measure(goal), record.get("files", 0), record.get("bytes", 0)
            if files < all_files or size < all_bytes:  # more is no fault: caches may stand beside
                return (
                    f"{goal} holds {files:,} files ({size:,} bytes) of the {all_files:,} ({all_bytes:,} bytes) "
                    f"that were unpacked"
                )
        lack = lacking(goal, entry.needs)
        if lack and lacking(goal / goal.name, entry.needs):  # an archive unpacked by hand into a folder of its name
            return f"{goal} is there but lacks {lack}, which the next step reads: it is incomplete or of another layout"
        return "complete" if isinstance(record, dict) else "yours"
    if not isinstance(record, dict):
        if entry.sum and checksum(goal, entry.sum[0]) != entry.sum[1]:
            return f"{goal} is there but its {entry.sum[0].upper()} is not the published one"
        return "yours"
    kind, _, digits = str(record.get("sum", "")).partition(":")
    if kind not in SUM_LENGTHS or checksum(goal, kind) != digits:
        return f"{goal} has changed since it was fetched"
    if entry.sum and (kind, digits) != entry.sum and checksum(goal, entry.sum[0]) != entry.sum[1]:
        return f"{goal} is another version than the registry's"
    return "complete"


def get(entry: Entry, root, archive=None, keep_archive: bool = False, patience: Patience | None = None) -> str:
    """Install one entry below `root` unless it is there; returns a sentence on what was done.

    archive: a copy already on disk, used instead of the network and left where it is. Raises UserError; what stood at
    the goal before stands there still.
    """
    root = Path(root)
    store = root / _STORE / entry.name
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with _lock(store.with_name(f"{entry.name}.lock")):
            return f"{entry.name}: {_get(entry, root, store, archive, keep_archive, patience or Patience())}"
    except OSError as error:
        raise unwritable(error.filename or root / entry.goal, error) from None


def _get(entry: Entry, root: Path, store: Path, archive, keep_archive: bool, patience: Patience) -> str:
    goal = root / entry.goal
    for left in goal.parent.glob(f".{goal.name}.unpacking-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    found = status(entry, root)
    if found == "complete":
        if not read_note(goal.parent / RECORD)[goal.name].get("archive_kept"):  # a run was killed before that
            shutil.rmtree(store, ignore_errors=True)
        return f"{goal} is complete already; nothing to do"
    if found == "yours":
        return f"{goal} is there already, not from this command; it is used as it is"
    if found != "absent":
        raise UserError(f"{found}; move it away and run this again")
    if entry.by_hand and archive is None:
        raise UserError(
            f"{entry.name} cannot be fetched by a program: {entry.by_hand}; then run "
            f"scripts/download.py {entry.name} --archive FILE"
        )
    goal.parent.mkdir(parents=True, exist_ok=True)
    store.mkdir(exist_ok=True)
    copy = Path(archive) if archive else store / entry.file_name
    if not archive and not copy.exists():
        _fetch(entry, copy, goal, patience)
    source = str(archive) if archive else read_note(note_path(copy)).get("url")  # perhaps of the run before
    try:
        kind, digits = _verified(entry, copy)
        record = {"name": entry.name, "source": source, "sum": f"{kind}:{digits}", "archive_kept": keep_archive}
        done = (_install_archive if entry.unpack else _install_file)(entry, copy, goal, record)
    except BadArchive:
        if not archive:  # else the next run would take it for a good one
            shutil.rmtree(store, ignore_errors=True)
        raise
    if not archive and not keep_archive:
        shutil.rmtree(store, ignore_errors=True)
    unproven = "" if entry.sum else f"; no checksum is published, the SHA-256 of what came is {digits}"
    return f"{done} in {goal}{unproven}"


def _fetch(entry: Entry, copy: Path, goal: Path, patience: Patience) -> None:
    def check_room(still: int) -> None:
        _check_room(goal, still + entry.expected_unpacked, entry.name)

    part = copy.with_name(copy.name + ".part")
    check_room(max(0, entry.expected_size - (part.stat().st_size if part.exists() else 0)))
    if entry.drive:
        fetch_drive(entry.drive, copy, patience)
    else:
        fetch(entry.urls, copy, entry.size, check_room, patience)


def _verified(entry: Entry, copy: Path) -> tuple[str, str]:
    """(algorithm, digits) of a file that has the published size and sum; BadArchive if it has not."""
    size = copy.stat().st_size
    kind, expected = entry.sum or ("sha256", None)
    digits = checksum(copy, kind)
    with open(copy, "rb") as file:
        what = "a web page" if is_web_page(file.read(512)) else "cut off, damaged or another file"
    if entry.size is not None and size != entry.size:
        raise BadArchive(f"{copy} has {size:,} bytes where {entry.size:,} are expected: it is {what}; fetch it again")
    if expected not in (None, digits):
        raise BadArchive(
            f"{copy} is {what}: its {kind.upper()} is {digits} where {expected} is expected; fetch it again"
        )
    return kind, digits


# A goal without a record counts as the user's own, a record without a goal for nothing: so the record is written first.


def _install_file(entry: Entry, copy: Path, goal: Path, record: dict) -> str:
    size = copy.stat().st_size
    _check_room(goal, size, entry.name)
    _write_record(goal, record | {"files": 1, "bytes": size})
    with atomic_path(goal) as temporary:
        shutil.copyfile(copy, temporary)
    return f"{size:,} bytes"


def _install_archive(entry: Entry, copy: Path, goal: Path, record: dict) -> str:
    archive_size = copy.stat().st_size
    free = _check_room(goal, entry.unpacked or 2 * archive_size, entry.name)
    # Stated sizes are rough; without one, sound and images do not compress more than this.
    limit = 2 * entry.unpacked if entry.unpacked else 50 * archive_size + SPARE
    temporary = goal.with_name(f".{goal.name}.unpacking-{os.getpid()}")
    try:
        temporary.mkdir()
        with progress_bar(desc=f"unpacking {entry.name}"[:40]) as bar:
            unpack(copy, temporary, Limits(min(limit, free)), bar)
        folder = gathered(temporary, goal.name, entry.needs)
        if lack := lacking(folder, entry.needs):
            names = sorted(os.listdir(folder))
            raise UserError(
                f"{copy} lacks {lack}, which the next step reads (it holds {', '.join(names[:5])}"
                f"{', …' if len(names) > 5 else ''}); if it is the right archive, unpack it by hand so "
                f"that {goal}/{lack} is there"
            )
        # The files are not synced one by one, which would take minutes; the record tells if a crash cost any.
        files, size = _measure(folder)
        _write_record(goal, record | {"files": files, "bytes": size})
        os.rename(folder, goal)  # one step: the goal is complete or not there
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{files:,} files ({size:,} bytes)"


def _check_room(goal: Path, needed: int, name: str) -> int:
    """Bytes that may be written; UserError if `needed` are not free where the goal will be."""
    free = max(0, shutil.disk_usage(goal.parent).free - SPARE)
    if needed > free:
        raise UserError(
            f"{name} needs {human(needed)} on the disk of {goal.parent}, where {human(free)} are free; "
            f"free some space or choose another --data_root"
        )
    return free


def human(size: float) -> str:
    """Bytes in three digits: 1.07 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            return f"{size:.3g} {unit}"
        size /= 1024


def _write_record(goal: Path, record: dict) -> None:
    path = goal.parent / RECORD
    with _lock(goal.parent / f"{RECORD}.lock"):
        date = datetime.datetime.now().isoformat(timespec="seconds")
        write_json(path, read_note(path) | {goal.name: record | {"date": date}})


def _measure(folder: Path) -> tuple[int, int]:
    """(files, bytes) below a folder."""
    sizes = [os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


@contextlib.contextmanager
def _lock(path: Path):
    """Keep a second run of this command away from the same files; the lock goes with the process."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another download that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
