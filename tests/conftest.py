"""Tests run on few cores beside other work: waiting threads must not burn them."""
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser):
    parser.addoption("--fault_minutes", type=float, default=0, metavar="M",
                     help="tests/fault: go on with new seeds for M minutes, half of them killing (default: a fixed seed)")
