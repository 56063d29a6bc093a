"""Checkpoints: tensors and plain values only, written whole, read without running code."""
import hashlib
import pickle
from pathlib import Path

import torch

from common.cli import UserError
from common.files import atomic_path


def save(path, value) -> None:
    """Write tensors, numbers, strings, lists and dicts to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(value, temporary)


def load(path, device="cpu"):
    """The content of a checkpoint, tensors on `device`. UserError if it is missing, damaged or holds anything executable."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a checkpoint (.pth)")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is refused: it is damaged or holds more than tensors "
                        f"({_first_sentence(error)})") from None
    except Exception as error:                     # a damaged archive can raise anything at all
        raise UserError(f"{path} is not a checkpoint ({_first_sentence(error)}); "
                        f"use another one or download it again") from None


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]


def state_dict_of(content, path) -> dict:
    """The state dict in a checkpoint's content: bare or under 'state_dict', with or without the prefix `module.`."""
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path} holds no network: expected a state dict, or {{'meta', 'state_dict'}}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_into(module: torch.nn.Module, state: dict, path) -> None:
    """Load `state` into `module`; a mismatch becomes one sentence that names the first wrong entry and both shapes."""
    own = module.state_dict()
    for key in own.keys() | state.keys():
        if key not in state or key not in own:
            raise UserError(f"{path} is of another architecture: it {'lacks' if key not in state else 'has'} '{key}'")
        if own[key].shape != state[key].shape:
            raise UserError(f"{path} is of another architecture: '{key}' is {tuple(state[key].shape)} there "
                            f"and {tuple(own[key].shape)} here")
    module.load_state_dict(state)


def digest(state: dict) -> str:
    """A short hash of all tensors by name: equal weights, equal digest, whatever file they lie in."""
    total = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy() if tensor.dim() else tensor.reshape(1).view(torch.uint8).numpy())
    return total.hexdigest()[:16]
