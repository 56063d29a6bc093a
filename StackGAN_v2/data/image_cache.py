"""Images decoded, cropped and scaled once, kept as uint8, and cut into training batches on the device.

An image is cropped around its bounding box where the set has boxes (birds), scaled so that its shorter side is 76/64 of
the largest training size, and stored as it is: rows of pixels, one image after the other. Random crop, mirror and the
smaller sizes are then index arithmetic and one resize for a whole batch.
"""

import copy
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.bounding_boxes import bounding_boxes, crop_box
from common.cache_place import choose_place
from common.cli import UserError
from common.devices import send
from common.files import atomic_path, file_state, npy_header, npy_or_none, read_note, write_json
from common.parallel import in_chunks, one_torch_thread, parallel_map
from common.progress import tqdm
from common.untrusted.images import LONGEST_SIDE, open_rgb, scale_shorter_side

_FORMAT = 2  # raise it when the stored pixels change
_MARGIN = 76 / 64  # the random crop has this much room


def prepare(path, box, side: int) -> np.ndarray:
    """Decode one image, crop it around `box` (if not None), scale its shorter side to `side`: uint8 `[H, W, 3]`.

    UserError for an image that cannot be used: damaged, too large, too thin, or with its box outside it.
    """
    image = open_rgb(path)
    if box is not None:
        image = image.crop(crop_box(image.size, box))
    return np.asarray(scale_shorter_side(image, side, path))


def _prepare_chunk(numbered) -> tuple[int, list]:
    number, work = numbered
    return number, [_prepare_or_reason(*one) for one in work]


def _prepare_or_reason(path, box, side):
    try:
        return prepare(path, box, side)
    except UserError as error:
        return str(error)


class ImageCache:
    """All images of a split, ready for a training size.

    pixels: uint8 `[total, 3]`; start, height, width: int64 `[images]`. `to` moves them to a device.
    """

    def __init__(self, pixels: torch.Tensor, shapes: np.ndarray):
        self.pixels = pixels
        self.height, self.width = (torch.from_numpy(shapes[:, i].astype(np.int64)) for i in (0, 1))
        self.start = torch.cumsum(self.height * self.width, 0) - self.height * self.width

    def __len__(self) -> int:
        return len(self.start)

    def subset(self, numbers) -> "ImageCache":
        """The images of these numbers alone; the pixels are shared."""
        part, chosen = copy.copy(self), torch.as_tensor(numbers, device=self.start.device)
        for name in ("height", "width", "start"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def to(self, device) -> "ImageCache":
        for name in ("pixels", "height", "width", "start"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def batch(self, indices, offsets, mirror, sizes: list[int], target=None) -> list[torch.Tensor]:
        """Cut `[N, 3, s, s]` images in [−1, 1] for every size in `sizes`, the largest one from the stored pixels.

        They are cut where the pixels are, and sent as bytes to the device `target`, if given, to be made smaller there.
        indices int64 `[N]`; offsets float `[N, 2]` in [0, 1): place of the crop (down, across); mirror bool `[N]`.
        The images lie in memory as channels_last.
        """
        largest, device = max(sizes), self.pixels.device
        target = torch.device(target or device)
        assert offsets.shape == (len(indices), 2) and mirror.shape == indices.shape
        indices, offsets, mirror = send(indices, device), send(offsets, device), send(mirror, device)
        room = torch.stack((self.height[indices], self.width[indices]), 1) - largest + 1
        places = indices, (offsets * room).long(), mirror
        if device.type == target.type == "cpu":
            return self._batch_on_cpu(places, sizes)
        full = self._cut(*places, largest) if device.type == "cpu" else self._gather(*places, largest)
        full = send(full, target).permute(0, 3, 1, 2)
        return [(full if size == largest else _smaller_in_floats(full, size)) / 127.5 - 1 for size in sizes]

    def _batch_on_cpu(self, places, sizes: list[int]) -> list[torch.Tensor]:
        """In shares, one for each thread that torch may use: torch itself makes bytes smaller with one."""
        images = [torch.empty(len(places[0]), size, size, 3) for size in sizes]
        shares = max(1, min(torch.get_num_threads(), len(places[0])))
        work = [[part.tensor_split(shares)[share] for part in (*places, *images)] for share in range(shares)]
        with one_torch_thread(), ThreadPoolExecutor(shares) as pool:
            beside = [pool.submit(self._make_share, *share) for share in work[1:]]
            self._make_share(*work[0])
            for share in beside:
                share.result()
        return [image.permute(0, 3, 1, 2) for image in images]

    def _make_share(self, indices, corner, mirror, *images) -> None:
        size = max(image.shape[1] for image in images)
        with one_torch_thread():
            full = self._cut(indices, corner, mirror, size)
            for image in images:
                _scale(full if image.shape[1] == size else _smaller(full, image.shape[1]), image)

    def _cut(self, indices, corner, mirror, size: int) -> torch.Tensor:
        """uint8 `[N, size, size, 3]` row by row: no number but the pixels is read or written.

        Of a memory-mapped file, the pages that are asked for are touched and no others.
        """
        cut = torch.empty(len(indices), size, size, 3, dtype=torch.uint8)
        places = (self.start[indices], self.height[indices], self.width[indices], *corner.unbind(1), mirror)
        for to, start, height, width, top, left, mirrored in zip(cut, *(place.tolist() for place in places)):
            image = self.pixels[start : start + height * width].view(height, width, 3)
            crop = image[top : top + size, left : left + size]
            if mirrored:
                to.copy_(crop.flip(1))
            else:
                np.copyto(to.numpy(), crop.numpy())  # half of torch's time
        return cut

    def _gather(self, indices, corner, mirror, size: int) -> torch.Tensor:
        """_cut as one indexing, for a GPU."""
        step = torch.arange(size, device=self.pixels.device)
        across = torch.where(mirror[:, None], size - 1 - step, step) + corner[:, 1:]
        rows = self.start[indices, None] + (corner[:, :1] + step) * self.width[indices, None]
        index = rows[:, :, None] + across[:, None, :]
        return self.pixels[index.reshape(-1)].view(len(indices), size, size, 3)


def _smaller(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 `[N, s, s, 3]` → uint8 `[N, size, size, 3]`, where torch has Pillow's integer arithmetic: on the CPU."""
    pixels = pixels.permute(0, 3, 1, 2)
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _smaller_in_floats(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The same as float32 from 0 to 255, up to one level where a value lies between two."""
    return F.interpolate(pixels.float(), size=(size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255)


def _scale(pixels: torch.Tensor, results: torch.Tensor) -> None:
    """uint8 → float32 in [−1, 1], an image at a time: what was just written is still in the cache."""
    for to, image in zip(results.numpy(), pixels.numpy()):
        np.copyto(to, image)
        to -= np.float32(127.5)
        to *= np.float32(1 / 127.5)


def place_cache(cache: ImageCache, wanted: str, device) -> str:
    """Bring the images to the GPU ('gpu'), into memory ('ram') or leave them on disk; → where they are, in words.

    'auto' asks for the nearest place that has room (`common.cache_place`).
    """
    place, words = choose_place(cache.pixels.numel(), wanted, device)
    if place == "gpu":
        cache.to(device)
    elif place == "ram":
        cache.pixels = cache.pixels.clone()
    return words


def build(split, folder, size: int, jobs: int | None = None, progress: bool = True) -> ImageCache:
    """The cache of `split` for training images of `size` pixels, made in `folder` or read from there if it is still
    true.

    Keyed by every image's path, length and time, its box and the settings. UserError lists images that cannot be read.
    """
    folder = Path(folder)
    boxes = bounding_boxes(split)
    side = int(size * _MARGIN)
    work = [(item.image, boxes.get(item.key), side) for item in split.items]
    stem = folder / f"images_{size}"
    key = _key(work)
    described = stem.with_suffix(".json")
    held = _held(stem, read_note(described), key, len(work), side)
    if held is None:
        held = _held(stem, _make(work, stem, key, jobs, progress), key, len(work), side)
    return ImageCache(*held)


def _held(stem: Path, note: dict, key: str, images: int, side: int):
    """(pixels, shapes) of the cache that `note` describes; None if it is another one, or they do not fit each other."""
    pixels = npy_or_none(stem.with_suffix(".npy"), np.uint8, mmap_mode="c")  # copy-on-write, which torch wants
    try:
        shapes = np.array(note["shapes"], np.int64)
    except Exception:  # a damaged note can hold anything at all
        return None
    fit = (
        note.get("key") == key
        and shapes.shape == (images, 2)
        and (shapes >= side).all()
        and (shapes <= LONGEST_SIDE).all()
        and pixels is not None
        and pixels.shape == (shapes.prod(1).sum(), 3)
    )
    return (torch.from_numpy(pixels), shapes) if fit else None


def _key(work) -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path, box, side in work:
        state = file_state(path)
        if state is None:
            raise UserError(f"{path} does not exist, but its split file names it; unpack the images again")
        digest.update(json.dumps([str(path), *state, box, side]).encode())
    return digest.hexdigest()[:32]


def _make(work, stem: Path, key: str, jobs, progress: bool) -> dict:
    """Decode everything in worker processes and write it in order, so that memory does not grow with the set."""
    shapes, faults, total = [], [], 0
    stem.with_suffix(".json").unlink(missing_ok=True)
    with (
        atomic_path(stem.with_suffix(".npy")) as temporary,
        open(temporary, "wb") as file,
        tqdm(total=len(work), desc=f"{stem.parent.name} images", unit="img", disable=not progress) as bar,
    ):
        file.write(npy_header("|u1", (0, 3)))
        for images in _in_order(parallel_map(_prepare_chunk, list(enumerate(in_chunks(work, 32))), jobs)):
            for image in images:
                if isinstance(image, str):
                    faults.append(image)
                else:
                    file.write(image.tobytes())
                    shapes.append(image.shape[:2])
                    total += image.shape[0] * image.shape[1]
            bar.update(len(images))
        if faults:
            more = f" (and {len(faults) - 1} more images)" if len(faults) > 1 else ""
            raise UserError(faults[0] + more)
        file.seek(0)
        file.write(npy_header("|u1", (total, 3)))
    content = {"key": key, "shapes": shapes}
    write_json(stem.with_suffix(".json"), content, indent=None)
    return content


def _in_order(numbered):
    """(number, value) pairs that come in any order → the values by number; only a few have to wait."""
    waiting, next_number = {}, 0
    for number, value in numbered:
        waiting[number] = value
        while next_number in waiting:
            yield waiting.pop(next_number)
            next_number += 1
