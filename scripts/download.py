"""Get data sets, captions and networks by name: fetched with resume, checked, unpacked safely into the data folder."""

from pathlib import Path

from common import ROOT
from common.cli import Parser, UserError, existing_file, exit_on_sigterm, natural, positive_float, run


def parse(argv=None):
    parser = Parser(
        __doc__, epilog="What is there already and complete is not fetched again; an interrupted fetch continues."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to get; --list shows the names")
    parser.add_argument("--list", action="store_true", help="show what there is, or all about the names given, and end")
    parser.add_argument(
        "--registry",
        type=existing_file,
        action="append",
        metavar="FILE",
        help="YAML or JSON file with more entries, in the form of scripts/data/download/registry.yml",
    )
    parser.add_argument(
        "--archive",
        type=existing_file,
        metavar="FILE",
        help="a copy of the one NAME already on disk: checked, unpacked and left where it is",
    )
    parser.add_argument("--data_root", type=Path, default=ROOT / "data", help="folder below which everything goes")
    parser.add_argument("--keep_archive", action="store_true", help="keep fetched archives in DATA_ROOT/.downloads")
    parser.add_argument("--timeout", type=positive_float, default=60, help="seconds to wait for an answer or a byte")
    parser.add_argument("--retries", type=natural, default=5, help="further attempts at an address that fails")
    options = parser.parse_args(argv)
    if not options.names and not options.list:
        parser.error("no NAME was given; --list shows what there is")
    if options.archive and len(options.names) != 1:
        parser.error("--archive FILE goes with exactly one NAME")
    return options


def main(argv=None) -> int:
    options = parse(argv)

    from common import pretrained
    from scripts.data.download import install, registry
    from scripts.data.download.fetch import Patience
    from scripts.data.download.install import human

    exit_on_sigterm()
    ours = [name for name in dict.fromkeys(options.names) if name in pretrained.names()]
    options.names = [name for name in options.names if name not in ours]
    for name in ours:
        print(f"{name} comes with the project, in {pretrained.FOLDER / name}: nothing to fetch")
    if ours and not options.names:
        return 0
    entries = registry.load(options.registry or ())
    chosen = registry.choose(entries, options.names)
    if options.list:
        show(chosen or entries.values(), options.data_root, detailed=bool(chosen))
        for name in () if chosen else pretrained.names():
            size = human(sum(pretrained.file(name, part).stat().st_size for part in pretrained.FILES))
            goal = f"pretrained/{name} (in the project)"
            print(f"{name:<18} {size:>10}  {'sha256':<10} {'complete':<9} {goal:<48} {pretrained.purpose(name)}")
        return 0
    failed = []
    for entry in chosen:  # one that cannot be had does not keep the others waiting
        try:
            print(
                install.get(
                    entry,
                    options.data_root,
                    options.archive,
                    options.keep_archive,
                    Patience(options.timeout, options.retries),
                ),
                flush=True,
            )
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("\ndownload.py: error: ".join(failed))
    return 0


def show(entries, root: Path, detailed: bool) -> None:
    """Print a line for each entry, or with `detailed` everything that the registry knows about it."""
    from scripts.data.download.install import human, status

    if not detailed:
        print(f"{'name':<18} {'size':>10}  {'checked by':<10} {'state':<9} {'goes to':<48} what it is for")
    for entry in entries:
        size = f"{'' if entry.size else '~'}{human(entry.expected_size)}" if entry.expected_size else "?"
        state = status(entry, root)
        if not detailed:
            state = state if len(state) < 10 else "wrong"
            checked = entry.sum[0] if entry.sum else "-"
            print(f"{entry.name:<18} {size:>10}  {checked:<10} {state:<9} {entry.goal:<48} {entry.purpose}")
            continue
        drive = f"Google Drive {entry.drive}" if entry.drive else None
        where = ", ".join(entry.urls) or drive or f"by hand: {entry.by_hand}"
        proof = f"{entry.sum[0]} {entry.sum[1]}" if entry.sum else "none is published: only the form is checked"
        unpacked = f", unpacked ~{human(entry.expected_unpacked)}" if entry.expected_unpacked else ""
        print(
            f"{entry.name}: {entry.purpose}\n  from      {where}\n  size      {size}{unpacked}\n  checksum  {proof}\n"
            f"  licence   {entry.licence}\n  goes to   {root / entry.goal} ({state})"
        )
        if entry.untested:
            print("  note      nobody of this project has seen this file yet")


if __name__ == "__main__":
    run(main)
