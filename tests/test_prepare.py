"""Miniatures in the archives' own forms become split files that load; what is wrong is named and changes nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from prepare_miniatures import IMAGE, MAKERS, SPECIES, captions_of, write

from common import ROOT
from common.cli import UserError
from common.splits import PLACES_CLASSES, load_split
from scripts import prepare_birds, prepare_flickr8k, prepare_flowers, prepare_places
from scripts.data.prepare import birds, flickr8k, flowers, places, reed, splitfiles
from scripts.data.prepare.splitfiles import Expected
from scripts.data.toybirds import dataset as toybirds

COMMANDS = {"birds": prepare_birds, "flowers": prepare_flowers, "places": prepare_places, "flickr8k": prepare_flickr8k}


def prepare(name, folder, *options):
    return COMMANDS[name].main(["--output_dir", str(folder), *map(str, options)])


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def made(name, tmp_path):
    folder = tmp_path / name
    MAKERS[name](folder)
    return folder


@pytest.fixture
def cub(tmp_path):
    return made("birds", tmp_path)


@pytest.fixture
def oxford(tmp_path):
    return made("flowers", tmp_path)


@pytest.fixture
def rooms(tmp_path):
    return made("places", tmp_path)


@pytest.fixture
def flickr(tmp_path):
    return made("flickr8k", tmp_path)


# ---- what is written ------------------------------------------------------------------------------------------------


def test_birds_join_by_number(cub, capsys):
    assert prepare("birds", cub, "--any_size") == 0
    train, test = load_split(cub, "train"), load_split(cub, "test")
    assert [len(train.items), len(test.items)] == [4, 2]
    assert train.labels == [0, 0, 1, 1] and test.labels == [22, 22] and test.has_classes
    item = test.items[0]
    assert item.class_name == "023.Brandt_Cormorant" and item.image.read_bytes() == IMAGE and not item.audio
    assert item.texts == tuple(captions_of("023.Brandt_Cormorant/Brandt_Cormorant_0001_2000.jpg"))
    assert "4 images of 2 classes, 40 captions, no recordings yet" in capsys.readouterr().out
    raw = json.loads((cub / "train.json").read_text())
    assert set(raw["data"][0]) == {"image", "class", "text"} and raw["audio_base_path"].endswith("_audio/audio")


def test_birds_name_published_speech_when_all_of_it_is_there(cub, capsys):
    speech = cub / "CUB_200_2011_audio/audio/person0"
    stems = [
        path.relative_to(cub / "CUB_200_2011/images").with_suffix("")
        for path in (cub / "CUB_200_2011/images").rglob("*.jpg")
    ]
    for stem in stems:
        for k in range(10):
            write(speech / f"{stem}_{k}.wav", b"RIFF sound")
    last = speech / f"{stems[-1]}_9.wav"
    last.unlink()
    prepare("birds", cub, "--any_size")
    assert "recordings of 59 of the 60 captions" in capsys.readouterr().out
    assert not load_split(cub, "train").items[0].audio
    write(last, b"RIFF sound")
    prepare("birds", cub, "--any_size", "--overwrite")
    item = load_split(cub, "train").items[0]
    assert [wav.name[-6:] for wav in item.audio] == [f"_{k}.wav" for k in range(10)] and item.audio[0].is_file()
    last.write_bytes(b"")
    with pytest.raises(UserError, match=f"{last.name} has zero bytes"):
        prepare("birds", cub, "--any_size")


def test_toybirds_folder_gives_the_same_files(tmp_path):
    folder = tmp_path / "toybirds"
    toybirds.make_set(toybirds.Settings(3, 1, 2, 64, 0), folder, 1, lambda images, total: images)
    before = {name: json.loads((folder / name).read_text()) for name in ("train.json", "test.json")}
    prepare("birds", folder, "--any_size")  # kept and checked
    prepare("birds", folder, "--any_size", "--overwrite")
    assert before == {name: json.loads((folder / name).read_text()) for name in before}


def test_flowers(oxford):
    assert prepare("flowers", oxford, "--any_size") == 0
    train, test = load_split(oxford, "train"), load_split(oxford, "test")
    assert train.labels == [76, 76, 76, 101, 101, 101, 101] and test.labels == [0, 0]
    assert test.items[1].key == "image_00005" and test.items[1].texts == tuple(captions_of(5))
    assert json.loads((oxford / "test.json").read_text())["data"][0]["img"] == "image_00004.jpg"


def test_places_keeps_the_rooms(rooms, capsys):
    assert prepare("places", rooms) == 0
    train, test = load_split(rooms, "train"), load_split(rooms, "test")
    assert [len(train.items), len(test.items)] == [35, 14] and set(train.labels) == set(range(7))
    dinette = next(item for item in test.items if item.class_name == "dinette")
    assert dinette.key.startswith("dinette/home/gsun_") and dinette.image.is_file()
    assert train.items[0].texts == ("a room number 1",)
    assert all(item.image.is_file() and item.audio[0].is_file() and len(item.texts) == 1 for item in train.items)
    assert json.loads((rooms / "test.json").read_text())["data"][0]["image"].startswith("./bedroom/gsun_")
    assert "35 images of 7 classes, 35 captions, 35 recordings" in capsys.readouterr().out


def test_places_with_one_list_draws_a_test_split(rooms):
    (rooms / "PlacesAudio_400k_distro/metadata/val.json").unlink()
    prepare("places", rooms)
    train, test = load_split(rooms, "train"), load_split(rooms, "test")
    assert [train.labels.count(n) for n in range(7)] == [4] * 7 and [test.labels.count(n) for n in range(7)] == [1] * 7
    first = (rooms / "test.json").read_text()
    prepare("places", rooms, "--overwrite")
    assert (rooms / "test.json").read_text() == first
    prepare("places", rooms, "--overwrite", "--seed", 1)
    assert (rooms / "test.json").read_text() != first


def test_places_images_by_class_need_no_links(rooms):
    shutil.move(rooms / "PlacesAudio_400k_distro", rooms / "PlacesAudio")
    for kind in PLACES_CLASSES:
        shutil.move(rooms / "images256" / kind[0] / kind, rooms / "images" / kind)
    shutil.rmtree(rooms / "images256")
    prepare("places", rooms)
    assert load_split(rooms, "train").items[0].image.is_file() and not (rooms / "images/bedroom").is_symlink()


def test_flickr8k_has_five_recordings_and_no_classes(flickr, monkeypatch):
    monkeypatch.setattr(flickr8k, "EXPECTED", {"train": Expected(12), "val": Expected(2), "test": Expected(2)})
    assert prepare("flickr8k", flickr) == 0
    train = load_split(flickr, "train")
    assert not train.has_classes and len(train.items) == 12 and len(load_split(flickr, "val").items) == 2
    item = train.items[3]
    assert [wav.name for wav in item.audio] == [f"1003_693b08cb0e_{k}.wav" for k in range(5)]
    assert item.texts[4] == "A dog 4 runs in 1003_693b08cb0e ." and item.class_name == ""


def test_flickr8k_without_texts_draws_its_splits(flickr, capsys):
    shutil.rmtree(flickr / "Flickr8k_text")
    shutil.move(flickr / "Flicker8k_Dataset", flickr / "Flickr8k_Dataset/Flicker8k_Dataset")
    prepare("flickr8k", flickr, "--any_size")
    assert [len(load_split(flickr, name).items) for name in ("train", "val", "test")] == [12, 2, 2]
    assert load_split(flickr, "test").items[0].texts == () and "6 : 1 : 1" in capsys.readouterr().out


def test_whole_sets_split_as_stated():
    split = flickr8k.drawn_split([f"{n}.jpg" for n in range(8000)], 0)
    assert {name: len(part) for name, part in split.items()} == {"train": 6000, "val": 1000, "test": 1000}
    assert sum(part.images for part in birds.EXPECTED.values()) == 11788
    assert sum(part.images for part in flowers.EXPECTED.values()) == 8189


# ---- what is there already ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_files_there_already_are_checked_and_kept(name, tmp_path, capsys):
    folder = made(name, tmp_path)
    prepare(name, folder, "--any_size")
    write(folder / "train/image_features_googlenet_caffe.pickle", b"published")
    content = json.loads((folder / "train.json").read_text())
    write(folder / "train.json", json.dumps({**content, "note": "published"}))
    (folder / "test.json").unlink()  # this one is made again
    before = tree(folder)
    prepare(name, folder, "--any_size")
    assert "train.json is kept as it was" in capsys.readouterr().out
    assert {key: value for key, value in tree(folder).items() if key != "test.json"} == before
    assert (folder / "test.json").exists()
    if name != "flickr8k":  # there, each image has five
        content["data"][0].pop("text", None), content["data"][0].pop("wav", None)
        write(folder / "train.json", json.dumps(content))
        with pytest.raises(UserError, match=r"train.json:? .*(has 0|names no)"):
            prepare(name, folder)
    prepare(name, folder, "--any_size", "--overwrite")
    assert "note" not in json.loads((folder / "train.json").read_text())
    assert (folder / "train/image_features_googlenet_caffe.pickle").read_bytes() == b"published"


@pytest.mark.parametrize(
    "name, place",
    [("birds", "published_split"), ("flowers", "published/split"), ("places", "published_split/of/rooms")],
)
def test_published_split_files_come_before_ours(name, place, tmp_path, capsys):
    """As download.py leaves them: checked, copied whole, and not asked for what only the archives' lists would tell."""
    folder = made(name, tmp_path)
    prepare(name, folder, "--any_size")
    (folder / place).mkdir(parents=True)
    for part in ("train", "test"):
        write(folder / place / f"{part}.json", (folder / f"{part}.json").read_text() + " \n")
        (folder / f"{part}.json").unlink()
    theirs = tree(folder / place)
    edit_json(folder / place / "test.json", lambda content: content["data"][0].update(image="./dinette/no"))
    with pytest.raises(UserError, match="dinette/no is not there"):
        prepare(name, folder, "--any_size")
    assert not (folder / "train.json").exists() and not list(folder.glob(".preparing*"))
    write(folder / place / "test.json", theirs["test.json"])
    for lists in ("CUB_200_2011/images.txt", "imagelabels.mat", META):
        (folder / lists).unlink(missing_ok=True)
    prepare(name, folder, "--any_size")
    assert {part: (folder / part).read_bytes() for part in theirs} == theirs
    assert f"train.json copied from {folder / place}/train.json: " in capsys.readouterr().out
    prepare(name, folder, "--any_size")
    assert "train.json is kept as it was" in capsys.readouterr().out


def test_nobody_guesses_between_two_published_split_files(tmp_path):
    for place in "ab":
        write(tmp_path / "published" / place / "train.json", "{}")
    with pytest.raises(UserError, match="published/a/train.json and .* could both be the published split; copy the"):
        splitfiles.published(tmp_path, "train")


def test_the_releases_own_json_is_no_subset(rooms):
    shutil.copy(rooms / "PlacesAudio_400k_distro/metadata/train.json", rooms / "train.json")
    with pytest.raises(UserError, match="none of the classes bedroom.*metadata/"):
        prepare("places", rooms)


def test_a_hostile_split_file_is_refused(cub):
    prepare("birds", cub, "--any_size")
    for image in ("../../../etc/passwd", "/etc/passwd"):
        edit_json(cub / "test.json", lambda content, image=image: content["data"][0].update(image=image))
        with pytest.raises(UserError, match="test.json: item 0 .*leaves its base folder"):
            prepare("birds", cub, "--any_size")
    prepare("birds", cub, "--any_size", "--overwrite")
    edit_json(cub / "test.json", lambda content: content["data"][0].update({"class": "../.."}))
    with pytest.raises(UserError, match="test.json: the class '../..' .* is no name"):
        prepare("birds", cub, "--any_size")


# ---- what is wrong --------------------------------------------------------------------------------------------------


def edit(path, change):
    write(path, change(path.read_text()))


def edit_json(path, change):
    content = json.loads(path.read_text())
    content = change(content) or content
    write(path, json.dumps(content))


def add_line(line):
    return lambda text: text + line + "\n"


def first_line(line):
    return lambda text: line + "\n" + text.split("\n", 1)[1]


CUB, REED = "CUB_200_2011", "cvpr2016_cub"
BIRD = "001.Black_footed_Albatross/Black_footed_Albatross_0001_0"
TEST_LIST, TOKENS = "Flickr8k_text/Flickr_8k.testImages.txt", "Flickr8k_text/Flickr8k.token.txt"
META = "PlacesAudio_400k_distro/metadata/train.json"
FAULTS = {
    "birds": [
        (lambda f: shutil.rmtree(f / CUB), "CUB_200_2011 does not exist; .*download.py.*--cub"),
        (lambda f: shutil.rmtree(f / REED), "cvpr2016_cub/text_c10 does not exist; .*--captions"),
        (lambda f: (f / REED / "testclasses.txt").unlink(), "testclasses.txt does not exist"),
        (
            lambda f: edit(f / REED / f"text_c10/{BIRD}.txt", lambda text: text.split("\n", 1)[1] + "\n \n\n"),
            f"{BIRD}.txt has 9 captions, 10 are expected; unpack",
        ),
        (lambda f: (f / REED / f"text_c10/{BIRD}.txt").unlink(), f"{BIRD}.jpg has no caption file"),
        (lambda f: (f / CUB / f"images/{BIRD}.jpg").unlink(), f"{BIRD}.jpg is not there .1 of the 4"),
        (lambda f: write(f / CUB / f"images/{BIRD}.jpg", b""), f"{BIRD}.jpg is empty"),
        (lambda f: edit(f / REED / "testclasses.txt", add_line(SPECIES[0])), "the class 001.* is in both splits"),
        (lambda f: edit(f / REED / "testclasses.txt", add_line("Albatross")), "'Albatross' is no class"),
        (lambda f: write(f / REED / "testclasses.txt", ""), "023.Brandt_Cormorant of .* is in neither"),
        (lambda f: edit(f / CUB / "images.txt", first_line("1 ../../../etc/passwd_1.jpg")), "leaves its base folder"),
        (lambda f: edit(f / CUB / "images.txt", first_line("1 /etc/passwd_1.jpg")), "leaves its base folder"),
        (lambda f: edit(f / CUB / "images.txt", first_line("9" * 5000 + " x/y_1.jpg")), "images.txt: the line '999"),
        (lambda f: edit(f / CUB / "images.txt", first_line(f"2 {BIRD}.jpg")), "is not a new number"),
        (lambda f: edit(f / CUB / "bounding_boxes.txt", first_line("1 1 2 nan 4")), "no box .* of image 1"),
        (lambda f: edit(f / CUB / "image_class_labels.txt", first_line("1 2")), "gives image 1 .* the class '2'"),
        (lambda f: write(f / REED / "text_c10" / f"{BIRD}_2_0.txt", "x"), "have one image number"),
        (lambda f: write(f / CUB / "classes.txt", ""), "classes.txt is empty"),
    ],
    "flowers": [
        (lambda f: (f / "imagelabels.mat").unlink(), "imagelabels.mat does not exist"),
        (lambda f: write(f / "imagelabels.mat", b"<html>not found</html>"), "not Oxford's imagelabels.mat .*download"),
        (lambda f: edit_mat(f, [1] * 9), "image_00001.txt is of class 77, but .* gives image 1 1"),
        (lambda f: edit_mat(f, [0] * 9), "whole numbers from 1 to 102"),
        (lambda f: edit_mat(f, [77.5] * 9), "whole numbers from 1 to 102"),
        (lambda f: edit_mat(f, [77]), "gives image 2 no class"),
        (lambda f: edit_mat(f, ["77"]), "not a row of numbers"),
        (lambda f: (f / "jpg/image_00004.jpg").unlink(), "image_00004.jpg is not there"),
        (lambda f: (f / "cvpr2016_flowers/text_c10/class_00001/image_00004.txt").unlink(), "00004.jpg has no caption"),
        (lambda f: edit(f / "cvpr2016_flowers/testclasses.txt", add_line("class_00077")), "class_00077 is in both"),
    ],
    "places": [
        (lambda f: write(f / META, "[1, 2"), "train.json is not JSON"),
        (lambda f: write(f / META, "[1, 2]"), "not of the release's form"),
        (lambda f: edit_json(f / META, lambda c: c["data"].append("x")), "item 40 is not of the release's form"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].pop("asr_text") and None), "item 0 is not of the"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(image="bedroom/../../x.jpg")), "item 0: .*leaves"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(image="/b/bedroom/x.jpg")), "item 0: .*leaves"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(wav="wavs/../../../x.wav")), "item 0: .*leaves"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(wav="x.wav")), "recording 'x.wav', not wavs/"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(asr_text="\ud800")), "item 0 is not of the"),
        (lambda f: edit_json(f / META, lambda c: c["data"][0].update(image="z/bedroom/x.jpg")), "lies both in"),
        (lambda f: edit_json(f / META, lambda c: c.update(data=c["data"][-2:])), "no image of the seven"),
        (lambda f: (f / "images256/b/bedroom/gsun_00000001.jpg").unlink(), "00000001.jpg is not there .1 of the 35"),
        (lambda f: shutil.rmtree(f / "images256/b"), "images256/b/bedroom is not there"),
        (lambda f: write(f / "PlacesAudio_400k_distro/wavs/1/utterance_1.wav", b""), "utterance_1.wav has zero bytes"),
        (lambda f: (f / "PlacesAudio_400k_distro/wavs/1/utterance_1.wav").unlink(), "utterance_1.wav is not there"),
        (lambda f: write(f / "images/bedroom/other.jpg", IMAGE), "images/bedroom is there but not the folder"),
    ],
    "flickr8k": [
        (lambda f: shutil.rmtree(f / "Flicker8k_Dataset"), "Flicker8k_Dataset does not exist"),
        (lambda f: (f / "flickr_audio/wav2capt.txt").unlink(), "wav2capt.txt does not exist"),
        (lambda f: edit(f / "flickr_audio/wav2capt.txt", first_line("a.wav b.jpg #9")), "b.jpg has 1 recordings, 5"),
        (lambda f: edit(f / "flickr_audio/wav2capt.txt", add_line("../a.wav b.jpg #0")), "is not '<wav> <jpg>"),
        (lambda f: edit(f / "flickr_audio/wav2capt.txt", add_line("a.wav 1000_693b08cb0e.jpg #0")), "two recordings"),
        (lambda f: write(f / "flickr_audio/wavs/1000_693b08cb0e_2.wav", b""), "0e_2.wav has zero bytes"),
        (lambda f: (f / "flickr_audio/wavs/1000_693b08cb0e_2.wav").unlink(), "0e_2.wav is not there"),
        (lambda f: edit(f / TEST_LIST, add_line("1000_693b08cb0e.jpg")), "is in Flickr_8k.trainImages.txt too"),
        (lambda f: edit(f / TEST_LIST, add_line("/etc/x.jpg")), "no recording of /etc/x.jpg"),
        (lambda f: (f / TEST_LIST).unlink(), "testImages.txt does not exist"),
        (lambda f: edit(f / TOKENS, add_line("no caption")), "is not '<jpg>#<number>"),
        (lambda f: write(f / TOKENS, "x.jpg#0\tA dog"), "has no caption 1000_693b08cb0e.jpg#0"),
    ],
}


def edit_mat(folder, labels):
    from scipy.io import savemat

    savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_and_leave_the_folder_as_it_was(name, tmp_path):
    original, folder = made(name, tmp_path), tmp_path / "faulty"
    write(original / "train.json", "what was there before")
    for fault, message in FAULTS[name]:
        shutil.copytree(original, folder)
        fault(folder)
        before = tree(folder)
        options = () if "expected" in message or "recordings, 5" in message else ("--any_size",)
        with pytest.raises(UserError, match=message):
            prepare(name, folder, "--overwrite", *options)
        assert tree(folder) == before, message
        shutil.rmtree(folder)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_changes_nothing(function, cub, monkeypatch):
    prepare("birds", cub, "--any_size")
    before = tree(cub)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="train.json cannot be .*No space left"):
        patch.setattr(os, function, fail)
        prepare("birds", cub, "--any_size", "--overwrite")
    assert tree(cub) == before


@pytest.mark.parametrize(
    "name, counts",
    [
        ("birds", "train has 4 images where 8,855 are expected .8,851 fewer."),
        ("flowers", "test has 1 classes where 20 are expected"),
        ("flickr8k", "train has 12 images where 6,000 are expected"),
    ],
)
def test_counts_of_the_whole_set_are_demanded(name, counts, tmp_path):
    folder = made(name, tmp_path)
    with pytest.raises(UserError, match=f"{name}: .*{counts}.*--any_size"):
        prepare(name, folder)
    assert not (folder / "train.json").exists()


def test_stray_bytes_and_blank_lines_in_captions(tmp_path):
    path = tmp_path / "caption.txt"
    path.write_bytes(b"a bird\xef\xbf\xbd\xef\xbf\xbdwith  wings\r\n\n" + b"caf\xe9 bird\n" * 10)
    lines = reed.read_captions(path)
    assert len(lines) == 10 and lines[:2] == ["a bird with wings", "caf bird"]


def test_places_drawn_split_has_every_item_once():
    items = [{"image": f"./bedroom/{n}.jpg"} for n in range(31)] + [{"image": "./dinette/0.jpg"}]
    split = places._drawn(items, 0)
    assert len(split["test"]) == 3 and len(split["train"]) == 29


def test_commands_end_with_one_sentence_and_status_2(tmp_path):
    for name in COMMANDS:
        run = subprocess.run(
            [sys.executable, f"scripts/prepare_{name}.py", "--output_dir", str(tmp_path / "none")],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
        assert run.stderr.startswith(f"prepare_{name}.py: error: ")
    assert not (tmp_path / "none").exists()


def test_a_split_file_of_others_is_set_aside(cub, capsys):
    """--overwrite makes it again and keeps theirs; one of ours is replaced."""
    prepare("birds", cub, "--any_size")
    ours = json.loads((cub / "train.json").read_text())
    theirs = json.dumps({key: value for key, value in ours.items() if key != "made_by"})
    (cub / "train.json").write_text(theirs)
    prepare("birds", cub, "--any_size", "--overwrite")
    prepare("birds", cub, "--any_size", "--overwrite")
    assert (cub / "train.json.old").read_text() == theirs and not (cub / "train.json.old2").exists()
    assert json.loads((cub / "train.json").read_text()) == ours and "is now train.json.old" in capsys.readouterr().out
