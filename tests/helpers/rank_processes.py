"""Several processes that join a process group, as torchrun's do; forked from one that has imported torch before."""

import multiprocessing
import os


def start(function, count: int, *arguments) -> list:
    """Begin `function(*arguments)`, of a module's top level, as each of `count` ranks; → their processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "numpy", "scipy.linalg", "tqdm"])
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    processes = [
        context.Process(target=_run, args=({**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, function, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def wait(processes, seconds: float = 300) -> None:
    """AssertionError unless all of them end well in that time."""
    for process in processes:
        process.join(seconds)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def _run(environment: dict, function, arguments) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)
