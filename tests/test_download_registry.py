"""The table of what can be downloaded, and the checks of entries that users add."""

import json
from pathlib import Path

import pytest

from common import ROOT
from common.cli import UserError
from scripts.data.download import registry


def test_built_in_registry_is_complete():
    entries = registry.load()
    assert {
        "CUB_200_2011",
        "cvpr2016_cub",
        "Oxford_102",
        "Oxford_102_labels",
        "cvpr2016_flowers",
        "Places_audio",
        "Flickr8k_audio",
        "googlenet",
        "fid_inception",
    } <= set(entries)
    goals = [entry.goal for entry in entries.values()]
    assert len(set(goals)) == len(goals)
    for entry in entries.values():
        assert entry.sum or entry.drive or entry.by_hand, f"{entry.name} comes from an open address without a sum"
    # Read as text: importing it would import torch.
    teachers = "".join(path.read_text() for path in (ROOT / "Audio_to_Image/teachers").glob("*.py"))
    assert Path(entries["googlenet"].goal).name in teachers and '"data" / "pretrained"' in teachers


GOOD = {"purpose": "p", "goal": "a/b", "licence": "l", "urls": ["http://127.0.0.1/x"]}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"goal": "../b"}, "not a path below"),
        ({"goal": "/b"}, "not a path below"),
        ({"urls": []}, "exactly one of"),
        ({"urls": ["file:///etc/passwd"]}, "not an http"),
        ({"urls": "http://x"}, "right type"),
        ({"size": "5"}, "right type"),
        ({"md5": "xyz"}, "32 hexadecimal"),
        ({"colour": "red"}, "no field 'colour'"),
        ({"drive": "abc"}, "exactly one of"),
        ({"file": "../x"}, "plain file name"),
        ({"needs": ["../x"]}, "needs: ../x is not a path below the unpacked"),
        ({"needs": "x"}, "right type"),
        ({"needs": [1]}, "right type"),
        ({"licence": None}, "right type"),
    ],
)
def test_registry_entries_are_checked(tmp_path, change, reason):
    path = tmp_path / "more.json"
    path.write_text(json.dumps({"net": GOOD | change}))
    with pytest.raises(UserError, match=reason) as error:
        registry.load([path])
    assert "more.json, entry net" in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\0", "!!python/object/apply:os.system ['true']"])
def test_registry_files_of_another_form(tmp_path, text):
    path = tmp_path / "more.yml"
    path.write_text(text)
    with pytest.raises(UserError, match="more.yml is n"):
        registry.load([path])
