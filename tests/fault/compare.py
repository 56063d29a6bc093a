"""What a folder holds, so that two runs can be compared: every file under a final name, without dates and speeds."""

import hashlib
import json
import pickle
import re
from pathlib import Path

import numpy as np

# What may differ between two runs of one command: when, how fast, how called, and from which state of their sources'
# clocks; and an archive that had come whole when its download was killed does not say from where.
VARYING = {"date", "seconds", "clips_per_s", "iterations_per_s", "command", "state", "key", "revision", "source"}
LEFT_OUT = re.compile(r"(^|/)(log\.txt|events/.*|[^/]*\.lock|\.log_mels\.partial.*|\.begun_\d)$")
TEMPORARY = re.compile(r"\.tmp|\.part\b|\.partial\b|\.unpacking-|\.preparing\.|(^|/)\.downloads/")


def temporaries(folder: Path) -> list[str]:
    """Names that stand for unfinished work."""
    return sorted(name for name in _names(folder) if TEMPORARY.search(name) and not name.endswith(".lock"))


def contents(folder: Path, base: Path | None = None) -> dict[str, str]:
    """Name → what the file holds, as a hash, for every file that is not temporary. `base`: a folder whose name counts
    for nothing where a file names it. AssertionError for a file that is not whole."""
    found = {}
    for name in _names(folder):
        if not TEMPORARY.search(name) and not LEFT_OUT.search(name):
            path = folder / name
            try:
                held = f"link to {path.readlink()}" if path.is_symlink() else _held(path, str(base or folder))
            except Exception as error:
                raise AssertionError(f"{path} ({path.stat().st_size} bytes) is not whole: {error!r}") from error
            assert path.exists(), f"{path} leads nowhere"
            found[name] = held if isinstance(held, str) else hashlib.sha256(held).hexdigest()
    return found


def _names(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()
    ]


def _held(path: Path, base: str) -> str | bytes:
    if path.suffix == ".pth":
        import torch

        return _digest(torch.load(path, weights_only=True))
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()), base)
    if path.suffix == ".jsonl":
        lines = [_plain(json.loads(line), base) for line in path.read_text().splitlines()]
        # measuring again adds a line; a step of training is told once
        return "\n".join(lines if path.name == "stats.jsonl" else dict.fromkeys(lines))
    data = path.read_bytes()
    if path.suffix == ".pickle":
        pickle.loads(data)
    elif path.suffix == ".npy":
        np.load(path)
    elif path.suffix in (".png", ".jpg"):
        from PIL import Image

        Image.open(path).load()
    elif path.suffix == ".wav":
        import soundfile

        assert len(soundfile.read(path)[0])
    elif path.suffix == ".html":
        assert data.endswith(b"</html>\n")
        data = data.replace(base.encode(), b"")
    return data.replace(base.encode(), b"")


def _plain(value, base: str) -> str:
    return json.dumps(_without(value), sort_keys=True).replace(base, "")


def _without(value):
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in VARYING}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _digest(value) -> str:
    """Hash of a checkpoint's tensors and plain values."""
    total = hashlib.sha256()

    def add(value):
        if hasattr(value, "numpy"):
            total.update(f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                if key not in VARYING:
                    total.update(f"{key}:".encode())
                    add(value[key])
        elif isinstance(value, (list, tuple)):
            for inner in value:
                add(inner)
        else:
            total.update(repr(value).encode())

    add(value)
    return total.hexdigest()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's view of a run: name → (step, value) in order, without speeds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "events"), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name not in VARYING
    }
