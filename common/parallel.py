"""Work spread over processes (or threads, for work that waits on a network), with results as they come."""

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from common.cli import UserError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def default_jobs() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of memory that are free or can be freed."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux: a quarter of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def in_chunks(items, size: int) -> list:
    return [items[start : start + size] for start in range(0, len(items), size)]


def parallel_map(function, chunks, jobs: int | None = None, threads: bool = False, stop=None):
    """Yield function(chunk) for every chunk, as they are done, from `jobs` workers (default: the cores).

    Workers are fresh processes (spawned: forking one that runs torch's threads or holds a GPU is not safe), each with
    one arithmetic thread; `function` and the chunks must be picklable. With one job or one chunk the work is done
    right here. An exception of `function` ends everything and is raised here. UserError if a worker was killed. On
    Ctrl-C, chunks that were begun are finished and the rest is dropped: keep chunks to a second or two. `stop` is
    called when the work ends early, to wake threads that wait.
    """
    chunks = list(chunks)
    jobs = min(jobs or default_jobs(), len(chunks))
    if jobs <= 1:
        yield from map(function, chunks)
        return
    pool = (
        ThreadPoolExecutor(jobs)
        if threads
        else ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    )
    try:
        yield from _results(pool, function, iter(chunks), 3 * jobs)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out; run the command again to go on, "
            "with fewer --jobs if that repeats"
        ) from None
    except BaseException:
        if stop:
            stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(pool, function, chunks, window: int):
    """Submit at most `window` chunks ahead, so that results do not pile up when the reader is slow."""
    pending = set()
    while True:
        with _one_thread_each():
            for chunk in chunks:
                pending.add(pool.submit(function, chunk))
                if len(pending) >= window:
                    break
        if not pending:
            return
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _one_thread_each():
    """Arithmetic libraries read these when a worker starts; workers with a thread a core slow each other down."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def one_torch_thread():
    """torch's operations of the calling thread, by itself: for threads that share out work between them.

    Each of them has to ask for itself. So has the one that shares out, around its pool: torch gives threads that begin
    later the number that was set last, and so its own is set when all the others are done.
    """
    import torch

    before = torch.get_num_threads()
    if before == 1:  # setting it takes as long as a short operation
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
