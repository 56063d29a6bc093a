"""What runs leave behind: options, statistics and measured numbers.

What is missing or damaged is never guessed and never fatal: `faults` or an empty list say so, and the page tells it.
"""

import contextlib
import json
import math
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import UserError
from common.files import read_json, read_note
from common.parallel import default_jobs

_NO_METRICS = "chance ap50_chance ap50_highest epoch step images captions unusable".split()  # beside the metrics


@dataclass
class RunFolder:
    """A training run. options: what options.json calls so; environment: all of that file; stats: one dict a line."""

    path: Path
    options: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    stats: list[dict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def series(self, name: str, x: str) -> list[tuple[float, float]]:
        """The points (x, name) of all lines that have both as finite numbers."""
        return [(line[x], line[name]) for line in self.stats if is_number(line.get(x)) and is_number(line.get(name))]


@dataclass(frozen=True)
class Number:
    """One measured value; protocol says how it was measured, warnings what to beware of.

    chance: what guessing gives; ceiling: the most that is possible, or what real images get; normalised: where between
    the two; parts: the same for each attribute, where the number is a mean of these. comparable: what published numbers
    it may be compared with, or why with none; published: these, as (method, value).
    """

    name: str
    value: float
    unit: str = ""
    protocol: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    chance: float | None = None
    ceiling: float | None = None
    std: float | None = None
    normalised: float | None = None
    parts: tuple["Number", ...] = ()
    comparable: str = ""
    published: tuple[tuple[str, str], ...] = ()


def run_folder(path) -> RunFolder | None:
    """Read a run's options.json and stats.jsonl; None if `path` is None."""
    if path is None:
        return None
    run = RunFolder(Path(path), stats=json_lines(Path(path) / "stats.jsonl"))
    try:
        content = read_json(run.path / "options.json")
        if not isinstance(content, dict) or not isinstance(content.get("options"), dict):
            raise UserError(f"{run.path / 'options.json'} does not hold a run's options")
        run.options, run.environment = content["options"], content
    except UserError as error:
        run.faults.append(str(error))
    if not run.stats:
        run.faults.append(f"{run.path / 'stats.jsonl'} holds no statistics")
    return run


def json_lines(path) -> list[dict]:
    """The dicts in a file of JSON lines; none if it is not there. Lines that are no dict are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    dicts = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(line)
            dicts += [value] if isinstance(value, dict) else []
    return dicts


def is_number(value) -> bool:
    """A number that a page can show: finite, and of a size that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


# ---- the numbers ----


def encoder_numbers(run: RunFolder | None, labels: list[int]) -> list[Number]:
    """From the last line of metric-speech.jsonl; without it from the last evaluation during training.

    labels: classes of the test images, which bound AP@50.
    """
    import torch

    from Audio_to_Image.metrics import highest_ap

    if run is None:
        return []
    evaluated = [line for line in run.stats if any(key.startswith("eval_") for key in line)]
    if measured := json_lines(run.path / "metric-speech.jsonl"):
        line = measured[-1]
        images, captions = (f"{line[key]:,}" if is_number(line.get(key)) else "?" for key in ("images", "captions"))
        source = f"{line.get('split', 'test')} split, {images} images, {captions} captions"
        source += f" ({line['captions_used']})" if isinstance(line.get("captions_used"), str) else ""
    elif evaluated:
        line = {key.removeprefix("eval_"): value for key, value in evaluated[-1].items() if key.startswith("eval_")}
        epoch = evaluated[-1].get("epoch")
        source = f"last evaluation in training, epoch {epoch:.4g}" if is_number(epoch) else "evaluation in training"
    else:
        return []
    how = line.get("protocol") if isinstance(line.get("protocol"), dict) else {}
    chances = {"accuracy": "chance", "ap50": "ap50_chance", "accuracy_cosine": "chance", "ap50_cosine": "ap50_chance"}
    unusable = line.get("unusable") if is_number(line.get("unusable")) else 0
    numbers = []
    for name, value in line.items():
        if name in _NO_METRICS or not is_number(value):
            continue
        both_ways = name.startswith(("speech_to_", "image_to_"))
        protocol = how.get(name.removesuffix("_cosine")) or (both_ways and how.get("retrieval"))
        numbers.append(
            Number(
                f"speech_{name}" if name in chances else name,
                float(value),
                "%",
                (*([str(protocol)] if protocol else ()), source),
                (f"{unusable} captions could not be used",) if unusable else (),
                _number(line.get(chances.get(name, ""))),
                highest_ap(torch.tensor(labels)) if name.startswith("ap50") else None,
            )
        )
    return numbers


def _number(value) -> float | None:
    return float(value) if is_number(value) else None


def generator_numbers(folder: Path | None) -> list[Number]:
    """From metrics.json in an `iteration<n>` folder: name → what StackGAN_v2/evaluation/evaluator.py calls a record, or
    → a number."""
    content = read_note(folder / "metrics.json") if folder else {}
    entries = {name: entry if isinstance(entry, dict) else {"value": entry} for name, entry in content.items()}
    return [_measured(name, entry) for name, entry in entries.items() if is_number(entry.get("value"))]


def _measured(name: str, entry: dict) -> Number:
    def listed(key):
        return entry[key] if isinstance(entry.get(key), list) else [entry[key]] if entry.get(key) else []

    parts = entry["attributes"] if isinstance(entry.get("attributes"), dict) else {}
    return Number(
        name,
        float(entry["value"]),
        str(entry.get("unit") or ""),
        _clauses(entry.get("protocol")),
        tuple(map(str, listed("warnings"))),
        *(_number(entry.get(key)) for key in ("chance", "ceiling", "std", "normalised")),
        tuple(
            _measured(part, {**row, "value": row["agreement"], "unit": "%", "attributes": None})
            for part, row in parts.items()
            if isinstance(row, dict) and is_number(row.get("agreement"))
        ),
        str(entry.get("comparable_with") or ""),
        tuple(
            (str(row["method"]), str(row["value"]))
            for row in listed("published")
            if isinstance(row, dict) and {"method", "value"} <= row.keys()
        ),
    )


def _clauses(protocol) -> tuple[str, ...]:
    """A protocol, a text or a dict of settings, as phrases; files and digests are left to the file itself."""
    if isinstance(protocol, dict):
        return tuple(
            f"{key.removesuffix('_px').replace('_', ' ')}: {value}{' px' if key.endswith('_px') else ''}"
            for key, value in protocol.items()
            if key not in ("images", "made_with", "real_split") and isinstance(value, (str, int, float))
        )
    return (str(protocol),) if protocol else ()


def measured_iterations(run: RunFolder | None) -> dict[int, Path]:
    """Iteration → its folder, for every snapshot whose images have been measured, in order."""
    folders = [path.parent for path in run.path.glob("Model/iteration*/metrics.json")] if run else []
    return dict(
        sorted(
            (int(number.group(1)), folder)
            for folder in folders
            if (number := re.fullmatch(r"iteration(\d+)", folder.name))
        )
    )


def numbers_by_iteration(run: RunFolder | None) -> list[tuple[int, Number]]:
    """What was measured of the images of each snapshot, in order: `curve.jsonl` of the run, and its `iteration<n>`
    folders, which count where both have a number of one name."""
    found: dict[tuple[int, str], Number] = {}
    for line in json_lines(run.path / "curve.jsonl") if run else []:
        iteration, name = line.get("iteration"), line.get("metric")
        if is_number(iteration) and isinstance(name, str) and is_number(line.get("value")):
            found[int(iteration), name] = _measured(name, line)
    for iteration, folder in measured_iterations(run).items():
        found |= {(iteration, number.name): number for number in generator_numbers(folder)}
    return [(iteration, found[iteration, name]) for iteration, name in sorted(found)]


# ---- the recipe and the machine ----


def stages(folder) -> list[dict]:
    """stages.jsonl of a recipe: the last line of every stage that took a known time, in the order of their numbers."""
    if folder is None:
        return []
    last = {
        str(line.get("stage")): line
        for line in json_lines(Path(folder) / "stages.jsonl")
        if is_number(line.get("seconds")) and line["seconds"] >= 0
    }
    return sorted(last.values(), key=lambda line: line["stage"] if is_number(line.get("stage")) else math.inf)


def machine() -> list[tuple[str, str]]:
    """(what, which) of the machine that this runs on."""
    import torch

    processor, memory = platform.processor() or platform.machine(), "unknown"
    with contextlib.suppress(OSError):
        names = re.findall(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = names[0] if names else processor
    with contextlib.suppress(ValueError, OSError):
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    return [
        ("processor", processor),
        ("cores used", str(default_jobs())),
        ("memory", memory),
        ("GPU", torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
    ]
