"""What runs leave behind, read forgivingly: what is missing or damaged is told on the page, never guessed and never fatal."""
import json
import math
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import UserError
from common.files import read_json


@dataclass
class RunFolder:
    """A training run. options: what options.json calls so; environment: the rest of it; stats: one dict a line."""
    path: Path
    options: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    stats: list[dict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def series(self, name: str, x: str) -> list[tuple[float, float]]:
        """The points (x, name) of all lines that have both as finite numbers."""
        return [(line[x], line[name]) for line in self.stats if is_number(line.get(x)) and is_number(line.get(name))]

    def last(self, name: str):
        points = self.series(name, "step")
        return points[-1][1] if points else None


@dataclass(frozen=True)
class Number:
    """One measured value; protocol says how it was measured, warnings what to beware of.

    chance: what guessing gives; ceiling: the most that is possible, or what real pictures get; normalised: where between
    the two; parts: the same for each attribute, where the number is a mean over some. comparable: what published numbers
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
    run = RunFolder(Path(path))
    content = _json(run.path / "options.json", dict, run.faults)
    run.options = content.get("options") if isinstance(content.get("options"), dict) else {}
    run.environment = {key: value for key, value in content.items() if key != "options"}
    run.stats = json_lines(run.path / "stats.jsonl")
    if not run.stats:
        run.faults.append(f"{run.path / 'stats.jsonl'} holds no statistics")
    return run


def _json(path: Path, kind, faults: list[str]):
    try:
        content = read_json(path)
    except (UserError, UnicodeDecodeError) as error:
        faults.append(str(error))
        return kind()
    if not isinstance(content, kind):
        faults.append(f"{path} does not hold what is expected there")
        return kind()
    return content


def json_lines(path) -> list[dict]:
    """The dicts in a file of JSON lines; none if it is not there. Lines that are no dict are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def is_number(value) -> bool:
    """A number that a page can show: finite, and not beyond all measure."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


# ---- the numbers ----

def encoder_numbers(run: RunFolder | None, labels: list[int]) -> list[Number]:
    """From the last line of metric-speech.jsonl; without it from the last evaluation during training.

    labels: classes of the test pictures, which say how high AP@50 can get at all.
    """
    import torch

    from Audio_to_Image.metrics import highest_ap
    if run is None:
        return []
    lines = json_lines(run.path / "metric-speech.jsonl")
    if lines:
        line, how = lines[-1], lines[-1].get("protocol") if isinstance(lines[-1].get("protocol"), dict) else {}
        source = (f"{line.get('split', 'test')} split, {_count(line.get('images'))} pictures, "
                  f"{_count(line.get('captions'))} captions")
    else:
        evaluated = [line for line in run.stats if any(key.startswith("eval_") for key in line)]
        if not evaluated:
            return []
        line = {key.removeprefix("eval_"): value for key, value in evaluated[-1].items() if key.startswith("eval_")}
        epoch = evaluated[-1].get("epoch")
        how, source = {}, f"last evaluation in training, epoch {epoch:.4g}" if is_number(epoch) else "evaluation in training"
    chances = {"accuracy": "chance", "ap50": "ap50_chance", "accuracy_cosine": "chance", "ap50_cosine": "ap50_chance"}
    skipped = {*chances.values(), "ap50_highest", "epoch", "step", "images", "captions", "unusable"}
    numbers = []
    for name, value in line.items():
        if name in skipped or not is_number(value):
            continue
        both_ways = name.startswith(("speech_to_", "image_to_"))
        protocol = how.get(name.removesuffix("_cosine")) or (how.get("retrieval") if both_ways else "") or ""
        chance = line.get(chances.get(name, ""))
        unusable = line.get("unusable")
        warnings = (f"{unusable} captions could not be used",) if is_number(unusable) and unusable else ()
        numbers.append(Number(f"speech_{name}" if name in chances else name, float(value), "%",
                              tuple(filter(None, (str(protocol), source))), warnings, _number(chance),
                              highest_ap(torch.tensor(labels)) if name.startswith("ap50") else None))
    return numbers


def _number(value) -> float | None:
    return float(value) if is_number(value) else None


def _count(value) -> str:
    return f"{value:,}" if is_number(value) else "?"


def generator_numbers(folder: Path | None) -> list[Number]:
    """From metrics.json in an `iteration<n>` folder: name → what StackGAN_v2/evaluation/evaluator.py calls a record, or → a number."""
    if folder is None:
        return []
    content = _json(folder / "metrics.json", dict, [])
    entries = {name: entry if isinstance(entry, dict) else {"value": entry} for name, entry in content.items()}
    return [_measured(name, entry) for name, entry in entries.items() if is_number(entry.get("value"))]


def _measured(name: str, entry: dict) -> Number:
    warnings, parts = entry.get("warnings") or (), entry.get("attributes")
    warnings = tuple(map(str, warnings)) if isinstance(warnings, (list, tuple)) else (str(warnings),)
    parts = parts.items() if isinstance(parts, dict) else ()
    beside = [(row["method"], row["value"]) for row in entry.get("published") or ()
              if isinstance(row, dict) and "method" in row and "value" in row] \
        if isinstance(entry.get("published"), (list, tuple)) else []
    return Number(name, float(entry["value"]), str(entry.get("unit") or ""), _clauses(entry.get("protocol")), warnings,
                  *(_number(entry.get(key)) for key in ("chance", "ceiling", "std", "normalised")),
                  tuple(Number(part, float(row["agreement"]), "%", chance=_number(row.get("chance")),
                               ceiling=_number(row.get("ceiling")), normalised=_number(row.get("normalised")))
                        for part, row in parts if isinstance(row, dict) and is_number(row.get("agreement"))),
                  str(entry.get("comparable_with") or ""), tuple((str(a), str(b)) for a, b in beside))


def _clauses(protocol) -> tuple[str, ...]:
    """A protocol, a text or a dict of settings, as phrases; files and digests are left to the file itself."""
    if isinstance(protocol, dict):
        return tuple(f"{key.removesuffix('_px').replace('_', ' ')}: {value}{' px' if key.endswith('_px') else ''}"
                     for key, value in protocol.items()
                     if key not in ("images", "made_with", "real_split") and isinstance(value, (str, int, float)))
    return (str(protocol),) if protocol else ()


def measured_iterations(run: RunFolder | None) -> dict[int, Path]:
    """Iteration → its folder, for every snapshot whose pictures have been measured, in order."""
    if run is None:
        return {}
    found = {}
    for path in run.path.glob("Model/iteration*/metrics.json"):
        number = re.fullmatch(r"iteration(\d+)", path.parent.name)
        if number:
            found[int(number.group(1))] = path.parent
    return dict(sorted(found.items()))


# ---- the recipe and the machine ----

def stages(folder) -> list[dict]:
    """stages.jsonl of a recipe: the last line of every stage that took a known time, in the order of their numbers."""
    if folder is None:
        return []
    last = {}
    for line in json_lines(Path(folder) / "stages.jsonl"):
        if is_number(line.get("seconds")) and line["seconds"] >= 0:
            last[str(line.get("stage"))] = line
    return sorted(last.values(), key=lambda line: line["stage"] if is_number(line.get("stage")) else math.inf)


def machine() -> list[tuple[str, str]]:
    """(what, which) of the machine that this runs on."""
    import torch
    rows = [("processor", _processor()), ("cores used", str(len(os.sched_getaffinity(0)))), ("memory", _memory())]
    if torch.cuda.is_available():
        rows.append(("GPU", torch.cuda.get_device_name(0)))
    else:
        rows.append(("GPU", "none"))
    return [*rows, ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}")]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2 ** 30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"
