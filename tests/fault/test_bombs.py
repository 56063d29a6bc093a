"""Files made to exhaust memory or to name what is not theirs: each is one sentence within the limits of readers.py."""

import bombs
import pytest

from common.cli import UserError
from common.splits import load_split


def refused_as(worker, kind, path, word):
    sentence = worker.read(kind, path)
    assert (sentence is None) == (word is None) and (word is None or word in sentence), f"{path.name}: {sentence}"


def test_images(tmp_path, worker, count):
    for name, (data, word) in bombs.images().items():
        (tmp_path / name).write_bytes(data)
        refused_as(worker, "image", tmp_path / name, word)
        count("hostile")


def test_sounds(tmp_path, worker, count):
    for name, word in bombs.sounds(tmp_path).items():
        refused_as(worker, "sound", tmp_path / name, word)
        count("hostile")


@pytest.mark.parametrize("kind", ["cfg", "registry"])
def test_yaml(kind, tmp_path, worker, count):
    for name, text in bombs.YAML.items():
        (tmp_path / "x.yml").write_text(text)
        assert worker.read(kind, tmp_path / "x.yml"), name
        count("hostile")


def test_json(tmp_path, worker, count):
    for name, text in (bombs.JSON | bombs.READABLE_JSON).items():
        (tmp_path / "train.json").write_text(text)
        sentence = worker.read("split", tmp_path / "train.json")
        assert (sentence is None) == (name in bombs.READABLE_JSON), f"{name}: {sentence}"
        count("hostile")


def test_paths_stay_below_their_bases_also_through_links_of_the_user(tmp_path):
    """A link is followed: only the user can have made it, since no archive that holds one is unpacked."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").touch()
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train.json").write_text(bombs.split(image="a.jpg", image_base_path=str(tmp_path / "images")))
    assert load_split(tmp_path, "train").items[0].image.is_file()
    climbs = bombs.split(image="../elsewhere/a.jpg", image_base_path=str(tmp_path / "images"))
    (tmp_path / "train.json").write_text(climbs)
    with pytest.raises(UserError, match="leaves its base folder"):
        load_split(tmp_path, "train")
