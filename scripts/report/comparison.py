"""Recipes compared: rows of runs with several seeds → means, spreads, and where every seed is better than the first row's."""

import csv
import io
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import UserError
from scripts.report import run_records, runs
from scripts.report.words import capital, label

# Start of a number's name → (title, whether lower is better). Of several extractors' numbers that of EfficientNet-lite2
# counts, which no training knows, else the first.
NUMBERS = {
    "attribute_agreement": ("agreement, %", False),
    "normalised": ("agreement, normalised", False),
    "class_accuracy": ("class accuracy, %", False),
    "kid": ("KID", True),
    "fid": ("Fréchet distance", True),
    "precision": ("precision", False),
    "recall": ("recall", False),
    "speech_accuracy": ("class accuracy from speech, %", False),
}
TIMES = {3: "encoder, min", 5: "generator, min"}  # stages, set-up and the last evaluation included


@dataclass
class Result:
    """One run of a row. values: its numbers by the keys of NUMBERS; names: their full names, with the protocol; parts:
    attribute → its number; minutes: of stages, by number."""

    row: str
    seed: int
    column: runs.Column
    values: dict[str, float] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[str, run_records.Number] = field(default_factory=dict)
    minutes: dict[int, float] = field(default_factory=dict)


def read(folders, split) -> list[Result]:
    """The runs in `folders`, in that order. UserError names a folder that is none of a comparison, or has no numbers."""
    results = []
    for folder in map(Path, folders):
        match = re.fullmatch(r"(.+)_seed(\d+)", folder.name)
        if not match:
            raise UserError(f"RUN {folder} is not named <row>_seed<n>, as compare_recipes.sh names them")
        column = runs.columns([folder])[0][0]
        result = Result(match[1].replace("_", " "), int(match[2]), column)
        measured = run_records.measured_iterations(column.generator)
        if not measured:
            raise UserError(f"RUN {folder} has no numbers of generated images; run scripts/compare_recipes.sh")
        numbers = run_records.generator_numbers(list(measured.values())[-1])
        numbers += run_records.encoder_numbers(column.encoder, split.labels)
        _take(result, numbers)
        result.minutes = {line["stage"]: line["seconds"] / 60 for line in column.stages if line.get("stage") in TIMES}
        results.append(result)
    return results


def _take(result: Result, numbers: list[run_records.Number]) -> None:
    for key in NUMBERS:
        found = [n for n in numbers if n.name == key or n.name.startswith(f"{key}_")]
        if found:
            number = next((n for n in found if "lite2" in n.name), found[0])
            result.values[key], result.names[key] = number.value, number.name
            if number.parts:
                result.parts = {part.name: part for part in number.parts}
                if number.normalised is not None:
                    result.values["normalised"] = number.normalised


def grouped(results: list[Result]) -> dict[str, list[Result]]:
    """Row → its runs, in the order of their first appearance."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return rows


def mean_and_spread(values: list[float], decimals: int) -> str:
    """'mean ± deviation of the sample', without a deviation of one value; '–' of none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{decimals}f}{spread}"


def _decimals(values: list[float]) -> int:
    return 1 if max(map(abs, values), default=0) >= 10 else 3


def verdict(values: list[float], first: list[float], lower: bool) -> str:
    """'▲' if every seed is better than every seed of the first row, '▼' if worse, '' if they overlap or are alone."""
    if min(len(values), len(first)) < 2:
        return ""
    better, worse = (max(values) < min(first), min(values) > max(first))
    better, worse = (better, worse) if lower else (worse, better)
    return " ▲" if better else " ▼" if worse else ""


def _shown(results: list[Result]) -> list[str]:
    return [key for key in NUMBERS if any(key in result.values for result in results)]


def header(results: list[Result]) -> list[str]:
    arrows = [f"{NUMBERS[key][0]} {'↓' if NUMBERS[key][1] else '↑'}" for key in _shown(results)]
    return ["recipe", *arrows, *TIMES.values(), "seeds"]


def lines(results: list[Result]) -> list[list[str]]:
    """One line a row, under `header`."""
    rows, made = grouped(results), []
    first = next(iter(rows.values()))
    for row, members in rows.items():
        cells = [row]
        for key in _shown(results):
            values, own = ([r.values[key] for r in some if key in r.values] for some in (members, first))
            every = [r.values[key] for r in results if key in r.values]
            mark = "" if members is first else verdict(values, own, NUMBERS[key][1])
            cells.append(mean_and_spread(values, _decimals(every)) + mark)
        cells += [mean_and_spread([r.minutes[s] for r in members if s in r.minutes], 1) for s in TIMES]
        made.append([*cells, ", ".join(str(r.seed) for r in members)])
    return made


def by_attribute(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """(header, a line an attribute): the agreement of each row in percent, normalised in brackets, chance and ceiling."""
    rows = grouped(results)
    names = dict.fromkeys(name for result in results for name in result.parts)
    made = []
    for name in names:
        cells = [capital(name.replace("_", " "))]
        for members in rows.values():
            parts = [r.parts[name] for r in members if name in r.parts]
            normalised = [part.normalised for part in parts if part.normalised is not None]
            between = f" ({statistics.fmean(normalised):.2f})" if normalised else ""
            cells.append(mean_and_spread([part.value for part in parts], 0) + between)
        example = next(r.parts[name] for r in results if name in r.parts)
        cells += ["–" if value is None else f"{value:.0f}" for value in (example.chance, example.ceiling)]
        made.append(cells)
    return ["attribute, %", *rows, "chance", "ceiling"], made


def notes(results: list[Result]) -> list[str]:
    """How the numbers were made and what to beware of."""
    first = next(iter(grouped(results)))
    said = [
        f"Mean ± standard deviation over seeds; ▲ or ▼: every seed is better, or worse, than every seed of “{first}”.",
        "Each recipe trained for the same time on the same data. The times are those of whole stages, with what they "
        "make ready beforehand and their last evaluation, of the last start where a stage was interrupted.",
    ]
    for key in _shown(results):
        names = list(dict.fromkeys(r.names[key] for r in results if key in r.names))
        if len(names) == 1:
            said.append(f"{capital(NUMBERS[key][0].split(',')[0])}: {label(names[0])}, {names[0]}.")
        elif names:
            said.append(f"**{capital(NUMBERS[key][0])} was measured in several ways**: {', '.join(names)}.")
    counts = {row: len(members) for row, members in grouped(results).items()}
    if len(set(counts.values())) > 1:
        said.append("Rows have different numbers of seeds so far.")
    return said


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    made = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    made.insert(1, "|---" + "|--:" * (len(head) - 1) + "|")
    return made


def markdown(results: list[Result]) -> str:
    parts = by_attribute(results)
    attributes = ["", *_table(*parts)] if parts[1] else []
    listed = [f"- {note}" for note in notes(results)]
    return "\n".join([*_table(header(results), lines(results)), *attributes, "", *listed, ""])


def comma_separated(results: list[Result]) -> str:
    """One line a run: row, seed, its numbers, the agreement of each attribute, minutes."""
    keys, parts = _shown(results), dict.fromkeys(name for result in results for name in result.parts)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "seed", *keys, *parts, *TIMES.values()])
    for result in results:
        agreed = [result.parts[name].value if name in result.parts else "" for name in parts]
        minutes = [f"{result.minutes[s]:.2f}" if s in result.minutes else "" for s in TIMES]
        writer.writerow([result.row, result.seed, *(result.values.get(key, "") for key in keys), *agreed, *minutes])
    return buffer.getvalue()
