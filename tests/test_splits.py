"""Split files: classes and their labels, names that are written otherwise than the files, and what faults say."""

import json
import unicodedata

import pytest

from common import splits
from common.cli import UserError
from common.splits import load_split


def write(folder, classes, name="train", **fields):
    """A split of one item a class; None: an item without."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [
        {"image": f"a_{i}.jpg", "text": ["x"]} | ({} if value is None else {"class": value})
        for i, value in enumerate(classes)
    ]
    content = {"image_base_path": str(folder / "images"), "audio_base_path": str(folder / "wav"), "data": data} | fields
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def labels(folder, name="train"):
    return load_split(folder, name).labels


# ---- classes ----


def test_an_item_without_class_among_others_is_named(tmp_path):
    write(tmp_path, ["001.kind", None, "001.kind", None])
    with pytest.raises(UserError, match=r"train.json: 'a_1' \(item 1\) has no class.*'001.kind' \(2 of 4 items"):
        labels(tmp_path)


@pytest.mark.parametrize(
    "classes, words",
    [
        ([1, "001.kind"], "'1' and '001.kind'"),
        (["kind", "001.kind"], "'kind' and '001.kind'"),
        (["1.kind", "001.kind", "001"], "two ways"),
    ],
)
def test_one_class_in_two_forms(tmp_path, classes, words):
    write(tmp_path, classes)
    with pytest.raises(UserError, match=words):
        labels(tmp_path)
    write(tmp_path, classes[:1])
    write(tmp_path, classes[1:], "test")
    with pytest.raises(UserError, match=words):
        labels(tmp_path, "test")


def test_names_are_numbered_over_all_splits(tmp_path):
    write(tmp_path, ["cat", "ant"])
    write(tmp_path, ["dog", "bee", "cat"], "test")
    write(tmp_path, ["aardvark", "cat"], "mine")  # the others keep their numbers
    assert labels(tmp_path) == [2, 0] and labels(tmp_path, "test") == [3, 1, 2] and labels(tmp_path, "mine") == [4, 2]


def test_numbers_that_two_names_share_are_no_labels(tmp_path):
    write(tmp_path, ["001.cat", "002.dog"])
    write(tmp_path, ["001.bee"], "test")
    assert labels(tmp_path) == [1, 2] and labels(tmp_path, "test") == [0]


def test_published_numbers_stay(tmp_path):
    write(tmp_path, ["002.Auk", "100.Pelican"])
    write(tmp_path, ["200.Wren"], "test")
    assert labels(tmp_path) == [1, 99] and labels(tmp_path, "test") == [199]
    write(tmp_path / "flowers", [102, 1, "001"])
    assert labels(tmp_path / "flowers") == [101, 0, 0]
    write(tmp_path / "places", ["living_room", "bedroom"])
    assert labels(tmp_path / "places") == [6, 0]
    write(tmp_path / "places", ["attic"], "test")  # not of Places: then the alphabet, in both
    assert labels(tmp_path / "places") == [2, 1] and labels(tmp_path / "places", "test") == [0]


def test_classes_in_one_split_only(tmp_path):
    write(tmp_path, ["cat"])
    write(tmp_path, [None], "test")
    train, test = (load_split(tmp_path, name) for name in ("train", "test"))
    assert train.has_classes and not test.has_classes and test.labels == [0]  # the item's own number


def test_a_damaged_split_does_not_stop_another(tmp_path):
    write(tmp_path, ["b", "a"])
    (tmp_path / "test.json").write_text("{")
    assert labels(tmp_path) == [1, 0]


@pytest.mark.parametrize("value", [True, 1.5, [], {}])
def test_classes_that_are_neither_name_nor_number(tmp_path, value):
    write(tmp_path, [value])
    with pytest.raises(UserError, match="item 0.*'class' is neither"):
        labels(tmp_path)


def test_one_row_a_caption(tmp_path):
    write(tmp_path, ["cat"] * 3)
    content = json.loads((tmp_path / "train.json").read_text())
    for item in content["data"]:
        item["image"] = "same.jpg"
    (tmp_path / "train.json").write_text(json.dumps(content))
    split = load_split(tmp_path, "train")
    assert len(split.items) == 3 and {item.key for item in split.items} == {"same"}


# ---- text ----


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks(tmp_path, encoding):
    write(tmp_path, ["Möwe"])
    text = (tmp_path / "train.json").read_text(encoding="utf-8")
    (tmp_path / "train.json").write_text(json.dumps(json.loads(text), ensure_ascii=False), encoding=encoding)
    assert load_split(tmp_path, "train").items[0].class_name == "Möwe"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_with_a_byte_order_mark(tmp_path, encoding):
    from StackGAN_v2.config import load_config

    path = tmp_path / "a.yml"
    path.write_text("WORKERS: 7\n", encoding=encoding)
    assert load_config(path).WORKERS == 7
    path.write_bytes(b"WORKERS: \xff7\n")
    with pytest.raises(UserError, match="--cfg.*a.yml"):
        load_config(path)


# ---- files under another name ----


def test_other_unicode_forms_and_backslashes(tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / form
        name = unicodedata.normalize(form, "möwe/é.jpg")
        (folder / "images" / name).parent.mkdir(parents=True)
        (folder / "images" / name).touch()
        write(folder, [])
        content = json.loads((folder / "train.json").read_text())
        content["data"] = [
            {"image": unicodedata.normalize(other, name)},
            {"image": name.replace("/", "\\")},
            {"image": "not there/é.jpg"},
        ]
        (folder / "train.json").write_text(json.dumps(content))
        items = load_split(folder, "train").items
        assert items[0].image == items[1].image == folder / "images" / name and items[0].image.is_file()
        assert items[2].image == folder / "images/not there/é.jpg"


@pytest.mark.parametrize("name", ["..\\x.jpg", "C:\\x.jpg", "C:/x.jpg"])
def test_paths_of_windows_that_leave(tmp_path, name):
    write(tmp_path, [])
    content = json.loads((tmp_path / "train.json").read_text()) | {"data": [{"image": name}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="leaves its base folder"):
        load_split(tmp_path, "train")
    write(tmp_path, ["a"], image_base_path="D:\\birds")
    with pytest.raises(UserError, match="'image_base_path' is a path of Windows"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("text_key", ["asr_text", "text"])
@pytest.mark.parametrize("folder", ["wav", "."])
def test_places_like_recordings_are_found(tmp_path, text_key, folder):
    """Published Places names begin with "wavs/", which the base folder may or may not hold."""
    (tmp_path / folder / ("12" if folder == "wav" else "wavs/12")).mkdir(parents=True)
    (tmp_path / folder / ("12" if folder == "wav" else "wavs/12") / "u.wav").touch()
    write(
        tmp_path,
        ["x"],
        audio_base_path=str(tmp_path / folder),
        data=[{"image": "./bedroom/b.jpg", "wav": "wavs/12/u.wav", text_key: "a bed"}],
    )
    assert load_split(tmp_path, "train").items[0].audio[0].is_file()


def test_the_folder_by_letter_is_no_class_of_places(tmp_path):
    write(tmp_path, ["x"], data=[{"image": "./k/kitchenette/b.jpg", "wav": "wavs/12/u.wav", "asr_text": "a kitchen"}])
    assert load_split(tmp_path, "train").items[0].class_name == "kitchenette"


def test_what_is_there_is_listed(tmp_path):
    write(tmp_path / "gulls", ["a"])
    with pytest.raises(UserError, match="--dataset gull: .*prepared sets there: gulls;"):
        splits.data_dir("gull", tmp_path)
    with pytest.raises(UserError, match="val.json does not exist; the splits there are train;"):
        load_split(tmp_path / "gulls", "val")
