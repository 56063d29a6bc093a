"""Oxford-102 flowers with Reed's captions."""

import re
from pathlib import Path

from common.cli import UserError
from common.files import project_path
from scripts.data.prepare import reed
from scripts.data.prepare.sources import Listing
from scripts.data.prepare.splitfiles import Built, Expected, Rules

EXPECTED = {"train": Expected(7034, 82), "test": Expected(1155, 20)}
AUDIO = "flowers_audio/audio"  # what text_to_speech.py takes
_LARGEST_MAT = 1 << 20  # bytes; the original has 502
_CLASSES = 102


def rules(any_size: bool) -> Rules:
    return Rules("flowers", EXPECTED, reed.CAPTIONS, apart=True, any_size=any_size)


def build(folder: Path, images: Path, labels_file: Path, texts: Path) -> Built:
    """The split files of the images `images`/image_<n>.jpg, n from 1, whose class is entry n of `labels_file`.

    The split is Reed's, by class. Images come in the order of their numbers.
    """
    listing = Listing()
    labels, split = read_labels(labels_file), reed.class_split(texts)
    captions = {}
    for (class_number, number), path in reed.caption_files(texts, listing).items():
        if number in captions:
            raise UserError(f"{path} and {captions[number][1]} are of one image; take one out")
        captions[number] = class_number, path
    names = {
        int(match[1]): name for name in listing.files(images) if (match := re.fullmatch(r"image_(\d+)\.jpg", name))
    }
    data, stems = {"train": [], "test": []}, {}
    for number in sorted(names.keys() | captions.keys()):
        if number not in names:
            raise UserError(
                f"the image {images / f'image_{number:05d}.jpg'} is not there, but its captions "
                f"{captions[number][1]} are; unpack the images again"
            )
        if number not in captions:
            raise UserError(
                f"the image {images / names[number]} has no caption file in {texts}; unpack the captions again"
            )
        class_number, path = captions[number]
        if not 1 <= number <= len(labels) or labels[number - 1] != class_number:
            said = labels[number - 1] if 1 <= number <= len(labels) else "no class"
            raise UserError(
                f"{path} is of class {class_number}, but {labels_file} gives image {number} {said}; download both again"
            )
        if class_number not in split:
            raise UserError(
                f"the class of {path} is in neither trainvalclasses.txt nor testclasses.txt; unpack the captions again"
            )
        item = {"img": names[number], "class": class_number, "text": reed.read_captions(path)}
        data[split[class_number]].append(item)
        stems[f"class_{class_number:05d}/{Path(names[number]).stem}"] = item
    notes = reed.add_speech(stems, "wav", folder / AUDIO, listing)
    bases = {
        "image_base_path": project_path(images),
        "audio_base_path": project_path(folder / AUDIO),
        "image_feature_path": project_path(folder),
    }
    return Built({name: {**bases, "data": items} for name, items in data.items()}, notes=notes)


def read_labels(path: Path) -> list[int]:
    """Class numbers from 1 in Oxford's imagelabels.mat, image by image. UserError if it is anything else.

    MATLAB's version-5 files hold arrays only, so that reading one runs no code.
    """
    import numpy as np
    from scipy.io import loadmat

    try:
        if path.stat().st_size > _LARGEST_MAT:
            raise ValueError("it is far larger than Oxford's")
        labels = np.asarray(loadmat(path, variable_names=["labels"])["labels"])
        if labels.dtype.kind not in "uif" or not labels.size or labels.size != max(labels.shape):
            raise ValueError("'labels' is not a row of numbers")
        numbers = [int(label) for label in labels.ravel()]
        if (labels.ravel() != numbers).any() or min(numbers) < 1 or max(numbers) > _CLASSES:
            raise ValueError(f"'labels' are not whole numbers from 1 to {_CLASSES}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged file can raise anything at all
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is not Oxford's imagelabels.mat ({reason}); download it again") from None
    return numbers
