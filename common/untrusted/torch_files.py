"""Checks of an untrusted checkpoint before and after torch reads it: claims that would cost memory or the process.

torch.load(weights_only=True) runs no code, but it trusts sizes, unpacks compressed records, and accepts dict keys that
are nested so deeply that hashing them overflows the stack. torch.save writes nothing of the kind.
"""

import io
import pickle
import pickletools
import zipfile
from pathlib import Path

_DEEPEST = 100  # tuples in tuples; torch's own go to 4
_PICKLES = 5  # in a file from before torch 1.6: magic, version, system, content, keys


def check_before(path) -> None:
    """UnpicklingError if the file at `path` holds compressed records, or tuples nested deeper than `_DEEPEST`."""
    path = Path(path)
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            _check_depth(file, _PICKLES)
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise pickle.UnpicklingError("a checkpoint with compressed records")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise pickle.UnpicklingError("its records claim more bytes than it has")
        for record in records:
            if record.filename.endswith(".pkl"):
                _check_depth(io.BytesIO(archive.read(record)), 1)


def check_room(tensors, path) -> None:
    """UnpicklingError if `tensors` rest on more bytes than the file at `path` has."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if sum(held.values()) > Path(path).stat().st_size:
        raise pickle.UnpicklingError("its tensors claim more bytes than it has")


def _check_depth(file, pickles: int) -> None:
    try:
        for _ in range(pickles):
            _Depths().run(file)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError):
        pass  # damaged: torch stops at the same place and reports it


class _Depths:
    """A pickle machine whose values are only numbers: how deeply tuples nest in each."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def run(self, file) -> None:
        for code, argument, _ in pickletools.genops(file):
            self._step(code, argument)

    def _step(self, code, argument) -> None:
        name = code.name
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP" and self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._plain(code)

    def _plain(self, code) -> None:
        if pickletools.markobject in code.stack_before:
            start = self.marks.pop()
            taken = self.stack[start:]
            del self.stack[start:]
            below = code.stack_before.index(pickletools.markobject)
        else:
            taken, below = [], len(code.stack_before)
        for _ in range(below):
            taken.append(self.stack.pop())
        for _ in code.stack_after:  # lists and dicts are no keys: what is in them does not count
            depth = 1 + max(taken, default=0) if "TUPLE" in code.name else max(taken, default=0)
            if depth > _DEEPEST:
                raise pickle.UnpicklingError(f"its tuples nest deeper than {_DEEPEST}")
            self.stack.append(depth)
