"""From embeddings to picture files: one picture for every sentence of a split, resumable, in memory of one batch."""
import concurrent.futures
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common import checkpoint
from common.devices import autocast
from common.files import atomic_path, read_note, write_json


def noise(generator, *key: int) -> torch.Tensor:
    """The noise `[z_dim + embedding_dim]` that belongs to `key`: the same on every device and in every batch."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(generator.z_dim + generator.embedding_dim, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def paint(generator, speech: torch.Tensor, noises: torch.Tensor, precision: str = "fp32") -> list[np.ndarray]:
    """speech `[N, d]`, noises `[N, z_dim + embedding_dim]` → one uint8 `[N, s, s, 3]` a branch."""
    device = next(generator.parameters()).device
    z, eps = noises.to(device).split((generator.z_dim, generator.embedding_dim), 1)
    with autocast(device, precision):
        images, _, _ = generator(z, speech.to(device), eps)
    return [to_pixels(image) for image in images]


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """`[N, 3, s, s]` in [−1, 1] → uint8 `[N, s, s, 3]`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def grid(pictures: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 `[N, s, s, 3]` → one white-ruled sheet `[H, W, 3]`, row by row."""
    n, size = pictures.shape[:2]
    rows = -(-n // columns)
    sheet = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (size + gap), i % columns * (size + gap)
        sheet[top:top + size, left:left + size] = picture
    return sheet


def save_picture(path, pixels: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def samples_folder(net_g) -> Path:
    """`<folder of netG>/iteration<n>/single_samples/valid`, n from the name netG_<n>.pth (through links)."""
    net_g = Path(net_g).resolve()
    number = re.search(r"(\d+)$", net_g.stem)
    return net_g.parent / f"iteration{number.group(1) if number else '_' + net_g.stem}" / "single_samples" / "valid"


def picture_name(split, item, size: int, sentence: int) -> str:
    """The published name of a picture: `<class>/<image file>_<size>_sentence<k>_0.png`."""
    return f"{item.image.relative_to(split.image_root)}_{size}_sentence{sentence}_0.png"


def paint_split(generator, split, rows, folder, *, seed: int, batch_size: int, precision: str, all_sizes: bool,
                limit: int, workers: int = 2, progress: bool = True) -> tuple[int, int]:
    """Paint one picture for every sentence into `folder`; returns (pictures written, pictures there already).

    rows: a float32 array `[captions, d]` an item. Pictures of an interrupted run are kept; those of another generator,
    other embeddings or another seed are removed first.
    """
    folder = Path(folder)
    made_with = {"generator": checkpoint.digest(generator.state_dict()), "seed": seed, "order": split.digest(),
                 "speech": checkpoint.digest({str(i): torch.from_numpy(row) for i, row in enumerate(rows)})}
    note = folder.parent / "samples.json"
    if folder.exists() and read_note(note) != made_with:
        shutil.rmtree(folder)
    write_json(note, made_with)
    sizes = list(enumerate(generator.sizes))[0 if all_sizes else -1:]
    sentences = [(i, k) for i, row in enumerate(rows) for k in range(len(row))][:limit or None]
    last = generator.sizes[-1]
    missing = {(i, k) for i, k in sentences if not (folder / picture_name(split, split.items[i], last, k)).is_file()}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool, \
            tqdm(total=len(missing), desc="pictures", unit="img", disable=not progress) as bar:
        written = []
        for first in range(0, len(sentences), batch_size):
            # the same batches as without an interruption: a picture's last bit depends on what it is painted with
            batch = sentences[first:first + batch_size]
            if missing.isdisjoint(batch):
                continue
            speech = torch.from_numpy(np.stack([rows[i][k] for i, k in batch]))
            pictures = paint(generator, speech, torch.stack([noise(generator, seed, i, k) for i, k in batch]), precision)
            for future in written:                 # at most one batch waits for the disk
                future.result()
            # the largest size comes last, since it is the one that says that a sentence is done
            written = [pool.submit(_save_sizes, [(folder / picture_name(split, split.items[i], size, k),
                                                  pictures[branch][row]) for branch, size in sizes])
                       for row, (i, k) in enumerate(batch) if (i, k) in missing]
            bar.update(len(written))
        for future in written:
            future.result()
    return len(missing), len(sentences) - len(missing)


def _save_sizes(pictures) -> None:
    for path, pixels in pictures:
        save_picture(path, pixels)
