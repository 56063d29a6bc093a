"""A run's folder: options.json, log.txt, stats.jsonl, TensorBoard events; and the signals that end a run cleanly."""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT
from common.cli import LAUNCHED, UserError
from common.events import Events
from common.files import MADE_BY, append_bytes, append_line, claim_folder, portable_options, write_json, write_text

# names in a run's folder that may not be somebody else's before the first run
_WRITTEN = ("log.txt", "stats.jsonl", "*.pth", "Model/*.pth", "Image/*.png")
_LIBRARIES = ("torch", "torchvision", "numpy", "librosa", "soundfile")


def describe_environment() -> dict:
    """Git revision, versions and command line, for options.json."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    try:
        revision = (
            subprocess.run(
                ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
            ).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        revision = None
    return {
        "revision": revision,
        "versions": versions,
        "command": sys.argv,
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
    }


class Run:
    """The folder of one training run. A `Run` of a rank other than 0 writes nothing.

    options: what was asked for, resolved; JSON values. tensorboard: also write TensorBoard events.
    """

    def __init__(self, folder, options: dict, main: bool = True, tensorboard: bool = True):
        self.folder, self.main, self._first_step = Path(folder), main, 0
        self._events: Events | None = None
        self._again: list[dict] = []  # what TensorBoard's new file supersedes but is not told again
        self._most, self._began = math.inf, time.monotonic()  # seconds
        if not main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir: {self.folder} cannot be made: {error.strerror}") from None
        claim_folder(self.folder, "options.json", _WRITTEN, "--output_dir")
        write_json(
            self.folder / "options.json",
            {"made_by": MADE_BY, "options": portable_options(options), **describe_environment()},
        )
        self._tensorboard = tensorboard

    def limit(self, minutes: float, before: float = 0.0) -> None:
        """End after so many minutes of wall time, 0: never; `before`: seconds that earlier processes of the run took."""
        self._most = 60 * minutes - before if minutes else math.inf
        self._before = before

    def seconds_left(self) -> float:
        """Of the wall time that the run may take, from when this object was made; infinite without a limit."""
        return self._most - (time.monotonic() - self._began)

    def share_taken(self) -> float:
        """Of the wall time that the run may take, earlier processes' included; 0 without a limit."""
        return 1 - self.seconds_left() / (self._most + self._before) if self._most < math.inf else 0.0

    def time_taken(self) -> dict[str, float]:
        """What a resume file says of it: {"seconds": …}, or {} without a limit."""
        return {"seconds": self._before + time.monotonic() - self._began} if self._most < math.inf else {}

    def log(self, text: str) -> None:
        """Print one line, on every machine, and keep it, with the time, in log.txt."""
        if self.main or os.environ.get("LOCAL_RANK") == "0":
            print(text, flush=True)
        if self.main:
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
            append_bytes(self.folder / "log.txt", line.encode(errors="backslashreplace"))

    def stats(self, step: int, **values: float) -> None:
        """One line of stats.jsonl, and the same numbers as TensorBoard scalars; what is not finite becomes null."""
        if not self.main:
            return
        append_line(self.folder / "stats.jsonl", {"step": step, **values})
        if self._tensorboard:
            self._open_events().add(step, values)

    def image(self, step: int, name: str, png: bytes, width: int, height: int) -> None:
        """An image for TensorBoard."""
        if self.main and self._tensorboard:
            self._open_events().add_image(step, name, png, width, height)

    def _open_events(self) -> Events:
        if self._events is None:
            self._events = Events(self.folder / "events", self._first_step)
            for again in self._again:
                self._events.add(self._first_step, again)
        return self._events

    def rewind(self, step: int, due: bool = False) -> None:
        """Forget the statistics after `step`, where training goes on (0: from the start): no step is told twice.

        due: what was evaluated at `step` itself will be evaluated again.
        """
        path, self._first_step = self.folder / "stats.jsonl", step + (not due)
        if self.main and path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _stays(line, step, due)]
            write_text(path, "".join(f"{line}\n" for line in lines))
            values = map(json.loads, lines if due else ())
            self._again = [
                {name: value for name, value in one.items() if name != "step" and value is not None}
                for one in values
                if one["step"] == step
            ]


def _stays(line: str, step: int, due: bool) -> bool:
    try:
        values = json.loads(line)
        evaluated = any(name.startswith("eval_") for name in values)
        return values["step"] < step or values["step"] == step and not (due and evaluated)
    except (ValueError, KeyError, TypeError):  # a line cut short when the machine went down
        return False


class StopSignal:
    """Catches SIGTERM and SIGINT so that a trainer can finish its step and write its resume file.

    `received` is None or the signal's number; a second signal ends the process at once, as the shell would. Under a
    launcher it does not: schedulers signal the processes beside the launcher that passes the signal on to them.
    """

    def __enter__(self):
        self.received = None
        self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        self.received = number
        if LAUNCHED in os.environ:
            return
        for caught, old in self._old.items():
            signal.signal(caught, signal.SIG_DFL if caught == signal.SIGTERM else old)
        os.write(2, b"\nstopping after this step; a second signal stops at once\n")

    def __exit__(self, *unused):
        for number, old in self._old.items():
            signal.signal(number, old)
