"""The other end of readers.py: gives it files, and holds each answer against what is promised."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import readers

SECONDS = 120  # for one file, on a machine that does other things too
LONGEST = 700  # letters of a sentence beside the file's name


class Worker:
    """Keeps one process of readers.py; a new one after a crash or a file that took too long."""

    def __init__(self, noise):
        self.noise = noise  # file for what the libraries print
        self.process = None

    def read(self, kind: str, path) -> str | None:
        """None if the file was read, or the sentence that refused it. AssertionError for every other end."""
        path = Path(path)
        answer = self._ask(f"{kind}\t{path}\n")
        assert "fault" not in answer, f"{kind} {path}:\n{answer['fault']}"
        sentence = answer.get("sentence")
        if sentence is not None:
            check_sentence(sentence, path)
        return sentence

    def _ask(self, line: str) -> dict:
        if self.process is None:
            self._start()
        self.process.stdin.write(line)
        self.process.stdin.flush()
        return self._answer(line.strip())

    def _start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self.process = subprocess.Popen(
            [sys.executable, readers.__file__],
            stdin=subprocess.PIPE,
            text=True,
            stdout=subprocess.PIPE,
            stderr=self.noise,
            env=environment,
        )
        self._answer("its start")

    def _answer(self, asked: str) -> dict:
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        answer = self.process.stdout.readline() if ready else ""
        if not answer:
            status = self.close()
            end = f"was not done after {SECONDS} s" if not ready else f"ended with status {status}"
            raise AssertionError(f"{asked}: the reader {end}")
        return json.loads(answer)

    def close(self) -> int | None:
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        return process.returncode


def check_sentence(sentence: str, path: Path) -> None:
    """One line that names the file (or the folder it stands in for) and can be read by people."""
    assert "\n" not in sentence and "Traceback" not in sentence and " object at 0x" not in sentence, sentence
    assert path.name in sentence or path.stem in sentence, f"{sentence!r} does not name {path.name}"
    assert len(sentence) - sentence.count(str(path)) * len(str(path)) < LONGEST, sentence
