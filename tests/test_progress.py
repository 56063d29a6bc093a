"""Progress: bars on a terminal, a line now and then in a log."""

import io
import time

import pytest
import tqdm as library

from common import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(soon):
    log = io.StringIO()
    began = time.monotonic()
    for _ in progress.tqdm(range(300), desc="images", unit="img", file=log):
        time.sleep(0.001)
    most = (time.monotonic() - began) / 0.05 + 2
    lines = log.getvalue().splitlines()
    assert 2 <= len(lines) <= most and "\r" not in log.getvalue() and all(lines)
    assert lines[-1].startswith("images: 100%") and "300/300" in lines[-1]
    assert len({line.split("[")[0] for line in lines}) == len(lines)  # no state is told twice


def test_short_work_is_one_line():
    log = io.StringIO()
    with progress.tqdm(total=40, initial=10, desc="clips", file=log) as bar:
        for _ in range(3):
            bar.update(10)
    assert log.getvalue().count("\n") == 1 and "40/40" in log.getvalue()


def test_work_that_fails_or_does_nothing(soon):
    log = io.StringIO()
    with pytest.raises(ValueError), progress.tqdm(total=4, file=log) as bar:
        bar.update()
        raise ValueError
    assert log.getvalue().count("\n") == 1 and "1/4" in log.getvalue()
    with progress.tqdm(total=0, file=log), progress.tqdm(total=9, initial=9, file=log):
        pass
    assert log.getvalue().count("\n") == 1


@pytest.mark.parametrize("disable", [False, None])
def test_a_log_gets_its_lines_unless_the_bar_is_off(disable):
    log = io.StringIO()
    list(progress.tqdm(range(3), disable=disable, file=log))
    assert "3/3" in log.getvalue()
    quiet = io.StringIO()
    list(progress.tqdm(range(3), disable=True, file=quiet))
    assert not quiet.getvalue()


def test_unknown_length_and_bytes():
    log = io.StringIO()
    with progress.tqdm(unit="B", unit_scale=True, unit_divisor=1024, file=log) as bar:
        bar.update(5 << 20)
    assert "5.00MB" in log.getvalue()


def test_the_monitor_of_slow_bars_stays_quiet(monkeypatch):
    """tqdm's own thread shows a bar that was not updated for ten seconds; in a log that would be a line each time."""
    log = io.StringIO()
    bar = progress.tqdm(total=5, file=log)
    bar.update()
    assert bar.maxinterval == float("inf") and not log.getvalue()
    bar.close()


def test_a_terminal_gets_tqdm_itself():
    bar = progress.tqdm(range(3), file=Terminal())
    assert type(bar) is library.tqdm
    bar.close()


def test_everything_goes_through_here():
    from common import ROOT

    for folder in ("Audio_to_Image", "StackGAN_v2", "common", "scripts", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != ROOT / "common/progress.py":
                text = path.read_text()
                assert "from tqdm" not in text and "import tqdm as" not in text and "\nimport tqdm" not in text, path
