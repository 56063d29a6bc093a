"""What each loss is worth: rows trained with some of JEL, L1 and distillation, as one table in Markdown and CSV."""
import csv
import io
import statistics
from pathlib import Path

from common.cli import UserError
from common.files import write_text
from scripts.reporting import found

LOSSES = {"jel_flag": "JEL", "l1_flag": "L1", "distill_flag": "distillation"}
CLASSED = {"accuracy": "class accuracy", "ap50": "AP@50", "accuracy_cosine": "class accuracy, cosine",
           "ap50_cosine": "AP@50, cosine"}
_RETRIEVED = {f"{way}_{name}": f"{arrow} {title}" for way, arrow in
              (("speech_to_image", "speech → image"), ("image_to_speech", "image → speech"))
              for name, title in (("map", "mAP"), ("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"))}
CLASSLESS = {**_RETRIEVED, **{f"{name}_cosine": f"{title}, cosine" for name, title in _RETRIEVED.items()}}
# options that differ between the rows by nature, or that no number depends on
_OWN = {*LOSSES, "output_dir", "manualSeed", "jobs", "workers", "cache", "resume", "keep", "save_every", "log_every", "dry_run"}


def read_runs(folders) -> list[dict]:
    """One dict a folder `<row>_seed<n>` with an `encoder` run: losses, seed, epochs, options, numbers (last measured)."""
    runs = []
    for folder in map(Path, folders):
        run = found.run_folder(folder / "encoder")
        lines = found.json_lines(run.path / "metric-speech.jsonl")
        if not lines or not run.options:
            raise UserError(f"{run.path} holds no options.json, or no numbers in metric-speech.jsonl; run "
                            "scripts/ablate.sh, which trains and measures it")
        epoch = lines[-1].get("epoch")
        runs.append({"losses": tuple(name for name in LOSSES if run.options.get(name)),
                     "seed": run.options.get("manualSeed"), "epochs": epoch, "line": lines[-1],
                     "options": {key: value for key, value in run.options.items() if key not in _OWN},
                     "numbers": {key: value for key, value in lines[-1].items()
                                 if found.is_number(value) and key in {**CLASSED, **CLASSLESS}}})
    return runs


def write(folder, runs: list[dict]) -> str:
    """table.csv, one line a run, and table.md, one line a choice of losses, in `folder`. → the Markdown."""
    text = markdown(runs)
    write_text(Path(folder) / "table.csv", comma_separated(runs))
    write_text(Path(folder) / "table.md", text)
    return text


def comma_separated(runs: list[dict]) -> str:
    names = [name for name in {**CLASSED, **CLASSLESS} if any(name in run["numbers"] for run in runs)]
    differing = differing_options(runs)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*LOSSES.values(), "seed", "epochs", *names, "chance", "ap50_chance", "images", "captions", *differing])
    for run in runs:
        line = run["line"]
        writer.writerow([*(int(name in run["losses"]) for name in LOSSES), run["seed"], run["epochs"],
                         *(_exactly(run["numbers"].get(name)) for name in names),
                         *(_exactly(line.get(name)) for name in ("chance", "ap50_chance")),
                         *(line.get(name, "") for name in ("images", "captions")),
                         *(run["options"].get(name, "") for name in differing)])
    return buffer.getvalue()


def _exactly(value) -> str:
    return f"{value:.4f}" if found.is_number(value) else ""


def differing_options(runs: list[dict]) -> list[str]:
    """Options that are not the same in all runs, though the losses alone should differ; those that a run of an older version
    does not know are as they were."""
    names = dict.fromkeys(name for run in runs for name in run["options"])
    return [name for name in names if len({repr(run["options"][name]) for run in runs if name in run["options"]}) > 1]


def by_losses(runs: list[dict]) -> dict[tuple, list[dict]]:
    """Runs of the same losses together, in the order in which they first come."""
    groups = {}
    for run in runs:
        groups.setdefault(run["losses"], []).append(run)
    return groups


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Mean, and the sample's standard deviation (n − 1) if there are two or more."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def markdown(runs: list[dict]) -> str:
    classed = any("accuracy" in run["numbers"] for run in runs)
    columns = CLASSED if classed else CLASSLESS
    columns = {name: title for name, title in columns.items() if any(name in run["numbers"] for run in runs)}
    lines = [[*LOSSES.values(), *columns.values(), "epochs", "seeds"]]
    for losses, group in by_losses(runs).items():
        cells = ["✓" if name in losses else "" for name in LOSSES]
        for name in columns:
            values = [run["numbers"][name] for run in group if name in run["numbers"]]
            mean, deviation = mean_and_deviation(values) if values else (None, None)
            cells.append("" if mean is None else f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else ""))
        epochs = sorted({str(run["epochs"]) for run in group})
        lines.append([*cells, ", ".join(epochs), ", ".join(str(run["seed"]) for run in group)])
    table = [f"| {' | '.join(line)} |" for line in lines]
    table.insert(1, "|" + "|".join([":-:"] * 3 + ["--:"] * len(columns) + ["--:", "---"]) + "|")
    return "\n".join([*table, "", *(f"- {note}" for note in notes(runs)), ""])


def notes(runs: list[dict]) -> list[str]:
    """How the numbers were made and what to beware of, a sentence or two each."""
    line, options = runs[-1]["line"], runs[-1]["options"]
    said = [f"In percent, on all {line.get('images')} pictures and {line.get('captions')} captions of the "
            f"{line.get('split')} split of {line.get('dataset')}, with the last snapshot of each training (the best one would "
            "have been chosen on the test split)."]
    if found.is_number(line.get("chance")):
        highest = line.get("ap50_highest")
        said.append(f"Guessing gets a class accuracy of {line['chance']:.2f} and an AP@50 of {line['ap50_chance']:.2f}"
                    + (f"; no ranking can exceed an AP@50 of {highest:.2f}, since a class may have fewer than 50 pictures."
                       if found.is_number(highest) else "."))
    if any("jel_flag" not in run["losses"] for run in runs):
        said.append("Scores are dot products, as published. Only JEL trains these: L1 sees a batch divided by its norm, and "
                    "distillation does not see a number added to all of an embedding. Without JEL the columns by cosine say "
                    "more about what was learnt.")
    if any(len(group) > 1 for group in by_losses(runs).values()):
        said.append("Mean ± standard deviation of the sample over seeds.")
    differing = differing_options(runs)
    if differing:
        said.append("**These rows differ in more than their losses**: " + "; ".join(
            f"{name} {', '.join(dict.fromkeys(str(run['options'].get(name)) for run in runs))}" for name in differing) + ".")
    told = ("teacher", "epoch", "batch_size", "learning_rate", "lr_schedule", "grad_clip", "max_steps", "loss_diff", "loss_same",
            "lambda_l1", "lambda_distill", "bidirectional", "rnn_layers", "max_frames", "device", "precision")
    said.append("Options of all rows: " + ", ".join(f"{name} {options[name]}" for name in told
                                                    if name in options and name not in differing) + ".")
    return said


def read_table(path) -> list[dict[str, str]]:
    """The lines of a table.csv; none if it is not there or holds no losses."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if all(row.get(name) in ("0", "1") for name in LOSSES.values())]
