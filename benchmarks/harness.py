"""The benchmarks' common part: measure variants of a job in processes of their own, print the table, write the JSON.

A *variant* is the job as the published code does it ("plain"), as the project does it ("ours"), or as the project
does it with one switch off. Each variant runs in a process of its own, so that memory layout and peak memory are its
own. The processes run one after the other, on a CPU in two rounds, so that changes of the machine's load affect all
variants alike.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.cli import Parser, UserError, positive_int


@dataclass
class Variant:
    """work(data) processes `items` items; feed() returns the data of one call, and the time in it counts as waiting.

    flops: of one call of `work`, matrix products only; precision: that of its products; off: the switch of "ours" that
    is off in this variant.
    """

    work: Callable
    items: int
    feed: Callable = field(default=lambda: None)
    flops: float = 0.0
    precision: str = "fp32"
    off: str = ""


@dataclass
class Measured:
    """Seconds of each repetition and of its wait for data; peak memory in MB; peak_rate: FLOP/s of a matrix product."""

    seconds: list
    waited: list
    host_mb: float
    device_mb: float
    items: int
    flops: float
    precision: str
    off: str
    peak_rate: float


def parser(description: str, script: str) -> Parser:
    """The options that every benchmark has. script: its file, which is run again for each variant."""
    made = Parser(description)
    made.set_defaults(script=script)
    made.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:<number>")
    made.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of our side; auto: bf16 where the device multiplies it. The plain side is fp32",
    )
    made.add_argument("--repeats", type=positive_int, default=6, metavar="N", help="repetitions; the median counts")
    made.add_argument("--json", metavar="FILE", help="write the results there too")
    made.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes and one repetition, in this process: to see whether it runs, not how fast",
    )
    made.add_argument("--variant", help=argparse.SUPPRESS)  # in a process of compare(): which one to measure
    return made


def compare(variants: dict[str, Callable[[], Variant]], device, args) -> list[dict]:
    """Measure all variants, `args.repeats` times each → one row of results for each. variants: name → what makes it."""
    if args.variant:
        _write(Path(args.json), asdict(measured(variants[args.variant](), device, args.repeats)))
        raise SystemExit(0)
    if args.quick:
        return rows_of({name: [measured(make(), device, 1, warm=0, side=64)] for name, make in variants.items()})
    rounds = 1 if device.type == "cuda" else 2
    repeats = -(-args.repeats // rounds)
    found = {name: [] for name in variants}
    for _ in range(rounds):
        for name in variants:
            found[name].append(_in_own_process(name, repeats, args))
    return rows_of(found)


def _in_own_process(name: str, repeats: int, args) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "variant.json"
        words = ["--repeats", str(repeats), "--json", str(path), "--variant", name]
        status = subprocess.run([sys.executable, args.script, *args.argv, *words]).returncode
        if status:
            raise UserError(f"{Path(args.script).name}: '{name}' ended with status {status}; see above")
        return Measured(**read(path))


def measured(variant: Variant, device, repeats: int, warm: int | None = None, side: int | None = None) -> Measured:
    """Run a variant, first `warm` times unmeasured (default: 5 on a GPU, 1 on a CPU) and then `repeats` times.

    side: of the matrices whose product gives the peak rate.
    """
    warm = (5 if device.type == "cuda" else 1) if warm is None else warm
    seconds, waited = [], []
    for number in range(warm + repeats):
        began = time.perf_counter()
        data = variant.feed()
        fed = time.perf_counter()
        variant.work(data)
        _wait(device)
        done = time.perf_counter()
        if number >= warm:
            seconds.append(done - began)
            waited.append(fed - began)
    rate = matrix_peak(device, variant.precision, side) if variant.flops else 0.0
    return Measured(
        seconds, waited, *_peaks(device), variant.items, variant.flops, variant.precision, variant.off, rate
    )


def rows_of(found: dict[str, list[Measured]]) -> list[dict]:
    """One row of results for each variant, from the rounds in which it was measured."""
    peaks = {}
    for parts in found.values():
        for part in parts:
            peaks[part.precision] = max(peaks.get(part.precision, 0.0), part.peak_rate)
    rows = []
    for name, parts in found.items():
        variant, seconds = parts[0], [value for part in parts for value in part.seconds]
        median = statistics.median(seconds)
        row = {
            "name": name,
            "items_per_s": variant.items / median,
            "seconds": median,
            "fastest": min(seconds),
            "slowest": max(seconds),
            "items": variant.items,
            "waiting": sum(value for part in parts for value in part.waited) / sum(seconds),
            "host_mb": max(part.host_mb for part in parts),
            "device_mb": max(part.device_mb for part in parts),
            "precision": variant.precision,
            "switch": variant.off,
        }
        if variant.flops:
            row |= {
                "flop": variant.flops,
                "flop_per_s": variant.flops / median,
                "of_peak": variant.flops / median / peaks[variant.precision],
            }
        rows.append(row)
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        if "plain" in by_name:
            row["ratio"] = row["items_per_s"] / by_name["plain"]["items_per_s"]
        if row["switch"]:
            row["gain"] = by_name["ours"]["items_per_s"] / row["items_per_s"]
    return rows


def seconds_of(call, repeats: int) -> float:
    """Median seconds of call(), after one that is not measured."""
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def flops_of(call) -> float:
    """Operations of the matrix products and convolutions in call(); those of cuDNN's LSTM are not counted."""

    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def matrix_peak(device, precision: str, side: int | None = None) -> float:
    """FLOP/s of a large square matrix product: the best of six."""
    import torch

    side = side or (8192 if device.type == "cuda" else 1536)
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def report(stage: str, unit: str, rows: list[dict], args, device, precision: str, skipped=(), **settings) -> dict:
    """Print the table and, if asked, write the JSON. skipped: one sentence for every variant that could not run."""
    import torch

    result = {
        "stage": stage,
        "unit": unit,
        "rows": rows,
        "skipped": list(skipped),
        "device": device_name(device),
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": precision,
        "date": datetime.date.today().isoformat(),
        "quick": args.quick,
        "settings": {"repeats": args.repeats, **settings},
    }
    print(
        f"\n{stage} on {result['device']}, {result['cpu']} ({result['threads']} threads), torch {result['torch']}, "
        f"{precision}, " + ", ".join(f"{key} {value}" for key, value in settings.items())
    )
    print(
        f"{'':34}{unit + '/s':>14}{'× plain':>9}{'waiting':>9}{'host MB':>9}{'GPU MB':>8}{'GFLOP/s':>10}{'of peak':>9}"
    )
    for row in rows:
        gain = f"   {row['switch']}: × {row['gain']:.2f}" if row["switch"] else ""
        print(
            f"{row['name']:34}{row['items_per_s']:14.4g}{_or_dash(row, 'ratio', '9.2f')}{row['waiting']:9.1%}"
            f"{row['host_mb']:9.0f}{row['device_mb']:8.0f}{_or_dash(row, 'flop_per_s', '10.1f', 1e-9)}"
            f"{_or_dash(row, 'of_peak', '9.0%')}{gain}"
        )
    for sentence in result["skipped"]:
        print(f"skipped: {sentence}")
    if args.json:
        _write(Path(args.json), result)
    return result


def read(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def start(args, argv):
    """→ (device, precision) of the options, with the random state set. argv: what the options were parsed from."""
    from common import devices

    args.argv = list(sys.argv[1:] if argv is None else argv)
    device = devices.pick_device(args.device)
    devices.seed_everything(0)
    return device, devices.pick_precision(args.precision, device)


def as_ours(device, precision: str) -> None:
    """Set this process up as the project's commands do; the plain variants leave it as it was."""
    from common import devices

    devices.set_up_arithmetic(device, precision)


def have(*modules: str) -> str:
    """'' if all of these modules can be imported, else why not, in a sentence."""
    import importlib

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed here"
    return ""


def device_name(device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores()} CPU cores"


def cores() -> int:
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _or_dash(row: dict, key: str, form: str, factor: float = 1.0) -> str:
    if key in row:
        return format(row[key] * factor, form)
    return "–".rjust(int(form.split(".")[0]))


def _wait(device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _peaks(device) -> tuple[float, float]:
    """(MB of this process's memory, MB of the device's), the largest so far."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/status") as file:  # the other figure may be that of the process before exec
        host = next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), host)
    if device.type != "cuda":
        return host / 1e6, 0.0
    import torch

    return host / 1e6, torch.cuda.max_memory_allocated(device) / 1e6


def _write(path: Path, content: dict) -> None:
    from common.files import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
