"""Untrusted pickles: arrays, lists, tuples, dicts, strings and numbers are read, and nothing else is ever called.

The opcodes of a pickle are instructions to a small machine. Python's own machine in C looks up classes, keeps a table
of extensions, and allocates whatever size a file claims. This module runs the one written in Python, reduced to the
opcodes that plain values need. Arrays are built here from bytes that are in the file, never by NumPy's unpickling code,
so the result cannot be larger than the file.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.cli import UserError

MAX_FILE_BYTES = 1 << 33
MAX_DEPTH = 32  # lists in lists
_SCALAR_KEYS = (str, bytes, int, float, bool, type(None))
_DTYPE = re.compile(r"[<>|=]?([biufcSUV?O])(\d{0,9})")

# Every opcode of Python 2 and 3 that a plain value can need. Absent: PERSID, BINPERSID, INST, OBJ, NEWOBJ, NEWOBJ_EX,
# EXT1, EXT2, EXT4, sets, and buffers outside the file.
_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT
    BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
    SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT PUT
    BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
"""
_PLAIN = b"".join(getattr(pickle, name) for name in _OPCODES.split())


def read_pickle(path):
    """The arrays, lists, tuples, dicts, strings and numbers in a pickle of Python 2 or 3; dicts have plain keys.

    UserError if it is missing, damaged, holds or refers to anything else, nests deeper than `MAX_DEPTH`, or unfolds to
    more values than it has bytes.
    """
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is too large for a feature pickle (over {MAX_FILE_BYTES >> 30} GiB)")
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _Plain(room=len(data)).unfold(_Machine(data).load())
    except (MemoryError, RecursionError):
        raise UserError(f"{path} does not fit into memory: it is damaged, or too large for this machine") from None
    except Exception as error:  # a damaged pickle can raise anything at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a feature pickle ({reason}); make or download it again") from None


class _Dtype:
    """A pickled dtype: its kind and size, from numpy.dtype('f4', …), then its byte order from BUILD."""

    def __init__(self, code, *unused):
        match = _DTYPE.fullmatch(code) if isinstance(code, str) else None
        if not match:
            raise pickle.UnpicklingError(f"an array of kind {str(code)[:40]!r}")
        self.code = match[1] + ("" if match[1] in "O?" else match[2])
        self.order: Literal["<", ">", "="] = "<" if code[0] == "<" else ">" if code[0] == ">" else "="

    def build(self, state):
        if not isinstance(state, tuple) or len(state) < 5 or state[3] is not None or state[4] is not None:
            raise pickle.UnpicklingError("an array of records")
        if state[1] in ("<", ">"):
            self.order = state[1]

    def numpy(self) -> np.dtype:
        kind = np.dtype(self.code).newbyteorder(self.order)
        if not kind.itemsize:
            raise pickle.UnpicklingError("an array of nothing")
        return kind


class _Array:
    """A pickled array, empty until BUILD tells its shape, dtype, order and bytes."""

    shape = None

    def build(self, state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise pickle.UnpicklingError("an array without its numbers")
        self.set(*state[-4:])

    def set(self, shape, dtype, fortran, raw):
        if (
            not isinstance(shape, tuple)
            or len(shape) > MAX_DEPTH
            or not isinstance(dtype, _Dtype)
            or not all(type(length) is int and length >= 0 for length in shape)
        ):
            raise pickle.UnpicklingError("an array without shape or kind")
        self.shape, self.kind, self.fortran = shape, dtype.numpy(), bool(fortran)
        self.raw = raw.encode("latin1") if isinstance(raw, str) else raw  # a string of Python 2
        if isinstance(self.raw, list) != self.kind.hasobject or not isinstance(self.raw, (bytes, list)):
            raise pickle.UnpicklingError("an array without its numbers")
        size = 1 if self.kind.hasobject else self.kind.itemsize
        if math.prod(shape) * size != len(self.raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(self.raw)} bytes")


class _Scalar:
    """One number of an array."""

    def __init__(self, dtype, raw):
        self.array = _Array()
        self.array.set((), dtype, False, raw)


def _empty_array(kind, *unused):
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of an unknown class")
    return _Array()


def _array_of_bytes(raw, dtype, shape, order, *unused):
    array = _Array()
    array.set(shape, dtype, order == "F", raw)
    return array


def _encode(text, encoding="latin1"):
    """What `_codecs.encode` is used for in array pickles of protocol 2: bytes written as latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an unexpected text encoding")
    return text.encode("latin1")


def _no_bytes():
    """`bytes()`, as protocols 0 to 2 write the numbers of an empty array."""
    return b""


# All names that a pickled array, new or from Python 2, refers to, and what replaces them here.
_NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_bytes for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}
_CALLABLE = (_empty_array, _Scalar, _array_of_bytes, _Dtype, _encode, _no_bytes)


class _Machine(pickle._Unpickler):
    """The unpickler written in Python, with the opcodes above and its own GLOBAL, REDUCE, BUILD and SETITEM."""

    dispatch = {code: pickle._Unpickler.dispatch[code] for code in _PLAIN}
    # what Python's own machine has, for type checkers
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")

    def load(self):
        try:
            return super().load()
        except KeyError as error:
            code = error.args[0] if error.args else None
            if isinstance(code, int) and code not in self.dispatch:
                raise pickle.UnpicklingError(f"opcode {code} is of no plain value") from None
            raise pickle.UnpicklingError(f"it refers to a missing {code}") from None
        except (EOFError, IndexError):
            raise pickle.UnpicklingError("it ends too early") from None

    def find_class(self, module, name):
        try:
            return _NAMES[module, name]
        except (KeyError, TypeError):
            asked = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "something"
            raise pickle.UnpicklingError(f"it asks for {asked[:80]}, which is no array") from None

    def call(self):
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in _CALLABLE) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no array")
        self.stack[-1] = function(*arguments)

    def build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Dtype)):
            raise pickle.UnpicklingError("it changes what is no array")
        self.stack[-1].build(state)

    def set_items(self, pairs):
        if (
            not isinstance(self.stack[-1], dict)
            or len(pairs) % 2
            or not all(isinstance(key, _SCALAR_KEYS) for key in pairs[::2])
        ):
            raise pickle.UnpicklingError("a dict without plain keys")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2]))

    def set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_marked(self):
        self.set_items(self.pop_mark())

    def new_dict(self):
        pairs = self.pop_mark()
        self.append({})
        self.set_items(pairs)

    def byte_array(self):
        length = int.from_bytes(self.read(8), "little")
        self.append(self.read(length))  # not reserved beforehand

    def stack_name(self):
        name, module = self.stack.pop(), self.stack.pop()
        self.append(self.find_class(module, name))

    own: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
        (pickle.GLOBAL, pickle._Unpickler.dispatch[pickle.GLOBAL[0]]),
        (pickle.STACK_GLOBAL, stack_name),
        (pickle.REDUCE, call),
        (pickle.BUILD, build),
        (pickle.SETITEM, set_item),
        (pickle.SETITEMS, set_marked),
        (pickle.DICT, new_dict),
        (pickle.BYTEARRAY8, byte_array),
    )
    dispatch |= {code[0]: method for code, method in own}


class _Plain:
    """Turns what the machine left into arrays and plain values, of which there are at most `room`."""

    def __init__(self, room: int):
        self.room = room

    def unfold(self, value, depth: int = 0):
        self._take(1)
        if depth > MAX_DEPTH:
            raise pickle.UnpicklingError(f"it nests deeper than {MAX_DEPTH}")
        if isinstance(value, _Scalar):
            return self._array(value.array, depth)[()]
        if isinstance(value, _Array):
            return self._array(value, depth)
        if isinstance(value, (list, tuple)):
            return type(value)([self.unfold(one, depth + 1) for one in value])
        if isinstance(value, dict):
            return {key: self.unfold(one, depth + 1) for key, one in value.items()}
        if not isinstance(value, (str, bytes, int, float, bool, type(None))):
            raise pickle.UnpicklingError("it holds parts of an array that is not there")
        return value

    def _array(self, array: _Array, depth: int) -> np.ndarray:
        if array.shape is None:
            raise pickle.UnpicklingError("it holds an array without its numbers")
        order: Literal["F", "C"] = "F" if array.fortran else "C"
        if array.kind.hasobject:
            values = np.empty(len(array.raw), object)
            values[:] = [self.unfold(one, depth + 1) for one in array.raw]
        else:
            self._take(len(array.raw))
            values = np.frombuffer(array.raw, array.kind).copy() if array.raw else np.empty(0, array.kind)
        return values.reshape(array.shape, order=order)

    def _take(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise pickle.UnpicklingError("it unfolds to more than it holds")
