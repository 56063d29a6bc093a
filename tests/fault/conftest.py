"""Faults made on purpose. What was tried is counted, and told at the end of the tests by the conftest.py above."""

import os
import random
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import pytest


@pytest.fixture
def count(request):
    """count(kind, number=1): to be called once that many faults of a kind in the tests' TOLD have been stood."""
    counted = Counter()

    def add(kind: str, number: int = 1) -> None:
        counted[kind] += number

    yield add
    request.node.user_properties += [("fault", pair) for pair in counted.items()]


@pytest.fixture
def seeds(request):
    """seeds(share): the seed 0; with --fault_minutes M new seeds, too, until share · M minutes have gone."""
    minutes = request.config.getoption("--fault_minutes")

    def give(share: float):
        end = time.monotonic() + 60 * minutes * share
        yield 0
        while time.monotonic() < end:
            seed = random.SystemRandom().randrange(1 << 32)
            print(f"seed {seed}")  # shown when the test fails
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


@pytest.fixture(scope="session")
def fork_server():
    from fork_server import ForkServer

    with ForkServer() as fork_server:
        yield fork_server


@pytest.fixture(scope="session")
def trial(tmp_path_factory, fork_server):
    """The stages of a recipe, each left alone once: what the killed ones and those on a full disk are held against."""
    from trial import Trial

    folder = tmp_path_factory.mktemp("trial")
    yield Trial(folder, fork_server)
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def first_recipe(request, tmp_path_factory):
    """run.sh, killed again and again beside the other tests, which leave one of two cores idle: the future of
    `recipes.killed` with seed 0; None if its test was not chosen."""
    if not any("test_recipe_kills" in item.nodeid for item in request.session.items):
        yield None
        return
    import recipes

    place = tmp_path_factory.mktemp("recipe") / "another place"
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(recipes.killed, place, 0)
        yield future
        while not future.done():  # the tests were broken off
            recipes.ended_soon(lambda: recipes.at_work(place), 0)
            time.sleep(0.1)


def pytest_configure(config):
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join("/tmp", f"hypothesis.{os.getuid()}"))
    minutes = config.getoption("--fault_minutes", 0)
    hypothesis.settings.register_profile(
        "fault",
        derandomize=not minutes,
        deadline=None,
        database=None,
        max_examples=int(60 * max(1, 4 * minutes)),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("fault")
