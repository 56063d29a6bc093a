"""What the benchmarks share: ways of doing one job measured in turns, what each needs, and the table and JSON of it.

A *way* is the job done as the published code does it ("plain"), as the project does it ("ours"), or as the project does
it with one switch turned off. All ways of a benchmark run in one process, in turns, so that they share the weather.
"""
import datetime
import json
import os
import platform
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from common.cli import Parser, positive_int


@dataclass
class Way:
    """work(data) does `items` items; feed() gets the data of one call, and the time in it is time spent waiting.

    flops: those of one call of `work`, matrix products alone; precision: that of its products; off: the switch that
    this way leaves out of "ours".
    """
    name: str
    work: Callable
    items: int
    feed: Callable = field(default=lambda: None)
    flops: float = 0.0
    precision: str = "fp32"
    off: str = ""


def parser(description: str) -> Parser:
    """The options that every benchmark has."""
    made = Parser(description)
    made.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:<number>")
    made.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                      help="of our side; auto: bf16 where the device multiplies it. The plain side is fp32")
    made.add_argument("--repeats", type=positive_int, default=5, metavar="N", help="turns; the median counts")
    made.add_argument("--json", metavar="FILE", help="write the results there too")
    made.add_argument("--quick", action="store_true", help="tiny sizes and one turn: whether it runs, not how fast")
    return made


def compare(ways: list[Way], device, args) -> list[dict]:
    """Run all ways in turns, first unmeasured and then `args.repeats` times; one row of results a way."""
    warm = 0 if args.quick else 2 if device.type == "cuda" else 1
    seconds, waited, memory = ({way.name: [] for way in ways} for _ in range(3))
    for turn in range(warm + args.repeats):
        for way in ways:
            _reset_peaks(device)
            began = time.perf_counter()
            data = way.feed()
            fed = time.perf_counter()
            way.work(data)
            _wait(device)
            done = time.perf_counter()
            if turn >= warm:
                seconds[way.name].append(done - began)
                waited[way.name].append(fed - began)
            memory[way.name].append(_peaks(device))
    peaks = {precision: matrix_peak(device, precision, args.quick)
             for precision in {way.precision for way in ways if way.flops}}
    rows = []
    for way in ways:
        middle = statistics.median(seconds[way.name])
        host, on_device = map(max, zip(*memory[way.name]))
        row = {"name": way.name, "items_per_s": way.items / middle, "seconds": middle, "items": way.items,
               "waiting": sum(waited[way.name]) / sum(seconds[way.name]), "host_mb": host, "device_mb": on_device,
               "precision": way.precision, "switch": way.off}
        if way.flops:
            row |= {"flop": way.flops, "flop_per_s": way.flops / middle,
                    "of_peak": way.flops / middle / peaks[way.precision]}
        rows.append(row)
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        if "plain" in by_name:
            row["ratio"] = row["items_per_s"] / by_name["plain"]["items_per_s"]
        if row["switch"]:
            row["gain"] = by_name["ours"]["items_per_s"] / row["items_per_s"]
    return rows


def flops_of(call) -> float:
    """Operations of the matrix products and convolutions in call(); those of cuDNN's LSTM are not seen."""
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def matrix_peak(device, precision: str, quick: bool = False) -> float:
    """FLOP/s of a large square matrix product: the best of six."""
    import torch
    side = 64 if quick else 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side ** 3 / best


def report(stage: str, unit: str, rows: list[dict], args, device, precision: str, skipped=(), **settings) -> dict:
    """Print the table and, if asked, write the JSON. skipped: one sentence for every way that could not run."""
    import torch
    result = {"stage": stage, "unit": unit, "rows": rows, "skipped": list(skipped), "device": device_name(device),
              "cpu": cpu_name(), "cores": cores(), "threads": torch.get_num_threads(),
              "torch": torch.__version__, "python": platform.python_version(), "precision": precision,
              "date": datetime.date.today().isoformat(), "quick": args.quick,
              "settings": {"repeats": args.repeats, **settings}}
    print(f"\n{stage} on {result['device']}, {result['cpu']} ({result['threads']} threads), torch {result['torch']}, "
          f"{precision}, " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    print(f"{'':34}{unit + '/s':>14}{'× plain':>9}{'waiting':>9}{'host MB':>9}{'GPU MB':>8}{'GFLOP/s':>10}"
          f"{'of peak':>9}")
    for row in rows:
        gain = f"   {row['switch']}: × {row['gain']:.2f}" if row["switch"] else ""
        print(f"{row['name']:34}{row['items_per_s']:14.4g}{_or_dash(row, 'ratio', '9.2f')}{row['waiting']:9.1%}"
              f"{row['host_mb']:9.0f}{row['device_mb']:8.0f}{_or_dash(row, 'flop_per_s', '10.1f', 1e-9)}"
              f"{_or_dash(row, 'of_peak', '9.0%')}{gain}")
    for sentence in result["skipped"]:
        print(f"skipped: {sentence}")
    if args.json:
        from common.files import write_json
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(args.json), result)
    return result


def read(path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def start(args):
    """→ (device, precision) of the options, with the random state set."""
    from common import devices
    device = devices.pick_device(args.device)
    devices.seed_everything(0)
    if args.quick:
        args.repeats = 1
    return device, devices.pick_precision(args.precision, device)


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


def _reset_peaks(device) -> None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")                        # Linux: the peak of the resident set starts anew
    except OSError:
        pass
    if device.type == "cuda":
        import torch
        torch.cuda.reset_peak_memory_stats(device)


def _peaks(device) -> tuple[float, float]:
    """(MB of this process's memory, MB of the device's), the largest since the last reset."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/status") as file:
        host = next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), host)
    if device.type != "cuda":
        return host / 1e6, 0.0
    import torch
    return host / 1e6, torch.cuda.max_memory_allocated(device) / 1e6
