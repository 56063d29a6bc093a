"""scripts/shell_parts.py gives what GNU's programs gave: marks of earlier runs stay valid. Scripts use no GNU-only switch."""

import re
import subprocess
import sys
import time

import pytest

from common import ROOT
from scripts import shell_parts

PARTS = f"'{sys.executable}' '{ROOT / 'scripts/shell_parts.py'}'"


def bash(text, folder):
    return subprocess.run(["bash", "-c", text], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("size", [0, 5, (1 << 20) - 1, 1 << 20, 3_000_000])
def test_fingerprints_are_those_of_before(tmp_path, size):
    (tmp_path / "large").write_bytes(bytes(i % 251 for i in range(size)))
    (tmp_path / "train.json").write_text("{}")
    before = (
        "{ cat train.json test.json || true; for file in large none; do stat -L -c %s $file && head -c 1M $file "
        "&& tail -c 1M $file; done; true; } 2> /dev/null | sha256sum"
    )
    now = bash(f"{PARTS} fingerprint train.json test.json -- large none", tmp_path)
    assert now.stdout == bash(before, tmp_path).stdout and not now.stderr
    assert bash(f"{PARTS} fingerprint --", tmp_path).stdout == bash("sha256sum < /dev/null", tmp_path).stdout


def test_identity_is_that_of_before(tmp_path):
    (tmp_path / "mark").write_text("x")
    assert bash(f"{PARTS} identity mark", tmp_path).stdout == bash("stat -c %Y.%i mark", tmp_path).stdout
    assert bash(f"{PARTS} identity none", tmp_path).stdout == "\n"


def test_a_lock_stays_with_the_caller_and_what_it_starts(tmp_path):
    script = f"exec 9> lock; {PARTS} lock 9 waiting; echo locked; sleep 1"
    first = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "locked\n"
    began = time.monotonic()
    second = bash(f"exec 9> lock; {PARTS} lock 9 'waiting for it'; echo mine", tmp_path)
    assert second.stdout == "mine\n" and second.stderr == "waiting for it\n" and time.monotonic() - began > 0.5
    assert first.wait() == 0


def test_now_is_a_number():
    assert abs(float(bash(f"{PARTS} now", ROOT).stdout) - time.time()) < 30
    assert shell_parts.MIB == 1 << 20


GNU_ONLY = {
    r"\bflock\b": "flock",
    r"\bstat -\w*c\b": "stat -c",
    r"\bsha256sum\b": "sha256sum",
    r"\b(head|tail) -c \d+[KMG]": "head -c 1M",
    r"\bdate \+\S*%N": "date +%N",
    r"\bsed -i\b": "sed -i",
    r"\bsed -n '[^']*p\}": "a closing brace behind a command of sed",
    r"\$\{\w+(,,|\^\^)": "bash 4's change of case",
    r"\b(declare|local) -[An]\b|\bmapfile\b|\breadarray\b": "bash 4's arrays",
    r"\bgrep -\w*P": "grep -P",
    r"\bnproc\b(?! *=|\})(?=\))": "nproc",
}


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_run_with_the_programs_of_macos(path):
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    for pattern, name in GNU_ONLY.items():
        assert not re.search(pattern, "\n".join(lines)), f"{path.name} uses {name}"
