"""torchrun, but what the user sees at a failure is its command's own sentence and exit status, not a launcher's report.

`python -m common.launch <torchrun's options> script.py <its options>`
"""
import logging
import os
import signal
import sys

from common.cli import follow_parent

EXPECTED = (2, 128 + 2, 128 + 15)      # a user's mistake, SIGINT, SIGTERM: the command has said what there is to say


def main(argv: list[str]) -> int:
    follow_parent()
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = parse_args(argv)
    if options.standalone:             # as torchrun does it: a rendezvous of this machine's own, on a free port
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", str(os.getpid())
    if options.nproc_per_node.isdigit() and int(options.nproc_per_node) > 1:
        cores = len(os.sched_getaffinity(0))       # torchrun's own choice is one thread each, with a warning
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // int(options.nproc_per_node))))
    # each process gets a session of its own, so that killing ours would leave it at work
    os.environ["FOLLOW_PARENT"] = f"{os.getpid()} SIGKILL"
    config, command, arguments = config_from_args(options)
    try:
        elastic_launch(config=config, entrypoint=command)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        if failure.exitcode < 0 and status not in EXPECTED:
            print(f"process {rank} was killed ({signal.Signals(-failure.exitcode).name}), perhaps for want of memory, and "
                  f"the others have been stopped; the same command goes on from the last resume file", file=sys.stderr)
        elif status not in EXPECTED:
            print(f"process {rank} ended with status {status}; its own report is above", file=sys.stderr)
        return status
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
