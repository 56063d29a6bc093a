"""The launcher: one machine or two, both of them this one, whose processes are killed, mistaken, stopped or alone."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fault.fork_server import at_work, ended_soon
from test_encoder_training import make_set

from common import ROOT, cli, resume
from common.distributed import launch, rendezvous
from common.runs import StopSignal

TRAIN = [
    "Audio_to_Image/train_audio_encoder.py",
    "--dataset",
    "tiny",
    "--teacher",
    "stub",
    "--jel_flag",
    "--bidirectional",
    "--max_frames",
    "128",
    "--batch_size",
    "2",
    "--epoch",
    "6",
    "--eval_every",
    "6",
    "--save_every",
    "1",
    "--keep",
    "1",
    "--log_every",
    "1",
    "--jobs",
    "1",
    "--device",
    "cpu",
]


class Launcher:
    """One machine's launcher at work. output: what it and its processes have said so far."""

    def __init__(self, words, script, **variables):
        command = [sys.executable, "-m", "common.distributed.launch", *words, *script]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        )
        self.output, self._more = "", threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self._more:
                self.output += line
                self._more.notify_all()

    def until(self, text, count=1):
        with self._more:
            assert self._more.wait_for(lambda: self.output.count(text) >= count, 90), self.output

    def end(self) -> int:
        status = self.process.wait(90)
        self.process.stdout.close()
        return status


@pytest.fixture
def machine(tmp_path):
    """A function (number, script, …) → the launcher of that machine of two; none of them outlives the test."""
    while True:  # not a port that the system hands out, which another test may be given
        port = random.SystemRandom().randrange(10000, 30000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
    started = []

    def start(number, script, wait=60, port=port):
        words = [
            "--nnodes",
            "2",
            "--node_rank",
            number,
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            port,
            "--rdzv_conf",
            "keep_alive_interval=1",
        ]
        started.append(Launcher(words, script, WAIT_FOR_MACHINES=str(wait)))
        return started[-1]

    start.port = port
    yield start
    for launcher in started:
        launcher.process.kill()
    assert not ended_soon(lambda: at_work(tmp_path), 20)


def script_of(folder: Path, text: str) -> list[Path]:
    """A training of a few lines. Its name lies below `folder`, by which its processes are found."""
    path = folder / "training.py"
    path.write_text(text)
    return [path]


def weights(folder: Path) -> dict:
    return torch.load(folder / "latest.pth", weights_only=True)["state_dict"]


def test_a_machine_is_killed_and_started_again_and_the_weights_are_those_of_an_undisturbed_run(tmp_path, machine):
    """Everything of machine 1 gets SIGKILL in mid-training."""
    make_set(tmp_path)
    script = [*TRAIN, "--data_root", tmp_path, "--output_dir"]
    assert Launcher(["--standalone", "--nproc_per_node", "2"], [*script, tmp_path / "one"]).end() == 0
    script.append(tmp_path / "two")
    first, second = (machine(number, script) for number in (0, 1))
    second.until("step      5")
    second.process.kill()  # its training process follows by itself
    second.process.wait()
    second = machine(1, script)
    assert (first.end(), second.end()) == (0, 0), f"{first.output}\n---- machine 1\n{second.output}"
    assert (
        "another process of this training has gone" in first.output and "Traceback" not in first.output + second.output
    )
    log = (tmp_path / "two/log.txt").read_text()
    assert log.count("going on from") == 1, log
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


PATIENT = """
import os, pathlib, sys, time
print("at work", os.environ["WORLD_SIZE"], flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.1)
"""


def test_machine_0_is_killed_and_the_other_waits_for_it(tmp_path, machine):
    """It holds the rendezvous."""
    script = [*script_of(tmp_path, PATIENT), tmp_path / "enough"]
    first, second = (machine(number, script) for number in (0, 1))
    first.until("at work 2")
    first.process.kill()
    second.until("machine 0 has gone")
    first = machine(0, script)
    second.until("at work 2", 2)
    (tmp_path / "enough").touch()
    assert (first.end(), second.end()) == (0, 0), f"{first.output}\n---- machine 1\n{second.output}"


KILLED_TWICE = """
import os, pathlib, signal, sys
lives = pathlib.Path(sys.argv[1] + os.environ["RANK"])
lives.write_text((lives.read_text() if lives.exists() else "") + "x")
if os.environ["RANK"] == "1" and len(lives.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_is_started_again_so_many_times(tmp_path):
    launchers = {
        restarts: Launcher(
            ["--standalone", "--nproc_per_node", "2", "--max_restarts", restarts],
            [*script_of(tmp_path, KILLED_TWICE), tmp_path / f"after {restarts} restarts, rank "],
        )
        for restarts in (1, 2)
    }
    for (restarts, launcher), status in zip(launchers.items(), (137, 0)):
        assert launcher.end() == status, launcher.output
        assert len((tmp_path / f"after {restarts} restarts, rank 1").read_text()) == restarts + 1
        assert launcher.output.count("process 1 was killed (SIGKILL)") == 2 and "Traceback" not in launcher.output


STOPPED = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
os.write(1, b"at work\\n")
signal.pause()
"""


def test_a_stop_is_passed_on_and_is_the_end(tmp_path):
    launcher = Launcher(["--standalone", "--nproc_per_node", "2"], script_of(tmp_path, STOPPED))
    launcher.until("at work", 2)
    launcher.process.terminate()
    assert launcher.end() == 143 and launcher.output == "at work\n" * 2, launcher.output
    assert not ended_soon(lambda: at_work(tmp_path), 20)


def test_a_mistake_ends_both_machines_at_once_with_the_sentence_of_the_command(machine):
    launchers = [machine(number, [*TRAIN, "--output_dir", "x", "--no_such_option"]) for number in (0, 1)]
    for launcher in launchers:
        assert launcher.end() == 2
        said = [line for line in launcher.output.splitlines() if not line.startswith("waiting for ")]
        assert (
            len(said) == 1 and said[0].startswith("train_audio_encoder.py: error: ") and "--no_such_option" in said[0]
        ), said


def test_a_machine_that_never_comes_is_told_after_the_join_time_out(tmp_path, machine):
    first, second = machine(0, script_of(tmp_path, ""), wait=2), machine(1, script_of(tmp_path, ""), wait=2, port=1)
    assert first.end() == 2 and "error: not all 2 machines came within 2 s" in first.output.splitlines()[1], (
        first.output
    )
    assert (
        first.output.splitlines()[0] == "waiting for the other machines, 2 s at most" and first.output.count("\n") == 2
    )
    assert second.end() == 2 and "nobody answered at 127.0.0.1:1 for 2 s (Connection refused)" in second.output
    assert second.output.splitlines()[0] == "waiting for machine 0 at 127.0.0.1:1" and second.output.count("\n") == 2


def test_a_machine_does_not_wait_for_a_stage_that_the_others_have_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGE_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("STAGE_MARK_WAS", mark_of(tmp_path / "mark"))  # of an earlier run
    assert not rendezvous.finished()
    (tmp_path / "mark").unlink()
    assert not rendezvous.finished()
    threading.Timer(1, (tmp_path / "mark").touch).start()
    assert rendezvous.find_store("127.0.0.1", 1, "encoder", 60) == (None, None)


def mark_of(path):
    """As recipe.sh asks for it."""
    path.touch()
    os.utime(path, (1, 1))
    return subprocess.check_output(["stat", "-c", "%Y.%i", path], text=True).strip()


def test_the_store_is_found_by_those_who_train_the_same(monkeypatch):
    monkeypatch.setenv(rendezvous.BEGAN, "")
    store = rendezvous.open_store(0, "encoder")
    found, own = rendezvous.find_store("127.0.0.1", store.port, "encoder", 10)
    assert found.get("training") == store.get("training") and own == "127.0.0.1"
    with pytest.raises(cli.UserError, match=f"--master_port {store.port} cannot be used .address already in use"):
        rendezvous.open_store(store.port, "encoder")
    with pytest.raises(cli.UserError, match="--master_addr no.such.host.invalid is not known"):
        rendezvous.find_store("no.such.host.invalid", store.port, "encoder", 10)
    monkeypatch.setattr(rendezvous, "_OTHER", 0)
    with pytest.raises(cli.UserError, match="machine 0 trains something else"):
        rendezvous.find_store("127.0.0.1", store.port, "generator", 10)


def test_under_a_launcher_a_second_signal_is_the_first_passed_on(monkeypatch):
    monkeypatch.setenv(cli.LAUNCHED, "1")
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM


@pytest.mark.parametrize(
    "exits, status, told",
    [
        ([1], 1, "process 0 ended with status 1"),
        ([-9], 137, "process 0 was killed (SIGKILL)"),
        ([2, 143], 2, ""),
        ([75, 2], 2, ""),
        ([143, 143], 143, ""),
        ([-15], 143, ""),
        ([75, 143], 1, "another process"),
        ([75], 1, "another process"),
        ([75, -9], 137, "process 1 was killed"),
        ([-9, 143], 137, "process 0 was killed"),
    ],
)
def test_what_the_ends_of_the_processes_mean(exits, status, told):
    found, sentence = launch.explain({rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(exits)})
    assert found == status and sentence.startswith(told) and bool(sentence) == bool(told)


def test_going_on_after_a_restart_is_from_the_file_of_this_training(tmp_path, monkeypatch):
    """Also with --resume none or another file, which are for the first start alone."""
    resume.keep(tmp_path, {"step": 1}, first=True)
    (tmp_path / "other.pth").write_bytes((tmp_path / "resume.pth").read_bytes())
    monkeypatch.setenv(rendezvous.BEGAN, str(time.time() + 5))
    assert resume.find("none", tmp_path) is None
    assert resume.find(str(tmp_path / "other.pth"), tmp_path)[1].name == "other.pth"
    monkeypatch.setenv(rendezvous.BEGAN, str(time.time() - 5))
    for choice in ("none", "auto", str(tmp_path / "other.pth")):
        assert resume.find(choice, tmp_path)[1].name == "resume.pth"
