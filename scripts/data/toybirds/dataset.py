"""Writes the set in the layout of CUB-200-2011 and of Reed's captions, resumably and with any number of processes."""

import io
import multiprocessing
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.cli import UserError
from common.files import MADE_BY, project_path, read_json, write_bytes, write_json, write_text
from scripts.data.toybirds.captions import Caption, describe
from scripts.data.toybirds.drawing import draw_image
from scripts.data.toybirds.species import ATTRIBUTES, Species, invent_species

VERSION = 1  # raise when the same settings give other images or captions
JPEG_QUALITY = 95
_MARKER = "toybirds.json"  # written first: the settings that everything in the folder was made with
_ATTRIBUTES = "attributes.json"  # written last: the set is complete


@dataclass(frozen=True)
class Settings:
    """What decides every byte of the set. `image_size` in pixels; `test_classes` are among `classes`.

    test_images: images of each test class, where they are not as many as those of the others.
    """

    classes: int
    test_classes: int
    images_per_class: int
    image_size: int
    seed: int
    test_images: int | None = None

    def images_of(self, species: Species) -> int:
        return self.test_images if species.is_test and self.test_images else self.images_per_class

    def marker(self) -> dict[str, int]:
        """What the set's folder says of itself; sets made before test classes had a number of their own say the same."""
        told = {"version": VERSION, **asdict(self)}
        if self.test_images in (None, self.images_per_class):
            del told["test_images"]
        return told


@dataclass(frozen=True)
class Example:
    """One image to make. `image_id` counts from 1 over the whole set, `index` from 0 within its class."""

    species: Species
    index: int
    image_id: int
    settings: Settings

    @property
    def name(self) -> str:
        """Path below the image folder, as CUB names its files."""
        species = self.species
        return f"{species.class_name}/{species.name}_{self.index + 1:04d}_{self.image_id}.jpg"


@dataclass(frozen=True)
class Made:
    """What the lists say of one image: `box` = (x, y, width, height) in pixels."""

    box: tuple[float, float, float, float]
    captions: list[Caption]


def make_set(settings: Settings, folder: Path, jobs: int, progress) -> bool:
    """Write the set, or what is missing of it, to `folder`; False if it was complete already.

    `progress(iterable, total)` wraps the loop over images, as tqdm does. UserError if the folder holds something
    else. The bytes do not depend on `jobs`, nor on how often the work was interrupted.
    """
    species = invent_species(settings.classes, settings.test_classes, settings.seed)
    _claim(folder, settings)
    places = [(kind, index) for kind in species for index in range(settings.images_of(kind))]
    examples = [Example(kind, index, n + 1, settings) for n, (kind, index) in enumerate(places)]
    lists = _list_paths(folder)
    if all(path.exists() for path in lists) and all(
        path.exists() for example in examples for path in _paths(folder, example)
    ):
        return False
    for part in ("CUB_200_2011", "text_c10"):  # left by a run that was killed outright
        for leftover in (folder / part).rglob(".*.tmp.*"):
            leftover.unlink(missing_ok=True)
    made = list(progress(_run(examples, folder, jobs), total=len(examples)))
    _write_lists(folder, species, examples, made)
    return True


def _claim(folder: Path, settings: Settings) -> None:
    """Mark the folder as one of these settings; UserError if it holds another set."""
    wanted = settings.marker()
    marker = folder / _MARKER
    if marker.exists():
        found = read_json(marker)
        if found != wanted:
            found = found if isinstance(found, dict) else {}
            changed = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
            raise UserError(
                f"--output_dir: {folder} holds a set made with another {' and '.join(changed)}; "
                f"delete it or choose another --output_dir"
            )
        return
    if any((folder / name).exists() for name in ("train.json", "test.json", "CUB_200_2011", "text_c10")):
        raise UserError(f"--output_dir: {folder} holds a data set that is not toybirds; choose another --output_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be made: {error.strerror}") from None
    write_json(marker, wanted)


def _paths(folder: Path, example: Example) -> tuple[Path, Path]:
    """The image and its caption file."""
    return folder / "CUB_200_2011/images" / example.name, (folder / "text_c10" / example.name).with_suffix(".txt")


def _make_example(task: tuple[Example, Path]) -> Made:
    """Draw and describe one image, unless its files are there already."""
    example, folder = task
    image_path, text_path = _paths(folder, example)
    key = [example.settings.seed, example.species.number, example.index]
    captions = describe(example.species.traits, np.random.default_rng([*key, 1]))
    if image_path.exists():
        box = _read_box(image_path)
    else:
        drawing = draw_image(example.species.traits, example.settings.image_size, [*key, 2])
        box = drawing.box
        # The box travels in the file's comment, so that a resumed run need not draw the bird again to know it.
        buffer = io.BytesIO()  # of a file, Pillow does not see that only a part has found room
        drawing.image.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=_box_text(box))
        write_bytes(image_path, buffer.getvalue())
    if not text_path.exists():
        write_text(text_path, "".join(caption.text + "\n" for caption in captions))
    return Made(box, captions)


def _box_text(box) -> str:
    return " ".join(f"{value:.1f}" for value in box)


def _read_box(path: Path) -> tuple[float, float, float, float]:
    try:
        with Image.open(path) as image:
            x, y, width, height = (float(word) for word in image.info["comment"].split())
    except (OSError, KeyError, ValueError):
        raise UserError(f"{path} is not an image of this set; delete it and run again") from None
    return x, y, width, height


def _run(examples: list[Example], folder: Path, jobs: int):
    """Yield what was made, in order."""
    tasks = [(example, folder) for example in examples]
    jobs = min(jobs, len(tasks))
    if jobs == 1:
        yield from map(_make_example, tasks)
        return
    # Fresh processes rather than forks: forking is unsafe where a library has started threads.
    with multiprocessing.get_context("spawn").Pool(jobs, _ignore_interrupts) as pool:
        yield from pool.imap(_make_example, tasks, chunksize=max(1, min(16, len(tasks) // (4 * jobs))))


def _ignore_interrupts() -> None:
    """Ctrl-C is answered by the parent, which stops its workers; theirs would each print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _list_paths(folder: Path) -> list[Path]:
    cub = [
        folder / "CUB_200_2011" / f"{name}.txt"
        for name in ("images", "classes", "image_class_labels", "bounding_boxes", "train_test_split")
    ]
    return cub + [
        folder / name for name in ("trainvalclasses.txt", "testclasses.txt", "train.json", "test.json", _ATTRIBUTES)
    ]


def _write_lists(folder: Path, species: list[Species], examples: list[Example], made: list[Made]) -> None:
    """Everything but images and caption files. A file that is there stays: train.json may name sound by now."""

    def lines(values) -> str:
        return "".join(f"{value}\n" for value in values)

    texts = {
        "images": lines(f"{e.image_id} {e.name}" for e in examples),
        "classes": lines(f"{s.number} {s.class_name}" for s in species),
        "image_class_labels": lines(f"{e.image_id} {e.species.number}" for e in examples),
        "bounding_boxes": lines(f"{e.image_id} {_box_text(m.box)}" for e, m in zip(examples, made)),
        "train_test_split": lines(f"{e.image_id} {int(not e.species.is_test)}" for e in examples),
        "trainvalclasses": lines(s.class_name for s in species if not s.is_test),
        "testclasses": lines(s.class_name for s in species if s.is_test),
    }
    for path in _list_paths(folder):  # attributes.json is the last of them
        if path.exists():
            continue
        if path.suffix == ".txt":
            write_text(path, texts[path.stem])
        elif path.name == _ATTRIBUTES:
            write_json(path, _attributes(species, examples, made), indent=None)
        else:
            write_json(path, _split(folder, examples, made, test=path.stem == "test"))


def _split(folder: Path, examples: list[Example], made: list[Made], test: bool) -> dict:
    """A split file without its sound, which text_to_speech.py adds."""
    base = project_path(folder)
    return {
        "made_by": MADE_BY,
        "image_base_path": f"{base}/CUB_200_2011/images",
        "audio_base_path": f"{base}/CUB_200_2011_audio/audio",
        "image_feature_path": base,
        "data": [
            {"image": e.name, "class": e.species.class_name, "text": [caption.text for caption in m.captions]}
            for e, m in zip(examples, made)
            if e.species.is_test == test
        ],
    }


def _attributes(species: list[Species], examples: list[Example], made: list[Made]) -> dict:
    order = {name: position for position, name in enumerate(ATTRIBUTES)}
    return {
        "format": "classes: the value of each attribute, in the order of 'attributes'; captions: for each of a "
        "image's captions, the positions in 'attributes' of those that it names",
        "attributes": ATTRIBUTES,
        "classes": {s.class_name: [s.traits[name] for name in ATTRIBUTES] for s in species},
        "captions": {
            e.name: [[order[name] for name in caption.attributes] for caption in m.captions]
            for e, m in zip(examples, made)
        },
    }
