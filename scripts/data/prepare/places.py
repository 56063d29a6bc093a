"""The room images of Places with their spoken captions: seven classes, one recording an image."""

import hashlib
import re
from pathlib import Path, PurePosixPath

from common.cli import UserError
from common.files import project_path, read_json
from common.splits import PLACES_CLASSES
from scripts.data.prepare import sources
from scripts.data.prepare.sources import Listing
from scripts.data.prepare.splitfiles import Built, Expected, Rules

WAVS = "wavs/"  # begins every recording's path; readers drop these five characters
TEST_SHARE = 0.1  # of each class, when the release's val.json is not there
_OTHER_ROOMS = {("dinette", "vehicle")}  # Places' own name for a dinette of a train or camper


def rules(any_size: bool) -> Rules:
    # How many there should be is not written down anywhere that was checked; the counts seen are printed.
    return Rules(
        "places",
        {"train": Expected(), "test": Expected()},
        captions=1,
        recorded=True,
        classes=PLACES_CLASSES,
        any_size=any_size,
    )


def build(folder: Path, images: Path, audio: Path, train_json: Path, test_json: Path | None, seed: int = 0) -> Built:
    """The subset of the release's JSON files whose images are of the seven room classes.

    `images` holds the images as the release names them (k/kitchenette/….jpg) or by class (kitchenette/….jpg), `audio`
    the folder wavs. Without `test_json` a tenth of each class, drawn by a hash of `seed` and name, is the test split.
    """
    given = {"train": rooms(train_json)} | ({"test": rooms(test_json)} if test_json else {})
    homes, notes = {}, []
    data = {name: _items(found, homes, notes, name) for name, found in given.items()}
    if test_json is None:
        data = _drawn(data["train"], seed)
        notes.append(f"no list for testing beside {train_json}: a tenth of each class is drawn with --seed {seed}")
    for name, items in data.items():
        if not items:
            raise UserError(
                f"{test_json if name == 'test' and test_json else train_json} has no image of the seven "
                f"room classes for the {name} split; download it again, or name another file"
            )
    by_class = all((images / name).is_dir() for name in homes)
    links = {} if by_class else {folder / "images" / name: images / home / name for name, home in homes.items()}
    for target in links.values():
        if not target.is_dir():
            raise UserError(
                f"the folder of images {target} is not there; unpack Places' images again, or name "
                f"their folder with --images"
            )
    folders = {name: images / name if by_class else images / home / name for name, home in homes.items()}
    _spell(data, folders, audio / WAVS)
    bases = {
        "image_base_path": project_path(images if by_class else folder / "images"),
        "audio_base_path": project_path(audio / WAVS),
        "image_feature_path": project_path(folder),
    }
    return Built({name: {**bases, "data": items} for name, items in data.items()}, links, notes)


def rooms(path: Path) -> list[tuple[str, str, str, dict]]:
    """(class, path above the class's folder, path below it, item) of the release's items that show one of the rooms.

    UserError names the first item that is not of the form {image, wav, asr_text, …}.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise UserError(
            f"{path} is not of the release's form {{image_base_path, audio_base_path, data: […]}}; download it again"
        )
    found = []
    for number, item in enumerate(content["data"]):
        if not isinstance(item, dict) or not all(map(_is_text, map(item.get, ("image", "wav", "asr_text")))):
            raise UserError(
                f"{path}: item {number} is not of the release's form "
                f"{{image, wav, speaker, asr_text, uttid}}; download it again"
            )
        parts = PurePosixPath(sources.plain_path(item["image"], f"{path}, item {number}")).parts
        place = next((n for n, part in enumerate(parts[:-1]) if part in PLACES_CLASSES), None)
        if place is None or parts[place : place + 2] in _OTHER_ROOMS:
            continue
        wav = sources.plain_path(item["wav"], f"{path}, item {number}")
        if not wav.startswith(WAVS):
            raise UserError(f"{path}: item {number} has the recording '{wav}', not {WAVS}…; download it again")
        found.append((parts[place], "/".join(parts[:place]), "/".join(parts[place + 1 :]), {**item, "wav": wav}))
    return found


def _is_text(value) -> bool:
    """A string without the halves of characters that JSON can write but no UTF-8 file can hold."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _items(found, homes: dict[str, str], notes: list[str], split: str) -> list[dict]:
    """Items in the published form. `homes` gathers the folder that each class's folder lies in."""
    items = {}
    for name, home, below, item in found:
        if homes.setdefault(name, home) != home:
            raise UserError(
                f"the class {name} lies both in '{homes[name]}' and in '{home}' according to the release's "
                f"JSON; it is not the original, download it again"
            )
        rest = {key: item[key] for key in ("speaker", "uttid") if _is_text(item.get(key))}
        items.setdefault(
            f"./{name}/{below}",
            {"image": f"./{name}/{below}", "wav": item["wav"], "asr_text": " ".join(item["asr_text"].split()), **rest},
        )
    if len(items) < len(found):
        notes.append(f"{split}: {len(found) - len(items):,} further recordings of images named before are left out")
    return list(items.values())


def _spell(data: dict[str, list[dict]], folders: dict[str, Path], wavs: Path) -> None:
    """Give names of images and recordings the spelling that they have on the disk. `folders`: class → its folder."""
    listing = Listing()
    for item in (item for items in data.values() for item in items):
        name, _, below = item["image"].removeprefix("./").partition("/")
        item["image"] = f"./{name}/{listing.spelled(folders[name], below)}"
        item["wav"] = WAVS + listing.spelled(wavs, item["wav"].removeprefix(WAVS))


def _drawn(items: list[dict], seed: int) -> dict[str, list[dict]]:
    """A split that depends on names and seed alone, not on order or library."""
    test = set()
    for name in PLACES_CLASSES:
        ours = [item["image"] for item in items if item["image"].split("/")[1] == name]
        ours.sort(key=lambda image: hashlib.sha256(f"{seed} {image}".encode()).digest())
        test.update(ours[: max(1, round(TEST_SHARE * len(ours)))] if len(ours) > 1 else [])
    return {
        "train": [item for item in items if item["image"] not in test],
        "test": [item for item in items if item["image"] in test],
    }
