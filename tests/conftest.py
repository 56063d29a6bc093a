"""Tests run on few cores beside other work: waiting threads must not burn them, and each core runs tests of its own."""

import os
from collections import Counter

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
TOLD = {
    "kills": "kills survived",
    "damaged": "damaged files read or refused in one sentence",
    "hostile": "hostile files that ran nothing",
    "write errors": "write errors that cost nothing",
    "examples": "random cases of properties",
}
_counts, _failed = Counter(), []


def pytest_addoption(parser):
    parser.addoption(
        "--fault_minutes",
        type=float,
        default=0,
        metavar="M",
        help="tests/fault: go on with new seeds for M minutes, half of them killing (default: a fixed seed)",
    )


def pytest_collection_modifyitems(items):
    """Tests of one file, or of tests/fault, share what is dear to make: one process runs them (`--dist loadgroup`)."""
    for item in items:
        group = "fault" if "fault" in item.path.parts else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_logreport(report):
    """Count what tests/fault has tried: reports alone come here from the processes that run tests."""
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name == "fault":
                _counts[value[0]] += value[1]
    if report.failed and "fault/" in report.nodeid:
        _failed.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    if _counts:
        told = ", ".join(f"{_counts[kind]:,} {words}" for kind, words in TOLD.items() if _counts[kind])
        end = f"{len(_failed)} tests failed" if _failed else "nothing lost"
        terminalreporter.write_line(f"fault: {told}; {end}")
