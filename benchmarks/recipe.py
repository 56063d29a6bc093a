"""Hours of the published recipe on CUB-200-2011, computed from measured rates: as published, and ours.

Reads every stage's JSON in the results folder and measures what is missing.
"""

import importlib
from pathlib import Path

from benchmarks import harness
from common import cli

IMAGES, TRAINING, TEST, SENTENCES = 11788, 8855, 2933, 10
EPOCHS, ITERATIONS, BATCH = 1000, 220000, 24

# stage of the recipe, its benchmark with options, items
STAGES = (
    ("log-mels", "log_mel", [], IMAGES * SENTENCES),
    ("teacher features", "teacher", [], IMAGES),
    ("speech encoder", "encoder_step", [], EPOCHS * TRAINING),
    ("speech features", "extraction", [], IMAGES * SENTENCES),
    ("generator", "generator_step", ["--size", "256"], ITERATIONS * BATCH),
    ("images", "sampling", [], TEST * SENTENCES),
    ("metrics", "metrics", [], TEST * SENTENCES + TEST),
)


def results_folder(device) -> Path:
    """benchmarks/results/<name of the GPU, or of the CPU with its instruction set and cores>/."""
    import re

    import torch

    from common.devices import pick_precision

    name = harness.device_name(device)
    if device.type == "cpu":
        bf16 = " bf16" if pick_precision("auto", device) == "bf16" else ""
        name = f"{harness.cpu_name()} {torch.backends.cpu.get_cpu_capability()}{bf16} {harness.cores()} cores"
    return Path(__file__).resolve().parent / "results" / re.sub(r"[^\w]+", "_", name).strip("_")


def file_of(folder: Path, script: str, options: list[str]) -> Path:
    return folder / ("_".join([script, *options[1::2]]) + ".json")


def result_of(folder: Path, script: str, options: list[str], common: list[str]) -> dict:
    """The stage's JSON; it is measured now if it is missing or from a --quick run."""
    path = file_of(folder, script, options)
    if not path.is_file() or (harness.read(path).get("quick") and "--quick" not in common):
        importlib.import_module(f"benchmarks.{script}").main([*options, *common, "--json", str(path)])
    return harness.read(path)


def hours(result: dict, items: int, side: str):
    """(hours for `items`, the row that they come from), or None if the side was not measured.

    plain: with loading, where that was measured; ours: with the switches that turned out fastest.
    """
    rows = [row for row in result["rows"] if row["name"].startswith(side)]
    if not rows:
        return None
    row = (max if side == "ours" else min)(rows, key=lambda row: row["items_per_s"])
    return items / row["items_per_s"] / 3600, row["name"]


def table(results: list[tuple[str, int, dict]]) -> tuple[list[str], dict]:
    """(lines of Markdown, hours of both sides)."""
    lines = ["| stage | items | plain, hours | ours, hours | ratio | ours is |", "|---|---|---|---|---|---|"]
    sums, whole = {"plain": 0.0, "ours": 0.0}, {"plain": True, "ours": True}
    for stage, items, result in results:
        both = {side: hours(result, items, side) for side in sums}
        for side, found in both.items():
            sums[side] += found[0] if found else 0.0
            whole[side] &= found is not None
        cells = [f"{found[0]:.2f}" if found else "not measured" for found in both.values()]
        ratio = f"{both['plain'][0] / both['ours'][0]:.1f}" if all(both.values()) else ""
        variant = both["ours"][1] if both["ours"] else ""
        lines.append(f"| {stage} | {items:,} | {' | '.join(cells)} | {ratio} | {variant} |")
    cells = [f"{'' if whole[side] else 'at least '}{value:.1f}" for side, value in sums.items()]
    lines.append(f"| all | | {' | '.join(cells)} | {sums['plain'] / sums['ours']:.1f} | |")
    return lines, sums


def started(doc: str, script: str, argv):
    """Parse the options of a command over all stages: → options, device, folder of the results, the stages' options."""
    parser = harness.parser(doc, script)
    parser.add_argument(
        "--results", metavar="DIR", help="folder of the stages' JSON (default: the device's in benchmarks/results)"
    )
    args = parser.parse_args(argv)
    device, _ = harness.start(args, argv)
    folder = Path(args.results) if args.results else results_folder(device)
    common = ["--device", args.device, "--precision", args.precision, "--repeats", str(args.repeats)]
    return args, device, folder, common + ["--quick"] * args.quick


def main(argv=None) -> int:
    args, device, folder, common = started(__doc__, __file__, argv)
    results = [(stage, items, result_of(folder, script, options, common)) for stage, script, options, items in STAGES]
    lines, sums = table(results)
    print("\n" + "\n".join(lines))
    if args.json:
        from common.files import write_json

        write_json(Path(args.json), {"hours": sums, "device": harness.device_name(device), "table": lines})
    return 0


if __name__ == "__main__":
    cli.run(main)
