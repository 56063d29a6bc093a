"""Device, arithmetic and random state: everything that a run fixes before its first step."""

import contextlib
import ctypes
import random
import sys

import numpy as np
import torch

from common.cli import UserError


def pick_device(name: str = "auto") -> torch.device:
    """'auto' → the CUDA GPU of this rank if there is one, else the CPU. UserError for a device that is not there.

    Apple's GPU (mps) is taken only where it is asked for: nobody has run this project on one yet.
    """
    if name == "auto":
        from common.distributed.ranks import local_rank

        return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use cpu, cuda, cuda:<number> or mps") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices; use cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: this machine has no GPU of Apple's that PyTorch can use; use cpu")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' → bf16 where the device multiplies it natively, else fp32."""
    if name == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32: {device.type} has no such arithmetic; use fp32, bf16 or auto")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read().split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    except OSError:
        return False


def set_up_arithmetic(device: torch.device, precision: str) -> None:
    """What `precision` means in this process: fp32 is all of float32; tf32 keeps 10 of 23 bits in a GPU's products."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if device.type == "cpu":
        keep_memory()


def set_up(device: str, precision: str) -> tuple[torch.device, str]:
    """Pick device and arithmetic of this process, set it up for them, → both."""
    picked = pick_device(device)
    precision = pick_precision(precision, picked)
    set_up_arithmetic(picked, precision)
    return picked, precision


def keep_memory() -> None:
    """Let the C library keep freed memory for the next tensors: else every large one costs a page fault each 4 KiB, a
    fifth of a training step's time on a CPU. Linux's own library only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
                library.mallopt(option, 1 << 30)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`, without waiting for what the device still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def autocast(device: torch.device, precision: str):
    """A context in which matrix products run in bf16, if `precision` is that; parameters and losses stay float32."""
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """The random state of torch on the CPU and on `device`, as tensors; the project draws from nothing else."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu().clone())  # of a view, torch reads the wrong memory
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu().clone(), device)
