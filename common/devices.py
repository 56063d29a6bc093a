"""Device, arithmetic and random state: everything that a run fixes before its first step."""
import contextlib
import random

import numpy as np
import torch

from common.cli import UserError

PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str = "auto") -> torch.device:
    """'auto' → the GPU of this rank if there is one, else the CPU. UserError for a device that is not there."""
    if name == "auto":
        from common.ranks import local_rank
        return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: not a device; use cpu, cuda or cuda:<number>") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """'auto' → bf16 where the device multiplies it natively, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _cpu_multiplies_bf16() else "fp32"


def _cpu_multiplies_bf16() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            flags = file.read().split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    except OSError:
        return False


def autocast(device: torch.device, precision: str):
    """A context in which matrix products run in `precision`; parameters and losses stay float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """The random state of torch on the CPU and on `device`, as tensors; the project draws from nothing else."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
