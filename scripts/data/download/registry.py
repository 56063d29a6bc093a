"""The registry: what can be had, from where, under which terms, and how to know that it arrived whole."""
import dataclasses
import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from common.cli import UserError

BUILT_IN = Path(__file__).with_name("registry.yml")
SUM_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}            # hexadecimal digits
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
        if self.file:
            return self.file
        name = PurePosixPath(unquote(urlsplit(self.urls[0]).path)).name if self.urls else ""
        return name if _NAME.fullmatch(name) else self.name

    @property
    def expected_size(self) -> int:
        return self.size or self.about or 0

    @property
    def expected_unpacked(self) -> int:
        """Bytes that unpacking needs: as stated, else twice the archive; 0 for a file that stays as it is."""
        return (self.unpacked or 2 * self.expected_size) if self.unpack else 0


def load(extra=()) -> dict[str, Entry]:
    """The built-in entries by name, then those of the files `extra`, which may replace built-in ones."""
    entries = {}
    for path in (BUILT_IN, *extra):
        entries.update(_read(Path(path)))
    return entries


def choose(entries: dict[str, Entry], names) -> list[Entry]:
    """The entries of these names, in order and once each. UserError suggests near names."""
    for name in names:
        if name not in entries:
            folded = {known.casefold(): known for known in entries}
            near = [key for key in folded if name.casefold() in key]
            near = near[:3] or difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(folded[key] for key in near)}?" if near else ""
            raise UserError(f"{name} is not in the registry{hint} (--list shows all names)")
    return [entries[name] for name in dict.fromkeys(names)]


def _read(path: Path) -> dict[str, Entry]:
    from common.untrusted.yaml_files import parse_yaml
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())[:300]}") from None
    if table is None:                                           # an empty list of pretrained networks
        return {}
    if not isinstance(table, dict):
        raise UserError(f"{path} is not a registry: a table 'name: {{purpose, goal, …}}' is expected")
    return {str(name): _entry(path, str(name), fields) for name, fields in table.items()}


def _entry(path: Path, name: str, fields) -> Entry:
    """One checked entry; a UserError names the file, the entry and the field."""
    def fail(message):
        raise UserError(f"{path}, entry {name}: {message}")

    if not _NAME.fullmatch(name):
        fail("a name is made of letters, digits, '_', '-' and '.'")
    if not isinstance(fields, dict):
        fail("a table of fields is expected")
    kinds = {field.name: field.type for field in dataclasses.fields(Entry) if field.name != "name"}
    for key, value in fields.items():
        if key not in kinds:
            fail(f"there is no field '{key}' (fields: {', '.join(kinds)})")
        if key == "urls":
            right = isinstance(value, list) and all(isinstance(url, str) for url in value)
        elif kinds[key] is bool:
            right = isinstance(value, bool)
        elif key in ("size", "about", "unpacked"):
            right = isinstance(value, int) and not isinstance(value, bool) and value > 0
        else:
            right = isinstance(value, str) and value != ""
        if not right:
            fail(f"{key}: {value!r} is not of the right type")
    for key in ("purpose", "goal", "licence"):
        if key not in fields:
            fail(f"the field {key} is missing")
    entry = Entry(name=name, **{**fields, "urls": tuple(fields.get("urls", ()))})
    _check(entry, fail)
    return entry


def _check(entry: Entry, fail) -> None:
    if sum(map(bool, (entry.urls, entry.drive, entry.by_hand))) != 1:
        fail("exactly one of urls, drive and by_hand is needed")
    for url in entry.urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            fail(f"{url} is not an http or https address")
    goal = PurePosixPath(entry.goal)
    if goal.is_absolute() or ".." in goal.parts or not goal.parts or goal.parts[0].startswith("."):
        fail(f"goal: {entry.goal} is not a path below the data folder")
    if entry.file and not _NAME.fullmatch(entry.file):
        fail(f"file: {entry.file} is not a plain file name")
    for kind, digits in SUM_LENGTHS.items():
        value = getattr(entry, kind)
        if value and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
            fail(f"{kind}: {value} is not {digits} hexadecimal digits in lower case")
