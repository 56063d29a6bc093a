"""Frame features of a whole data set, log-mels or those of another front end, in one memory-mapped file, computed once.

`log_mels.npy` is one long row of int16, clip after clip, each [40, n_frames] in C order and without padding, so that a
padded batch is a few large copies. `log_mels.json` says for every clip where it lies and what its sound file was. Other
front ends have files of other names, with clips of [bands, columns] (front_ends/); so has each variant of the voices
(voice_augmentation.py), `<front end>_voice<number>`.

Why int16: a log-mel lies between -80 and 0 dB, and steps of 80 / 32767 dB round it by at most 0.0012 dB in half the
space of float32 (118,000 captions of 4 s: 3.8 GB). float16 takes the same space and is off by up to 0.03 dB.

A build appends to a partial file with a journal, so that a killed one goes on where it stopped; clips whose sound files
have not changed are copied from the cache before.
"""

import copy
import fcntl
import functools
import json
import os
from pathlib import Path

import numpy as np

from Audio_to_Image import audio
from Audio_to_Image.front_ends import front_end, width_of
from Audio_to_Image.voice_augmentation import VoiceVariant
from common.cli import UserError
from common.files import file_state, npy_header, read_note, write_json, write_text

DB_PER_STEP = audio.TOP_DB / 32767
SETTINGS = {"format": 2, **audio.SETTINGS}
_FACTS = ("seconds", "promised", "remarks", "error", "cause")  # of an audio.Clip
_HEADER_BYTES = len(npy_header("<i2", (0,)))
_JOURNAL_EVERY = 4096  # clips between two journal entries: a second or two of work to lose at most


class MelCache:
    """Frame features of a list of sound files, by their number in the list.

    `errors` maps the numbers of clips that cannot be used (missing, empty, not sound) to reasons; these have 0 frames.
    `clips[number]` is what is known about a clip beside its features, an audio.Clip with `mel` None. `n_frames` are
    frames of 10 ms, which `columns_of` turns into those of the front end `front`; of log-mels both are the same.
    """

    front = front_end("log_mel")

    def __init__(
        self,
        folder,
        paths,
        root=None,
        jobs: int | None = None,
        progress: bool = True,
        build: bool = True,
        front: str = "log_mel",
        variant: VoiceVariant | None = None,
    ):
        """Open the cache in `folder` for `paths`, first computing what it lacks (with `jobs` threads).

        `root`: the folder that clips are named by, so that it can be moved; with `build` off, a cache that lacks
        something is a UserError instead (for processes that share another one's cache). A sound file that has gone
        since it was read keeps its entry: the cache is enough to train from. front: name of the front end; variant: of
        the voices, in place of the recordings themselves.
        """
        self.folder, self.paths = Path(folder), [Path(path) for path in paths]
        self.front = front_end(front)
        self.files = _Files(self.folder, self.front, variant)
        self._names = [_name(path, root) for path in self.paths]
        sources = {name: (path, file_state(path)) for name, path in zip(self._names, self.paths)}
        records = _read_index(self.files)
        missing = [name for name in sources if not _is_current(records.get(name), sources[name][1])]
        if missing and not build:
            raise UserError(
                f"{self.files.values} lacks {len(missing)} of {len(sources)} clips; let one process build it first"
            )
        if missing:
            records = _Build(self.files, sources, records).run(jobs, progress)
        rows = [records[name] for name in self._names]
        self.offsets = np.array([row["offset"] for row in rows], np.int64)
        self.n_frames = np.array([row["n_frames"] for row in rows], np.int64)
        self.errors = {number: row["error"] for number, row in enumerate(rows) if row["error"]}
        self.clips = [
            audio.Clip(None, row["seconds"], row["promised"], tuple(row["remarks"]), row["error"], row["cause"])
            for row in rows
        ]
        self.values = np.load(self.files.values, mmap_mode="r")  # int16, one dimension

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
        """float32 [bands, columns]; log-mels in dB. UserError with the reason for a clip that cannot be used."""
        return self._raw(number) * np.float32(self.front.step)

    def batch(self, numbers, max_frames: int = audio.MAX_FRAMES) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [N, bands, width_of(front, max_frames)], int64 [N] columns): padded on the right with 0, cut at
        `max_frames`."""
        raw, lens = self.raw_batch(numbers, max_frames)
        return raw * np.float32(self.front.step), lens

    def raw_batch(self, numbers, max_frames: int = audio.MAX_FRAMES) -> tuple[np.ndarray, np.ndarray]:
        """batch() as int16 steps of `front.step`: half the bytes to send to a GPU, which multiplies faster."""
        width = max_frames if self.front.name == "log_mel" else width_of(self.front, max_frames)
        mels = np.zeros((len(numbers), self.front.bands, width), np.int16)
        lens = columns_of(self.front, np.minimum(self.n_frames[np.asarray(numbers, np.int64)], max_frames))
        for row, (number, n) in enumerate(zip(numbers, lens)):
            mels[row, :, :n] = self._raw(number)[:, :n]
        return mels, lens

    def _raw(self, number: int) -> np.ndarray:
        if number in self.errors:
            raise UserError(self.errors[number])
        start, n = self.offsets[number], int(columns_of(self.front, self.n_frames[number]))
        return self.values[start : start + self.front.bands * n].reshape(self.front.bands, n)


def columns_of(front, n_frames):
    """The front end's columns of clips of `n_frames` frames of 10 ms, an integer array; 0 where there are 0 frames."""
    return np.where(n_frames > 0, front.columns(n_frames), 0)


def quantize(mel: np.ndarray, step: float = DB_PER_STEP) -> np.ndarray:
    """float32 [bands, n] → int16 steps; log-mels are dB in [-80, 0]."""
    return np.rint(mel * np.float32(1 / step)).clip(-32767, 32767).astype(np.int16)


class _Files:
    """The files of a cache in `folder`, and the settings that it was made with."""

    def __init__(self, folder: Path, front, variant):
        stem = front.file if variant is None else f"{front.file}_voice{variant.number}"
        self.folder, self.front, self.variant = folder, front, variant
        self.values, self.index = folder / f"{stem}.npy", folder / f"{stem}.json"
        self.partial, self.journal = folder / f".{stem}.partial", folder / f".{stem}.partial.jsonl"
        # the module's own, so that tests may set others
        self.settings = SETTINGS if front.name == "log_mel" else {"format": SETTINGS["format"], **front.settings}
        if variant is not None:
            self.settings = {**self.settings, "voice": variant.settings}

    def size(self, n_frames: int) -> int:
        """Values of a clip of `n_frames` frames of 10 ms."""
        return self.front.bands * int(columns_of(self.front, n_frames))


# ---- building -------------------------------------------------------------------------------------------------------


class _Build:
    """One run of making a cache: what an earlier, killed run or the present cache has is not computed again."""

    def __init__(self, files: _Files, sources: dict, old_records: dict):
        self.files, self.sources, self.old_records = files, sources, old_records
        self.partial, self.journal = files.partial, files.journal
        self.records, self.fresh = {}, []  # all records so far; those not yet in the journal
        self.position = 0  # int16 values written

    def run(self, jobs, progress) -> dict:
        try:
            self.files.folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as self.file:
                self._lock()
                self._resume()
                self.file.truncate(_HEADER_BYTES + 2 * self.position)
                self.file.seek(0, os.SEEK_END)
                self._copy_unchanged()
                self._compute(jobs, progress)
                self._finish()
        except OSError as error:
            raise UserError(f"{self.files.values} cannot be written: {error.strerror or error}") from error
        return self.records

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is making {self.files.values}; wait for it") from None

    def _resume(self) -> None:
        """Take over the journal of a run that was killed, up to its last whole entry."""
        if not self.journal.exists():
            return
        held = (os.fstat(self.file.fileno()).st_size - _HEADER_BYTES) // 2
        good = []
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                if not good:
                    if entry != self.files.settings:
                        break
                elif entry["end"] > held or not _fit(entry["records"], entry["end"], self.files):
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
        values = np.load(self.files.values, mmap_mode="r") if kept else None
        for name in kept:
            record = self.old_records[name]
            start = record["offset"]
            self._add(name, values[start : start + self.files.size(record["n_frames"])], record)
        self._flush()

    def _compute(self, jobs, progress) -> None:
        names = [name for name in self.sources if name not in self.records]
        paths = [self.sources[name][0] for name in names]
        try:
            for index, clip in audio.iter_clips(paths, jobs, progress, **self._features(names)):
                record = {"state": self.sources[names[index]][1], **vars(clip)}
                self._add(names[index], record.pop("mel"), record)
                if len(self.fresh) >= _JOURNAL_EVERY:
                    self._flush()
        finally:
            self._flush()  # also on Ctrl-C

    def _features(self, names) -> dict:
        """What iter_clips is to make of the clips."""
        front, variant = self.files.front, self.files.variant
        if front.name == "log_mel" and variant is None:
            return {"encode": quantize}
        prepare = None if variant is None else lambda index, samples: variant.apply(samples, names[index])
        return {"encode": functools.partial(quantize, step=front.step), "compute": front.compute, "prepare": prepare}

    def _add(self, name: str, mel, record: dict) -> None:
        """record: `state` and the fields of an audio.Clip; where its features lie is added."""
        assert mel is None or mel.size == self.files.size(record["n_frames"]), (mel.shape, record["n_frames"])
        self.records[name] = {**record, "offset": self.position}
        self.fresh.append(name)
        if mel is not None:
            self.file.write(np.ascontiguousarray(mel).data)
            self.position += mel.size

    def _flush(self) -> None:
        """Sound before journal: an entry never promises more than the file holds."""
        if not self.fresh:
            return
        self.file.flush()
        os.fsync(self.file.fileno())
        lines = [] if self.journal.exists() else [json.dumps(self.files.settings)]
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
        self.files.index.unlink(missing_ok=True)
        os.replace(self.partial, self.files.values)
        content = {"settings": self.files.settings, "values": self.position, "clips": self.records}
        write_json(self.files.index, content, indent=None)
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


def _read_index(files: _Files) -> dict:
    """name → record of a cache made with the present settings; {} if there is none or its parts do not fit."""
    index, values = files.index, files.values
    if not (index.exists() and values.exists()):
        return {}
    content = read_note(index)
    try:
        held = np.load(values, mmap_mode="r")
    except Exception:  # a damaged header can raise anything at all
        return {}
    if content.get("settings") != files.settings or held.dtype != np.int16 or held.shape != (content.get("values"),):
        return {}
    return content["clips"] if _fit(content.get("clips"), len(held), files) else {}


def _are_strings(values) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _fit(records, held: int, files: _Files) -> bool:
    """Whether all records lie within `held` values: then no damage can make one read another's, or none's."""
    return isinstance(records, dict) and all(
        isinstance(record, dict)
        and record.keys() >= {"state", "offset", "n_frames", *_FACTS}
        and all(isinstance(record[name], str | None) for name in ("error", "cause"))
        and all(type(record[name]) is int for name in ("offset", "n_frames"))
        and all(type(record[name]) is float for name in ("seconds", "promised"))
        and _are_strings(record["remarks"])
        and record["n_frames"] >= 0
        and 0 <= record["offset"] <= record["offset"] + files.size(record["n_frames"]) <= held
        for record in records.values()
    )
