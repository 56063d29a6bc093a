"""Put what a run heard, painted and measured on one page: a self-contained HTML file to open from disk."""
import sys
from pathlib import Path

if __name__ == "__main__":                         # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common import ROOT, cli  # noqa: E402


def parse(argv=None):
    parser = cli.Parser(__doc__, epilog="example:\n  python ./scripts/report.py --dataset toybirds --recipe_dir output/demo "
                        "--output output/demo/index.html")
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="the folder under --data_root with train.json and test.json")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: data/ of the project)")
    add("--encoder_run", type=cli.existing_dir, metavar="DIR", help="run folder of the speech encoder (default: "
        "output/Audio_to_Image/log/<dataset>_speech_encoder if it is there)")
    add("--generator_run", type=cli.existing_dir, metavar="DIR", help="run folder of the generator (default: the newest in "
        "output/StackGAN_v2 that was trained on --dataset)")
    add("--recipe_dir", type=cli.existing_dir, metavar="DIR", help="folder with the recipe's stages.jsonl, for the times "
        "(default: output/<dataset>)")
    add("--output", required=True, type=Path, metavar="FILE", help="the page to write, an .html file")
    add("--sentences", type=cli.positive_int, default=12, metavar="N", help="test sentences to show")
    add("--audio_switch", metavar="NAME", help="speech features to paint from: test/audio_features_NAME.pickle (default: "
        "those that the generator was trained on)")
    add("--manualSeed", type=cli.natural, default=0, metavar="N", help="seed of the pictures; that of main.py paints the same")
    add("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute")
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    if args.output.is_dir():
        raise cli.UserError(f"--output {args.output} is a folder; name a file in it, such as {args.output / 'index.html'}")
    from common.files import write_text
    from scripts.reporting import gather, sections
    from scripts.reporting.markup import document, h
    findings = gather.gather(args, _default_encoder(args), _default_generator(args), _default_recipe(args))
    body = [part(findings) for part in (sections.head, sections.sentences, sections.interpolation, sections.curves,
                                        sections.numbers, sections.method, sections.times, sections.next_steps)]
    body.append(h("footer", f"Made {findings.date} by scripts/report.py."))
    write_text(args.output, document(f"Speech to pictures: {args.dataset}", body))
    for number in [*findings.encoder_numbers, *findings.generator_numbers]:
        beside = [f"{kind} {value:.4g}" for kind, value in (("chance", number.chance), ("ceiling", number.ceiling))
                  if value is not None]
        print(f"{number.name:32} {number.value:10.4g}" + (f"   ({', '.join(beside)})" if beside else ""))
    for note in findings.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _default_encoder(args):
    folder = ROOT / "output" / "Audio_to_Image" / "log" / f"{args.dataset}_speech_encoder"
    return args.encoder_run or (folder if folder.is_dir() else None)


def _default_generator(args):
    if args.generator_run:
        return args.generator_run
    from scripts.reporting.found import run_folder
    runs = sorted((ROOT / "output" / "StackGAN_v2").glob("*/options.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(runs):
        cfg = run_folder(path.parent).options.get("cfg")
        if isinstance(cfg, dict) and cfg.get("DATASET_NAME") == args.dataset:
            return path.parent
    return None


def _default_recipe(args):
    folder = ROOT / "output" / args.dataset
    return args.recipe_dir or (folder if folder.is_dir() else None)


if __name__ == "__main__":
    cli.run(main)
