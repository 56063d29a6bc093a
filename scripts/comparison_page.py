"""Put recipes that were trained for equal times beside each other: table.md, table.csv and the page index.html.

Called by compare_recipes.sh after every row. A RUN is the folder of a recipe, named <row>_seed<n>.
"""

from pathlib import Path

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=cli.existing_dir, metavar="RUN", help="the folder of a recipe, <row>_seed<n>")
    add("--dataset", required=True, metavar="NAME", help="the folder under --data_root with test.json")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: data/ of the project)")
    add("--output", required=True, type=Path, metavar="DIR", help="the folder for the table and the page")
    add("--sentences", type=cli.positive_int, default=64, metavar="N", help="test sentences on a sheet")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    from common import splits
    from common.files import require_ours, write_text
    from scripts.report import comparison, comparison_sheets
    from scripts.report.page import make_environment

    split = splits.load_split(splits.data_dir(args.dataset, args.data_root), "test")
    page = args.output / "index.html"
    require_ours(page, "--output")
    results = comparison.read(args.runs, split)
    table = comparison.markdown(results)
    write_text(args.output / "table.csv", comparison.comma_separated(results))
    write_text(args.output / "table.md", table)
    sheets, said = comparison_sheets.make(results, split, args.sentences)
    html = (
        make_environment()
        .get_template("comparison.html")
        .render(
            dataset=args.dataset,
            split=split,
            header=comparison.header(results),
            lines=comparison.lines(results),
            by_attribute=comparison.by_attribute(results),
            notes=comparison.notes(results),
            sheets=sheets,
            said=said,
        )
    )
    write_text(page, html.encode("utf-8", "replace").decode())
    print(table)
    return 0


if __name__ == "__main__":
    cli.run(main)
