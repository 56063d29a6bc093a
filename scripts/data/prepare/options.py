"""What the command lines of scripts/prepare_*.py share."""

from pathlib import Path

from common import ROOT
from common.cli import Parser

HOW_TO_GET = "python ./scripts/download.py --list says how to get it"


def make_parser(description: str, dataset: str) -> Parser:
    """A parser with the options of every set; `dataset` is the folder below data/."""
    parser = Parser(description)
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=ROOT / "data" / dataset,
        help="folder of the set: split files are written here, archives looked for",
    )
    parser.add_argument(
        "--any_size",
        action="store_true",
        help="accept a part of the set: do not compare the counts with those of the complete one",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make split files again that are there already, instead of checking and keeping them",
    )
    return parser
