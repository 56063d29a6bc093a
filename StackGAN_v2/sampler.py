"""From speech embeddings to image files: one image for every sentence of a split, resumable, in memory of two batches.

What is promised: the same weights and the same command give the same bytes, on one machine with one number of threads.
Batches of another size give images that are equal up to rounding, since products are then summed in another order: in
float32 one level of 255 in very few values, in bf16 more.
"""

import concurrent.futures
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from common import ROOT, checkpoint, pretrained
from common.cli import UserError
from common.devices import autocast
from common.files import MADE_BY, read_note, write_bytes, write_json
from common.parallel import free_memory
from common.progress import tqdm
from StackGAN_v2.data.image_names import first_sentences, image_name

SMALL_BATCH = 8  # images at a time where memory must stay small
_WRITTEN = re.compile(r"_\d+_sentence\d+_0(\.tmp)?\.(png|jpg)")  # ends of the names of sampled images


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How `sample_split` generates."""

    seed: int = 0  # of all noise
    batch_size: int | str = "auto"  # images at a time; auto: `fitting_batch`
    precision: str = "fp32"  # fp32, tf32 or bf16
    all_sizes: bool = False  # write the images of every branch, not only the last
    limit: int = 0  # only the first so many sentences; 0: all
    compiled: bool = False  # compile the generator
    form: str = "png"  # or jpg
    workers: int = 2  # threads that write files
    progress: bool = True  # show a progress bar


def noise(generator, *key: int) -> torch.Tensor:
    """The noise `[z_dim + embedding_dim]` that belongs to `key`: the same on every device and in every batch."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    return torch.randn(generator.z_dim + generator.embedding_dim, generator=torch.Generator().manual_seed(seed))


def fixed_sentences(generator, rows: list[np.ndarray], most: int, seed: int):
    """First sentences of at most `most` items, evenly spread → speech `[N, d]`, noises `[N, z_dim + embedding_dim]`."""
    chosen = spread(rows, most)
    return (stacked([rows[i][0] for i in chosen]), torch.stack([noise(generator, seed, int(i), 0) for i in chosen]))


def spread(rows: list[np.ndarray], most: int) -> np.ndarray:
    """The numbers of at most `most` items that have a sentence, evenly spread, int64."""
    spoken = np.flatnonzero([len(row) for row in rows])
    return spoken[np.linspace(0, len(spoken) - 1, min(most, len(spoken))).astype(int)]


def stacked(embeddings: list[np.ndarray]) -> torch.Tensor:
    """Arrays `[d]` → float32 `[N, d]`, copied into torch's own memory, which is aligned.

    Products of memory that NumPy happens to place otherwise are summed in another order, and equal commands would not
    give equal bytes.
    """
    return torch.tensor(np.stack(embeddings))


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
    """uint8 `[N, s, s, 3]` → one sheet `[H, W, 3]`, row by row, with white lines of `gap` pixels between the images."""
    n, size = images.shape[:2]
    rows = -(-n // columns)
    sheet = np.full((rows * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (size + gap), i % columns * (size + gap)
        sheet[top : top + size, left : left + size] = image
    return sheet


def save_image(path, pixels: np.ndarray) -> None:
    """Write uint8 `[H, W, 3]` as PNG, or as JPEG where the name ends in .jpg."""
    write_bytes(path, image_bytes(pixels, Path(path).suffix == ".jpg"))


def image_bytes(pixels: np.ndarray, jpeg: bool = False) -> bytes:
    """uint8 `[H, W, 3]` as the content of a PNG or JPEG file."""
    # compress_type 3 is zlib's Z_RLE: on such images smaller files than level 1's matching, in less time
    options = (
        {"quality": 95, "subsampling": 0, "comment": MADE_BY}
        if jpeg
        else {"compress_level": 1, "compress_type": 3, "pnginfo": _made_by()}
    )
    buffer = io.BytesIO()  # given a file, Pillow does not notice that the disk is full
    Image.fromarray(pixels).save(buffer, "JPEG" if jpeg else "PNG", **options)
    return buffer.getvalue()


def _made_by() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MADE_BY)
    return text


def samples_folder(net_g, split: str = "test") -> Path:
    """`<folder of netG>/iteration<n>/single_samples/valid`, where n is that of `netG_<n>.pth`; links are followed.

    Samples of another split than the test split lie in `iteration<n>/<split>/single_samples/valid`. Those of pretrained
    networks lie below output/.
    """
    name, net_g = pretrained.name_of(net_g), Path(net_g).resolve()
    if name:
        net_g = ROOT / "output/StackGAN_v2" / f"pretrained_{name}" / "Model" / net_g.name
    number = re.search(r"(\d+)$", net_g.stem)
    folder = net_g.parent / f"iteration{number.group(1) if number else '_' + net_g.stem}"
    return (folder if split == "test" else folder / split) / "single_samples" / "valid"


def fitting_batch(generator) -> int:
    """Images to generate at a time: what a quarter of the device's free memory holds, at most 64, on a GPU 256."""
    device = next(generator.parameters()).device
    image = 4 * generator.widest_map * generator.sizes[-1] ** 2 * 6  # bytes; six such maps are more than ever live
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return max(1, min(free // 4 // image, 256 if device.type == "cuda" else 64))


def sample_split(generator, split, rows, folder, how: Sampling) -> tuple[int, int]:
    """Generate one image for every sentence into `folder`; returns (images written, images that were there).

    rows: for each item of `split` a float32 array `[captions, d]`. The noise depends on seed, item and sentence alone.
    Images of an interrupted run are kept; those of another generator, other embeddings or another seed are removed
    first. UserError: `folder` holds files, but no `samples.json` beside it says that they were sampled here.
    """
    folder = Path(folder)
    batch_size = _prepare_folder(generator, split, rows, folder, how)
    sizes = list(enumerate(generator.sizes))[0 if how.all_sizes else -1 :]
    sentences = [(i, k) for i, row in enumerate(rows) for k in range(len(row))][: how.limit or None]

    firsts = first_sentences(split)

    def path(sentence, size) -> Path:
        item, k = sentence
        return folder / image_name(split, split.items[item], size, firsts[item] + k, how.form)

    if len({path(sentence, 0) for sentence in sentences}) < len(sentences):
        raise UserError(
            f"{split.path} lists an image in several items, and the features hold more sentences of one "
            "than it says; extract them again from this split file"
        )
    missing = {sentence for sentence in sentences if not path(sentence, generator.sizes[-1]).is_file()}
    if how.compiled:
        generator.compile()
    with (
        concurrent.futures.ThreadPoolExecutor(how.workers) as pool,
        tqdm(total=len(missing), desc="images", unit="img", disable=not how.progress) as bar,
    ):
        written = []
        for first in range(0, len(sentences), batch_size):
            # the same batches as without an interruption, so that the bytes are the same, too
            batch = sentences[first : first + batch_size]
            if missing.isdisjoint(batch):
                continue
            noises = torch.stack([noise(generator, how.seed, i, k) for i, k in batch])
            images = generate(generator, stacked([rows[i][k] for i, k in batch]), noises, how.precision)
            for future in written:  # at most one batch waits for the disk
                future.result()
            # the largest size is written last, since it is the one that says that a sentence is done
            written = [
                pool.submit(_save_all, [(path(sentence, size), images[branch][row]) for branch, size in sizes])
                for row, sentence in enumerate(batch)
                if sentence in missing
            ]
            bar.update(len(written))
        for future in written:
            future.result()
    return len(missing), len(sentences) - len(missing)


def _prepare_folder(generator, split, rows, folder: Path, how: Sampling) -> int:
    """Write samples.json beside `folder`, after removing images that it says to be of something else; → batch size."""
    made_with = {
        "generator": checkpoint.digest(generator.state_dict()),
        "seed": how.seed,
        "order": split.digest(),
        "speech": checkpoint.digest({str(i): torch.from_numpy(row) for i, row in enumerate(rows)}),
    }
    if any(first_sentences(split)):
        made_with["sentences"] = "numbered by image"
    note, kept_batch = folder.parent / "samples.json", None
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if files and not note.exists():
        raise UserError(f"{folder} holds files, but {note} does not say that they were sampled here; move them away")
    if files:
        before = dict(read_note(note))
        kept_batch = before.pop("batch", None)
        if before != made_with:
            kept_batch = None
            for path in files:
                if _WRITTEN.search(path.name):  # other files are the user's own
                    path.unlink()
    batch_size = how.batch_size
    if batch_size == "auto":  # an interrupted run goes on with its own batches: the same bytes
        batch_size = kept_batch if isinstance(kept_batch, int) else fitting_batch(generator)
    write_json(note, {**made_with, "batch": batch_size})
    return batch_size


def _save_all(images) -> None:
    for path, pixels in images:
        save_image(path, pixels)
