"""Put the rows of an ablation into one table: table.md and table.csv. Called by ablate.sh after every row."""

from pathlib import Path

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "rows",
        nargs="+",
        type=cli.existing_dir,
        metavar="ROW",
        help="a folder that ablate.sh made for one choice of losses and one seed, with the run in its folder encoder",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder for table.md and table.csv"
    )
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    from scripts.report import ablation

    print(ablation.write(args.output, ablation.read_runs(args.rows)))
    return 0


if __name__ == "__main__":
    cli.run(main)
