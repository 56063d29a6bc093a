"""Lists and captions as other systems save them: byte-order marks, UTF-16, backslashes, decomposed letters."""

import codecs
import json
import shutil
import unicodedata

import pytest
from prepare_miniatures import IMAGE, MAKERS, SPECIES, write

from common.cli import UserError
from common.splits import load_split
from scripts import prepare_birds, prepare_flickr8k, prepare_flowers, prepare_places
from scripts.data.prepare import reed, sources

COMMANDS = {"birds": prepare_birds, "flowers": prepare_flowers, "places": prepare_places, "flickr8k": prepare_flickr8k}
ENCODINGS = {
    "utf-8": b"",
    "utf-8 with mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}


def prepared(name, folder):
    COMMANDS[name].main(["--output_dir", str(folder), "--any_size", "--overwrite"])
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def texts(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".txt", ".json") and path.parent != folder]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_text_may_be_in_any_unicode(name, tmp_path):
    MAKERS[name](tmp_path)
    expected, originals = prepared(name, tmp_path), {path: path.read_bytes() for path in texts(tmp_path)}
    assert len(originals) >= 2
    for encoding, mark in ENCODINGS.items():
        for path, data in originals.items():
            text = data.decode().replace("\n", "\r\n")
            path.write_bytes(mark + text.encode(encoding.split(" ")[0]))
        assert prepared(name, tmp_path) == expected, encoding


def test_other_encodings_are_told_with_file_and_byte(tmp_path):
    MAKERS["birds"](tmp_path)
    write(tmp_path / "CUB_200_2011/classes.txt", "1 001.Grüner_Vogel\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes.txt is not text in UTF-8 or UTF-16: byte 8 \(0xfc\) .*save it as"):
        prepared("birds", tmp_path)
    write(tmp_path / "CUB_200_2011/classes.txt", "1 001.Auk\n".encode("utf-16-le"))  # without its mark
    with pytest.raises(UserError, match=r"classes.txt is not text in UTF-8 or UTF-16: byte 1 \(0x00\)"):
        prepared("birds", tmp_path)


def test_captions_of_windows(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF16_LE + ("ein grüner Vogel\r\n" * 10).encode("utf-16-le"))
    assert reed.read_captions(tmp_path / "a.txt") == ["ein grüner Vogel"] * 10


def test_birds_lists_with_backslashes(tmp_path):
    MAKERS["birds"](tmp_path)
    expected, images = prepared("birds", tmp_path), tmp_path / "CUB_200_2011/images.txt"
    write(images, images.read_text().replace("/", "\\"))
    assert prepared("birds", tmp_path) == expected


def test_places_lists_with_backslashes(tmp_path):
    MAKERS["places"](tmp_path)
    expected = prepared("places", tmp_path)
    for path in (tmp_path / "PlacesAudio_400k_distro/metadata").iterdir():
        content = json.loads(path.read_text())
        for item in content["data"]:
            item.update(image=item["image"].replace("/", "\\"), wav=item["wav"].replace("/", "\\"))
        write(path, json.dumps(content))
    assert prepared("places", tmp_path) == expected


@pytest.mark.parametrize("on_disk, in_list", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD"), ("NFC", "NFC")])
def test_names_in_another_unicode_form(on_disk, in_list, tmp_path):
    """macOS decomposes the letters of file names; lists are composed as a rule."""
    old, new = SPECIES[1], "002.Laysan_Älbatros"
    MAKERS["birds"](tmp_path)
    archive = tmp_path / "CUB_200_2011"
    for name in ("images", "classes"):
        text = (archive / f"{name}.txt").read_text().replace(old, new)
        write(archive / f"{name}.txt", unicodedata.normalize(in_list, text))
    disk = unicodedata.normalize(on_disk, new)
    shutil.move(archive / "images" / old, archive / "images" / disk)
    prepared("birds", tmp_path)
    items = [item for item in load_split(tmp_path, "train").items if item.class_name == new]
    assert len(items) == 2 and all(item.image.read_bytes() == IMAGE and disk in str(item.image) for item in items)


def test_flickr8k_names_in_another_unicode_form(tmp_path):
    MAKERS["flickr8k"](tmp_path)
    composed = "café_0b8cb0e"
    decomposed = unicodedata.normalize("NFD", composed)
    for path in (tmp_path / "Flickr8k_text").iterdir():
        write(path, path.read_text().replace("1000_693b08cb0e", decomposed))
    write(
        tmp_path / "flickr_audio/wav2capt.txt",
        (tmp_path / "flickr_audio/wav2capt.txt").read_text().replace("1000_693b08cb0e", composed),
    )
    for path in list(tmp_path.rglob("1000_693b08cb0e*")):
        path.rename(path.with_name(path.name.replace("1000_693b08cb0e", decomposed)))
    prepared("flickr8k", tmp_path)
    item = next(item for item in load_split(tmp_path, "train").items if "caf" in item.key)
    assert item.image.is_file() and all(wav.is_file() for wav in item.audio) and len(item.texts) == 5


def test_spelling_of_what_is_not_there_stays(tmp_path):
    assert sources.Listing().spelled(tmp_path, "ä/b") == "ä/b"
    assert sources.Listing().spelled(tmp_path / "none", "ä/b") == "ä/b"
