"""torchrun whose failures read as the command's own sentence and exit status.

`python -m common.distributed.launch <torchrun's options> script.py <its options>`

Several machines meet in torchrun's c10d rendezvous, which machine 0 holds at --master_addr:--master_port. Where a
process is killed or a machine goes, all processes are started again and go on from the last resume file, at most
--max_restarts times; a user's mistake (status 2) and a stop by SIGTERM or SIGINT end the training on all machines.
"""

import hashlib
import logging
import os
import signal
import sys
import time

from common import ROOT, cli
from common.distributed import rendezvous
from common.parallel import default_jobs

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
GRACE = 3  # seconds for which machine 0 answers after a failure: the others ask every second
AGAIN = "the same command, on every machine, goes on from the last resume file"


def main() -> int:
    os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # of this process alone: that nobody answers yet is no error
    from torch.distributed.run import config_from_args, parse_args

    del os.environ["TORCH_CPP_LOG_LEVEL"]
    logging.disable(logging.CRITICAL)  # torchrun's reports are for its developers
    options = parse_args([f"--max_restarts={_number('MAX_RESTARTS', 3)}", *sys.argv[1:]])
    sys.argv[0] = options.training_script  # whose name stands before every error
    if options.nproc_per_node.isdecimal() and int(options.nproc_per_node) > 1:
        cores = default_jobs()  # torchrun's own choice is one thread each, with a warning
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(options.nproc_per_node))))
    config, command, arguments = config_from_args(options)
    # each process gets a session of its own, so that killing ours would leave it at work
    os.environ.update(
        {"FOLLOW_PARENT": f"{os.getpid()} SIGKILL", cli.LAUNCHED: "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    )  # it would be that of a machine that has gone
    config.rdzv_configs = {"join_timeout": _number("WAIT_FOR_MACHINES", 86400), **config.rdzv_configs}
    return _train(options, config, _job(options), command, arguments)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise cli.UserError(f"{variable}={text} is not a whole number")
    return int(text)


def _job(options) -> str:
    """What is trained, the same on every machine, wherever the project lies there."""
    words = "\0".join([options.rdzv_id, options.training_script, *options.training_script_args])
    return hashlib.sha256(words.replace(str(ROOT), "").replace("\0./", "\0").encode()).hexdigest()[:16]


def _train(options, config, job: str, command, arguments) -> int:
    """Train with the other machines, as often as machine 0 goes and comes back; → exit status."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError, RendezvousTimeoutError

    alone, wait = config.max_nodes == 1, int(config.rdzv_configs["join_timeout"])
    holds = alone or options.node_rank == 0
    if holds:
        store, own = rendezvous.open_store(0 if alone else options.master_port, job), options.master_addr
    for _ in range(config.max_restarts + 1):
        if not holds:
            store, own = rendezvous.find_store(options.master_addr, options.master_port, job, wait)
            if not store:
                return 0
        elif not alone:
            print(f"waiting for the other machines, {wait} s at most", flush=True)
        try:
            return _run(
                config, job, command, arguments, store, "localhost" if alone else own, GRACE * (holds and not alone)
            )
        except RendezvousTimeoutError:
            raise cli.UserError(
                f"not all {config.min_nodes} machines came within {wait} s; give the same command on each, "
                "with its number as --node_rank"
            ) from None
        except RendezvousClosedError:
            if rendezvous.finished(seconds=10):
                return 0
            print(f"the training has ended on another machine, whose report says why; {AGAIN}", file=sys.stderr)
            return 1
        except (RendezvousError, DistError):
            print(
                f"{'another machine' if holds else 'machine 0'} has gone; the training goes on from its last resume file "
                "when the same command is given there again",
                flush=True,
            )
    print(f"the machines cannot reach each other; {AGAIN}", file=sys.stderr)
    return 1


def _run(config, job: str, command, arguments, store, own: str, linger: float) -> int:
    """One attempt of this machine, restarts included; → exit status.

    own: its address; linger: seconds for which it answers the others after a failure.
    """
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous.api import (
        RendezvousClosedError,
        RendezvousParameters,
        RendezvousTimeoutError,
    )
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    handler = create_handler(
        store,
        C10dRendezvousBackend(store, job),
        RendezvousParameters("c10d", "", job, config.min_nodes, config.max_nodes, own, **config.rdzv_configs),
    )
    agent = _agent(
        WorkerSpec(
            "default",
            config.nproc_per_node,
            handler,
            entrypoint=command,
            args=tuple(arguments),
            max_restarts=config.max_restarts,
            monitor_interval=config.monitor_interval,
        ),
        config.logs_specs,
    )
    result = end = None
    try:
        result = agent.run()
    except (SignalException, RendezvousTimeoutError) as error:
        end = error
    handler.shutdown()  # tells the other machines that this is the end
    if result is None or result.is_failed():
        time.sleep(linger)
    if isinstance(end, SignalException):
        return 128 + int(end.sigval)
    if result is None:
        raise end or RendezvousClosedError
    status, sentence = explain(result.failures) if result.is_failed() else (0, "")
    if sentence:
        print(f"{sentence}, and the others have been stopped; {AGAIN}", file=sys.stderr)
    return status


def explain(failures: dict) -> tuple[int, str]:
    """→ the exit status that the first failure means, and what it was, or '' if its command has said so.

    failures: of the processes of this machine, by rank, in the order of their ends.
    """
    lost = any(failure.exitcode == cli.LOST for failure in failures.values())
    for rank, failure in failures.items():
        status = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        if status == 2 or status in STOPPED and not lost:
            return status, ""
        if status not in (cli.LOST, *STOPPED):
            what = f"ended with status {status}, as its report above says"
            if failure.exitcode < 0:
                what = f"was killed ({signal.Signals(-failure.exitcode).name}), perhaps for want of memory"
            return status, f"process {rank} {what}"
    return 1, "another process of this training has gone or cannot be reached"


def _agent(spec, logs):
    from torch.distributed.elastic.agent.server.api import WorkerState
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError

    class Agent(LocalElasticAgent):
        """torchrun's, but a user's mistake is not tried again, and a restart is told in a sentence."""

        def _monitor_workers(self, worker_group):
            result = super()._monitor_workers(worker_group)
            if result.state == WorkerState.HEALTHY and spec.rdzv_handler.is_closed():
                raise RendezvousClosedError  # on a GPU our processes may not notice for ten minutes
            if result.is_failed() and not explain(result.failures)[1]:
                self._remaining_restarts = 0
            self.reason = explain(result.failures)[1] if result.is_failed() else "a machine has come or gone"
            return result

        def _shutdown(self, *death_signal, **options):
            if death_signal:  # for good: a scheduler's second one must not cut short the resume file
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            super()._shutdown(*death_signal, **options)

        def _restart_workers(self, worker_group):
            print(
                f"{self.reason}; all processes start again from the last resume file ("
                f"{self._remaining_restarts} of {spec.max_restarts} restarts left)",
                flush=True,
            )
            super()._restart_workers(worker_group)

    return Agent(spec, logs)


if __name__ == "__main__":
    cli.run(main)
