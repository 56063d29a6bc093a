"""Does bf16 train like float32? Both trainers in both precisions with several seeds: curves and results compared.

Needs a set whose stages 0 to 2 are done, such as that of `bash scripts/demo.sh --method improved --stop_stage 2`; the
generator learns from embeddings made of the sentences' words, so that its runs differ in its own precision alone. The *distance* of a
curve is that between the precisions' mean curves, relative to the distance between two seeds of float32; about 1
means no effect.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import synthetic_data
from common import ROOT, cli

PRECISIONS = ("fp32", "bf16")


def parse(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--data_root", default="data", metavar="DIR", help="folder of the set toybirds")
    parser.add_argument(
        "--work",
        default="output/precision",
        metavar="DIR",
        help="folder of the runs; those that are there are not repeated",
    )
    parser.add_argument(
        "--seeds", type=cli.positive_int, default=3, metavar="N", help="runs of each precision, two at least"
    )
    parser.add_argument("--epochs", type=cli.positive_int, default=6, metavar="N", help="of the encoder")
    parser.add_argument("--iterations", type=cli.positive_int, default=400, metavar="N", help="of the generator")
    parser.add_argument("--images", type=cli.positive_int, default=300, metavar="N", help="that its KID is measured on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the generator's cfg")
    parser.add_argument("--trainers", choices=("encoder", "generator", "both"), default="both", help="which to try")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser.parse_args(argv)


def run(script: str, *options) -> None:
    if subprocess.run([sys.executable, str(ROOT / script), *map(str, options)], stdout=subprocess.DEVNULL).returncode:
        raise cli.UserError(f"{script} failed; see above")


def train_encoder(args, folder: Path, precision: str, seed: int) -> dict:
    run(
        "Audio_to_Image/train_audio_encoder.py",
        "--dataset",
        "toybirds",
        "--data_root",
        args.data_root,
        "--output_dir",
        folder,
        "--teacher",
        "efficientnet_lite0",
        "--epoch",
        args.epochs,
        "--eval_every",
        args.epochs,
        "--batch_size",
        16,
        "--grad_clip",
        5,
        "--lr_schedule",
        "cosine",
        "--learning_rate",
        5e-4,
        "--l1_flag",
        "--jel_flag",
        "--distill_flag",
        "--bidirectional",
        "--max_frames",
        576,
        "--precision",
        precision,
        "--manualSeed",
        seed,
    )
    return {"class accuracy, %": curve(folder / "stats.jsonl", "eval_accuracy")[-1]}


def train_generator(args, folder: Path, precision: str, seed: int) -> dict:
    data = Path(args.data_root).resolve() / "toybirds"
    switches = [word for value in (f"TRAIN.MAX_ITERATIONS={args.iterations}", *args.set) for word in ("--set", value)]
    common = [
        "--cfg",
        ROOT / "StackGAN_v2/cfg/toybirds_3stages.yml",
        "--data_dir",
        data,
        "--audio_switch",
        synthetic_data.SWITCH,
        "--precision",
        precision,
        "--manualSeed",
        seed,
        *switches,
    ]
    run("StackGAN_v2/main.py", *common, "--output_dir", folder.resolve(), "--tick", max(1, args.iterations // 40))
    run(
        "StackGAN_v2/main.py",
        *common,
        "--set",
        "TRAIN.FLAG=False",
        "--eval_net_g",
        folder / "Model/latest.pth",
        "--limit",
        args.images,
    )
    samples = next((folder / "Model").glob("iteration*/single_samples/valid"))
    run(
        "StackGAN_v2/evaluate.py",
        "--images",
        samples,
        "--data_dir",
        data,
        "--metrics",
        "kid",
        "--lite0_size",
        128,
        "--quiet",
        "--output",
        folder,
    )
    records = next(folder.glob("metric-kid*.jsonl")).read_text().splitlines()
    return {"KID through lite0": json.loads(records[-1])["value"]}


def curve(path: Path, term: str) -> list[float]:
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return [row[term] for row in rows if term in row]


def distance(curves: dict[str, list[list[float]]]) -> float:
    """Root mean square of the difference of the precisions' means, relative to its expectation for float32 alone.

    curves: for each precision one list for each seed, of equal lengths.
    """
    apart, spread = [], []
    for plain, ours in zip(zip(*curves["fp32"]), zip(*curves["bf16"])):
        apart.append((statistics.mean(ours) - statistics.mean(plain)) ** 2)
        spread.append(statistics.variance(plain))
    count = len(curves["fp32"])
    return (statistics.mean(apart) / (2 * statistics.mean(spread) / count)) ** 0.5


def main(argv=None) -> int:
    args = parse(argv)
    if args.seeds < 2:
        raise cli.UserError("--seeds must be 2 at least: one run has no spread")
    from common.splits import load_split

    for name in ("train", "test"):
        folder = Path(args.data_root) / "toybirds"
        synthetic_data.save_embeddings(folder, load_split(folder, name))
    results = {name: compare(args, name, *TRAINERS[name]) for name in TRAINERS if args.trainers in (name, "both")}
    if args.json:
        from common.files import write_json

        settings = {name: vars(args)[name] for name in ("seeds", "epochs", "iterations", "images", "set")}
        write_json(Path(args.json), {"settings": settings, **results})
    return 0


def compare(args, trainer: str, train, terms) -> dict:
    """Train, or read what earlier calls have trained; print and return the distances, last values and results."""
    curves, ends = {term: {} for term in terms}, {}
    for precision in PRECISIONS:
        for seed in range(args.seeds):
            folder = Path(args.work) / f"{trainer}_{precision}_{seed}"
            note = folder / "ends.json"
            if not note.exists():
                ended = train(args, folder, precision, seed)
                note.write_text(json.dumps(ended))
            for name, value in json.loads(note.read_text()).items():
                ends.setdefault(name, {}).setdefault(precision, []).append(value)
            for term in terms:
                curves[term].setdefault(precision, []).append(curve(folder / "stats.jsonl", term))
    apart = {term: round(distance(both), 2) for term, both in curves.items()}
    print(
        f"\n{trainer}: distance of bf16's curves from float32's, in spreads of float32: "
        + ", ".join(f"{term} {value}" for term, value in apart.items())
    )
    for name, values in ends.items():
        print(
            f"  {name}: "
            + "; ".join(
                f"{precision} " + ", ".join(f"{value:.4g}" for value in row) for precision, row in values.items()
            )
        )
    last = {
        term: {precision: [round(line[-1], 4) for line in lines] for precision, lines in both.items()}
        for term, both in curves.items()
    }
    return {"distance": apart, "last": last, "results": ends}


TRAINERS = {
    "encoder": (train_encoder, ("loss", "jel", "l1", "distill")),
    "generator": (train_generator, ("D0", "D1", "D2", "G")),
}


if __name__ == "__main__":
    cli.run(main)
