"""Two machines in one training, both of them this one: through run.sh as users start it, killed, late, and mistaken."""
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from fault import stages
from fault.fork_server import at_work, ended_soon

from common import meeting
from common.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
ENCODER = stages.ENCODER + " --sync_bn"
CHOICES = {"prepare": stages.MAKE, "engine": "espeak", "speech_options": stages.SPEECH, "device": "cpu",
           "teacher": stages.SWITCH, "teacher_options": stages.TEACHER, "encoder_options": ENCODER,
           "extract_options": "--jobs 1", "gan_options": stages.GENERATOR + " --sync_bn --max_steps 2",
           "gan_cfg": stages.CFG, "stop_stage": "5"}
WEIGHTS = ("Audio_to_Image/log/trial_speech_encoder/latest.pth", "StackGAN_v2/trial_speech_encoder/Model/latest.pth")


def start(place: Path, *words, variables=(), **changes) -> subprocess.Popen:
    """run.sh with everything below `place`, in a session of its own."""
    choices = CHOICES | {"data_root": place / "data", "output_root": place / "output"} | changes
    options = [str(word) for name, value in choices.items() for word in (f"--{name}", value)]
    command = ["bash", ROOT / "scripts/run.sh", "--dataset", "toybirds", "--tag", "trial", *options, *words]
    return subprocess.Popen(command, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(variables))


def machine(place: Path, number: int, port: int, address="127.0.0.1", **changes) -> subprocess.Popen:
    changes = {"wait_for_machines": 60} | changes
    return start(place, "--nnodes", "2", "--node_rank", str(number), "--master_addr", address, "--master_port",
                 str(port), **changes)


def end(process) -> tuple[int, str]:
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


@pytest.fixture
def port():
    """A port that is free now; not one of those that the system hands out, which another test may be given."""
    while True:
        number = random.SystemRandom().randrange(10000, 30000)
        with meeting.socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)):
                return number


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A set that is ready for training."""
    place = tmp_path_factory.mktemp("machines") / "made here"
    for last, change in ((0, stages.few_captions), (2, stages.small_features)):
        status, output = end(start(place, stop_stage=last))
        assert status == 0, output
        change(place / "data/toybirds")
    return place


@pytest.fixture
def place(before, tmp_path):
    """A copy of it, under the name that its files hold."""
    saved = tmp_path / "saved"
    shutil.copytree(before, saved, symlinks=True)
    yield before
    assert not ended_soon(lambda: at_work(before), 30)
    stages.restore(saved, before)


def weights(place: Path) -> dict:
    loaded = (torch.load(place / "output" / name, weights_only=True) for name in WEIGHTS)
    return {(i, key): value for i, content in enumerate(loaded)
            for key, value in content.get("state_dict", content).items()}


def test_two_machines_do_what_two_processes_do(place, port):
    """The second machine comes first and waits; it takes part in the two trainings alone; the weights are equal."""
    status, output = end(start(place, nproc=2))
    assert status == 0, output
    one = weights(place)
    shutil.rmtree(place / "output")
    second = machine(place, 1, port)
    assert "waiting for machine 0" in second.stdout.readline() + second.stdout.readline()
    first = machine(place, 0, port)
    (status, output), (other_status, other) = end(first), end(second)
    assert (status, other_status) == (0, 0), output + other
    assert "stage 4 (speech features)" in output and "stage 4" not in other
    assert "stage 5 (generator), machine 1" in other
    two = weights(place)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=lambda text: f"{key}: {text}")


def test_a_killed_machine_ends_the_training_and_it_goes_on(place, port):
    """Everything of machine 1 gets SIGKILL: machine 0 says so in a sentence, and the same commands finish."""
    options = ENCODER.replace("--epoch 2", "--epoch 12").replace("--eval_every 1", "--eval_every 50")
    first, second = (machine(place, number, port, encoder_options=options, stop_stage=3) for number in (0, 1))
    output = ""
    while "step      3" not in output:
        line = first.stdout.readline()
        assert line, output
        output += line
    os.killpg(second.pid, signal.SIGKILL)
    began = time.monotonic()
    status, rest = end(first)
    assert time.monotonic() - began < meeting_bound() and status not in (0, None), output + rest
    assert "machine 1 was killed or cannot be reached" in rest and "Traceback" not in output + rest, output + rest
    end(second)
    assert not ended_soon(lambda: at_work(place), 30)
    (status, output), (other, told) = map(end, [machine(place, number, port, encoder_options=options, stop_stage=3)
                                                for number in (0, 1)])
    assert (status, other) == (0, 0) and "going on from" in output and "step     12" in output, output + told


def meeting_bound() -> float:
    """Seconds until our processes have ended after another machine's: by themselves, when asked to, killed."""
    from common.distributed import launch
    return launch.GRACE + 30 + 10


def test_a_machine_that_fails_before_it_joins_ends_the_training(place, port, tmp_path):
    """Its processes never reach the others, who would wait ten minutes for them."""
    (tmp_path / "sitecustomize.py").write_text("import os\nif 'RANK' in os.environ: os._exit(3)\n")
    first = machine(place, 0, port, stop_stage=3)
    second = machine(place, 1, port, stop_stage=3, variables={"PYTHONPATH": str(tmp_path)})
    (status, output), (other, told) = end(first), end(second)
    assert (status, other) == (3, 3) and "machine 1 ended with status 3" in output and "process 1 ended" in told
    assert "Traceback" not in output, output


def test_mistakes_get_one_sentence_in_bounded_time(place, port):
    """Nobody at the address, no such name, other choices than machine 0's, a port in use, one machine alone."""
    for address, sentence in (("127.0.0.1", "nobody answered at 127.0.0.1"), ("no.such.host.invalid", "no address")):
        status, output = end(machine(place, 1, port, address, wait_for_machines=1))
        assert status == 2 and output.count("error:") == 1 and sentence in output and "Traceback" not in output, output
    first = machine(place, 0, port, wait_for_machines=15, stage=3)
    second = machine(place, 1, port, encoder_options=ENCODER + " --epoch 7", gan_options="--max_steps 1")
    assert "waiting for machine 1" in first.stdout.readline() + first.stdout.readline()
    status, output = end(machine(place, 0, port, output_root=place / "elsewhere"))
    assert status == 2 and f"--master_port {port} cannot be used" in output, output
    status, output = end(second)
    assert status == 2 and "machine 0 trains what this machine was not asked for" in output, output
    status, output = end(first)
    assert status == 2 and "machine 1 did not come within 15 s" in output, output


# ---- the meeting itself ----------------------------------------------------------------------------------------------

@pytest.fixture
def held(port):
    """The port of a meeting."""
    command = [sys.executable, "-m", "common.meeting", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield port
        server.kill()


def seats(port: int, *jobs, machines: int = 2) -> list[meeting.Seat]:
    return [meeting.Seat(number, machines, "127.0.0.1", port, job) for number, job in enumerate(jobs) if job]


def test_all_begin_when_all_are_there(held):
    later, = seats(held, None, "encoder")
    first, = seats(held, "encoder")
    place = first.wait()
    assert place == later.wait() and place["interface"] == "lo" and place["port"] != held


def test_what_another_machine_does_not_do_is_passed_over(held):
    early, = seats(held, None, "encoder")
    first, = seats(held, "generator")
    assert early.wait() == {"other": True}
    early.leave(0)
    second, = seats(held, None, "generator")
    assert second.wait()["port"] == first.wait()["port"]


@pytest.mark.parametrize("status, told", [(2, "machine 1 ended with status 2"), (None, "machine 1 was killed")])
def test_a_failure_is_heard_of(held, status, told):
    first, second = seats(held, "encoder", "encoder")
    first.wait(), second.wait()
    called = threading.Event()
    first.watch(called.set)
    if status is None:
        second._connection.shutdown(meeting.socket.SHUT_RDWR)
    else:
        second.leave(status)
    assert called.wait(10) and told in first.loss() and first.gone == (1, status)


def test_the_next_training_waits_for_the_end_of_the_one_before(held):
    first, second = seats(held, "encoder", "encoder")
    first.wait(), second.wait()
    second.leave(0)
    time.sleep(0.2)
    ahead, = seats(held, None, "generator")
    first.leave(0)
    time.sleep(0.2)
    assert first.loss() == ""
    again, = seats(held, "generator")
    assert again.wait()["port"] == ahead.wait()["port"]


def test_the_end_is_told_and_strangers_are_refused(held):
    first, = seats(held, "encoder")
    with pytest.raises(UserError, match="machine 0 is here already"):
        seats(held, "encoder")[0].wait()
    with pytest.raises(UserError, match="--nnodes is 3 here and 2 on machine 0"):
        seats(held, None, "encoder", machines=3)[0].wait()
    with meeting.socket.create_connection(("127.0.0.1", held)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\n\n[1]\n" + b"x" * 100000)
    first.leave(1)
    time.sleep(0.2)
    meeting.adjourn("127.0.0.1", held)
    assert seats(held, None, "encoder")[0].wait()["over"]


def test_the_interface_of_an_address():
    assert meeting.interface_of("127.0.0.1") == "lo" and meeting.interface_of("192.0.2.1") is None
