"""Fetching one file: several addresses in turn, bounded retries, and a part that a later run continues."""

import errno
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from common.cli import UserError
from common.files import read_note, write_json

BLOCK = 1 << 20  # bytes read at a time
PROGRESS = 16 << 20  # an attempt that came this many bytes further resets the count of retries


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


def fetch(urls, target: Path, size: int | None, check_room, patience: Patience) -> str:
    """Fetch a file to `target` from the first address that has it; returns that address.

    What has arrived stands in `<target>.part` until it is complete, and an interrupted fetch continues from there if
    the server says that the file is still the same. `size`: exact bytes, if known; `check_room(bytes)` raises UserError
    when so many more bytes do not fit. UserError names every address and what it answered.
    """
    answers = []
    for url in urls:
        try:
            _fetch_from(url, target, size, check_room, patience)
            return url
        except _Refused as refusal:
            answers.append(f"{url}: {refusal}")
    raise UserError(
        f"{target.name} could not be fetched ({'; '.join(answers)}); what has arrived is kept, so run it "
        f"again later, or get the file in another way and pass it with --archive FILE"
    )


def fetch_drive(drive_id: str, target: Path, patience: Patience) -> str:
    """Fetch a file of Google Drive to `target` through gdown, which also resumes; returns its address."""
    url = f"https://drive.google.com/uc?id={drive_id}"
    try:
        import gdown

        write_json(note_path(target), {"url": url})
        gdown.download(
            id=drive_id,
            output=str(target),
            resume=True,
            use_cookies=False,
            timeout=patience.timeout,
            retries=patience.retries,
        )
        reason = None if target.is_file() else "nothing came"
    except ImportError:
        reason = "the package gdown is missing; install it with 'pip install gdown'"
    except (gdown.exceptions.DownloadError, OSError, RuntimeError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = " ".join(str(error).split())[:200]
    if reason:
        raise UserError(
            f"{target.name} could not be fetched from Google Drive ({reason}); Drive limits how often a "
            f"file is fetched, so try again tomorrow, or get {url} in a browser and pass it with "
            f"--archive FILE"
        )
    return url


def note_path(target: Path) -> Path:
    """The note beside a file, or a part of it: {"url": where it comes from, "validator": of this very version}."""
    return target.with_name(target.name + ".downloaded.json")


def progress_bar(**options):
    """A progress bar in bytes."""
    from common.progress import tqdm

    return tqdm(unit="B", unit_scale=True, unit_divisor=1024, mininterval=0.2, **options)


def _fetch_from(url: str, target: Path, size, check_room, patience: Patience) -> None:
    part = target.with_name(target.name + ".part")
    failures = furthest = 0
    while True:
        try:
            _attempt(url, part, note_path(target), size, check_room, patience.timeout)
            break
        except _Dropped as drop:
            failures = 1 if _length(part) >= furthest + PROGRESS else failures + 1
            furthest = max(furthest, _length(part))
            if failures > patience.retries:
                raise _Refused(f"{drop}, after {failures} attempt{'s' if failures > 1 else ''}") from None
            wait = min(30.0, patience.pause * 2 ** (failures - 1))
            print(f"{target.name}: {drop}; another attempt in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
    os.replace(part, target)


def _attempt(url: str, part: Path, note: Path, size, check_room, timeout: float) -> None:
    """One request; returns when `part` is complete."""
    state = read_note(note)
    validator = state.get("validator") if state.get("url") == url else None
    have = _length(part) if validator else 0
    headers = {"User-Agent": "speech2image-download", "Accept-Encoding": "identity"}
    if have:  # If-Range: if another file is now at this address, it is sent from its start
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            start, total = _extent(response, part, have)
            if have and start == total:
                return
            if size is not None and total not in (None, size):
                raise _Refused(f"has {total} bytes where the registry says {size}")
            check_room((total or size or 0) - start)
            if start == 0:  # the part goes before its note is written: a note never describes other bytes
                part.unlink(missing_ok=True)
                write_json(note, {"url": url, "validator": _validator(response)})
            _copy(response, part, start, total or size)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Dropped(_reason(error)) from None
    if total is not None and _length(part) != total:
        raise _Dropped(f"the connection ended at byte {_length(part)} of {total}")
    if size is not None and _length(part) != size:
        raise _Refused(f"gave {_length(part)} bytes where the registry says {size}")


def _extent(response, part: Path, have: int) -> tuple[int, int | None]:
    """(first byte that the response brings, bytes of the complete file or None)."""
    code, wanted = response.status_code, response.headers.get("Content-Range", "")
    if code == 416 and wanted == f"bytes */{have}":  # a run was killed between the last byte and the renaming
        return have, have
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", wanted)
    if code == 416 or code == 206 and (not match or int(match[1]) != have):
        part.unlink(missing_ok=True)
        raise _Dropped("the file has changed on the server" if code == 416 else "the server gave another range")
    if code >= 400:
        retry = code in (408, 425, 429) or code >= 500
        raise (_Dropped if retry else _Refused)(f"HTTP {code} {response.reason}".strip())
    if code == 206:
        return have, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _copy(response, part: Path, start: int, total: int | None) -> None:
    response.raw.enforce_content_length = False  # a short body is told by our own comparison of lengths
    with open(part, "ab") as file, progress_bar(total=total, initial=start, desc=part.stem[:40]) as bar:
        while block := response.raw.read1(BLOCK):  # read1: what came before a connection broke is not lost
            file.write(block)
            file.flush()
            bar.update(len(block))
            if total is not None and bar.n > total:
                raise _Refused(f"gives more than {total} bytes")
        os.fsync(file.fileno())


def _validator(response) -> str | None:
    """What a later request can name this very file by: a strong ETag, else its date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    """The innermost cause that says something; requests wraps it several times over."""
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    text = str(error)
    while error is not None:
        text = getattr(error, "strerror", None) or text
        error = error.__cause__ or error.__context__
    return " ".join(text.split())[:200]
