"""Log-mels of a whole data set in one memory-mapped file, computed once.

`log_mels.npy` is one long row of int16, clip after clip, each [40, n_frames] in C order and without padding, so that a
padded batch is a few large copies. `log_mels.json` says for every clip where it lies and what its sound file was.

Why int16: a value lies between -80 and 0 dB, and steps of 80 / 32767 dB round it by at most 0.0012 dB in half the space
of float32 (118,000 captions of 4 s: 3.8 GB). float16 takes the same space and is off by up to 0.03 dB.

A build appends to a partial file with a journal, so that a killed one goes on where it stopped; clips whose sound files
have not changed are copied from the cache before.
"""

import copy
import fcntl
import json
import os
from pathlib import Path

import numpy as np

from Audio_to_Image import audio
from common.cli import UserError
from common.files import file_state, npy_header, read_note, write_json, write_text

DB_PER_STEP = audio.TOP_DB / 32767
SETTINGS = {"format": 2, **audio.SETTINGS}
_FACTS = ("seconds", "promised", "remarks", "error", "cause")  # of an audio.Clip
_HEADER_BYTES = len(npy_header("<i2", (0,)))
_JOURNAL_EVERY = 4096  # clips between two journal entries: a second or two of work to lose at most


class MelCache:
    """Log-mels of a list of sound files, by their number in the list.

    `errors` maps the numbers of clips that cannot be used (missing, empty, not sound) to reasons; these have 0 frames.
    `clips[number]` is what is known about a clip beside its log-mel, an audio.Clip with `mel` None.
    """

    def __init__(self, folder, paths, root=None, jobs: int | None = None, progress: bool = True, build: bool = True):
        """Open the cache in `folder` for `paths`, first computing what it lacks (with `jobs` threads).

        `root`: the folder that clips are named by, so that it can be moved; with `build` off, a cache that lacks
        something is a UserError instead (for processes that share another one's cache). A sound file that has gone
        since it was read keeps its entry: the cache is enough to train from.
        """
        self.folder, self.paths = Path(folder), [Path(path) for path in paths]
        self._names = [_name(path, root) for path in self.paths]
        sources = {name: (path, file_state(path)) for name, path in zip(self._names, self.paths)}
        records = _read_index(self.folder)
        missing = [name for name in sources if not _is_current(records.get(name), sources[name][1])]
        if missing and not build:
            raise UserError(
                f"{self.folder / 'log_mels.npy'} lacks {len(missing)} of {len(sources)} clips; "
                f"let one process build it first"
            )
        if missing:
            records = _Build(self.folder, sources, records).run(jobs, progress)
        rows = [records[name] for name in self._names]
        self.offsets = np.array([row["offset"] for row in rows], np.int64)
        self.n_frames = np.array([row["n_frames"] for row in rows], np.int64)
        self.errors = {number: row["error"] for number, row in enumerate(rows) if row["error"]}
        self.clips = [
            audio.Clip(None, row["seconds"], row["promised"], tuple(row["remarks"]), row["error"], row["cause"])
            for row in rows
        ]
        self.values = np.load(self.folder / "log_mels.npy", mmap_mode="r")  # int16, one dimension

    @classmethod
    def of_split(cls, split, **options) -> "MelCache":
        """The cache of a common.splits.Split, in `<data_dir>/<split>/`: every caption of item 0, then of item 1, …"""
        paths = [path for item in split.items for path in item.audio]
        return cls(split.path.parent / split.name, paths, root=split.audio_root, **options)

    def subset(self, numbers) -> "MelCache":
        """The clips of these numbers alone, counted from 0 again; the values are shared."""
        part = copy.copy(self)
        part.paths, part._names, part.clips = (
            [rows[n] for n in numbers] for rows in (self.paths, self._names, self.clips)
        )
        part.offsets, part.n_frames = self.offsets[numbers], self.n_frames[numbers]
        part.errors = {new: self.errors[old] for new, old in enumerate(numbers) if old in self.errors}
        return part

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self, number: int) -> int:
        """Frames (10 ms) of a clip before padding, at most 2048; 0 if it cannot be used."""
        return int(self.n_frames[number])

    def get(self, number: int) -> np.ndarray:
        """float32 [40, n_frames], dB. UserError with the reason for a clip that cannot be used."""
        return self._raw(number) * np.float32(DB_PER_STEP)

    def batch(self, numbers, max_frames: int = audio.MAX_FRAMES) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [N, 40, max_frames] in dB, int64 [N] frames): padded on the right with 0, cut at `max_frames`."""
        raw, lens = self.raw_batch(numbers, max_frames)
        return raw * np.float32(DB_PER_STEP), lens

    def raw_batch(self, numbers, max_frames: int = audio.MAX_FRAMES) -> tuple[np.ndarray, np.ndarray]:
        """batch() as int16 steps of DB_PER_STEP dB: half the bytes to send to a GPU, which multiplies faster."""
        mels = np.zeros((len(numbers), audio.N_MELS, max_frames), np.int16)
        lens = np.minimum(self.n_frames[np.asarray(numbers, np.int64)], max_frames)
        for row, (number, n) in enumerate(zip(numbers, lens)):
            mels[row, :, :n] = self._raw(number)[:, :n]
        return mels, lens

    def _raw(self, number: int) -> np.ndarray:
        if number in self.errors:
            raise UserError(self.errors[number])
        start, n = self.offsets[number], self.n_frames[number]
        return self.values[start : start + audio.N_MELS * n].reshape(audio.N_MELS, n)


def quantize(mel: np.ndarray) -> np.ndarray:
    """float32 dB [40, n] in [-80, 0] → int16 steps."""
    return np.rint(mel * np.float32(1 / DB_PER_STEP)).astype(np.int16)


# ---- building -------------------------------------------------------------------------------------------------------


class _Build:
    """One run of making `log_mels.npy`: what an earlier, killed run or the present cache has is not computed again."""

    def __init__(self, folder: Path, sources: dict, old_records: dict):
        self.folder, self.sources, self.old_records = folder, sources, old_records
        self.partial, self.journal = folder / ".log_mels.partial", folder / ".log_mels.partial.jsonl"
        self.records, self.fresh = {}, []  # all records so far; those not yet in the journal
        self.position = 0  # int16 values written

    def run(self, jobs, progress) -> dict:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as self.file:
                self._lock()
                self._resume()
                self.file.truncate(_HEADER_BYTES + 2 * self.position)
                self.file.seek(0, os.SEEK_END)
                self._copy_unchanged()
                self._compute(jobs, progress)
                self._finish()
        except OSError as error:
            raise UserError(f"{self.folder / 'log_mels.npy'} cannot be written: {error.strerror or error}") from error
        return self.records

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is making {self.folder / 'log_mels.npy'}; wait for it") from None

    def _resume(self) -> None:
        """Take over the journal of a run that was killed, up to its last whole entry."""
        if not self.journal.exists():
            return
        held = (os.fstat(self.file.fileno()).st_size - _HEADER_BYTES) // 2
        good = []
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                if entry != SETTINGS if not good else entry["end"] > held or not _fit(entry["records"], entry["end"]):
                    break
            except (ValueError, KeyError, TypeError):
                break
            good.append(line)
            if len(good) > 1:
                self.position = entry["end"]
                self.records.update(
                    (name, record)
                    for name, record in entry["records"].items()
                    if name in self.sources and _is_current(record, self.sources[name][1])
                )
        if self.records:
            write_text(self.journal, "\n".join(good) + "\n")
        else:
            self.position = 0
            self.journal.unlink()

    def _copy_unchanged(self) -> None:
        kept = [
            name
            for name in self.sources
            if name not in self.records and _is_current(self.old_records.get(name), self.sources[name][1])
        ]
        values = np.load(self.folder / "log_mels.npy", mmap_mode="r") if kept else None
        for name in kept:
            record = self.old_records[name]
            start = record["offset"]
            self._add(name, values[start : start + audio.N_MELS * record["n_frames"]], record)
        self._flush()

    def _compute(self, jobs, progress) -> None:
        names = [name for name in self.sources if name not in self.records]
        paths = [self.sources[name][0] for name in names]
        try:
            for index, clip in audio.iter_clips(paths, jobs, progress, encode=quantize):
                record = {"state": self.sources[names[index]][1], **vars(clip)}
                self._add(names[index], record.pop("mel"), record)
                if len(self.fresh) >= _JOURNAL_EVERY:
                    self._flush()
        finally:
            self._flush()  # also on Ctrl-C

    def _add(self, name: str, mel, record: dict) -> None:
        """record: `state` and the fields of an audio.Clip; where the log-mel lies is added."""
        n_frames = 0 if mel is None else mel.size // audio.N_MELS
        self.records[name] = {**record, "offset": self.position, "n_frames": n_frames}
        self.fresh.append(name)
        if n_frames:
            self.file.write(np.ascontiguousarray(mel).data)
            self.position += mel.size

    def _flush(self) -> None:
        """Sound before journal: an entry never promises more than the file holds."""
        if not self.fresh:
            return
        self.file.flush()
        os.fsync(self.file.fileno())
        lines = [] if self.journal.exists() else [json.dumps(SETTINGS)]
        lines.append(json.dumps({"end": self.position, "records": {name: self.records[name] for name in self.fresh}}))
        with open(self.journal, "a", encoding="utf-8") as journal:
            journal.write("\n".join(lines) + "\n")
        self.fresh = []

    def _finish(self) -> None:
        """Header, name, index: the old index goes first, the new comes last, so that none ever fits wrong values."""
        self.file.seek(0)
        self.file.write(npy_header("<i2", (self.position,)))
        self.file.flush()
        os.fsync(self.file.fileno())
        index = self.folder / "log_mels.json"
        index.unlink(missing_ok=True)
        os.replace(self.partial, self.folder / "log_mels.npy")
        write_json(index, {"settings": SETTINGS, "values": self.position, "clips": self.records}, indent=None)
        self.journal.unlink(missing_ok=True)


# ---- index ----------------------------------------------------------------------------------------------------------


def _name(path: Path, root) -> str:
    try:
        return path.relative_to(root).as_posix() if root else path.as_posix()
    except ValueError:
        return path.as_posix()


def _is_current(record, state) -> bool:
    """A record counts while its file has not changed; a good one also when the file has gone."""
    return record is not None and (record["state"] == state or state is None and record["error"] is None)


def _read_index(folder: Path) -> dict:
    """name → record of a cache made with the present settings; {} if there is none or its parts do not fit."""
    index, values = folder / "log_mels.json", folder / "log_mels.npy"
    if not (index.exists() and values.exists()):
        return {}
    content = read_note(index)
    try:
        held = np.load(values, mmap_mode="r")
    except Exception:  # a damaged header can raise anything at all
        return {}
    if content.get("settings") != SETTINGS or held.dtype != np.int16 or held.shape != (content.get("values"),):
        return {}
    return content["clips"] if _fit(content.get("clips"), len(held)) else {}


def _are_strings(values) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _fit(records, held: int) -> bool:
    """Whether all records lie within `held` values: then no damage can make one read another's, or none's."""
    return isinstance(records, dict) and all(
        isinstance(record, dict)
        and record.keys() >= {"state", "offset", "n_frames", *_FACTS}
        and all(isinstance(record[name], str | None) for name in ("error", "cause"))
        and all(type(record[name]) is int for name in ("offset", "n_frames"))
        and all(type(record[name]) is float for name in ("seconds", "promised"))
        and _are_strings(record["remarks"])
        and 0 <= record["offset"] <= record["offset"] + audio.N_MELS * record["n_frames"] <= held
        and record["n_frames"] >= 0
        for record in records.values()
    )
