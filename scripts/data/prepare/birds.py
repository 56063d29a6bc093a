"""CUB-200-2011 with Reed's captions."""

import math
from pathlib import Path, PurePosixPath

from common.cli import UserError
from common.files import project_path
from scripts.data.prepare import reed, sources
from scripts.data.prepare.sources import Listing
from scripts.data.prepare.splitfiles import Built, Expected, Rules

EXPECTED = {"train": Expected(8855, 150), "test": Expected(2933, 50)}
AUDIO = "CUB_200_2011_audio/audio"  # the published name, which text_to_speech.py takes too


def rules(any_size: bool) -> Rules:
    return Rules("birds", EXPECTED, reed.CAPTIONS, apart=True, any_size=any_size)


def build(folder: Path, cub: Path, texts: Path) -> Built:
    """The split files of `cub`, an unpacked CUB_200_2011, with the captions `texts`/<class>/<image>.txt.

    The split is Reed's, by class. Images come in the order of images.txt.
    """
    listing = Listing()
    names = _image_names(cub)
    split, captions = reed.class_split(texts), reed.caption_files(texts, listing)
    data, stems = {"train": [], "test": []}, {}
    for name in names:
        class_name = name.split("/")[0]
        number = reed.class_number(class_name, cub / "images.txt")
        if number not in split:
            raise UserError(
                f"the class {class_name} of {cub / 'images.txt'} is in neither trainvalclasses.txt nor "
                f"testclasses.txt of {texts.parent}; unpack the captions again"
            )
        path = captions.get((number, sources.last_number(name)))
        if path is None:
            raise UserError(f"the image {name} has no caption file in {texts}; unpack the captions again")
        item = {"image": listing.spelled(cub / "images", name), "class": class_name, "text": reed.read_captions(path)}
        data[split[number]].append(item)
        stems[str(PurePosixPath(name).with_suffix(""))] = item
    notes = reed.add_speech(stems, "audio", folder / AUDIO, listing)
    bases = {
        "image_base_path": project_path(cub / "images"),
        "audio_base_path": project_path(folder / AUDIO),
        "image_feature_path": project_path(folder),
    }
    return Built({name: {**bases, "data": items} for name, items in data.items()}, notes=notes)


def _image_names(cub: Path) -> list[str]:
    """'<class>/<file>' of every image, after a check that the archive's lists agree about it."""
    names, classes, labels, boxes = (
        sources.numbered(cub / f"{name}.txt") for name in ("images", "classes", "image_class_labels", "bounding_boxes")
    )
    named = {str(number): sources.tidy(name) for number, name in classes.items()}
    numbers = {}
    for image_id, name in names.items():
        names[image_id] = name = sources.plain_path(name, cub / "images.txt")
        class_name, _, file = name.partition("/")
        if not file or "/" in file or sources.last_number(file) is None:
            raise UserError(
                f"{cub / 'images.txt'}: '{name}' is not <class>/<file with a number>; unpack the archive again"
            )
        label = labels.get(image_id, "")
        if named.get(label) != class_name:
            raise UserError(
                f"{cub / 'image_class_labels.txt'} gives image {image_id} ({name}) the class '{label}', "
                f"which is not that of its folder in classes.txt; unpack the archive again"
            )
        if not _is_box(boxes.get(image_id, "")):
            raise UserError(
                f"{cub / 'bounding_boxes.txt'} has no box (x, y, width, height) of image {image_id} "
                f"({name}); unpack the archive again"
            )
        number = class_name, sources.last_number(file)
        if numbers.setdefault(number, name) != name:
            raise UserError(
                f"{cub / 'images.txt'}: {name} and {numbers[number]} have one number, so captions cannot "
                f"be told apart; unpack the archive again"
            )
    return list(names.values())


def _is_box(text: str) -> bool:
    try:
        x, y, width, height = (float(word) for word in text.split())
    except ValueError:
        return False
    return all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0
