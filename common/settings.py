"""Settings declared once: a frozen dataclass a group, whose fields say type, default, bounds, meaning and unit.

Command-line options with their help, the keys of cfg files, options.json, --dry_run and the report's "what differs" all
follow from these declarations. A group checks itself whenever it is made, so no override can get past the bounds.
"""

import dataclasses
import math
import os
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from common.cli import UserError

_LARGEST = 1 << 31  # of whole numbers without a bound of their own
TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", tuple: "a list"}


@dataclass(frozen=True)
class Setting:
    """What a field of a settings group is, beside its type and default.

    meaning: in a few words; more: what `--help` adds to it. choices: all the values there are; these and bounds are
    those of each element of a `tuple[X, ...]`. none: the word that stands for None in an option. options: the
    command-line spellings, the first is the usual one (default: --<name of the field>); no_option: that which switches
    a bool off; parse: what reads an option's text where the type does not say it (default for a tuple: one word an
    element). published: whether the published method has this setting; compared: whether it says how the method is run,
    as a path or a number of threads does not; only_with: the key of the weight without which this setting has no
    effect.
    """

    meaning: str
    more: str = ""
    unit: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int = 1
    choices: tuple = ()
    metavar: str = ""
    none: str = ""
    options: tuple[str, ...] | None = None
    no_option: str = ""
    parse: Callable[[str], Any] | None = None
    exists: str = ""  # what a path must lead to: "file", "dir", "encoder" or "generator" (a file, or a pretrained NAME)
    published: bool = True
    compared: bool = True
    only_with: str = ""

    @property
    def help(self) -> str:
        unit = f", {self.unit}" if self.unit and self.unit not in self.meaning else ""
        return self.meaning + unit + (f"; {self.more}" if self.more else "")


class Described(NamedTuple):
    """What the report says about a setting: see `Setting`."""

    meaning: str
    unit: str
    default: Any
    published: bool
    compared: bool
    only_with: str


class SettingError(UserError):
    """A value that a setting cannot have. key: within the group; reason: what it must be; because: other settings, by
    key, that demand it."""

    def __init__(self, key: str, value, reason: str, because: dict[str, Any] | None = None):
        super().__init__(f"{key} is {shown(value)}; {reason}")
        self.key, self.value, self.reason, self.because = key, value, reason, because or {}


REQUIRED: Any = dataclasses.MISSING


def setting(default, meaning: str, **about) -> Any:
    """A field of a settings group, which has to be given if its default is REQUIRED; `about` as in `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(meaning, **about)})


def with_default(group, name: str, default) -> Any:
    """The field `name` of another group, with another default."""
    return dataclasses.field(default=default, metadata={"setting": fields_of(group)[name].about})


class Group:
    """Base of the settings groups: frozen dataclasses whose fields are made by `setting`, or are groups themselves."""

    def __post_init__(self) -> None:
        for name, field in fields_of(type(self)).items():
            object.__setattr__(self, name, checked(field, name, getattr(self, name)))
        self.check()

    def check(self) -> None:
        """What must hold between settings: SettingError where it does not."""


AnyGroup = TypeVar("AnyGroup", bound=Group)


class Field(NamedTuple):
    """A setting with its type: `optional` if it may be None; `item`: of the elements of a tuple of any length."""

    about: Setting
    kind: type
    optional: bool
    default: Any
    item: type | None = None


def fields_of(group) -> dict[str, Field]:
    """The settings of a group (or its class) itself, without those of the groups in it."""
    found = {}
    for field in dataclasses.fields(group):
        if "setting" in field.metadata:
            kind, optional, item = _kind(field.type)
            found[field.name] = Field(field.metadata["setting"], kind, optional, field.default, item)
    return found


def _kind(annotation) -> tuple[type, bool, type | None]:
    optional = isinstance(annotation, types.UnionType)
    if optional:
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    inner = typing.get_args(annotation)
    return typing.get_origin(annotation) or annotation, optional, inner[0] if inner[1:] == (...,) else None


def groups_of(group) -> dict[str, type[Group]]:
    """The groups within a group, by name."""
    return {
        field.name: field.type
        for field in dataclasses.fields(group)  # type: ignore[misc]
        if isinstance(field.type, type) and issubclass(field.type, Group)
    }


def checked(field: Field, key: str, value):
    """The value; a whole number becomes a float, a list a tuple, where that is the type. SettingError if out of bounds."""
    about, kind, optional, default, item = field
    if value is None and optional:
        return None
    if kind is tuple and isinstance(value, (list, tuple)) and (item or len(value) == len(default)):
        element = element_of(field) if item else Field(about, float, False, default[0])
        return tuple(checked(element, key, one) for one in value)
    if kind is float and type(value) is int and abs(value) < 1 << 1000:
        value = float(value)
    if not isinstance(value, kind) or kind is not bool and isinstance(value, bool) or kind is tuple:
        such_as = f" such as {plain(default)!r}" if default not in (None, "", dataclasses.MISSING) else ""
        raise SettingError(key, value, f"expected {TYPE_NAMES.get(kind, 'a path')}{such_as}")
    if about.choices and value not in about.choices:
        raise SettingError(key, value, f"known are {', '.join(map(str, about.choices))}")
    if kind in (int, float) and not _fits(about, kind, value):
        raise SettingError(key, value, f"it must be {_bounds(about, kind, value)}")
    return value


def element_of(field: Field) -> Field:
    """What each element of a tuple of any length is."""
    return Field(field.about, field.item or field.kind, False, REQUIRED)


def _fits(about: Setting, kind: type, value) -> bool:
    most = _LARGEST if kind is int and about.at_most is None else about.at_most
    return (
        (kind is int or math.isfinite(value))
        and (about.at_least is None or value >= about.at_least)
        and (about.above is None or value > about.above)
        and (most is None or value <= most)
        and (about.below is None or value < about.below)
        and (kind is float or value % about.multiple_of == 0)
    )


def _bounds(about: Setting, kind: type, value) -> str:
    """'a multiple of 64 and at least 64 and at most 2048', 'above 0', …"""
    most = _LARGEST if kind is int and about.at_most is None and value > _LARGEST else about.at_most
    limits = {"at least": about.at_least, "above": about.above, "at most": most, "below": about.below}
    multiple = [f"a multiple of {about.multiple_of}"] if about.multiple_of > 1 else []
    said = [f"{words} {limit:.15g}" for words, limit in limits.items() if limit is not None]
    return " and ".join(multiple + said) or "finite"


def shown(value) -> str:
    """A value for a sentence: 80 characters at the most."""
    try:
        text = repr(str(value) if isinstance(value, Path) else value)
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a number of thousands of digits"
    return text[:80]


# ---- nested groups as values ----


def to_plain(group) -> dict[str, Any]:
    """Nested groups as nested dicts of JSON values."""
    return {
        field.name: to_plain(value) if isinstance(value, Group) else plain(value)
        for field in dataclasses.fields(group)
        for value in [getattr(group, field.name)]
    }


def plain(value):
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def flatten(group, prefix: str = "") -> dict[str, Any]:
    """Nested groups as one dict of dotted keys and JSON values."""
    flat: dict[str, Any] = {}
    for name, value in to_plain(group).items():
        flat |= flatten(getattr(group, name), f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def describe(group, prefix: str = "") -> dict[str, Described]:
    """Every setting of nested groups (an instance or a class) by its dotted key."""
    found = {f"{prefix}{name}": described(field) for name, field in fields_of(group).items()}
    for name, inner in groups_of(group).items():
        found |= describe(inner, f"{prefix}{name}.")
    return found


def described(field: Field) -> Described:
    about = field.about
    default = None if field.default is dataclasses.MISSING else plain(field.default)
    return Described(about.meaning, about.unit, default, about.published, about.compared, about.only_with)


def build(group: type[AnyGroup], values: dict[str, Any], sources: dict[str, str], prefix: str = "") -> AnyGroup:
    """The group with `values`, by dotted key, in place of the defaults. sources: where each of them comes from.

    UserError naming source and key of a value that may not be.
    """
    given = {name: build(inner, values, sources, f"{prefix}{name}.") for name, inner in groups_of(group).items()}
    given |= {name: values[prefix + name] for name in fields_of(group) if prefix + name in values}
    try:
        return group(**given)
    except SettingError as error:
        key = prefix + error.key
        raise UserError(
            f"{sources.get(key, 'default')}: {key} is {shown(error.value)}; {error.reason}"
            + "".join(
                f" ({other} is {shown(value)} by {sources.get(other, 'default')})"
                for other, value in error.because.items()
            )
        ) from None


def tell_ignored(source: str, names) -> None:
    """One line on stderr, of the first process alone, about what was given and means nothing here."""
    if names and os.environ.get("RANK", "0") == "0":
        print(f"{source}: ignored: {', '.join(dict.fromkeys(names))}", file=sys.stderr, flush=True)
