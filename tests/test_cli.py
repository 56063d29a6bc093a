"""How commands end: broken pipes, full disks, too little memory, terminals and users that lack something."""

import os
import subprocess
import sys

import pytest
import torch

from common import ROOT, cli

COMMAND = """
import sys
from common import cli

def main():
    parser = cli.Parser("A command for tests.")
    parser.add_argument("--batch_size", help="images at a time")
    parser.add_argument("--lines", type=int, default=3, help="lines to print")
    options = parser.parse_args()
    {body}
    for line in range(options.lines):
        print("é line", line)

cli.run(main)
"""


def command(tmp_path, body="pass"):
    path = tmp_path / "command.py"
    path.write_text(COMMAND.format(body=body), encoding="utf-8")
    return f"{sys.executable} {path}"


def shell(text, tmp_path, **environment):
    return subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )


def bash(text, tmp_path, **environment):
    """(status of the first command of the pipe, standard error)"""
    result = shell(text + '; exit "${PIPESTATUS[0]}"', tmp_path, **environment)
    return result.returncode, result.stderr.decode()


@pytest.mark.parametrize("pipe", ["--lines 30000 | head -1", "| true", "--lines 30000 2>&1 | true"])
def test_a_reader_that_goes_away(tmp_path, pipe):
    """The middle of the output, and what Python writes only when it ends."""
    body = "import time; time.sleep(0.3)" if "true" in pipe else "pass"  # `true` has ended by then
    assert bash(f"{command(tmp_path, body)} {pipe}", tmp_path) == (141, "")


@pytest.mark.parametrize("words", ["scripts/download.py --list", "StackGAN_v2/main.py --help"])
def test_real_commands_into_a_closed_pipe(tmp_path, words):
    status, errors = bash(f"(sleep 0.1; exec {sys.executable} {ROOT}/{words}) | true", tmp_path)
    assert status == 141 and not errors


def test_a_broken_pipe_of_the_program_itself_is_a_fault(tmp_path):
    status, errors = bash(command(tmp_path, "raise BrokenPipeError(32, 'Broken pipe')"), tmp_path)
    assert status == 1 and "Traceback" in errors


def test_output_that_cannot_be_written(tmp_path):
    status, errors = bash(f"{command(tmp_path)} > /dev/full", tmp_path)
    assert status == 2 and errors.count("\n") == 1 and "No space left" in errors
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert bash(f"{command(tmp_path)} {closed}", tmp_path)[0] == 0, closed


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
)
def test_terminals_that_lack_letters(tmp_path, environment):
    text = f"{command(tmp_path)} && {sys.executable} {ROOT}/StackGAN_v2/evaluate.py --help"
    result = shell(text, tmp_path, **environment)
    assert result.returncode == 0 and not result.stderr and b" line 2" in result.stdout


@pytest.mark.parametrize(
    "body, words",
    [
        ("import torch; torch.empty(10 ** 14)", "too little memory (372,529.0 GiB were asked for); lower --batch_size"),
        ("import numpy; numpy.empty(10 ** 16, numpy.uint8)", "too little memory (8.88 PiB were asked for)"),
        ("raise OSError(12, 'Cannot allocate memory')", "too little memory; lower --batch_size"),
        ("raise MemoryError", "too little memory; lower --batch_size"),
    ],
)
def test_too_little_memory_is_one_sentence(tmp_path, body, words):
    status, errors = bash(command(tmp_path, body), tmp_path)
    assert status == 2 and errors.count("\n") == 1 and words in errors, errors


def test_first_few():
    assert cli.first_few("abc", 3) == ["a", "b", "c"] and cli.first_few(range(1005), 1) == ["0", "and 1,004 more"]


def test_the_memory_of_a_gpu():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of …")
    assert cli.is_out_of_memory(error) and not cli.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert "on the GPU (20.00 GiB were asked for)" in cli._too_little_memory(error)


def test_advice_names_options_that_the_command_has(monkeypatch):
    parser = cli.Parser("x")
    parser.add_argument("--set", help="x")
    parser.add_argument("--jobs", help="x")
    parser.parse_args([])
    assert "lower TRAIN.BATCH_SIZE (--set TRAIN.BATCH_SIZE=…) or --jobs," in cli._too_little_memory(MemoryError())


def test_without_home_and_user_name(tmp_path, monkeypatch):
    """Caches of libraries go to a folder that can be written, and getpass finds a name."""
    import getpass
    import pwd

    for name in (
        "LOGNAME",
        "USER",
        "LNAME",
        "USERNAME",
        "HOME",
        "NUMBA_CACHE_DIR",
        "MPLCONFIGDIR",
        "XDG_CACHE_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
    ):
        monkeypatch.setenv(name, "")  # so that it is given back after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cli._prepare_home()
    assert getpass.getuser() == f"user{os.getuid()}"
    assert os.environ["NUMBA_CACHE_DIR"].startswith(str(tmp_path)) and os.listdir(tmp_path)


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    cli._prepare_home()
    assert "NUMBA_CACHE_DIR" not in os.environ
