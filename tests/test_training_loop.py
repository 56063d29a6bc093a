"""What all trainings share: ticks, the finite check, the stop signal, the best metric."""

import json
import math
import os
import signal

import pytest
import torch

from common import files, resume, runs, snapshots
from common.cli import UserError
from common.training_loop import LossWindow, TrainingLoop, is_better

NAN = float("nan")


class Counting(TrainingLoop):
    """Its loss is the number of the step."""

    def __init__(self, stop_at=None, bad=None):
        super().__init__(torch.device("cpu"), log_every=2)
        self.ticks, self.pauses, self.stop_at, self.bad = [], [], stop_at, bad

    def train_step(self):
        if self.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        terms = {"part": torch.tensor(NAN if self.step == self.bad else float(self.step))}
        return terms | ({"even": torch.tensor(1.0)} if self.step % 2 == 0 else {})

    def log(self, means, rate):
        assert rate > 0
        self.ticks.append((self.step, means))

    def between(self):
        self.pauses.append(self.step)

    def not_finite(self, step, name, value):
        raise UserError(f"step {step}: {name} is {value}")


def test_ticks_and_pauses():
    loop = Counting()
    loop.run_steps(5)
    assert loop.ticks == [(2, {"part": 0.5, "even": 1}), (4, {"part": 2.5, "even": 1})]
    assert loop.pauses == [1, 2, 3, 4] and loop.step == 5 and len(loop.window) == 1 and loop.exit_status() == 0


def test_a_signal_ends_the_loop_after_its_step():
    loop = Counting(stop_at=2)
    loop.run_steps(9)
    assert (loop.step, loop.stopped_by, loop.exit_status()) == (3, signal.SIGTERM, 128 + signal.SIGTERM)
    assert loop.pauses == [1, 2]


def test_a_training_whose_time_is_up_ends_as_at_its_last_step():
    loop = Counting()
    loop.seconds_left = lambda: 3.0 - loop.step
    loop.run_steps(9)
    assert (loop.step, loop.exit_status(), loop.pauses) == (3, 0, [1, 2])
    loop.run_steps(9)  # and again: there is no time for a step
    assert loop.step == 3


def test_time_is_counted_over_all_processes_of_a_run(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    run = runs.Run(tmp_path, {}, tensorboard=False)
    assert run.seconds_left() == math.inf and run.time_taken() == {}
    run.limit(2, before=resume.seconds(({"seconds": 50}, tmp_path)))
    now[0] += 30
    assert run.seconds_left() == 40 and run.time_taken() == {"seconds": 80}
    assert [resume.seconds(found) for found in (None, ({}, ""), ({"seconds": "x"}, ""), ({"seconds": NAN}, ""))] == [
        0
    ] * 4


def test_the_first_step_that_is_not_finite_is_named_at_the_tick():
    with pytest.raises(UserError, match="step 2: part is nan"):
        Counting(bad=2).run_steps(9)


def test_parts_are_named_before_their_sum():
    told = []
    window = LossWindow(lambda *error: told.append(error))
    terms = {"loss": torch.tensor(NAN), "part": torch.tensor(math.inf)}
    window.add(7, {"loss": torch.tensor(1.0), "part": torch.tensor(1.0)})
    window.add(8, terms)
    window.means()
    window.check(8, terms)
    assert told[0] == told[1] == (8, "part", math.inf)


@pytest.mark.parametrize(
    "value, best, lower, better",
    [
        (1.0, None, False, True),
        (NAN, None, False, False),
        (1.0, NAN, False, True),
        (2.0, 1.0, False, True),
        (2.0, 1.0, True, False),
        (NAN, 1.0, True, False),
        (-math.inf, 1.0, True, False),
        (None, 1.0, False, False),
        (1.0, 1.0, True, False),
    ],
)
def test_a_metric_that_is_not_finite_neither_wins_nor_stands_in_the_way(value, best, lower, better):
    assert is_better(value, best, lower) is better


def test_json_never_holds_nan(tmp_path):
    record = {"a": NAN, "b": [1.0, -math.inf], "c": {"d": (NAN, 2)}, "e": "NaN"}
    files.append_line(tmp_path / "x.jsonl", record)
    files.write_json(tmp_path / "x.json", record)
    run = runs.Run(tmp_path / "run", {"rate": math.inf}, tensorboard=False)
    run.stats(1, loss=NAN)
    plain = {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}, "e": "NaN"}

    def refuse(word):
        raise AssertionError(word)

    texts = [(tmp_path / name).read_text() for name in ("x.jsonl", "x.json", "run/stats.jsonl", "run/options.json")]
    read = [json.loads(text, parse_constant=refuse) for text in texts]
    assert read[0] == read[1] == plain and read[2] == {"step": 1, "loss": None} and read[3]["options"] == {"rate": None}


def test_going_on_before_an_evaluation_forgets_its_numbers(tmp_path):
    run = runs.Run(tmp_path, {}, tensorboard=False)
    for step, values in ((1, {"loss": 1}), (2, {"loss": 2}), (2, {"eval_x": 3}), (3, {"loss": 4})):
        run.stats(step, **values)

    def left():
        return [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]

    run.rewind(2)
    assert left() == [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}, {"step": 2, "eval_x": 3}]
    run.rewind(2, due=True)
    assert left() == [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}]


def test_a_resume_file_of_the_same_step_takes_the_place_of_the_one_before(tmp_path):
    for number, how in ((1, {"first": True}), (2, {}), (3, {"replace": True})):
        resume.keep(tmp_path, {"number": number}, **how)
    numbers = [resume.find(str(tmp_path / name), tmp_path)[0]["number"] for name in (resume.RESUME, resume.PREVIOUS)]
    assert numbers == [3, 1]


def test_links_to_snapshots(tmp_path):
    for number in (1, 2):
        (tmp_path / f"x_{number}.pth").touch()
        snapshots.set_links(tmp_path / f"x_{number}.pth", best=number == 1)
    assert os.readlink(tmp_path / "latest.pth") == "x_2.pth" and os.readlink(tmp_path / "best.pth") == "x_1.pth"
