"""torchrun, but what the user sees at a failure is its command's own sentence and exit status, not a launcher's report.

`python -m common.distributed.launch <torchrun's options> script.py <its options>`

On several machines the launchers meet before they begin (see meeting.py), and one that fails ends the others.
"""
import contextlib
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from common import ROOT, cli, meeting

EXPECTED = (2, 128 + 2, 128 + 15)      # a user's mistake, SIGINT, SIGTERM: the command has said what there is to say
GRACE = 5                              # seconds for our processes to end by themselves after another machine's
STOP_GRACE = 60                        # … if these were stopped cleanly, as all then are: resume.pth is being written


def main(argv: list[str]) -> int:
    cli.follow_parent()
    from torch.distributed.run import parse_args
    options = parse_args(argv)
    if options.standalone:             # as torchrun does it: a rendezvous of this machine's own, on a free port
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", str(os.getpid())
    os.environ[cli.LAUNCHED] = "1"
    if options.standalone or options.nnodes in ("1", "1:1"):
        return launch(options, None)
    program = Path(options.training_script).name
    with _held(options):
        try:
            seat = meeting.Seat(options.node_rank, int(options.nnodes), options.master_addr, options.master_port,
                                _job(options))
            place = seat.wait()
        except cli.UserError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
            return 2
        if "port" not in place:
            return _nothing_to_do(program, place)
        options.master_port = place["port"]
        if place["interface"]:         # Gloo would choose that of the host's name, which may be the loop-back
            os.environ.setdefault("GLOO_SOCKET_IFNAME", place["interface"])
        status = launch(options, seat)
        seat.leave(status)
        return status


@contextlib.contextmanager
def _held(options):
    """On machine 0, a meeting for this training alone, unless the recipe holds one for all of its trainings."""
    if options.node_rank != 0 or "MEETING_HELD" in os.environ:
        yield
        return
    command = [sys.executable, "-m", "common.meeting", str(options.master_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT,
                          env=os.environ | {"FOLLOW_PARENT": f"{os.getpid()} SIGTERM"}) as server:
        if not server.stdout.readline():           # it has said why
            raise SystemExit(2)
        try:
            yield
        finally:
            server.terminate()


def _job(options) -> str:
    """What is trained, the same on every machine, wherever the project lies there."""
    words = [options.training_script, *options.training_script_args]
    return hashlib.sha256("\0".join(words).replace(str(ROOT), "").replace("\0./", "\0").encode()).hexdigest()


def _nothing_to_do(program: str, place: dict) -> int:
    if "MEETING_HELD" in os.environ:               # the recipe looks for its next training
        return meeting.OVER if "over" in place else meeting.OTHER
    print(f"{program}: error: machine 0 runs another command; give all machines the same one", file=sys.stderr)
    return 2


def launch(options, seat: meeting.Seat | None) -> int:
    """Run the processes of this machine; → exit status."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args
    logging.disable(logging.CRITICAL)              # torchrun's own: its reports are for its developers
    if options.nproc_per_node.isdigit() and int(options.nproc_per_node) > 1:
        cores = len(os.sched_getaffinity(0))       # torchrun's own choice is one thread each, with a warning
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(options.nproc_per_node))))
    # each process gets a session of its own, so that killing ours would leave it at work
    os.environ["FOLLOW_PARENT"] = f"{os.getpid()} SIGKILL"
    config, command, arguments = config_from_args(options)
    ended = threading.Event()

    def stop():
        if not ended.wait(STOP_GRACE if seat.gone[1] in EXPECTED[1:] else GRACE):
            os.kill(os.getpid(), signal.SIGTERM)
    if seat:
        seat.watch(stop)
    try:
        elastic_launch(config=config, entrypoint=command)(*arguments)
        return 0
    except ChildFailedError as error:
        return _failed(error.failures, seat)
    except SignalException as error:
        return _lost(seat) if seat and seat.gone else 128 + int(error.sigval)
    except (DistError, RendezvousError):
        return _lost(seat)
    finally:
        ended.set()


def _failed(failures: dict, seat) -> int:
    """Tell of the first process that failed of itself; → exit status."""
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != cli.LOST}
    lost = len(own) < len(failures)
    if lost:                                       # what was stopped on account of it is not to blame either
        own = {rank: failure for rank, failure in own.items()
               if failure.exitcode not in (-signal.SIGTERM, 128 + signal.SIGTERM)}
    if not own or seat and seat.gone and all(failure.exitcode < 0 for failure in own.values()):
        return _lost(seat)
    rank, failure = min(own.items(), key=lambda item: item[1].timestamp)
    status = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    if failure.exitcode < 0 and status not in EXPECTED:
        print(f"process {rank} was killed ({signal.Signals(-failure.exitcode).name}), perhaps for want of memory, and "
              f"the others have been stopped; the same command goes on from the last resume file", file=sys.stderr)
    elif status not in EXPECTED:
        print(f"process {rank} ended with status {status}; its own report is above", file=sys.stderr)
    return status


def _lost(seat) -> int:
    reason = seat.loss(GRACE) if seat else ""
    print(f"{reason or 'the other processes cannot be reached'}; the same command, on every machine, goes on from the "
          "last resume file", file=sys.stderr)
    return seat.gone[1] or 1 if seat and seat.gone else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
