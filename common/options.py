"""Command lines made of settings groups: options with help and bounds, and what they mean as groups again."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from common import pretrained
from common.cli import UserError, existing_dir, existing_file
from common.settings import (
    TYPE_NAMES,
    AnyGroup,
    Described,
    Field,
    Setting,
    SettingError,
    checked,
    described,
    element_of,
    fields_of,
    groups_of,
    shown,
    tell_ignored,
)


def option_of(name: str, about: Setting) -> str:
    """The usual spelling of a setting's option; '' if it has none."""
    return next(iter(_spellings(name, about)), about.no_option)


def _spellings(name: str, about: Setting) -> tuple[str, ...]:
    return (f"--{name}",) if about.options is None else about.options


def _destination(name: str, about: Setting) -> str:
    """The attribute of the parsed options, and the key in options.json, that holds the setting."""
    return next(iter(_spellings(name, about)), name).lstrip("-")


def add_options(parser, group) -> None:
    """Add the options of nested groups of settings, each group under the first line of its docstring."""
    titled: dict[str, Any] = {}
    for name, field in fields_of(group).items():
        owner = next(base for base in reversed(group.__mro__) if name in base.__dict__.get("__annotations__", ()))
        title = owner.__doc__.partition(".")[0].lower()
        if option_of(name, field.about):
            titled[title] = titled.get(title) or _argument_group(parser, title)
            _add(titled[title], name, field, field.default, "")
    for inner in groups_of(group).values():
        add_options(parser, inner)


def _argument_group(parser, title: str):
    known = [group for group in parser._action_groups if group.title == title]
    return known[0] if known else parser.add_argument_group(title)


def add_key_options(parser, group, prefix: str = "") -> None:
    """Add the options of those keys of a cfg file that name one; not given, they leave the key as the file has it."""
    for name, field in fields_of(group).items():
        if field.about.options:
            _add(parser, name, field, None, f" (default: cfg {prefix}{name})")
    for name, inner in groups_of(group).items():
        add_key_options(parser, inner, f"{prefix}{name}.")


def _add(parser, name: str, field: Field, default, after: str) -> None:
    about, kind = field.about, field.kind
    names = _spellings(name, about)
    common: dict[str, Any] = {"dest": _destination(name, about), "help": about.help.replace("%", "%%") + after}
    if kind is bool:
        if names:  # a flag that is not given is off, whatever is published
            default = default if about.no_option or field.optional else False
            parser.add_argument(*names, action="store_true", default=default, **common)
        if about.no_option:
            common["help"] = "do not" if names else common["help"]
            parser.add_argument(about.no_option, action="store_false", default=default, **common)
        return
    if default is None and about.none:
        common["help"] += f" (default: {about.none})"
    if about.choices and not about.parse:
        common["choices"] = about.choices
    else:
        common["metavar"] = about.metavar or _METAVARS.get(about.exists or field.item or kind, "NAME")
    if kind is tuple and not about.parse:
        common["nargs"] = "+"
    common |= {"required": True} if default is dataclasses.MISSING else {"default": default}
    parser.add_argument(*names, type=_parser_of(field), **common)


_METAVARS = {int: "N", float: "X", "file": "FILE", "dir": "DIR", Path: "DIR"} | dict.fromkeys(
    pretrained.FILES, "FILE|NAME"
)
_PATHS = {"": Path, "file": existing_file, "dir": existing_dir} | {
    part: pretrained.option(part) for part in pretrained.FILES
}


def _parser_of(field: Field):
    if not field.about.parse:  # then each word is an element of a tuple
        field = element_of(field)
    about, kind = field.about, field.kind

    def parse(text: str):
        if about.none and text == about.none:
            return None
        if kind is Path:
            return _PATHS[about.exists](text)
        try:
            value = about.parse(text) if about.parse else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text[:80]}' is not {TYPE_NAMES[kind]}") from None
        if about.choices and not about.parse:  # argparse itself names them
            return value
        try:
            return checked(field, "", value)
        except SettingError as error:
            given = shown(error.value) if about.parse else text[:80]
            raise argparse.ArgumentTypeError(f"{given} was given; {error.reason}") from None

    return parse


def from_options(group: type[AnyGroup], options, **more) -> AnyGroup:
    """The nested groups that parsed options mean, with `more` settings that have no option.

    UserError names the option that another one contradicts.
    """
    values: dict[str, Any] = {name: from_options(inner, options) for name, inner in groups_of(group).items()}
    fields = fields_of(group)
    values |= {
        name: getattr(options, _destination(name, field.about))
        for name, field in fields.items()
        if option_of(name, field.about)
    }
    try:
        return group(**values, **more)
    except SettingError as error:
        option = option_of(error.key, fields[error.key].about) if error.key in fields else error.key
        raise UserError(f"{option} is {shown(error.value)}; {error.reason}") from None


def parse_groups(parser, group: type[AnyGroup], argv=None) -> tuple[Any, AnyGroup]:
    """A command line as argparse has it, for options beside those of `group`, and as nested groups.

    Ends the process in a sentence where the command line is wrong.
    """
    options = parser.parse_args(argv)
    try:
        settings = from_options(group, options)
    except UserError as error:
        parser.error(str(error))
    tell_ignored(parser.prog, getattr(options, "ignored", ()))
    return options, settings


def by_option(group) -> dict[str, Any]:
    """The values of nested groups by the names of their options, paths as such: what options.json and --dry_run show."""
    found = {_destination(name, field.about): getattr(group, name) for name, field in fields_of(group).items()}
    for name in groups_of(group):
        found |= by_option(getattr(group, name))
    return found


def describe_options(group) -> dict[str, Described]:
    """As `describe`, by the names of the options."""
    found = {_destination(name, field.about): described(field) for name, field in fields_of(group).items()}
    for inner in groups_of(group).values():
        found |= describe_options(inner)
    return found


def key_overrides(group, options, prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """The cfg keys that options were given for: their values and the options' spellings, by dotted key."""
    values, sources = {}, {}
    for name, field in fields_of(group).items():
        value = getattr(options, _destination(name, field.about), None) if field.about.options else None
        if value is not None:
            values[prefix + name], sources[prefix + name] = value, option_of(name, field.about)
    for name, inner in groups_of(group).items():
        more = key_overrides(inner, options, f"{prefix}{name}.")
        values, sources = values | more[0], sources | more[1]
    return values, sources


# ---- options of the published commands that have no setting here ----


class _Ignored(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        namespace.ignored = [*(getattr(namespace, "ignored", None) or []), option_string]


class _Refused(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise argparse.ArgumentError(self, str(self.const))


def add_published(
    parser, flags: tuple[str, ...] = (), valued: tuple[str, ...] = (), refused: dict[str, str] | None = None
) -> None:
    """Options of the published command without a setting here: `flags` and `valued` (that take a value) are ignored,
    which `tell_ignored` says; `refused` ends in the sentence that it gives for each, which says what to use."""
    parser.set_defaults(ignored=[])
    for name in flags:
        parser.add_argument(name, dest="ignored", nargs=0, action=_Ignored, help=argparse.SUPPRESS)
    for name in valued:
        parser.add_argument(name, dest="ignored", action=_Ignored, help=argparse.SUPPRESS)
    for name, sentence in (refused or {}).items():
        parser.add_argument(name, nargs="?", const=sentence, action=_Refused, help=argparse.SUPPRESS)
