"""The registry: what can be downloaded, from where, under which terms, and how to know that it arrived intact."""

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from common.cli import UserError
from common.files import read_text

BUILT_IN = Path(__file__).with_name("registry.yml")
SUM_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}  # hexadecimal digits
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Entry:
    """One thing to get; the meaning of each field stands at the head of registry.yml. Sizes in bytes."""

    name: str
    purpose: str
    goal: str
    licence: str
    urls: tuple[str, ...] = ()
    drive: str | None = None
    by_hand: str | None = None
    file: str | None = None
    unpack: bool = False
    needs: tuple[str, ...] = ()
    size: int | None = None
    about: int | None = None
    unpacked: int | None = None
    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    untested: bool = False

    @property
    def sum(self) -> tuple[str, str] | None:
        """(algorithm, hexadecimal digits), the strongest given; None where none is published."""
        return next(((kind, getattr(self, kind)) for kind in reversed(SUM_LENGTHS) if getattr(self, kind)), None)

    @property
    def file_name(self) -> str:
        """Name of the download on disk: a plain file name."""
        name = self.file or (PurePosixPath(unquote(urlsplit(self.urls[0]).path)).name if self.urls else "")
        return name if _NAME.fullmatch(name) else self.name

    @property
    def expected_size(self) -> int:
        return self.size or self.about or 0

    @property
    def expected_unpacked(self) -> int:
        """Bytes that unpacking needs: as stated, else twice the archive; 0 for a file that stays as it is."""
        return (self.unpacked or 2 * self.expected_size) if self.unpack else 0


_FIELDS = [field.name for field in dataclasses.fields(Entry)][1:]
_TYPES = {"urls": list, "needs": list, "unpack": bool, "untested": bool, "size": int, "about": int, "unpacked": int}


def load(extra=()) -> dict[str, Entry]:
    """The built-in entries by name, then those of the files `extra`, which may replace built-in ones."""
    return {name: entry for path in (BUILT_IN, *extra) for name, entry in _read(Path(path)).items()}


def choose(entries: dict[str, Entry], names) -> list[Entry]:
    """The entries of these names, in order and once each. UserError suggests similar names."""
    for name in names:
        if name not in entries:
            folded = {known.casefold(): known for known in entries}
            near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(folded[key] for key in near)}?" if near else ""
            raise UserError(f"{name} is not in the registry{hint} (--list shows all names)")
    return [entries[name] for name in dict.fromkeys(names)]


def _read(path: Path) -> dict[str, Entry]:
    from common.untrusted.yaml_files import parse_yaml

    text = read_text(path)
    try:
        table = json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text, path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(table, dict | None):  # None: a file of comments only
        raise UserError(f"{path} is not a registry: a table 'name: {{purpose, goal, …}}' is expected")
    return {str(name): _entry(path, str(name), fields) for name, fields in (table or {}).items()}


def _entry(path: Path, name: str, fields) -> Entry:
    """One checked entry; a UserError names the file, the entry and the field."""
    try:
        if not _NAME.fullmatch(name):
            raise ValueError("a name is made of letters, digits, '_', '-' and '.'")
        if not isinstance(fields, dict):
            raise ValueError("a table of fields is expected")
        for key, value in fields.items():
            if key not in _FIELDS:
                raise ValueError(f"there is no field '{key}' (fields: {', '.join(_FIELDS)})")
            kind = _TYPES.get(key, str)
            if (
                type(value) is not kind
                or value == ""
                or kind is int
                and value <= 0
                or kind is list
                and not all(isinstance(text, str) and text for text in value)
            ):
                raise ValueError(f"{key}: {value!r} is not of the right type")
        if missing := {"purpose", "goal", "licence"} - set(fields):
            raise ValueError(f"the field {min(missing)} is missing")
        entry = Entry(
            name, **{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        )
        _check(entry)
    except ValueError as error:
        raise UserError(f"{path}, entry {name}: {error}") from None
    return entry


def _check(entry: Entry) -> None:
    """ValueError if the fields do not make sense together or a path leaves its folder."""
    if sum(map(bool, (entry.urls, entry.drive, entry.by_hand))) != 1:
        raise ValueError("exactly one of urls, drive and by_hand is needed")
    for url in entry.urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"{url} is not an http or https address")
    for field, text, below in (("goal", entry.goal, "data"), *(("needs", need, "unpacked") for need in entry.needs)):
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0].startswith("."):
            raise ValueError(f"{field}: {text} is not a path below the {below} folder")
    if entry.file and not _NAME.fullmatch(entry.file):
        raise ValueError(f"file: {entry.file} is not a plain file name")
    for kind, digits in SUM_LENGTHS.items():
        value = getattr(entry, kind)
        if value and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
            raise ValueError(f"{kind}: {value} is not {digits} hexadecimal digits in lower case")
