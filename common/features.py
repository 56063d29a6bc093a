"""Feature pickles: the published format, read without running code, with a sidecar that says what they are.

A feature file holds an array `[images, views or captions, width]`, or a list of such 2-D arrays where the images have
different numbers of captions. Beside `<name>.pickle` stands `<name>.json`: shape, dtype, hash of the split's order, source.
"""
import datetime
import io
import pickle
import sys
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.files import atomic_path, read_json, write_json

# All that a pickled array, new or from Python 2, is made of. Nothing else is ever looked up, so nothing else can run.
_ALLOWED = {
    **{(f"numpy.{core}.multiarray", name): getattr(np._core.multiarray, name)
       for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): np._core.numeric._frombuffer for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding="latin1": _encode(text, encoding),
}


def _encode(text, encoding):
    """What `_codecs.encode` is used for in array pickles of protocol 2: bytes written as latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an unexpected text encoding")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array") from None

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to something outside the file")


def read_pickle(path):
    """The arrays, lists, tuples, dicts, strings and numbers in a pickle. Anything else is refused with a UserError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        value = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
        _check_plain(value)
        return value
    except (MemoryError, RecursionError):
        raise UserError(f"{path} is damaged: it claims more data than it holds; make or download it again") from None
    except Exception as error:                     # a damaged pickle can raise anything at all
        raise UserError(f"{path} is not a feature pickle ({error}); make or download it again") from None


def _check_plain(value) -> None:
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, np.ndarray):
            if top.dtype.hasobject:
                stack += list(top.ravel())
        elif isinstance(top, (list, tuple)):
            stack += top
        elif isinstance(top, dict):
            stack += [*top.keys(), *top.values()]
        elif not isinstance(top, (str, bytes, int, float, bool, np.generic, type(None))):
            raise pickle.UnpicklingError(f"it holds a {type(top).__name__}")


def save_features(path, features, split, **source) -> None:
    """Write `features` (array `[images, k, d]` or list of arrays `[k_i, d]`) and its sidecar.

    `source` says where they come from (teacher or checkpoint with its hash, settings) and goes into the sidecar.
    """
    path = Path(path)
    rows = [np.asarray(row, np.float32) for row in features]
    if len(rows) != len(split.items):
        raise ValueError(f"{len(rows)} rows for {len(split.items)} items")
    same = len({row.shape for row in rows}) == 1
    path.with_suffix(".json").unlink(missing_ok=True)      # never a new pickle beside an old description
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(np.stack(rows) if same else rows, file, protocol=4)
    write_json(path.with_suffix(".json"), {
        "images": len(rows), "shape": [len(rows), *rows[0].shape] if same else "list", "dtype": "float32",
        "width": rows[0].shape[-1], "order": split.digest(), "split": split.name, **source,
        "date": datetime.datetime.now().isoformat(timespec="seconds"), "command": " ".join(_hide_secrets(sys.argv))})


def _hide_secrets(argv: list[str]) -> list[str]:
    return ["…" if previous.endswith(("KEY", "APP_ID")) else word for previous, word in zip(["", *argv], argv)]


def load_features(path, split, made_by: str) -> list[np.ndarray]:
    """One float32 array `[k_i, d]` an item of `split`, in order.

    UserError if the file is missing, of another split or order, or not features; `made_by` is the stage to run (again).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; run {made_by} first")
    described = path.with_suffix(".json")
    if described.is_file():
        order = read_json(described).get("order")
        if order != split.digest():
            raise UserError(f"{path} was made for another version of {split.path} (order {order}, now {split.digest()}); "
                            f"run {made_by} again")
    rows = read_pickle(path)
    if not isinstance(rows, (list, np.ndarray)) or len(rows) != len(split.items):
        count = len(rows) if isinstance(rows, (list, np.ndarray)) else "no"
        raise UserError(f"{path} holds {count} rows, but {split.path} has {len(split.items)} items; run {made_by} again")
    try:
        rows = [np.atleast_2d(np.asarray(row, np.float32)) for row in rows]
    except (ValueError, TypeError):
        rows = []
    if not rows or any(row.ndim != 2 or not row.size for row in rows) or len({row.shape[1] for row in rows}) != 1:
        raise UserError(f"{path} does not hold one array of equal width an image; run {made_by} again")
    if not all(np.isfinite(row).all() for row in rows):
        raise UserError(f"{path} holds numbers that are not finite; run {made_by} again")
    return rows


def feature_path(data_dir, split_name: str, kind: str, switch: str) -> Path:
    """Where a feature file lives: `<data_dir>/<split>/<kind>_features_<switch>.pickle`, kind `image` or `audio`."""
    return Path(data_dir) / split_name / f"{kind}_features_{switch}.pickle"
