"""What each loss is worth: rows trained with some of JEL, L1 and distillation, as one table (Markdown, CSV, page)."""

import csv
import io
import statistics
from pathlib import Path

from common.cli import UserError
from common.files import write_text
from scripts.report import run_records

LOSSES = {"jel_flag": "JEL", "l1_flag": "L1", "distill_flag": "distillation"}
CLASSED = {
    "accuracy": "class accuracy",
    "ap50": "AP@50",
    "accuracy_cosine": "class accuracy, cosine",
    "ap50_cosine": "AP@50, cosine",
}
_RETRIEVED = {
    f"{way}_{name}": f"{arrow} {title}"
    for way, arrow in (("speech_to_image", "speech → image"), ("image_to_speech", "image → speech"))
    for name, title in (("map", "mAP"), ("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"))
}
CLASSLESS = {**_RETRIEVED, **{f"{name}_cosine": f"{title}, cosine" for name, title in _RETRIEVED.items()}}
# options that differ between the rows by nature, or that no number depends on
_OWN = {*LOSSES, *"output_dir manualSeed jobs workers cache resume keep save_every log_every dry_run".split()}
_TOLD = (
    "teacher epoch batch_size learning_rate lr_schedule grad_clip max_steps loss_diff loss_same lambda_l1 "
    "lambda_distill bidirectional rnn_layers max_frames device precision"
).split()


def read_runs(folders) -> list[dict]:
    """One dict a folder `<row>_seed<n>` with an `encoder` run: losses, seed, epochs, options, last line measured."""
    runs = []
    for folder in map(Path, folders):
        run = run_records.run_folder(folder / "encoder")
        lines = run_records.json_lines(run.path / "metric-speech.jsonl")
        if not lines or not run.options:
            raise UserError(
                f"{run.path} holds no options.json, or no numbers in metric-speech.jsonl; run "
                "scripts/ablate.sh, which trains and measures it"
            )
        runs.append(
            {
                "losses": tuple(name for name in LOSSES if run.options.get(name)),
                "line": lines[-1],
                "seed": run.options.get("manualSeed"),
                "epochs": lines[-1].get("epoch"),
                "options": {key: value for key, value in run.options.items() if key not in _OWN},
            }
        )
    return runs


def write(folder, runs: list[dict]) -> str:
    """table.csv, one line a run, and table.md, one line a choice of losses, in `folder`. → the Markdown."""
    text = markdown(runs)
    write_text(Path(folder) / "table.csv", comma_separated(runs))
    write_text(Path(folder) / "table.md", text)
    return text


def _rows(runs: list[dict]) -> list[dict[str, str]]:
    """The lines of table.csv."""
    differing, rows = differing_options(runs), []
    measured = [
        name for name in {**CLASSED, **CLASSLESS} if any(run_records.is_number(run["line"].get(name)) for run in runs)
    ]
    for run in runs:
        line = run["line"]
        rows.append(
            {
                **{title: str(int(name in run["losses"])) for name, title in LOSSES.items()},
                "seed": str(run["seed"]),
                "epochs": str(run["epochs"]),
                **{
                    name: f"{line[name]:.4f}" if run_records.is_number(line.get(name)) else ""
                    for name in (*measured, "chance", "ap50_chance")
                },
                **{name: line.get(name, "") for name in ("images", "captions")},
                **{name: run["options"].get(name, "") for name in differing},
            }
        )
    return rows


def comma_separated(runs: list[dict]) -> str:
    buffer, rows = io.StringIO(), _rows(runs)
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read_table(path) -> list[dict[str, str]]:
    """The lines of a table.csv; none if it is not there or holds no losses."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    return [row for row in rows if all(row.get(name) in ("0", "1") for name in LOSSES.values())]


def differing_options(runs: list[dict]) -> list[str]:
    """Options that are not the same in all runs, though the losses alone should differ; those that a run of an older
    version does not know count as the same."""
    names = dict.fromkeys(name for run in runs for name in run["options"])
    return [name for name in names if len({repr(run["options"][name]) for run in runs if name in run["options"]}) > 1]


def summary(rows: list[dict], decimals: int) -> tuple[list[str], list[list[str]]]:
    """Lines of a table.csv → (header, one line a choice of losses): its losses, means over its seeds, epochs, seeds."""
    titles = CLASSED if any(row.get("accuracy") for row in rows) else CLASSLESS
    titles = {name: title for name, title in titles.items() if any(row.get(name) for row in rows)}
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[loss] for loss in LOSSES.values()), []).append(row)
    lines = [
        [
            *("✓" if on == "1" else "" for on in losses),
            *(_mean([row.get(name) for row in group], decimals) for name in titles),
            *(", ".join(dict.fromkeys(row.get(name) or "" for row in group)) for name in ("epochs", "seed")),
        ]
        for losses, group in groups.items()
    ]
    return [*LOSSES.values(), *titles.values(), "epochs", "seeds"], lines


def _mean(texts: list, decimals: int) -> str:
    """'mean ± the sample's standard deviation (n − 1)', without a deviation of one value; '' of none."""
    values = []
    for text in texts:
        try:
            values.append(float(text))
        except (TypeError, ValueError):  # an empty cell
            continue
    deviation = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{decimals}f}{deviation}" if values else ""


def markdown(runs: list[dict]) -> str:
    header, lines = summary(_rows(runs), 2)
    table = [f"| {' | '.join(line)} |" for line in (header, *lines)]
    table.insert(1, "|" + "|".join([":-:"] * 3 + ["--:"] * (len(header) - 4) + ["---"]) + "|")
    return "\n".join([*table, "", *(f"- {note}" for note in notes(runs)), ""])


def notes(runs: list[dict]) -> list[str]:
    """How the numbers were made and what to beware of, a sentence or two each."""
    line, options = runs[-1]["line"], runs[-1]["options"]
    said = [
        f"In percent, on all {line.get('images')} images and {line.get('captions')} captions of the "
        f"{line.get('split')} split of {line.get('dataset')}, with the last snapshot of each training (the best "
        "one would have been chosen on the test split)."
    ]
    if run_records.is_number(line.get("chance")):
        highest = line.get("ap50_highest")
        said.append(
            f"Guessing gets a class accuracy of {line['chance']:.2f} and an AP@50 of {line['ap50_chance']:.2f}"
            + (
                f"; no ranking can exceed an AP@50 of {highest:.2f}, since a class may have under 50 images."
                if run_records.is_number(highest)
                else "."
            )
        )
    if any("jel_flag" not in run["losses"] for run in runs):
        said.append(
            "Scores are dot products, as published. Only JEL trains these: L1 sees a batch divided by its "
            "norm, and distillation is unchanged by a constant added to an embedding. Without JEL the columns "
            "by cosine say more about what was learned."
        )
    if len({run["losses"] for run in runs}) < len(runs):
        said.append("Mean ± standard deviation of the sample over seeds.")
    differing = differing_options(runs)
    if differing:
        said.append(
            "**These rows differ in more than their losses**: "
            + "; ".join(
                f"{name} {', '.join(dict.fromkeys(str(run['options'].get(name)) for run in runs))}"
                for name in differing
            )
            + "."
        )
    said.append(
        "Options of all rows: "
        + ", ".join(f"{name} {options[name]}" for name in _TOLD if name in options and name not in differing)
        + "."
    )
    return said
