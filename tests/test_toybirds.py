"""Toybirds: CUB's layout, equal bytes from equal seeds, true boxes and captions, shared values, a resumed run."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import ROOT
from common.splits import load_split
from scripts.data.toybirds import dataset, drawing
from scripts.data.toybirds.captions import CAPTIONS_PER_IMAGE, FORMS, describe
from scripts.data.toybirds.species import (
    ATTRIBUTES,
    BEAK_COLOURS,
    COLOURS,
    MIN_DIFFERENCES,
    PLUMAGE,
    invent_species,
    shared_values_needed,
)

SMALL = dataset.Settings(classes=6, test_classes=2, images_per_class=3, image_size=64, seed=3)
SMALL_OPTIONS = "--classes 6 --test_classes 2 --images_per_class 3 --image_size 64 --seed 3".split()


def quiet(images, total):
    return images


def command(*options):
    return subprocess.run(
        [sys.executable, "scripts/make_toybirds.py", *map(str, options)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → bytes, with the folder's own name taken out of the split files."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder.resolve()).encode(), b"OUT")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A set of 6 species × 3 images, made in one process."""
    folder = tmp_path_factory.mktemp("toybirds") / "set"
    assert dataset.make_set(SMALL, folder, 1, quiet)
    return folder


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_test_species_with_a_number_of_images_of_their_own(tmp_path, small):
    """The same birds, fewer of the training species; as many as of the others is the set that it always was."""
    few = ["--classes", 6, "--test_classes", 2, "--images_per_class", 1, "--image_size", 64, "--seed", 3]
    done = command(*few, "--test_images_per_class", 3, "--output_dir", tmp_path / "few", "--jobs", 1)
    assert done.returncode == 0 and "10 images of 6 species" in done.stdout, done.stderr
    train, test = (load_split(tmp_path / "few", name) for name in ("train", "test"))
    assert (len(train.items), len(test.items)) == (4, 6)
    as_before = load_split(small, "test")
    assert [item.texts for item in test.items] == [item.texts for item in as_before.items]
    again = command(*few, "--output_dir", tmp_path / "few", "--jobs", 1)
    assert again.returncode == 2 and "another test_images" in again.stderr
    assert command(*SMALL_OPTIONS, "--test_images_per_class", 3, "--output_dir", small, "--jobs", 1).returncode == 0


def test_layout_of_cub_and_of_reeds_captions(small):
    cub = small / "CUB_200_2011"
    images, classes, labels, boxes, split = (
        lines(cub / f"{name}.txt")
        for name in ("images", "classes", "image_class_labels", "bounding_boxes", "train_test_split")
    )
    assert [int(row[0]) for row in images] == list(range(1, 19))
    assert [row[0] for row in images] == [row[0] for row in labels] == [row[0] for row in boxes]
    names = dict(classes)
    train = set((small / "trainvalclasses.txt").read_text().split())
    test = set((small / "testclasses.txt").read_text().split())
    assert (len(train), len(test)) == (4, 2) and train | test == set(names.values()) and not train & test
    for (number, image), (_, label), box, (_, is_train) in zip(images, labels, boxes, split):
        folder, file = image.split("/")
        assert folder == names[label] and re.fullmatch(rf"{int(label):03d}\.\w+", folder)
        assert re.fullmatch(rf"{folder[4:]}_000[1-3]_{number}\.jpg", file)
        assert all(re.fullmatch(r"\d+\.\d", value) for value in box[1:])
        assert is_train == str(int(folder in train))
        with Image.open(cub / "images" / image) as opened:
            assert (opened.format, opened.mode, opened.size) == ("JPEG", "RGB", (64, 64))
        text = (small / "text_c10" / folder / file).with_suffix(".txt").read_text().splitlines()
        assert len(text) == CAPTIONS_PER_IMAGE


def test_split_files_load(small):
    train, test = load_split(small, "train"), load_split(small, "test")
    assert (len(train.items), len(test.items)) == (12, 6)
    assert not {item.class_name for item in train.items} & {item.class_name for item in test.items}
    for item in train.items + test.items:
        assert item.image.is_file() and len(item.texts) == 10
        assert item.label == int(item.class_name[:3]) - 1
        assert (small / "text_c10" / f"{item.key}.txt").read_text().splitlines() == list(item.texts)
    assert "audio" not in json.loads((small / "train.json").read_text())["data"][0]


def test_paths_below_the_project_are_relative():
    split = dataset._split(ROOT / "data" / "toybirds", [], [], test=False)
    assert split["image_base_path"] == "./data/toybirds/CUB_200_2011/images"
    assert split["audio_base_path"] == "./data/toybirds/CUB_200_2011_audio/audio"


def test_equal_bytes_with_other_jobs_and_the_command(small, tmp_path):
    result = command(*SMALL_OPTIONS, "--output_dir", tmp_path / "set", "--jobs", "2")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "set") == contents(small)
    again = command(*SMALL_OPTIONS, "--output_dir", tmp_path / "set")
    assert again.returncode == 0 and "complete already" in again.stdout


def test_another_seed_gives_other_birds():
    assert invent_species(20, 4, 0) != invent_species(20, 4, 1)
    traits = invent_species(20, 4, 0)[0].traits
    one, same, other = (np.asarray(drawing.draw_image(traits, 64, seed).image) for seed in ([0, 1], [0, 1], [0, 2]))
    assert (one == same).all() and (one != other).any()


def test_interrupted_run_finishes_to_the_same_bytes(small, tmp_path):
    class Interrupted(Exception):
        pass

    def stop_after_five(images, total):
        for count, image in enumerate(images):
            if count == 5:
                raise Interrupted
            yield image

    folder = tmp_path / "set"
    with pytest.raises(Interrupted):
        dataset.make_set(SMALL, folder, 1, stop_after_five)
    assert not (folder / "attributes.json").exists()
    kept = next((folder / "CUB_200_2011/images").rglob("*.jpg"))
    (kept.parent / f".{kept.stem}.x.tmp.jpg").write_bytes(b"half an image of a killed run")
    written = kept.stat().st_mtime_ns
    assert dataset.make_set(SMALL, folder, 1, quiet)
    assert contents(folder) == contents(small) and kept.stat().st_mtime_ns == written


def test_a_split_file_with_sound_is_kept(small, tmp_path):
    folder = tmp_path / "set"
    dataset.make_set(SMALL, folder, 1, quiet)
    (folder / "train.json").write_text("with sound")
    next((folder / "CUB_200_2011/images").rglob("*.jpg")).unlink()
    assert dataset.make_set(SMALL, folder, 1, quiet)
    assert (folder / "train.json").read_text() == "with sound"
    assert (folder / "attributes.json").read_bytes() == (small / "attributes.json").read_bytes()


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_boxes_enclose_the_bird(size, monkeypatch):
    # On a scene of one colour that no bird has, the bird is what differs from it by more than the grain.
    monkeypatch.setattr(drawing, "draw_scene", lambda bird, side, rng: Image.new("RGB", (side, side), (255, 0, 255)))
    traits = dict.fromkeys(PLUMAGE, "green") | {
        "wing_bar": "none",
        "beak": "yellow",
        "beak_shape": "hooked",
        "size": size,
    }
    for seed in range(12):
        drawn = drawing.draw_image(traits, 160, [seed])
        differs = np.abs(np.asarray(drawn.image, int) - (255, 0, 255)).sum(axis=-1) > 90
        rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
        x, y, width, height = drawn.box
        drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(drawn - (x, y, x + width, y + height)).max() <= 1
        assert x >= 0 and y >= 0 and x + width <= 160 and y + height <= 160
        assert 0.2 * 160 < width < 0.8 * 160


def test_every_part_shows_in_a_picture_of_the_demo():
    """Colours of all parts can be found in the bird: each covers at least a few pixels of a crop at 64."""
    traits = {
        "crown": "red",
        "nape": "yellow",
        "throat": "blue",
        "breast": "white",
        "belly": "green",
        "back": "brown",
        "wing": "black",
        "tail": "orange",
        "wing_bar": "white",
        "beak": "yellow",
        "beak_shape": "pointed",
        "size": "medium",
    }
    unshaded = {part: np.array(COLOURS[traits[part]]) for part in PLUMAGE}
    seen = Counter()
    for seed in range(8):
        drawn = drawing.draw_image(traits, 128, [seed])
        pixels = np.asarray(drawn.image, int)[np.asarray(drawn.alpha) > 200]
        tone = pixels / (np.linalg.norm(pixels, axis=1, keepdims=True) + 1e-9)
        for part, colour in unshaded.items():
            like = tone @ (colour / np.linalg.norm(colour)) > 0.97
            seen[part] += like.mean() > 0.015
    assert all(seen[part] >= 6 for part in PLUMAGE), seen


def test_species_are_unlike_and_share_every_value():
    species = invent_species(240, 40, 0)
    assert len({kind.name for kind in species}) == 240 and sum(kind.is_test for kind in species) == 40
    assert [kind.number for kind in species] == list(range(1, 241))
    values = np.array([list(kind.traits.values()) for kind in species])
    differences = (values[:, None] != values[None]).sum(axis=-1)
    assert differences[~np.eye(240, dtype=bool)].min() >= MIN_DIFFERENCES
    for kind in species:
        assert list(kind.traits) == list(ATTRIBUTES)
        assert all(value in ATTRIBUTES[name] for name, value in kind.traits.items())
        assert kind.traits["wing_bar"] != kind.traits["wing"] and kind.traits["beak"] in BEAK_COLOURS
    for name, possible in ATTRIBUTES.items():
        train = Counter(kind.traits[name] for kind in species if not kind.is_test)
        test = {kind.traits[name] for kind in species if kind.is_test}
        assert set(train) == set(possible)
        assert all(train[value] >= shared_values_needed(200) == 3 for value in test)


@pytest.mark.parametrize("classes, test_classes", [(4, 1), (6, 2), (30, 5)])
def test_small_sets_share_values_too(classes, test_classes):
    species = invent_species(classes, test_classes, 1)
    for name in ATTRIBUTES:
        train = Counter(kind.traits[name] for kind in species if not kind.is_test)
        assert all(
            train[kind.traits[name]] >= shared_values_needed(classes - test_classes) for kind in species if kind.is_test
        )


WORDS = {  # how each attribute may be spoken of: a word for the part, by attribute
    "crown": r"\b(crown|cap|top of (its|the) head)\b",
    "nape": r"\b(nape|hindneck|back of (its|the) neck)\b",
    "throat": r"\bthroat\b",
    "breast": r"\b(breast|chest)\b",
    "belly": r"\b(belly|abdomen|underside|stomach)\b",
    "back": r"\bback\b(?! of)",
    "wing": r"\bwings\b|\bwing feathers\b",
    "tail": r"\b(tail|rectrices)\b",
    "wing_bar": r"\b(wing ?bars?|stripe|band|bars)\b",
}


def test_captions_are_true_varied_and_well_formed():
    beaks = {"conical": r"short|stubby", "pointed": r"long", "hooked": r"hook|curved", "flat": r"flat"}
    for kind in invent_species(60, 10, 2):
        captions = describe(kind.traits, np.random.default_rng([2, kind.number]))
        assert len({caption.text for caption in captions}) == CAPTIONS_PER_IMAGE
        for caption in captions:
            text, named = caption.text.replace("gray", "grey"), caption.attributes
            assert 3 <= len(named) <= 5 and 8 <= len(text.split()) <= 25
            assert text == text.lower() and text.count(".") <= 1
            assert not any(wrong in text for wrong in ("{", "  ", "none", "+"))
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|,,| ,", text), text
            # Every colour word in the sentence belongs to an attribute that it names, and every such value is there.
            colours = {kind.traits[name] for name in named if name in PLUMAGE + ("wing_bar", "beak")}
            assert set(re.findall(rf"\b({'|'.join(COLOURS)})\b", text)) == colours, (text, named)
            for name in named:
                if name in WORDS:
                    assert re.search(WORDS[name], text), (text, name)
            for shape, pattern in beaks.items():
                assert bool(re.search(rf"\b({pattern})", text)) == (
                    "beak_shape" in named and kind.traits["beak_shape"] == shape
                ), text
            sizes = re.search(r"\b(small|tiny|little|medium|large|big)\b", text)
            assert bool(sizes) == ("size" in named), text
    assert len(set(FORMS)) >= 25


def named_attributes(folder):
    """Image ("<class>/<file>.jpg") → for each of its captions, the attributes that it names with their values."""
    content = json.loads((folder / "attributes.json").read_text())
    names, result = list(content["attributes"]), {}
    for image, captions in content["captions"].items():
        values = content["classes"][image.split("/")[0]]
        result[image] = [{names[i]: values[i] for i in caption} for caption in captions]
    return result


def test_attributes_file_names_what_captions_say(small):
    named = named_attributes(small)
    content = json.loads((small / "attributes.json").read_text())
    assert list(content["attributes"]) == list(ATTRIBUTES)
    for item in load_split(small, "train").items:
        captions = named[f"{item.key}.jpg"]
        assert len(captions) == 10
        for caption, text in zip(captions, item.texts):
            for name, value in caption.items():
                if name in PLUMAGE:
                    assert value in text.replace("gray", "grey")


@pytest.mark.parametrize(
    "options, word",
    [
        (("--colour", "red"), "--colour"),
        (("--classes", "0"), "--classes"),
        (("--classes", "2"), "--classes"),
        (("--classes", "4", "--test_classes", "4"), "--test_classes"),
        (("--image_size", "8"), "--image_size"),
        (("--output_dir", "/dev/null/set"), "/dev/null/set"),
    ],
)
def test_wrong_options_are_one_sentence(options, word, tmp_path):
    result = command("--output_dir", tmp_path / "set", *options)
    assert result.returncode == 2 and word in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not result.stdout
    assert not (tmp_path / "set").exists()


def test_another_set_is_never_overwritten(small, tmp_path):
    before = contents(small)
    result = command(*SMALL_OPTIONS[:-1], "4", "--output_dir", small)
    assert result.returncode == 2 and "another seed" in result.stderr and len(result.stderr.splitlines()) == 1
    assert contents(small) == before
    (tmp_path / "train.json").write_text("{}")
    result = command(*SMALL_OPTIONS, "--output_dir", tmp_path)
    assert result.returncode == 2 and [path.name for path in tmp_path.iterdir()] == ["train.json"]


def test_help_is_quick():
    start = time.monotonic()
    result = command("--help")
    assert result.returncode == 0 and "--images_per_class" in result.stdout and time.monotonic() - start < 1
