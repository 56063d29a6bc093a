"""Faults made on purpose. What was tried is counted, and told in one paragraph at the end of the tests."""
import os
import random
import time
from collections import Counter

import hypothesis
import pytest

TOLD = {"damaged": "damaged files read or refused in one sentence", "hostile": "hostile files that ran nothing",
        "write errors": "write errors that cost nothing", "examples": "random cases of properties",
        "kills": "kills survived"}
_counts, _failed = Counter(), []


@pytest.fixture
def count():
    """count(kind, number=1): to be called once that many faults of a kind in TOLD have been stood."""
    def add(kind: str, number: int = 1) -> None:
        assert kind in TOLD, kind
        _counts[kind] += number
    return add


@pytest.fixture
def seeds(request):
    """seeds(share): the seed 0; with --fault_minutes M new seeds, too, until share · M minutes have gone."""
    minutes = request.config.getoption("--fault_minutes")

    def give(share: float):
        end = time.monotonic() + 60 * minutes * share
        yield 0
        while time.monotonic() < end:
            seed = random.SystemRandom().randrange(1 << 32)
            print(f"seed {seed}")                  # shown when the test fails
            yield seed
    return give


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """A process that reads files under limits; see worker.py."""
    from worker import Worker
    with open(tmp_path_factory.mktemp("noise") / "stderr", "w") as noise:
        worker = Worker(noise)
        yield worker
        worker.close()


def pytest_configure(config):
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join("/tmp", f"hypothesis.{os.getuid()}"))
    minutes = config.getoption("--fault_minutes", 0)
    hypothesis.settings.register_profile(
        "fault", derandomize=not minutes, deadline=None, database=None, max_examples=int(60 * max(1, 4 * minutes)),
        suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.load_profile("fault")


def pytest_runtest_logreport(report):
    if report.failed and "fault/" in report.nodeid:
        _failed.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    if _counts:
        told = ", ".join(f"{_counts[kind]:,} {words}" for kind, words in TOLD.items() if _counts[kind])
        end = f"{len(_failed)} tests failed" if _failed else "nothing lost"
        terminalreporter.write_line(f"fault: {told}; {end}")
