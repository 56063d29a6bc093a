"""Put what runs heard, generated and measured on one page, side by side: a self-contained HTML file to open from disk.

A RUN is the folder of a recipe (output/<tag>, with its encoder, generator and ablation), of a generator, of a speech encoder,
or of an ablation. An encoder and a generator of one name, or the only ones, count as one run.
"""

import sys
from pathlib import Path

from common import ROOT, cli


def parse(argv=None):
    parser = cli.Parser(
        __doc__,
        epilog="examples:\n  python ./scripts/report.py output/demo\n"
        "  python ./scripts/report.py output/StackGAN_v2/first output/StackGAN_v2/second --output both.html",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=cli.existing_dir, metavar="RUN", help="a run's folder; several stand side by side")
    add(
        "--dataset",
        metavar="NAME",
        help="the folder under --data_root with train.json and test.json (default: the set that "
        "the runs were trained on)",
    )
    add(
        "--data_root",
        metavar="DIR",
        help="folder of the data sets (default: that of the runs, or data/ of the project)",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page to write, an .html file (default: index.html in RUN if that is "
        "one recipe, else output/report.html)",
    )
    add("--sentences", type=cli.positive_int, default=12, metavar="N", help="test sentences to show")
    add(
        "--audio_switch",
        metavar="NAME",
        help="speech features to generate from: test/audio_features_NAME.pickle (default: "
        "those that each generator was trained on)",
    )
    add(
        "--any_speech",
        action="store_true",
        help="generate from them even where they are known to be of another encoder "
        "than those that the generator was trained on",
    )
    add(
        "--manualSeed",
        type=cli.natural,
        default=0,
        metavar="N",
        help="seed of the images; that of main.py generates the same",
    )
    add("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    if args.output and args.output.is_dir():
        raise cli.UserError(
            f"--output {args.output} is a folder; name a file in it, such as {args.output / 'index.html'}"
        )
    from common import splits
    from common.files import require_ours, write_text
    from scripts.report import page_data, runs
    from scripts.report.page import render

    columns, ablations = runs.columns(args.runs)
    output = args.output or _default_output(columns)
    require_ours(output, "--output")
    trained_on = None if args.dataset else runs.dataset(columns)
    folder = splits.data_dir(args.dataset or trained_on.name, args.data_root or trained_on and trained_on.parent)
    data = page_data.gather(args, folder, columns, ablations)
    write_text(output, render(data))
    _print_numbers(data)
    for note in data.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _default_output(columns) -> Path:
    if len(columns) == 1 and columns[0].recipe:
        return columns[0].recipe / "index.html"
    return ROOT / "output" / "report.html"


def _print_numbers(data) -> None:
    for column in data.columns:
        if data.several and column.numbers:
            print(f"---- {column.label}")
        for number in column.numbers.values():
            beside = [
                f"{kind} {value:.4g}"
                for kind, value in (("chance", number.chance), ("ceiling", number.ceiling))
                if value is not None
            ]
            print(f"{number.name:32} {number.value:10.4g}" + (f"   ({', '.join(beside)})" if beside else ""))


if __name__ == "__main__":
    cli.run(main)
