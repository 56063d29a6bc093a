"""Archives with more or fewer folders around them land in one layout; what the next step needs is looked for."""

import io
import json
import wave
from dataclasses import replace

import pytest
from prepare_miniatures import MAKERS, captions_of, write
from toy_archives import contents, make_tar, make_zip

from common.cli import UserError
from common.splits import load_split
from scripts import prepare_birds, prepare_flowers
from scripts.data.download import install, registry
from scripts.data.download.registry import Entry

ENTRIES = registry.load()
CUB = {
    "images.txt": b"1",
    "classes.txt": b"1",
    "image_class_labels.txt": b"1",
    "bounding_boxes.txt": b"1",
    "images/001.Auk/a.jpg": b"an image",
}
REED = {"text_c10/001.Gull/Gull_0001_7.txt": b"a gull", "trainvalclasses.txt": b"1", "testclasses.txt": b"2"}


def below(folder: str, files) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def installed(entry: Entry, files, tmp_path, pack=make_zip) -> dict[str, bytes]:
    """What stands at the goal after `--archive` of an archive of `files`; once more it is complete."""
    (tmp_path / "copy").write_bytes(pack(files))
    entry, root = replace(entry, size=None, md5=None), tmp_path / "data"
    install.get(entry, root, tmp_path / "copy")
    assert "complete already" in install.get(entry, root)
    goal = root / entry.goal
    assert not [path for path in goal.parent.iterdir() if "unpacking" in path.name]
    return contents(goal)


@pytest.mark.parametrize("folder", ["", "CUB_200_2011", "download/CUB_200_2011", "CUB", "."])
def test_folders_around_the_set_are_not_kept(folder, tmp_path):
    files = below(folder, CUB) if folder else CUB
    assert installed(ENTRIES["CUB_200_2011"], {**files, "attributes.txt": b"beside"}, tmp_path) == {
        **CUB,
        "attributes.txt": b"beside",
    }


def test_reeds_captions_of_windows(tmp_path):
    files = {name.replace("/", "\\"): data for name, data in below("cvpr2016_cub", REED).items()}
    assert installed(ENTRIES["cvpr2016_cub"], files, tmp_path) == REED


def test_reeds_captions_in_two_archives(tmp_path):
    files = {"cvpr2016_cub.tar.gz": make_tar(below("cvpr2016_cub", REED))}
    assert installed(ENTRIES["cvpr2016_cub"], files, tmp_path) == REED


def test_an_archive_of_something_else_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "copy").write_bytes(make_zip(below("text_c10", {"a.txt": b"no folders"})))
    with pytest.raises(UserError, match=r"copy lacks text_c10/\*/\*.txt, which .* reads .it holds text_c10.; if it is"):
        install.get(ENTRIES["cvpr2016_cub"], tmp_path / "data", tmp_path / "copy")
    assert not list((tmp_path / "data/birds").iterdir())


def test_a_half_empty_folder_is_not_complete(tmp_path):
    goal = tmp_path / "birds/cvpr2016_cub"
    write(goal / "trainvalclasses.txt", b"1")
    with pytest.raises(UserError, match="cvpr2016_cub is there but lacks text_c10/.*; move it away and run this again"):
        install.get(ENTRIES["cvpr2016_cub"], tmp_path)
    for name, data in REED.items():
        write(goal / "cvpr2016_cub" / name, data)  # as unpacked by hand, which the next step accepts
    assert "used as it is" in install.get(ENTRIES["cvpr2016_cub"], tmp_path)


def test_what_was_installed_and_then_emptied_is_not_complete(tmp_path):
    entry = ENTRIES["cvpr2016_cub"]
    installed(entry, REED, tmp_path)
    goal = tmp_path / "data" / entry.goal
    for name in REED:
        (goal / name).unlink()
    with pytest.raises(UserError, match="holds 0 files .* of the 3"):
        install.get(entry, tmp_path / "data")
    for number in range(3):
        write(goal / str(number), b"as many bytes, of something else")
    with pytest.raises(UserError, match="lacks text_c10"):
        install.get(entry, tmp_path / "data")


# ---- the authors' speech ---------------------------------------------------------------------------------------------


def clip() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
        out.writeframes(bytes(32000))
    return file.getvalue()


def speech_of(folder) -> dict[str, bytes]:
    """'<person>/<class>/<image>_<k>.wav' of every caption of a prepared set."""
    items = [item for name in ("train", "test") for item in load_split(folder, name).items]
    stems = [item.key if "/" in item.key else f"class_{int(item.class_name):05d}/{item.key}" for item in items]
    return {f"person_{n % 2}/{stem}_{k}.wav": clip() for n, stem in enumerate(stems) for k in range(10)}


@pytest.mark.parametrize(
    "around", ["CUB_200_2011_audio/audio/", "audio/", "", "CUB_200_2011_audio/", "download/CUB_200_2011_audio/audio/"]
)
@pytest.mark.parametrize("name", ["birds", "flowers"])
def test_the_authors_speech_lands_where_the_stages_look_for_it(name, around, tmp_path):
    folder, command = tmp_path / "data" / name, {"birds": prepare_birds, "flowers": prepare_flowers}[name]
    folder.parent.mkdir()
    MAKERS[name](folder)
    options = ["--output_dir", str(folder), "--any_size"]
    command.main(options)
    speech, entry = speech_of(folder), ENTRIES[f"{name}_speech"]
    around = around.replace("CUB_200_2011", name) if name == "flowers" else around
    there = installed(entry, {f"{around}{wav}": data for wav, data in speech.items()}, tmp_path)
    assert there == {f"audio/{wav}": data for wav, data in speech.items()}
    command.main([*options, "--overwrite"])
    split = load_split(folder, "train")
    assert split.audio_root == (folder / f"{'CUB_200_2011' if name == 'birds' else name}_audio/audio").resolve()
    assert all(wav.is_file() for item in split.items for wav in item.audio)
    assert [len(item.audio) for item in split.items] == [10] * len(split.items)


def test_split_files_beside_the_flowers_speech_come_before_ours(tmp_path):
    folder = tmp_path / "data/flowers"
    folder.parent.mkdir()
    MAKERS["flowers"](folder)
    prepare_flowers.main(["--output_dir", str(folder), "--any_size"])
    splits = {f"{name}.json": (folder / f"{name}.json").read_bytes() for name in ("train", "test")}
    speech = below("oxford/audio", speech_of(folder))
    for name in splits:
        (folder / name).rename(tmp_path / name)
    there = installed(ENTRIES["flowers_speech"], {**speech, **below("oxford", splits)}, tmp_path)
    assert set(splits) < set(there)
    prepare_flowers.main(["--output_dir", str(folder), "--any_size"])
    assert {name: (folder / name).read_bytes() for name in splits} == splits
    assert json.loads(splits["train.json"])["data"][0]["text"] == captions_of(1)
