"""Flickr8k with its spoken captions: five people's recordings an image, no classes."""

import hashlib
import re
from pathlib import Path

from common.cli import UserError
from common.files import project_path
from scripts.data.prepare import sources
from scripts.data.prepare.sources import Listing
from scripts.data.prepare.splitfiles import Built, Expected, Rules

EXPECTED = {"train": Expected(6000), "val": Expected(1000), "test": Expected(1000)}
RECORDINGS = 5  # an image
LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


def rules(any_size: bool) -> Rules:
    return Rules("flickr8k", EXPECTED, RECORDINGS, recorded=True, any_size=any_size)


def build(folder: Path, images: Path, audio: Path, text: Path | None, any_size: bool, seed: int = 0) -> Built:
    """The split files of the images that `audio`/wav2capt.txt names, with recordings in `audio`/wavs.

    `text` is the folder of Flickr8k.token.txt and of the usual lists of images; without these lists, images are
    drawn 6 : 1 : 1 by a hash of `seed` and name. Recordings and captions come in the order of caption numbers.
    """
    spoken, notes = read_recordings(audio / "wav2capt.txt", any_size), []
    captions = read_tokens(text / "Flickr8k.token.txt") if text and (text / "Flickr8k.token.txt").exists() else None
    if captions is None:
        notes.append("no Flickr8k.token.txt: the split files hold recordings without captions in writing")
    split = usual_split(text, spoken) if text else None
    if split is None:
        split = drawn_split(spoken, seed)
        notes.append(f"no Flickr_8k.trainImages.txt: the splits are drawn 6 : 1 : 1 with --seed {seed}")
    bases = {
        "image_base_path": project_path(images),
        "audio_base_path": project_path(audio / "wavs"),
        "image_feature_path": project_path(folder),
    }
    contents, listing = {}, Listing()
    for name, chosen in split.items():
        if not chosen:
            raise UserError(f"{audio / 'wav2capt.txt'} names too few images ({len(spoken)}) to have some for {name}")
        contents[name] = {
            **bases,
            "data": [
                {
                    "image": listing.spelled(images, image),
                    **({"text": _written(image, spoken[image], captions, text)} if captions is not None else {}),
                    "audio": [listing.spelled(audio / "wavs", wav) for wav in spoken[image].values()],
                }
                for image in chosen
            ],
        }
    return Built(contents, notes=notes)


def _written(image: str, recordings: dict[int, str], captions: dict, text: Path) -> list[str]:
    """The captions that the recordings speak, in their order."""
    for number in recordings:
        if (image, number) not in captions:
            raise UserError(
                f"{text / 'Flickr8k.token.txt'} has no caption {image}#{number}, which is spoken; unpack "
                f"the captions again"
            )
    return [captions[image, number] for number in recordings]


def read_recordings(path: Path, any_size: bool) -> dict[str, dict[int, str]]:
    """Image → {caption number: wav}, in order, from lines '<wav> <jpg> #<n>'.

    UserError if a line is not so, or an image has not five recordings (unless `any_size`).
    """
    found = {}
    for line in map(sources.tidy, sources.read_lines(path)):
        match = re.fullmatch(r"(\S+\.wav)\s+(\S+\.jpe?g)\s+#(\d{1,9})", line)
        if not match or "/" in match[1] + match[2]:
            raise UserError(
                f"{path}: the line '{line[:80]}' is not '<wav> <jpg> #<number>'; unpack the recordings again"
            )
        if found.setdefault(match[2], {}).setdefault(int(match[3]), match[1]) != match[1]:
            raise UserError(f"{path}: caption {match[3]} of {match[2]} has two recordings; unpack the recordings again")
    for image, wavs in found.items():
        if len(wavs) != RECORDINGS and not any_size:
            raise UserError(
                f"{path}: {image} has {len(wavs)} recordings, {RECORDINGS} are expected; unpack the "
                f"recordings again, or give --any_size for a part of the set"
            )
    return {image: dict(sorted(found[image].items())) for image in sorted(found)}


def read_tokens(path: Path) -> dict[tuple[str, int], str]:
    """(image, number) → caption, from lines '<jpg>#<n><tab><caption>'."""
    captions = {}
    for line in sources.read_lines(path, "replace"):
        name, tab, caption = line.partition("\t")
        match = re.fullmatch(r"(.+)#(\d{1,9})", sources.tidy(name))
        if not tab or not match:
            raise UserError(
                f"{path}: the line '{line[:80]}' is not '<jpg>#<number><tab><caption>'; unpack the captions again"
            )
        captions[match[1], int(match[2])] = " ".join(caption.split())
    return captions


def usual_split(text: Path, spoken: dict) -> dict[str, list[str]] | None:
    """The images of each of the usual lists; None if none of them is there.

    UserError if one is missing, or an image is in two or has no recordings.
    """
    if not any((text / name).exists() for name in LISTS.values()):
        return None
    split, origin = {}, {}
    for part, name in LISTS.items():
        split[part] = [sources.tidy(line) for line in sources.read_lines(text / name)]
        for image in split[part]:
            if image in origin:
                raise UserError(f"{text / name}: the image {image} is in {origin[image]} too; take it out of one list")
            origin[image] = name
            if image not in spoken:
                raise UserError(
                    f"{text / name}: wav2capt.txt names no recording of {image}; unpack the recordings again"
                )
    return split


def drawn_split(images, seed: int) -> dict[str, list[str]]:
    """A split 6 : 1 : 1 that depends on names and seed alone; of the complete set 6,000 / 1,000 / 1,000."""
    order = sorted(images, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    part = max(1, len(order) // 8)
    drawn = {"train": order[2 * part :], "val": order[:part], "test": order[part : 2 * part]}
    return {name: sorted(ours) for name, ours in drawn.items()}
