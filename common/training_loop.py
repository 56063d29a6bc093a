"""The loop that every training of this project runs in: steps, log ticks, finite check, clock and stop signal.

A training derives from `TrainingLoop` and says what a step is, what a tick logs and what is due between two steps.
"""

import contextlib
import math
import signal
import time

import torch

from common.distributed import ranks
from common.runs import StopSignal

ASK_EVERY = 10  # steps between two questions to the other ranks of a GPU run whether to stop


class LossWindow:
    """The numbers of the steps since the last log tick, on the device: nothing waits for it before they are looked at.

    of_rank: each rank has seen its own share, so that the mean over the ranks counts; else all have equal numbers.
    on_error(step, name, value): raises the UserError about a number that is not finite.
    """

    def __init__(self, on_error, of_rank: bool = False):
        self.on_error, self.of_rank = on_error, of_rank
        self.rows: list[tuple[int, dict[str, torch.Tensor]]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, step: int, terms: dict[str, torch.Tensor]) -> None:
        """terms: scalars; a term may be missing in some steps."""
        self.rows.append((step, terms))

    def means(self) -> dict[str, float]:
        """Mean of every term over the steps that have it. The place where the host waits for the device."""
        means, wrong = {}, []
        for name in dict.fromkeys(name for _, terms in self.rows for name in terms):
            steps = [step for step, terms in self.rows if name in terms]
            column = torch.stack([terms[name].detach() for _, terms in self.rows if name in terms])
            if self.of_rank:
                column = ranks.all_reduce(column) / ranks.world_size()
            column = column.cpu()
            bad = (~column.isfinite()).nonzero()
            if len(bad):
                wrong.append((steps[int(bad[0])], name, column[int(bad[0])].item()))
            means[name] = float(column.mean())
        if wrong:  # the first step; within it the first term, the sums of others last
            self.on_error(*min(wrong, key=lambda one: (one[0], one[1] == "loss")))
        return means

    def check(self, step: int, terms: dict[str, torch.Tensor]) -> None:
        """Look at the numbers of one step now, where that costs no wait."""
        values = torch.stack([value.detach() for value in terms.values()]).cpu()
        for name, value in sorted(zip(terms, values.tolist()), key=lambda one: one[0] == "loss"):
            if not math.isfinite(value):
                self.on_error(step, name, value)

    def clear(self) -> None:
        self.rows = []


class Clock:
    """Seconds of training alone, since the last tick."""

    def start(self, step: int) -> None:
        self._began, self._step = time.monotonic(), step

    def rate(self, step: int) -> float:
        """Steps a second since `start`."""
        return (step - self._step) / max(time.monotonic() - self._began, 1e-9)

    @contextlib.contextmanager
    def paused(self):
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began


class TrainingLoop:
    """Trains from `step` on; a training gives `train_step`, `log`, `between` and `files`.

    step: steps done; window: the numbers since the last tick; stopped_by: the signal that ended the training, or None.
    """

    def __init__(self, device: torch.device, log_every: int, of_rank: bool = False):
        self.device, self.log_every = device, log_every
        self.step, self.window, self.clock = 0, LossWindow(self.not_finite, of_rank), Clock()
        self.stopping = False
        self.stopped_by: int | None = None

    # ---- what a training gives ----

    def train_step(self) -> dict[str, torch.Tensor]:
        """Do step number `step`; → its losses and other numbers, as scalars on the device."""
        raise NotImplementedError

    def log(self, means: dict[str, float], rate: float) -> None:
        """Tell the means of a tick; rate: steps a second."""
        raise NotImplementedError

    def between(self) -> None:
        """After a step: evaluate and keep what is due. Not called after the last step, nor at a stop."""

    def seconds_left(self) -> float:
        """Of the wall time that the training may take."""
        return math.inf

    def log_is_due(self, last: int) -> bool:
        return self.step % self.log_every == 0

    def not_finite(self, step: int, name: str, value: float):
        """Raise the UserError about a number of a step that is not finite."""
        raise NotImplementedError

    # ---- the loop ----

    def run_steps(self, last: int) -> None:
        """Train until `last` steps are done, the time is up, or a stop signal has come, which all ranks then follow.

        A training whose time is up ends as one that has done its last step.
        """
        self.clock.start(self.step)
        if self._time_is_up():
            last = self.step
        with StopSignal() as stop:
            while self.step < last and not self.stopping:
                step = self.step
                terms = self.train_step()
                self.window.add(step, terms)
                self.step = step + 1
                self.ask_to_stop(stop, last)
                if self._asks(last) and self._time_is_up():
                    last = self.step
                if self.log_is_due(last):
                    self._tick()
                if not self.stopping and self.step < last:
                    with self.clock.paused():
                        self.between()
        if self.stopping:
            self.stopped_by = stop.received or signal.SIGTERM  # of another rank: it does not say which

    def ask_to_stop(self, stop: StopSignal, last: int) -> None:
        """Set `stopping` alike on every rank. Asking makes the host wait, so GPU ranks do it now and then."""
        if self._asks(last):
            self.stopping = self.stopping or ranks.any_rank(stop.received is not None, self.device)

    def _asks(self, last: int) -> bool:
        """Whether the ranks ask each other after this step."""
        return ranks.world_size() == 1 or self.device.type == "cpu" or self.step % ASK_EVERY == 0 or self.step == last

    def _time_is_up(self) -> bool:
        left = self.seconds_left()
        return left < math.inf and ranks.any_rank(left <= 0, self.device)

    def _tick(self) -> None:
        means = self.window.means()
        self.log(means, self.clock.rate(self.step))
        self.window.clear()
        self.clock.start(self.step)

    def exit_status(self) -> int:
        """0, or 128 + the signal that ended the training."""
        return 0 if self.stopped_by is None else 128 + self.stopped_by


def is_better(value: float | None, best: float | None, lower: bool = False) -> bool:
    """Whether a metric is the best so far: a number that is not finite never is, and never stands in the way of one."""
    if value is None or not math.isfinite(value):
        return False
    return best is None or not math.isfinite(best) or (value < best if lower else value > best)
