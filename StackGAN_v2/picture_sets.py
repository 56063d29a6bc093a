"""The two sides of a comparison: generated pictures found by their names, real ones cut as the generator saw them."""
import concurrent.futures
import hashlib
import json
import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.cli import UserError
from common.files import atomic_path, read_json, write_json
from common.images import open_rgb
from StackGAN_v2.image_cache import bounding_boxes, prepare

_NAME = re.compile(r"(?P<image>.+)_(?P<size>\d+)_sentence(?P<sentence>\d+)_0\.png")    # as sampler.picture_name
_VERSION = 1                                       # raise when equal pictures would be prepared otherwise


@dataclass(frozen=True)
class Generated:
    """A generated picture: the item of the split and the number of the sentence that it was made for."""
    path: Path
    item: int
    sentence: int


def find_generated(folder, split, size: int = 0, limit: int = 0, seed: int = 0) -> tuple[list[Generated], int]:
    """The pictures of one size below `folder` by item and sentence, and that size in pixels (0: the largest there is).

    limit: take this many at random (0: all). UserError if there is none, or one that is not of `split`.
    """
    folder = Path(folder)
    matches = [(path, _NAME.fullmatch(path.relative_to(folder).as_posix())) for path in folder.rglob("*.png")
               if not path.name.startswith(".")]                       # half-written files of a run that was killed
    sizes = {int(match["size"]) for _, match in matches if match}
    if not sizes or size and size not in sizes:
        have = f"only of {', '.join(map(str, sorted(sizes)))} pixels" if sizes else "at all"
        raise UserError(f"--images {folder} holds no pictures <class>/<image>_<size>_sentence<k>_0.png {have}"
                        + (f"; change --picture_size {size}" if sizes else "; make them with StackGAN_v2/main.py"))
    size = size or max(sizes)
    item_of = {item.image.relative_to(split.image_root).as_posix(): i for i, item in enumerate(split.items)}
    found = []
    for path, match in matches:
        if match and int(match["size"]) == size:
            if match["image"] not in item_of:
                raise UserError(f"{path} is not of a picture in {split.path}; was it made for another split or set?")
            found.append(Generated(path, item_of[match["image"]], int(match["sentence"])))
    found.sort(key=lambda picture: (picture.item, picture.sentence))
    if limit and limit < len(found):
        chosen = np.sort(np.random.default_rng(seed).choice(len(found), limit, replace=False))
        found = [found[i] for i in chosen]
    return found, size


def load_generated(path, named: int, size: int) -> np.ndarray:
    """One generated picture as uint8 `[size, size, 3]`. UserError if damaged or not of the size that its name says."""
    image = open_rgb(path)
    if image.size != (named, named):
        raise UserError(f"{path} is {image.width} × {image.height} pixels, but its name says {named}; "
                        "sizes may not be mixed: make the pictures again")
    if size != named:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


class RealPictures:
    """The real pictures of a split, each cut to a square: `load(i)` gives uint8 `[size, size, 3]`.

    crop 'box': what the generator is trained on, without its randomness: around the bounding box where the set has
    them, shorter side `margin` times `size`, the square in the middle. 'whole': shorter side `size`, the square in
    the middle.
    """

    def __init__(self, split, size: int, crop: str = "box", margin: float = 76 / 64):
        assert crop in ("box", "whole"), crop
        boxes = bounding_boxes(split) if crop == "box" else {}
        self.split, self.size = split, size
        self.boxes = [boxes.get(item.key) for item in split.items]
        self.side = int(size * margin) if crop == "box" else size
        self.crop = "whole" if crop == "whole" else "box" if boxes else "centre"

    def __len__(self) -> int:
        return len(self.boxes)

    def load(self, index: int) -> np.ndarray:
        pixels = prepare(self.split.items[index].image, self.boxes[index], self.side)
        top, left = ((length - self.size) // 2 for length in pixels.shape[:2])
        return pixels[top:top + self.size, left:left + self.size]

    def key(self, *settings) -> str:
        """Changes with any picture's path, length or time, with its box, with the crop and with `settings`."""
        digest = hashlib.sha256(json.dumps([_VERSION, self.size, self.side, self.crop, *map(str, settings)]).encode())
        for item, box in zip(self.split.items, self.boxes):
            try:
                status = os.stat(item.image)
            except OSError:
                raise UserError(f"{item.image} does not exist, but {self.split.path} names it; unpack the pictures "
                                "again") from None
            digest.update(json.dumps([str(item.image), status.st_size, status.st_mtime_ns, box]).encode())
        return digest.hexdigest()[:32]


def batches(load, count: int, batch_size: int, jobs: int):
    """`load(0)` … `load(count − 1)`, uint8 `[s, s, 3]` each, as tensors uint8 `[N, 3, s, s]` in order.

    Decodes in `jobs` threads (Pillow lets go of the interpreter), at most two batches ahead.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = deque()
        try:
            for start in range(0, count, batch_size):
                waiting.append([pool.submit(load, i) for i in range(start, min(count, start + batch_size))])
                if len(waiting) > 2:
                    yield _stacked(waiting.popleft())
            while waiting:
                yield _stacked(waiting.popleft())
        finally:                                   # after a fault nothing more is decoded
            pool.shutdown(wait=False, cancel_futures=True)


def _stacked(futures) -> torch.Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures])).permute(0, 3, 1, 2)


class FeatureFile:
    """Rows of features `[N, width]`, float32, on disk: read in slices or by index, as tensors on `device`.

    Read with `pread` rather than mapped: memory stays that of the rows asked for.
    """

    def __init__(self, path, width: int, device="cpu"):
        self.path, self.width, self.device = Path(path), width, torch.device(device)
        self._file = open(path, "rb")
        self._rows = os.fstat(self._file.fileno()).st_size // (4 * width)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, wanted) -> torch.Tensor:
        if isinstance(wanted, slice):
            start, stop, _ = wanted.indices(self._rows)
            data = self._read(start, max(0, stop - start))
        else:
            data = b"".join(self._read(int(row), 1) for row in wanted)
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, self.width).to(self.device)

    def _read(self, start: int, rows: int) -> bytes:
        row = 4 * self.width
        return os.pread(self._file.fileno(), row * rows, row * start)

    def close(self) -> None:
        self._file.close()


def real_features(real: RealPictures, extractor, folder, batch_size: int, jobs: int, progress) -> FeatureFile:
    """The features of all real pictures, from `folder` if they are still true, else made and kept there.

    `progress(iterator of batches, total pictures, description)` wraps the loop.
    """
    path = Path(folder) / f"evaluation_{extractor.name}_{real.size}px_{real.crop}.f32"
    note, key = path.with_suffix(".json"), real.key(extractor.identity)
    expected = 4 * extractor.width * len(real)
    complete = note.is_file() and path.is_file() and path.stat().st_size == expected
    if not complete or read_json(note).get("key") != key:
        note.unlink(missing_ok=True)               # never new features beside an old description
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            for pictures in progress(batches(real.load, len(real), batch_size, jobs), len(real),
                                     f"real pictures ({extractor.name})"):
                file.write(extractor(pictures)[0].cpu().numpy().tobytes())
        write_json(note, {"key": key, "rows": len(real), "width": extractor.width, "dtype": "float32",
                          "extractor": extractor.what, "crop": real.crop, "size": real.size})
    return FeatureFile(path, extractor.width, extractor.device)
