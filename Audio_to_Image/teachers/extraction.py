"""Making a file of teacher features: images in, one array `[images, 10, width]` out, overlapped and resumable.

Work is kept in shards beside the final file, so that a killed run loses at most one of them. Items of a split may share
an image: each image is seen once.
"""

import contextlib
import shutil
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np

from Audio_to_Image.teachers import teacher_class
from Audio_to_Image.teachers.teacher import Teacher
from Audio_to_Image.teachers.views import VIEWS
from common import files
from common.cli import UserError, first_few
from common.features import UNFINISHED, feature_path, load_features, save_features
from common.parallel import one_torch_thread
from common.progress import tqdm
from common.splits import Split
from common.untrusted.images import open_rgb

SHARD = 256  # images: on two CPU cores, half a minute of work


def path_of(folder, split: Split, teacher: str) -> Path:
    return feature_path(folder, split.name, "image", teacher)


def describe(split: Split, teacher: str, weights, flip: str, view_size: int, precision: str) -> dict:
    """What decides the numbers in a feature file, as plain values; files of equal description are the same.

    `weights` is None if the teacher's weight file is not there: features that others made can be used without it.
    """
    try:
        weights = files.sha256(teacher_class(teacher).weights_file(weights))
    except UserError:
        if weights is not None:  # the user named a file
            raise
    return {
        "teacher": teacher,
        "weights": weights,
        "flip": flip,
        "view_size": view_size,
        "precision": precision,
        "images": _images_digest(split),
    }


def _images_digest(split: Split) -> str:
    """Hash of the images' sizes in bytes: changes when they do, but not when a data set is copied elsewhere."""
    sizes = [item.image.stat().st_size if item.image.is_file() else -1 for item in split.items]
    return sha256(repr(sizes).encode()).hexdigest()[:16]


def usable(path: Path, split: Split, wanted: dict) -> bool:
    """Whether the feature file at `path` can stay, said in one line.

    A file without note was published by others: it stays if it fits the split (else UserError). One of ours stays if
    its description is the wanted one and is made again if not.
    """
    if not path.is_file():
        return False
    note = path.with_suffix(".json")
    if not note.is_file():
        rows = load_features(path, split, "this command with --overwrite")
        print(
            f"{path}: published features of {len(rows)} images ({rows[0].shape[1]} wide) are there and used as "
            f"they are; --overwrite makes them again"
        )
        return True
    found = files.read_note(note)
    if found.get("order") == UNFINISHED:
        return False
    if found.get("order") != split.digest():
        print(f"{path} was made for another version of {split.path}: made again")
        return False
    changed = [key for key, value in wanted.items() if found.get(key) != value and not (key == "weights" and not value)]
    changed += ["mean"] if found.get("mean") and "mean" not in wanted else []
    if changed:
        print(f"{path} was made with other {', '.join(changed)}: made again")
        return False
    print(f"{path}: features of {len(split.items)} images are there, nothing to do")
    return True


def make(
    path: Path,
    split: Split,
    teacher: Teacher,
    description: dict,
    jobs: int,
    batch_size: int,
    whole_images: bool,
    **source,
) -> list[UserError]:
    """Write the features of `split` to `path`; returns the faulty images, in which case nothing is written.

    `whole_images`: the network, too, runs in the `jobs` threads, an image each (CPU); otherwise the threads prepare
    images ahead and the network takes `batch_size` of them at a time. `source` is added to the note.
    """
    images = list(dict.fromkeys(item.image for item in split.items))
    missing = [UserError(f"{image} does not exist") for image in images if not image.is_file()]
    if missing:  # known before the work, so told before it
        return missing
    shards = _Shards(
        path.parent / f".{path.stem}.partial",
        {**description, "order": split.digest()},
        len(images),
        (VIEWS, teacher.width),
    )
    todo = [image for number in shards.missing() for image in images[shards.span(number)]]
    failed = []
    with tqdm(
        total=len(images), initial=len(images) - len(todo), desc=f"{split.name} images", unit="img", disable=None
    ) as progress:
        stream = _features(todo, teacher, jobs, batch_size, whole_images)
        for number in shards.missing():
            rows = []
            for _ in images[shards.span(number)]:
                rows.append(next(stream))
                progress.update()
            faults = [row for row in rows if isinstance(row, UserError)]
            failed += faults
            if not faults:
                shards.save(number, np.stack(rows))
    if not failed:
        row_of = dict(zip(images, shards.load_all()))
        moved = files.set_aside(path)  # --overwrite: features of others are made again, and kept
        if moved:
            print(f"{path}: the file that was there is now {moved.name}")
        save_features(path, [row_of[item.image] for item in split.items], split, **description, **source)
        shards.remove()
        print(f"{path}: {len(split.items)} images × {VIEWS} views × {teacher.width}")
    return failed


def report(failed: list[UserError]) -> None:
    """List faulty images on stderr; UserError if there are any."""
    for line in first_few(failed):
        print(f"  {line}", file=sys.stderr)
    if failed:
        raise UserError(
            f"{len(failed)} images could not be read and no features were written for their splits; repair "
            "or replace them and run this again (finished work is kept)"
        )


def _features(images, teacher: Teacher, jobs: int, batch_size: int, whole_images: bool):
    """For each image, in order: its features `[10, width]`, or the UserError that says what is wrong with it."""
    alone = one_torch_thread if jobs > 1 else contextlib.nullcontext

    def prepare(image):
        try:
            if not whole_images:
                return teacher.prepare(open_rgb(image))
            with alone():  # one image a thread scales better than two threads on one image
                return teacher.image_features([teacher.prepare(open_rgb(image))])[0]
        except UserError as error:
            return error

    if whole_images:
        with alone(), ThreadPoolExecutor(jobs) as pool:
            yield from _in_order(pool, prepare, images, ahead=2 * jobs)
        return
    with ThreadPoolExecutor(jobs) as pool:
        batch = []
        for result in _in_order(pool, prepare, images, ahead=2 * jobs + 2 * batch_size):
            batch.append(result)
            if len(batch) == batch_size:
                yield from _through_network(teacher, batch)
                batch = []
        if batch:
            yield from _through_network(teacher, batch)


def _through_network(teacher: Teacher, batch: list):
    good = [prepared for prepared in batch if not isinstance(prepared, UserError)]
    features = iter(teacher.image_features(good) if good else ())
    return [result if isinstance(result, UserError) else next(features) for result in batch]


def _in_order(pool, function, items, ahead: int):
    """`pool.map` that is never more than `ahead` results in front of the reader, so that memory stays bounded."""
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # an interrupt or error: what has not begun need not be done
        for future in waiting:
            future.cancel()


class _Shards:
    """Finished parts `[up to SHARD, 10, width]` of one feature file in a folder of their own.

    The folder is emptied when it was begun with another `key` (settings and order of the split).
    """

    def __init__(self, folder: Path, key: dict, count: int, row_shape: tuple[int, int]):
        self.folder, self.count, self.row_shape = folder, count, row_shape
        described = folder / "settings.json"
        if folder.exists() and files.read_note(described) != key:
            shutil.rmtree(folder)
        files.write_json(described, key)
        self._missing = [number for number in range(-(-count // SHARD)) if self._load(number) is None]

    def missing(self) -> list[int]:
        """Numbers of the shards that were not there at the start."""
        return self._missing

    def span(self, number: int) -> slice:
        return slice(number * SHARD, min((number + 1) * SHARD, self.count))

    def save(self, number: int, rows: np.ndarray) -> None:
        with files.atomic_path(self._path(number)) as temporary:
            np.save(temporary, rows)

    def load_all(self) -> list[np.ndarray]:
        return [row for number in range(-(-self.count // SHARD)) for row in self._load(number)]

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"

    def _load(self, number: int) -> np.ndarray | None:
        rows, span = files.npy_or_none(self._path(number), np.float32), self.span(number)
        return rows if rows is not None and rows.shape == (span.stop - span.start, *self.row_shape) else None
