"""Pickles and checkpoints made to run code or to eat memory. What they would do is make the folder `canary`."""

import io
import pickle
import struct
import zipfile

import numpy as np
import torch

EXTENSION = 240  # registered in readers.py with copyreg, as a library might


class Touch:
    """Makes a folder in every way that unpickling can be made to call something."""

    def __new__(cls, path=None):
        if path:
            _touch(path)
        return super().__new__(cls)

    def __init__(self, path=None):
        if path:
            _touch(path)

    def __setstate__(self, state):
        _touch(state)

    def __setitem__(self, key, value):
        _touch(value)

    def append(self, value):
        _touch(value)


class Reduced:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def _touch(path) -> None:
    import os

    os.makedirs(path, exist_ok=True)


def executing(canary: str) -> dict[str, bytes]:
    """Name → a pickle that makes `canary` when pickle.loads reads it."""
    path = b"V" + canary.encode() + b"\n"
    short = b"\x8c" + bytes([len(canary.encode())]) + canary.encode()
    mkdir, touch = b"cos\nmkdir\n", b"chostile\nTouch\n"
    objects = np.empty(2, object)
    objects[:] = [1, Reduced(canary)]
    plain = np.ones((3, 2, 4), np.float32)
    cases = {
        "reduce": mkdir + b"(" + path + b"tR.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + short + b"\x85R.",
        "memoized global": b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94\x930h\x00h\x01\x93" + short + b"\x85R.",
        "inst": b"(" + path + b"ios\nmkdir\n.",
        "obj": b"(" + touch + path + b"o.",
        "newobj": b"\x80\x02" + touch + b"(" + path + b"t\x81.",
        "newobj_ex": b"\x80\x04" + touch + b"(" + path + b"t}\x92.",
        "build": touch + b")\x81" + path + b"b.",
        "build of a called object": touch + b")R" + path + b"b.",
        "append to an object": touch + b")R" + path + b"a.",
        "item of an object": touch + b")RI1\n" + path + b"s.",
        "python 2": b"cposix\nmkdir\n(S'" + canary.encode() + b"'\ntR.",
        "builtin eval": b"c__builtin__\neval\n(V__import__('os').mkdir('" + canary.encode() + b"')\ntR.",
        "object array": pickle.dumps(objects, 4),
        "object array of python 2": pickle.dumps(objects, 2),
        "after an array": pickle.dumps([plain, Reduced(canary)], 4),
        "key of a dict": pickle.dumps({"features": plain, "x": {"y": [Reduced(canary)]}}, 5),
        "pickle in a pickle": b"cpickle\nloads\n(c_codecs\nencode\n(V"
        + _text(mkdir + b"(" + path + b"tR.")
        + b"\nVlatin1\ntRtR.",
    }
    for code, name in (
        (b"\x82" + bytes([EXTENSION]), "ext1"),
        (b"\x83" + struct.pack("<H", EXTENSION), "ext2"),
        (b"\x84" + struct.pack("<i", EXTENSION), "ext4"),
    ):
        cases[name] = b"\x80\x02" + code + b"(" + path + b"tR."
    return cases


def _text(data: bytes) -> bytes:
    return data.decode("latin1").encode("raw_unicode_escape").replace(b"\n", b"\\u000a")


def refused(canary: str) -> dict[str, bytes]:
    """Name → a pickle that must be refused although it may run nothing: bombs, and what plain values do not need."""
    huge = (1 << 40).to_bytes(8, "little")
    array = pickle.dumps(np.zeros(3, np.float32), 2).replace(b"numpy._core", b"numpy.core")
    head, tail = array.split(b"K\x03\x85", 1)
    laughs = (
        b"\x80\x04]\x94" + b"K\x01a" + b"".join(b"]\x94(" + (b"h" + bytes([n])) * 10 + b"e" for n in range(30)) + b"."
    )
    return {
        "text persistent id": b"P" + canary.encode() + b"\n.",
        "persistent id": b"\x80\x02K\x01Q.",
        "bytes of a terabyte": b"\x80\x04\x8e" + huge,
        "text of a terabyte": b"\x80\x04\x8d" + huge,
        "byte array of a terabyte": b"\x80\x05\x96" + huge,
        "frame of an exabyte": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little"),
        "long of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f",
        "negative length": b"\x80\x02\x8b\xff\xff\xff\xff",
        "memo of 4 billion": b"\x80\x02K\x01r\xff\xff\xff\xffh\x00.",
        "decimal of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "array of a terabyte": head + b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85" + tail,
        "array made by its class": b"cnumpy\nndarray\n(\x8a\x05" + (10**10).to_bytes(5, "little") + b"\x85tR.",
        "array of nothings": array.replace(b"f4", b"S0").replace(
            b"K\x03\x85", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85"
        ),
        "list in itself": b"\x80\x02]q\x00h\x00a.",
        "dict in itself": b"\x80\x02}q\x00K\x01h\x00s.",
        "laughs": laughs,
        "lists nested": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "tuples nested": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "tuples nested as a key": b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
        "sets": b"\x80\x04\x8f(K\x01\x90.",
        "frozen set": b"\x80\x04(K\x01\x91.",
        "kind of an array": b"cnumpy\ndtype\n(V" + b"f4," * 100_000 + b"\ntR.",
        "records": pickle.dumps(np.zeros(3, [("a", "f4"), ("b", "O")]), 4),
        "dates": pickle.dumps(np.zeros(3, "M8[s]"), 4),
        "object of an array": pickle.dumps(np.zeros(3, object), 4).replace(b"O8", b"f8"),
        "class for an array": b"cnumpy\nndarray\n.",
        "another encoding": b"c_codecs\nencode\n(Vx\nVunicode_escape\ntR.",
        "one array a thousand times": pickle.dumps([np.zeros(1000)] * 1000, 4),
    }


def checkpoints(canary: str) -> dict[str, bytes]:
    """Name → a file that torch.load(weights_only=False) might be hurt by."""
    cases = {f"{name} in a checkpoint": as_checkpoint(data) for name, data in executing(canary).items()}
    cases |= {f"{name} before torch 1.6": data for name, data in executing(canary).items()}
    saved = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Reduced(canary)}, saved)
    old = io.BytesIO()
    torch.save({"a": torch.zeros(2), "x": Reduced(canary)}, old, _use_new_zipfile_serialization=False)
    array = np.empty(1, object)
    array[0] = Reduced(canary)
    npy = io.BytesIO()
    np.save(npy, array, allow_pickle=True)
    npz = io.BytesIO()
    np.savez(npz, a=array)
    one = (10**11).to_bytes(5, "little")
    deep = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
    return cases | {
        "beside a network": saved.getvalue(),
        "old, beside a network": old.getvalue(),
        "an npy": npy.getvalue(),
        "an npz": npz.getvalue(),
        "an npy as its pickle": as_checkpoint(npy.getvalue()),
        "compressed": as_checkpoint(pickle.dumps({"a": 1}, 2), zipfile.ZIP_DEFLATED, bytes(1 << 26)),
        "byte array of 100 GB": as_checkpoint(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + one + b"\x85R."),
        "tensor of 400 GB": as_checkpoint(b"\x80\x02ctorch\nFloatTensor\n\x8a\x05" + one + b"\x85R."),
        "tuples nested as a key": as_checkpoint(deep),
        "old, tuples nested as a key": deep,
        "script": as_checkpoint(b"\x80\x02ctorch.jit\nload\n(V" + canary.encode() + b"\ntR."),
        "stretched": stretched(),
    }


def as_checkpoint(data: bytes, compression=zipfile.ZIP_STORED, record: bytes = b"") -> bytes:
    """An archive as torch writes it, with `data` in place of its pickle."""
    saved, changed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2)}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(changed, "w", compression) as target:
        for info in source.infolist():
            own = data if info.filename.endswith("data.pkl") else source.read(info)
            target.writestr(info.filename, record or own if "/data/" in info.filename else own)
    return changed.getvalue()


def stretched() -> bytes:
    """A tensor of 2 numbers that claims to be 10 million times 10 million."""
    saved = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)[:1].expand(10**7, 10**7)}}, saved)
    return saved.getvalue()
