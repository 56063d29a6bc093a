"""Checkpoints: tensors and plain values only, written completely with a checksum, read without running code.

The checksum is the comment at the end of the zip archive that torch writes, `sha256 <64 hexadecimal digits>`: over
every name, dtype, shape, byte and plain value. Readers of such archives skip it, so the format stays the
published one. A file without one (published, or of another program) is read as well.
"""

import hashlib
import os
import pickle
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from common import snapshots
from common.cli import UserError, is_out_of_memory
from common.distributed import ranks
from common.files import atomic_path, is_web_page, keep_as
from common.untrusted import torch_files

_MOST_VALUES = 1_000_000  # in one file; a list that holds itself has no end
_HASHED_AT_ONCE = 1 << 20  # bytes of a tensor that is not contiguous
_THREADS = 4  # that hash: a gigabyte then takes less time than writing it


class Damaged(UserError):
    """A file that is there but cannot be used: cut, altered, or holding more than tensors and plain values.

    fault: the sentence without its advice.
    """

    def __init__(self, fault: str):
        super().__init__(f"{fault}; use another one or copy it again")
        self.fault = fault


def save(path, value, previous=None) -> None:
    """Write tensors, numbers, strings, lists and dicts to `path`, completely or not at all.

    previous: the name that a file at `path` gets when the new one takes its place, or None to let it go.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            raise OSError("the archive is incomplete") from error  # all that torch says of a full disk
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = _checksum(value)
        if previous is not None and Path(path).is_file():
            keep_as(path, previous)


def load(path, device="cpu"):
    """The content of a checkpoint, tensors on `device`.

    UserError if it is missing, `Damaged` if it is damaged or holds anything executable. A link `latest.pth` to a
    damaged file is set to the newest intact snapshot before it, and one line says so.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a checkpoint (.pth)")
    if path.name != "latest.pth" or not path.is_symlink():
        return _read(path, device)
    newest = path.parent / os.readlink(path)
    content, found = load_first_whole([newest, *snapshots.before(newest)], device)
    if found != newest:
        snapshots.repair_link(path, found)
    return content


def load_first_whole(paths, device="cpu"):
    """→ (content, path) of the first of `paths` that is intact; a line on stderr says which ones are not.

    paths: of existing files, at least one. Damaged if none is intact.
    """
    faults: list[Damaged] = []
    for path in paths:
        try:
            content = _read(Path(path), device)
        except Damaged as error:
            faults.append(error)
            continue
        for fault in faults if ranks.is_main() else ():
            print(f"{fault.fault}: {path} is used instead", file=sys.stderr, flush=True)
        return content, path
    raise faults[0]


def _read(path: Path, device):
    try:
        torch_files.check_before(path)
        content = torch.load(path, map_location=device, weights_only=True)
        _check_values(content)
        torch_files.check_room((value for value in _walk(content) if isinstance(value, torch.Tensor)), path)
        written = _comment(path)
        found = _checksum(content) if written else b""
    except pickle.UnpicklingError as error:
        _refuse_web_page(path)
        raise Damaged(
            f"{path} is refused: it is damaged or holds more than tensors ({_first_sentence(error)})"
        ) from None
    except Exception as error:  # a damaged archive can raise anything at all
        if isinstance(error, torch.OutOfMemoryError):  # of a GPU, which other work may fill
            raise
        if is_out_of_memory(error):
            raise Damaged(f"{path} does not fit into memory: it is damaged, or too large for this machine") from None
        _refuse_web_page(path)
        raise Damaged(f"{path} is not a checkpoint ({_first_sentence(error)})") from None
    if written != found:
        raise Damaged(f"{path} is damaged: its tensors do not have the checksum that it was written with")
    return content


def _refuse_web_page(path: Path) -> None:
    with open(path, "rb") as file:
        if is_web_page(file.read(1024)):
            raise Damaged(f"{path} is a web page, not a checkpoint: the server gave it in place of the file") from None


def _comment(path) -> bytes:
    """The archive's comment; empty for files of torch before 1.6, which are no archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment
    except zipfile.BadZipFile:
        return b""


def _walk(value):
    """`value` and everything in it, depth first, in order."""
    stack = [value]
    for _ in range(_MOST_VALUES):
        if not stack:
            return
        top = stack.pop()
        yield top
        if isinstance(top, dict):
            stack += [one for pair in reversed(top.items()) for one in reversed(pair)]
        elif isinstance(top, (list, tuple)):
            stack += reversed(top)
    raise pickle.UnpicklingError(f"it holds more than {_MOST_VALUES:,} values")


def _check_values(content) -> None:
    """UnpicklingError for a tensor that claims more than its file holds, so that using it cannot eat the memory."""
    for value in _walk(content):
        if isinstance(value, torch.Tensor) and (
            value.layout is not torch.strided or value.is_meta or value.nbytes > value.untyped_storage().nbytes()
        ):
            raise pickle.UnpicklingError(f"a tensor of shape {tuple(value.shape)} has not that many values")


def _checksum(content) -> bytes:
    """`sha256 …` over the structure, the plain values and the hash of each tensor; these are made in parallel."""
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = [
            threads.submit(_hash, value) if isinstance(value, torch.Tensor) else _plain(value)
            for value in _walk(content)
        ]
        total = hashlib.sha256()
        for part in parts:
            total.update(part if isinstance(part, bytes) else part.result())
    return f"sha256 {total.hexdigest()}".encode()


def _plain(value) -> bytes:
    if isinstance(value, dict):
        return f"dict {len(value)}\n".encode()
    if isinstance(value, (list, tuple)):
        return f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}\n".encode()
    return f"{value!r}\n".encode()


def _hash(tensor: torch.Tensor) -> bytes:
    """SHA-256 of a tensor's dtype, shape and bytes; hashing lets other threads run."""
    total = hashlib.sha256()
    _update(total, "", tensor)
    return total.digest()


def _update(total, name: str, tensor: torch.Tensor) -> None:
    tensor = tensor.detach()
    total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    parts = [tensor]
    if not tensor.is_contiguous() and tensor.numel():  # in small copies: one of all is half a gigabyte in a GAN
        parts = tensor.split(max(1, _HASHED_AT_ONCE // max(1, tensor[0].nbytes)))
    for part in parts:
        part = part.cpu().contiguous()
        total.update(part.flatten().view(torch.uint8).numpy())  # flat: a dimension of one may have any stride


def _first_sentence(error: Exception) -> str:
    """What an exception says, without torch's advice to load the file in a way that could run code."""
    text = str(error).split("Please file an issue")[0]
    if "weights_only" in text:
        text = text.partition("WeightsUnpickler error:")[2] or "it is not one that torch.save writes"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]


def state_dict_of(content, path) -> dict:
    """The state dict in a checkpoint's content: bare or under 'state_dict', with or without the prefix `module.`."""
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
    ):
        raise UserError(f"{path} holds no network: expected a state dict, or {{'meta', 'state_dict'}}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_into(module: torch.nn.Module, state: dict, path) -> None:
    """Load `state` into `module`; a mismatch becomes one sentence that names the first wrong entry and both shapes.

    Batch norms of before torch 0.4.1, and of torchvision's Inception, count no batches (`num_batches_tracked`): as in
    torch, the module's own counts stay.
    """
    module.load_state_dict(require_same(module, state, path))


def require_same(module: torch.nn.Module, state: dict, path) -> dict:
    """UserError, as in `load_into`, unless `state` has the names and shapes of `module`; → `state` with all counts."""
    own = module.state_dict()
    state = {**{key: value for key, value in own.items() if key.endswith("num_batches_tracked")}, **state}
    for key in dict.fromkeys((*own, *state)):  # in the network's order: equal files, equal sentences
        if key not in state or key not in own:
            raise UserError(f"{path} is of another architecture: it {'lacks' if key not in state else 'has'} '{key}'")
        if own[key].shape != state[key].shape:
            raise UserError(
                f"{path} is of another architecture: '{key}' is {tuple(state[key].shape)} there "
                f"and {tuple(own[key].shape)} here"
            )
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, path) -> None:
    """Load what `optimizer` has gathered about each parameter; its own learning rate and the like stay.

    UserError if `state` is not of an optimizer of the same parameters.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no state of this optimizer ({_first_sentence(error)})") from None
    for group, settings in zip(optimizer.param_groups, own):
        group.update(settings)
    for parameter, gathered in optimizer.state.items():
        for name, value in gathered.items():
            if value.dim() and value.shape != parameter.shape:
                raise UserError(
                    f"{path} is of another architecture: the optimizer's {name} is {tuple(value.shape)} "
                    f"there and {tuple(parameter.shape)} here"
                )


def digest(state: dict) -> str:
    """A short hash of all tensors by name: equal weights, equal digest, whatever file they lie in."""
    total = hashlib.sha256()
    for key in sorted(state):
        _update(total, key, state[key])
    return total.hexdigest()[:16]


def first_not_finite(content, name: str = "") -> str | None:
    """The dotted name of the first tensor of floats in nested dicts and lists that holds an infinity or no number."""
    named = [
        (key, value) for key, value in _named_tensors(content, name) if value.is_floating_point() and value.numel()
    ]
    if not named:
        return None
    extremes = torch.stack([value.detach().abs().amax().double() for _, value in named])  # one wait for the device
    wrong = (~extremes.isfinite()).nonzero()
    return named[int(wrong[0])][0] if len(wrong) else None


def copy_to_cpu(content):
    """Nested dicts and lists with a copy of every tensor on the CPU, which later steps of a training do not change."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: copy_to_cpu(value) for key, value in content.items()}
    return type(content)(map(copy_to_cpu, content)) if isinstance(content, (list, tuple)) else content


def _named_tensors(content, name: str):
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, (dict, list, tuple)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _named_tensors(value, f"{name}.{key}" if name else str(key))
