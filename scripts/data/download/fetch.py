"""Fetching one file: several addresses in turn, bounded retries, and a part that a later run goes on with."""
import errno
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from common.cli import UserError
from common.files import read_note, write_json

BLOCK = 1 << 20                      # bytes read at a time
FRESH_START = 16 << 20               # an attempt that came this many bytes further starts the count of retries again
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Refused(Exception):
    """This address does not have the file: go to the next."""


class _Dropped(Exception):
    """It may work on another attempt."""


@dataclass(frozen=True)
class Patience:
    """timeout: seconds without a byte; retries: attempts after the first at each address; pause: seconds, doubling."""
    timeout: float = 60
    retries: int = 5
    pause: float = 1


def fetch(urls, target: Path, size: int | None, make_room, patience: Patience) -> str:
    """Fetch a file to `target` from the first address that has it; returns that address.

    What has arrived stands in `<target>.part` until it is whole, so that an interrupted fetch goes on from there if
    the server says that the file is still the same. `size`: exact bytes, if known; `make_room(bytes)` raises UserError
    when so many more bytes do not fit. UserError names every address and what it answered.
    """
    answers = []
    for url in urls:
        try:
            _fetch_from(url, target, size, make_room, patience)
            return url
        except _Refused as refusal:
            answers.append(f"{url}: {refusal}")
    raise UserError(f"{target.name} could not be fetched ({'; '.join(answers)}); what has arrived is kept, so run it "
                    f"again later, or get the file in another way and pass it with --archive FILE")


def fetch_drive(drive_id: str, target: Path, patience: Patience) -> str:
    """Fetch a file of Google Drive to `target` through gdown, which also resumes; returns its address."""
    url = f"https://drive.google.com/uc?id={drive_id}"
    try:
        import gdown
        from gdown.exceptions import DownloadError
    except ImportError:
        raise UserError(f"{target.name} lies on Google Drive, for which the package gdown is missing; install it with "
                        f"'pip install gdown', or get {url} in a browser and pass it with --archive FILE") from None
    write_json(source_path(target), {"url": url})
    try:
        gdown.download(id=drive_id, output=str(target), resume=True, use_cookies=False,
                       timeout=patience.timeout, retries=patience.retries)
    except (DownloadError, OSError, RuntimeError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk(target) from None
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{target.name} could not be fetched from Google Drive ({reason}); Drive limits how often a "
                        f"file is fetched, so try again tomorrow, or get {url} in a browser and pass it with "
                        f"--archive FILE") from None
    if not target.is_file():
        raise UserError(f"{target.name} was not given by Google Drive; get {url} in a browser and pass it with "
                        f"--archive FILE")
    return url


def source_path(target: Path) -> Path:
    """The note beside a fetched file that says from which address it came, {"url": …}."""
    return target.with_name(target.name + ".downloaded.json")


def full_disk(path: Path) -> UserError:
    return UserError(f"{path} cannot be written: the disk is full; free some space and run it again, it goes on from "
                     f"where it was")


def progress_bar(**options):
    """A tqdm bar in bytes; without a terminal it writes a line now and then only."""
    from tqdm import tqdm
    return tqdm(unit="B", unit_scale=True, unit_divisor=1024, mininterval=0.2 if sys.stderr.isatty() else 30, **options)


def _fetch_from(url: str, target: Path, size, make_room, patience: Patience) -> None:
    part = target.with_name(target.name + ".part")
    failures = furthest = 0
    while True:
        try:
            _attempt(url, part, size, make_room, patience.timeout)
            break
        except _Dropped as drop:
            reached = _length(part)
            failures = 1 if reached >= furthest + FRESH_START else failures + 1
            furthest = max(furthest, reached)
            if failures > patience.retries:
                raise _Refused(f"{drop}, after {failures} attempt{'s' if failures > 1 else ''}") from None
            wait = min(30.0, patience.pause * 2 ** (failures - 1))
            print(f"{target.name}: {drop}; another attempt in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
    write_json(source_path(target), {"url": url})          # first: a run that is killed here is asked for it no more
    os.replace(part, target)
    _state_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, size, make_room, timeout: float) -> None:
    """One request; returns when `part` is whole."""
    state = _state(part)
    validator = state.get("validator") if state.get("url") == url else None
    have = _length(part) if validator else 0
    if have and have == state.get("size"):
        return
    headers = {"User-Agent": "speech2image-download", "Accept-Encoding": "identity"}
    if have:                            # If-Range: another file under this address comes from its beginning instead
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with _open(urllib.request.Request(url, headers=headers), part, have, timeout) as response:
        start, total = _extent(response, part, have)
        if size is not None and total not in (None, size):
            raise _Refused(f"has {total} bytes where the registry says {size}")
        make_room((total or size or 0) - start)
        if start == 0:
            _begin(part, {"url": url, "validator": _validator(response), "size": total})
        _copy(response, part, start, total or size)
    if total is not None and _length(part) != total:
        raise _Dropped(f"the connection ended at byte {_length(part)} of {total}")
    if size is not None and _length(part) != size:
        raise _Refused(f"gave {_length(part)} bytes where the registry says {size}")


def _open(request, part: Path, have: int, timeout: float):
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:                          # our part is longer than the file now is
            _forget(part)
            raise _Dropped("the file has changed on the server") from None
        answer = f"HTTP {error.code} {error.reason}".strip()
        raise (_Dropped if error.code in (408, 425, 429) or error.code >= 500 else _Refused)(answer) from None
    except (OSError, http.client.HTTPException) as error:       # URLError and time-outs are OSErrors
        raise _Dropped(_reason(error)) from None


def _extent(response, part: Path, have: int) -> tuple[int, int | None]:
    """(first byte that the response brings, bytes of the whole file or None)."""
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have:
            _forget(part)
            raise _Dropped("the server gave another range than asked for")
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(response, part: Path, start: int, total: int | None) -> None:
    with open(part, "ab") as file, progress_bar(total=total, initial=start, desc=part.stem[:40]) as bar:
        while True:
            try:
                block = response.read(BLOCK)
            except http.client.IncompleteRead as error:         # the last bytes before the connection dropped
                block = error.partial
                if not block:
                    raise _Dropped("the connection dropped") from None
            except (OSError, http.client.HTTPException) as error:
                raise _Dropped(_reason(error)) from None
            if not block:
                break
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise _unwritable(part, error) from None
            bar.update(len(block))
            if total is not None and bar.n > total:
                raise _Refused(f"gives more than {total} bytes")
        os.fsync(file.fileno())


def _begin(part: Path, state: dict) -> None:
    """An empty part with a note of what it will be. The part goes first: a note never stands beside other bytes."""
    part.unlink(missing_ok=True)
    write_json(_state_path(part), state)
    try:
        part.touch()
    except OSError as error:
        raise _unwritable(part, error) from None


def _unwritable(part: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full_disk(part)
    return UserError(f"{part} cannot be written: {error.strerror or error}")


def _validator(response) -> str | None:
    """What a later request can name this very file by: a strong ETag, else its date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _state(part: Path) -> dict:
    return read_note(_state_path(part))                          # none, or damaged: start afresh


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return " ".join(str(text).split())
