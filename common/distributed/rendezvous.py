"""Where the machines of a training meet: a store of torch's c10d, which the launcher of machine 0 holds."""

import contextlib
import os
import socket
import time
from datetime import timedelta

from common.cli import UserError

BEGAN = "TRAINING_BEGAN"  # variable: when machine 0's launcher was started, in seconds since 1970
_OTHER = 60  # seconds for which machine 0 may hold another training, which is about to end
_READ = timedelta(seconds=60)


def open_store(port: int, job: str):
    """The store of machine 0, for the training that `job` names. port 0: any that is free."""
    from torch.distributed import DistError, TCPStore

    try:
        store = TCPStore("localhost", port, is_master=True, wait_for_workers=False, timeout=_READ)
    except DistError as error:
        raise UserError(
            f"--master_port {port} cannot be used ({str(error).rpartition('message: ')[2]}); choose another "
            "one on all machines"
        ) from None
    os.environ[BEGAN] = str(time.time())
    store.set("training", f"{job} {os.environ[BEGAN]}")
    return store


def find_store(address: str, port: int, job: str, seconds: int):
    """→ (the store of machine 0, this machine's address), as soon as machine 0 trains what `job` names.

    (None, None) if the other machines have finished that in the meantime; UserError after so many seconds.
    """
    end, other, told, said = time.monotonic() + seconds, None, False, "it was not asked"
    while time.monotonic() < end:
        if finished():
            return None, None
        store, own, said = _connect(address, port)
        if store:
            running, began = said.split()
            if running == job:
                os.environ[BEGAN] = began
                return store, own
            other = other or time.monotonic()
            if time.monotonic() > other + _OTHER:
                raise UserError("machine 0 trains something else; give the same command on all machines")
        if not told:
            print(f"waiting for machine 0 at {address}:{port}", flush=True)
        told = True
        time.sleep(0.5)
    raise UserError(
        f"nobody answered at {address}:{port} for {seconds} s ({said}); start machine 0 (the same command with "
        "--node_rank 0), or correct --master_addr and --master_port"
    )


def _connect(address: str, port: int):
    """→ store, own address, what it trains; or None, None, the reason why there is no store."""
    from torch.distributed import DistError, TCPStore

    try:
        with socket.create_connection((address, port), timeout=10) as probe:  # quiet, unlike torch's own attempts
            own = probe.getsockname()[0]
        store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
        training = store.get("training").decode()
        store.set_timeout(_READ)
        return store, own, training
    except socket.gaierror as error:
        raise UserError(f"--master_addr {address} is not known to this machine ({error.strerror})") from None
    except (OSError, DistError) as error:
        return None, None, getattr(error, "strerror", None) or "what answers there is no training"


def finished(seconds: float = 0) -> bool:
    """Whether the recipe has marked this stage as done since it started this process, which was to take part.

    seconds: how long to wait for that.
    """
    end = time.monotonic() + seconds
    while "STAGE_MARK" in os.environ:
        with contextlib.suppress(OSError):
            mark = os.stat(os.environ["STAGE_MARK"])
            if f"{int(mark.st_mtime)}.{mark.st_ino}" != os.environ.get("STAGE_MARK_WAS"):
                return True
        if time.monotonic() >= end:
            break
        time.sleep(0.5)
    return False
