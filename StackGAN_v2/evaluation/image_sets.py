"""The two sides of a comparison: generated images found by their names, real ones cut as the generator saw them."""

import concurrent.futures
import hashlib
import json
import os
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.bounding_boxes import bounding_boxes
from common.cli import UserError
from common.files import atomic_path, file_state, read_note, write_json
from common.untrusted.images import FORMATS, open_rgb
from StackGAN_v2.data.image_cache import prepare
from StackGAN_v2.data.image_names import NAME, first_sentences, sentence_counts

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_VERSION = 1  # raise when equal images would be prepared otherwise
SHOWN = 5  # faults that a message tells one by one


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated image: the item of the split and the sentence that it was made for, numbered as `image_names`
    does."""

    path: str
    item: int
    sentence: int


@dataclass(frozen=True)
class Found:
    """The generated images of one size, one a sentence, by item and sentence.

    size: in pixels, by their names; sentences: of the split; missing: sentences without an image; warnings: what
    is not as papers have it.
    """

    images: list[Generated]
    size: int
    sentences: int
    missing: int
    warnings: list[str]


def find_generated(folder, split, size: int = 0, limit: int = 0, seed: int = 0) -> Found:
    """The images of one size below `folder` (0: the largest there is).

    limit: take this many at random (0: all). UserError if there is none, or one that is not of `split`.
    """
    folder, others, sizes, kept, found = Path(folder), [], set(), size, []
    sentences_of = _Sentences(split)
    for path in _images_below(folder):
        match = NAME.fullmatch(Path(path).relative_to(folder).as_posix())
        if not match:
            others.append(path)
            continue
        here = int(match["size"])
        sizes.add(here)
        if not size and here > kept:  # only the largest size is kept, so that names of others take no room
            kept, found = here, []
        if here == kept:
            sentence = int(match["sentence"])
            found.append((sentences_of.item(match["image"], sentence, path), sentence, int(match["copy"]), path))
    if not found:
        have = f"only of {', '.join(map(str, sorted(sizes)))} pixels" if sizes else "at all"
        raise UserError(
            f"--images {folder} holds no images <class>/<image>_<size>_sentence<k>_0.png {have}"
            + (f"; change --image_size {size}" if sizes else "; make them with StackGAN_v2/main.py")
        )
    first: dict[tuple[int, int], str] = {}
    for item, sentence, _, path in sorted(found):
        first.setdefault((item, sentence), path)
    sentences = max(sentences_of.total, len(first))
    missing, again = sentences - len(first), len(found) - len(first)
    images = [Generated(path, *place) for place, path in first.items()]
    if limit and limit < len(images):
        chosen = np.sort(np.random.default_rng(seed).choice(len(images), limit, replace=False))
        images = [images[i] for i in chosen]
    return Found(images, kept, sentences, missing, _not_one_a_sentence(sentences, missing, again, others))


def _images_below(folder: Path):
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".") and name.lower().endswith(_IMAGES):  # no half-written files
                yield os.path.join(parent, name)


class _Sentences:
    """Which item a sentence of an image belongs to. total: sentences of the split."""

    def __init__(self, split):
        self.split, self._items = split, {}
        for number, item in enumerate(split.items):
            self._items.setdefault(item.image.relative_to(split.image_root).as_posix(), []).append(number)
        self._counts, self._firsts = sentence_counts(split), first_sentences(split)
        self.total = sum(self._counts)

    def item(self, image: str, sentence: int, path) -> int:
        """UserError, naming the generated image at `path`, where the split has no such image or sentence."""
        if image not in self._items:
            raise UserError(f"{path} is not of an image in {self.split.path}; was it made for another split or set?")
        item = [number for number in self._items[image] if self._firsts[number] <= sentence][-1]
        end = self._firsts[item] + self._counts[item]
        if self._counts[item] and sentence >= end:
            raise UserError(
                f"{path} is for sentence {sentence}, but {self.split.path} gives its image {end} "
                "sentences, counted from 0; was it made for another version of the set?"
            )
        return item


def _not_one_a_sentence(sentences, missing, again, others) -> list[str]:
    warnings = []
    if missing:
        warnings.append(f"{missing} of the {sentences} sentences have no image; papers take one for every sentence")
    if again:
        warnings.append(f"{again} further images of sentences that have one are left out: one a sentence is taken")
    if others:
        warnings.append(f"{len(others)} images not named as main.py names them are left out, such as {others[0]}")
    return warnings


def survey(images: list[Generated], size: int) -> list[str]:
    """Look at the heads of all files: warnings about what is no plain RGB. UserError names those of another size."""
    faults, kinds, example = [], Counter(), {}
    for generated in images:
        try:
            with Image.open(generated.path, formats=FORMATS) as image:
                if image.size != (size, size):
                    faults.append(
                        f"{generated.path} is {image.width} × {image.height} pixels, but its name says "
                        f"{size}; sizes may not be mixed: make the images again"
                    )
                kind = f"{image.mode} with transparency" if "transparency" in image.info else image.mode
                if kind != "RGB":
                    kinds[kind] += 1
                    example.setdefault(kind, generated.path)
        except Exception:  # whatever is wrong: reading all of it says what
            try:
                open_rgb(generated.path)
            except UserError as error:
                faults.append(str(error))
    if faults:
        raise UserError(told(faults))
    return [
        f"{count} images are {kind}, not RGB, and were converted (grey to three equal channels, transparency "
        f"laid on white), such as {example[kind]}"
        for kind, count in kinds.items()
    ]


def told(faults: list[str]) -> str:
    """Several faults as one sentence: the first few, and how many there are."""
    if len(faults) == 1:
        return faults[0]
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return f"{len(faults)} images cannot be used: {'; '.join(faults[:SHOWN])}{more}"


def load_generated(path, size: int) -> np.ndarray:
    """One generated image, resized if need be: uint8 `[size, size, 3]`. UserError if it is damaged."""
    image = open_rgb(path)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


class RealImages:
    """The real images of a split, each cut to a square: `load(i)` gives uint8 `[size, size, 3]`.

    An image that several items share is one. items: the first item of each image; number: of each item's image.

    crop 'box': what the generator is trained on, without its randomness: around the bounding box where the set has
    them, shorter side `margin` times `size`, the square in the middle. 'whole': shorter side `size`, the square in
    the middle.
    """

    def __init__(self, split, size: int, crop: str = "box", margin: float = 76 / 64):
        assert crop in ("box", "whole"), crop
        boxes = bounding_boxes(split) if crop == "box" else {}
        self.split, self.size = split, size
        self.number = split.image_numbers
        first = {image: item for image, item in zip(reversed(self.number), reversed(split.items))}
        self.items = [first[image] for image in range(len(first))]
        self.boxes = [boxes.get(item.key) for item in self.items]
        self.side = int(size * margin) if crop == "box" else size
        self.crop = "whole" if crop == "whole" else "box" if boxes else "centre"

    def __len__(self) -> int:
        return len(self.boxes)

    def load(self, index: int) -> np.ndarray:
        pixels = prepare(self.items[index].image, self.boxes[index], self.side)
        top, left = ((length - self.size) // 2 for length in pixels.shape[:2])
        return pixels[top : top + self.size, left : left + self.size]

    def key(self, *settings) -> str:
        """Changes with any image's path, length or time, with its box, with the crop and with `settings`."""
        digest = hashlib.sha256(json.dumps([_VERSION, self.size, self.side, self.crop, *map(str, settings)]).encode())
        for item, box in zip(self.items, self.boxes):
            state = file_state(item.image)
            if state is None:
                raise UserError(f"{item.image} does not exist, but {self.split.path} names it; unpack the images again")
            digest.update(json.dumps([str(item.image), *state, box]).encode())
        return digest.hexdigest()[:32]


def batches(load, count: int, batch_size: int, jobs: int):
    """`load(0)` … `load(count − 1)`, uint8 `[s, s, 3]` each, as tensors uint8 `[N, 3, s, s]` in order.

    Decodes in `jobs` threads (Pillow lets go of the interpreter), at most two batches ahead. After a UserError nothing
    more is handed out, but the rest is still decoded, so that one UserError names all the images that are at fault.
    """
    faults: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = deque()
        try:
            for start in range(0, count, batch_size):
                waiting.append([pool.submit(load, i) for i in range(start, min(count, start + batch_size))])
                if len(waiting) > 2:
                    yield from _stacked(waiting.popleft(), faults)
            while waiting:
                yield from _stacked(waiting.popleft(), faults)
        finally:  # the reader may have gone away
            pool.shutdown(wait=False, cancel_futures=True)
    if faults:
        raise UserError(told(faults))


def _stacked(futures, faults: list[str]):
    """One batch, or none once there is a fault, to which those of these images are added."""
    images = []
    for future in futures:
        try:
            images.append(future.result())
        except UserError as error:
            faults.append(str(error))
    if not faults:
        yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


class FeatureFile:
    """Rows of features `[N, width]`, float32, on disk: read in slices or by index, as tensors on `device`.

    Read with `pread` rather than mapped: memory stays that of the rows asked for.
    """

    def __init__(self, file, width: int, device="cpu"):
        """file: a path, or an open binary file with everything written."""
        self.width, self.device = width, torch.device(device)
        self._file = file if hasattr(file, "fileno") else open(file, "rb")
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


def real_features(real: RealImages, extractor, folder, batch_size: int, jobs: int, progress) -> FeatureFile:
    """The features of all real images, from `folder` if they are still true, else made and kept there.

    `progress(iterator of batches, total images, description)` wraps the loop.
    """
    path = Path(folder) / f"evaluation_{extractor.name}_{real.size}px_{real.crop}.f32"
    note, key = path.with_suffix(".json"), real.key(extractor.identity)
    expected = 4 * extractor.width * len(real)
    complete = note.is_file() and path.is_file() and path.stat().st_size == expected
    if not complete or read_note(note).get("key") != key:
        note.unlink(missing_ok=True)  # never new features beside an old description
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            for images in progress(
                batches(real.load, len(real), batch_size, jobs), len(real), f"real images ({extractor.name})"
            ):
                file.write(extractor(images)[0].cpu().numpy().tobytes())
        write_json(
            note,
            {
                "key": key,
                "rows": len(real),
                "width": extractor.width,
                "dtype": "float32",
                "extractor": extractor.what,
                "crop": real.crop,
                "size": real.size,
            },
        )
    return FeatureFile(path, extractor.width, extractor.device)
