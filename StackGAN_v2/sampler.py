"""From embeddings to image files: one image for every sentence of a split, resumable, in memory of two batches."""
import concurrent.futures
import io
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from common import checkpoint
from common.devices import autocast
from common.files import read_note, write_bytes, write_json
from common.parallel import free_memory
from StackGAN_v2.folding import folded


def noise(generator, *key: int) -> torch.Tensor:
    """The noise `[z_dim + embedding_dim]` that belongs to `key`: the same on every device and in every batch."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(generator.z_dim + generator.embedding_dim, generator=torch.Generator().manual_seed(seed))


def fixed_sentences(generator, rows: list[np.ndarray], most: int, seed: int):
    """First sentences of at most `most` items, evenly spread: → speech `[N, d]`, noises `[N, z_dim + embedding_dim]`."""
    spoken = np.flatnonzero([len(row) for row in rows])
    chosen = spoken[np.linspace(0, len(spoken) - 1, min(most, len(spoken))).astype(int)]
    return (torch.from_numpy(np.stack([rows[i][0] for i in chosen])),
            torch.stack([noise(generator, seed, int(i), 0) for i in chosen]))


@torch.no_grad()
def generate(generator, speech: torch.Tensor, noises: torch.Tensor, precision: str = "fp32") -> list[np.ndarray]:
    """speech `[N, d]`, noises `[N, z_dim + embedding_dim]` → one uint8 `[N, s, s, 3]` a branch."""
    device = next(generator.parameters()).device
    z, eps = noises.to(device).split((generator.z_dim, generator.embedding_dim), 1)
    with autocast(device, precision):
        images, _, _ = generator(z, speech.to(device), eps)
    return [to_pixels(image) for image in images]


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """`[N, 3, s, s]` in [−1, 1] → uint8 `[N, s, s, 3]`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 `[N, s, s, 3]` → one white-ruled sheet `[H, W, 3]`, row by row."""
    n, size = images.shape[:2]
    rows = -(-n // columns)
    sheet = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (size + gap), i % columns * (size + gap)
        sheet[top:top + size, left:left + size] = image
    return sheet


def save_image(path, pixels: np.ndarray) -> None:
    """Write uint8 `[H, W, 3]`, in the form that the name's ending says."""
    jpeg = Path(path).suffix == ".jpg"
    # runs alone (zlib's Z_RLE): on such images smaller than level 1's matches, and found in less time
    options = {"quality": 95, "subsampling": 0} if jpeg else {"compress_level": 1, "compress_type": 3}
    buffer = io.BytesIO()                          # of a file, Pillow does not see that only a part has found room
    Image.fromarray(pixels).save(buffer, "JPEG" if jpeg else "PNG", **options)
    write_bytes(path, buffer.getvalue())


def samples_folder(net_g) -> Path:
    """`<folder of netG>/iteration<n>/single_samples/valid`, n from the name netG_<n>.pth (through links)."""
    net_g = Path(net_g).resolve()
    number = re.search(r"(\d+)$", net_g.stem)
    return net_g.parent / f"iteration{number.group(1) if number else '_' + net_g.stem}" / "single_samples" / "valid"


def image_name(split, item, size: int, sentence: int, form: str = "png") -> str:
    """The published name of an image: `<class>/<image file>_<size>_sentence<k>_0.png`."""
    return f"{item.image.relative_to(split.image_root)}_{size}_sentence{sentence}_0.{form}"


def fitting_batch(generator) -> int:
    """Images at a time of which a quarter of the device's free memory holds the layers: at most 64, on a GPU 256."""
    device = next(generator.parameters()).device
    channels = 2 * (generator.gf_dim >> (generator.branch_num - 1))      # of the last and largest map
    image = 4 * channels * generator.sizes[-1] ** 2 * 6                # bytes; six such maps are more than ever live
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return max(1, min(free // 4 // image, 256 if device.type == "cuda" else 64))


def sample_split(generator, split, rows, folder, *, seed: int, batch_size: int | str, precision: str, all_sizes: bool,
                limit: int, fold: bool = True, compiled: bool = False, form: str = "png", workers: int = 2,
                progress: bool = True) -> tuple[int, int]:
    """Generate one image for every sentence into `folder`; returns (images written, images there already).

    rows: a float32 array `[captions, d]` an item; batch_size: or 'auto'; fold: with the batch norms multiplied into the
    convolutions; form: png or jpg. Images of an interrupted run are kept; those of another generator, other embeddings or
    another seed are removed first. A sentence's noise is its own, so its image depends on seed, item and sentence
    alone: exactly for equal batches, up to one level of 255 for other ones, whose products are summed in another order.
    """
    folder = Path(folder)
    made_with = {"generator": checkpoint.digest(generator.state_dict()), "seed": seed, "order": split.digest(),
                 "speech": checkpoint.digest({str(i): torch.from_numpy(row) for i, row in enumerate(rows)})}
    note = folder.parent / "samples.json"
    before = dict(read_note(note) or {}) if folder.exists() else {}
    batch_before = before.pop("batch", None)
    if folder.exists() and before != made_with:
        shutil.rmtree(folder)
        batch_before = None
    if batch_size == "auto":                       # an interrupted run goes on with its own batches: see `sample_split`
        batch_size = batch_before if isinstance(batch_before, int) else fitting_batch(generator)
    write_json(note, {**made_with, "batch": batch_size})
    sizes = list(enumerate(generator.sizes))[0 if all_sizes else -1:]
    sentences = [(i, k) for i, row in enumerate(rows) for k in range(len(row))][:limit or None]
    last = generator.sizes[-1]
    missing = {(i, k) for i, k in sentences
               if not (folder / image_name(split, split.items[i], last, k, form)).is_file()}
    generator = folded(generator, precision) if fold else generator
    if compiled:
        generator.compile()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool, \
            tqdm(total=len(missing), desc="images", unit="img", disable=not progress) as bar:
        written = []
        for first in range(0, len(sentences), batch_size):
            # the same batches as without an interruption: an image's last bit depends on what it is generated with
            batch = sentences[first:first + batch_size]
            if missing.isdisjoint(batch):
                continue
            speech = torch.from_numpy(np.stack([rows[i][k] for i, k in batch]))
            images = generate(generator, speech, torch.stack([noise(generator, seed, i, k) for i, k in batch]), precision)
            for future in written:                 # at most one batch waits for the disk
                future.result()
            # the largest size comes last, since it is the one that says that a sentence is done
            written = [pool.submit(_save_sizes, [(folder / image_name(split, split.items[i], size, k, form),
                                                  images[branch][row]) for branch, size in sizes])
                       for row, (i, k) in enumerate(batch) if (i, k) in missing]
            bar.update(len(written))
        for future in written:
            future.result()
    return len(missing), len(sentences) - len(missing)


def _save_sizes(images) -> None:
    for path, pixels in images:
        save_image(path, pixels)
