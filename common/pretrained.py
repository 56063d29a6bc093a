"""Networks that come with the project: `pretrained/NAME/`, which options take by NAME in place of a file.

A folder holds `encoder.pth` and `generator.pth` (half precision), `card.json` (hashes, options, numbers; written by
scripts/export_pretrained.py) and `README.md`, the model card for people.
"""

import argparse
import functools
from pathlib import Path

from common import ROOT
from common.cli import existing_file
from common.files import read_note

FOLDER = ROOT / "pretrained"
FILES = {"encoder": "encoder.pth", "generator": "generator.pth"}
CARD = "card.json"


def names() -> list[str]:
    """The pretrained networks that are complete, in alphabetical order."""
    if not FOLDER.is_dir():
        return []
    return sorted(
        folder.name
        for folder in FOLDER.iterdir()
        if (folder / CARD).is_file() and all((folder / file).is_file() for file in FILES.values())
    )


def find(given, part: str) -> Path:
    """What a user means by a network: an existing file, else the `part` ('encoder', 'generator') of that NAME, else the
    path as it was given."""
    path = Path(given)
    return file(str(given), part) if not path.exists() and str(given) in names() else path


def file(name: str, part: str) -> Path:
    return FOLDER / name / FILES[part]


def files(part: str) -> list[Path]:
    """That part of all pretrained networks."""
    return [file(name, part) for name in names()]


def name_of(path) -> str | None:
    """The NAME to which a network's file belongs; None for the file of a run."""
    path = Path(path).resolve()
    return path.parent.name if path.parent.parent == FOLDER.resolve() and path.parent.name in names() else None


def card(name: str) -> dict:
    """The content of card.json; {} if it cannot be read."""
    return read_note(FOLDER / name / CARD)


def purpose(name: str) -> str:
    """What the networks are for, in a phrase."""
    return str(card(name).get("purpose", "pretrained networks"))


def option(part: str):
    """The type of an argparse option that takes a file, or the NAME of pretrained networks."""
    return functools.partial(_existing_network, part=part)


def _existing_network(text: str, part: str) -> Path:
    path = find(text, part)
    if not path.exists() and "/" not in text and names():
        raise argparse.ArgumentTypeError(f"{text} does not exist; pretrained are {', '.join(names())}")
    return existing_file(str(path))
