"""Files of ours and of others, names that fit, and paths that mean the same from everywhere."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from common import ROOT, checkpoint, features, files, runs
from common.cli import UserError
from common.splits import Item, Split


@pytest.fixture
def split():
    items = tuple(Item(str(n), Path(f"{n}.jpg"), n, "", ("a", "b"), ()) for n in range(3))
    return Split("train", Path("train.json"), items, Path(), None, False)


def test_what_is_ours(tmp_path, split):
    checkpoint.save(tmp_path / "a.pth", {"x": torch.zeros(3)})
    features.save_features(tmp_path / "b.pickle", np.zeros((3, 2, 4)), split)
    files.write_text(tmp_path / "c.html", f"<meta name=generator content={files.MADE_BY}>")
    files.write_text(tmp_path / "old.html", "<html><footer>Made 2026-01-01 by scripts/report.py.</footer></html>")
    (tmp_path / "d.npy").touch()
    files.write_json(tmp_path / "d.json", {"key": "of a cache"})
    for name in ("a.pth", "b.pickle", "b.json", "c.html", "old.html", "d.npy"):
        assert files.is_ours(tmp_path / name), name
    torch.save({"x": torch.zeros(3)}, tmp_path / "e.pth")
    (tmp_path / "f.pickle").write_bytes(pickle.dumps(np.zeros((3, 2, 4))))
    files.write_json(tmp_path / "g.json", {"settings": 1, "key": 2})
    for name in ("e.pth", "f.pickle", "g.json", "missing"):
        assert not files.is_ours(tmp_path / name), name


def test_features_of_others_are_never_replaced(tmp_path, split):
    path = tmp_path / "audio_features_x.pickle"
    path.write_bytes(b"published")
    with pytest.raises(UserError, match="audio_features_x.pickle is there and was not written by this project"):
        features.save_features(path, np.zeros((3, 2, 4)), split)
    assert path.read_bytes() == b"published" and os.listdir(tmp_path) == [path.name]
    assert files.set_aside(path) == tmp_path / "audio_features_x.pickle.old" and not path.exists()
    features.save_features(path, np.zeros((3, 2, 4)), split)
    features.save_features(path, np.ones((3, 2, 4)), split)
    assert files.set_aside(path) is None
    path.with_suffix(".json").unlink()
    assert files.set_aside(path).name == "audio_features_x.pickle.old2"


def test_a_run_claims_its_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    runs.Run(tmp_path, {"data_root": "data", "output_dir": "name"})
    runs.Run(tmp_path, {})
    for name in ("log.txt", "options.json", "latest.pth", "Model/netG_1.pth"):
        folder = tmp_path / f"of {Path(name).stem}"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"--output_dir: .* {Path(name).name}, which this project did not write"):
            runs.Run(folder, {})
        assert (folder / name).read_text() == "mine"


def test_options_mean_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "data")
    options = files.portable_options(
        {
            "data_root": ".",
            "output_dir": "name",
            "resume": "auto",
            "batch": 3,
            "cfg": Path("x"),
            "cfg2": {"NET_G": "../a/b.pth", "DATA_DIR": "", "WORDS": "a/b"},
        }
    )
    assert options == {
        "data_root": "./data",
        "output_dir": "name",
        "resume": "auto",
        "batch": 3,
        "cfg": "./data/x",
        "cfg2": {"NET_G": "./a/b.pth", "DATA_DIR": "", "WORDS": "a/b"},
    }
    monkeypatch.chdir(tmp_path)
    assert files.project_path("x") == f"{tmp_path}/x"


def test_where_a_run_goes():
    for text, meant in (
        ("birds", "/runs/birds"),
        ("./x", "x"),
        ("../x", "../x"),
        ("/x", "/x"),
        ("a/b", "a/b"),
        (".", "."),
    ):
        assert files.named_folder(text, "/runs") == Path(meant)


@pytest.mark.parametrize("letter", ["a", "é", "漢", "\udcff", "🐦"])
def test_long_names_are_cut_by_bytes(tmp_path, letter):
    name = files.shortened(letter * 300, 235)
    assert 231 < len(os.fsencode(name)) <= 235 and set(name) == {letter}
    (tmp_path / f"{name}_256_sentence0_0.png").touch()
    assert files.shortened("short", 5) == "short"


def test_long_names_are_written(tmp_path):
    """The temporary name is longer than the file's by a few bytes."""
    for name in ("漢" * 83 + ".png", "a" * 251 + ".png"):
        files.write_bytes(tmp_path / name, b"x")
    assert len(os.listdir(tmp_path)) == 2


def test_npy_headers_are_numpys(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(4, 3)
    (tmp_path / "a.npy").write_bytes(files.npy_header("|u1", (4, 3)) + values.tobytes())
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), values)
    assert len(files.npy_header("<i2", (10**15,))) == len(files.npy_header("<i2", (0,)))


def test_items_without_a_recording(tmp_path, split):
    path = tmp_path / "f.pickle"
    features.save_features(path, [np.ones((2, 4)), np.zeros((0, 4)), np.ones((1, 4))], split)
    rows = features.load_features(path, split, "stage", some_without=True)
    assert [row.shape for row in rows] == [(2, 4), (0, 4), (1, 4)]
    with pytest.raises(UserError, match=r"holds no features of '1' \(1 such items of 3\)"):
        features.load_features(path, split, "stage")
    features.save_features(path, [np.zeros((0, 4))] * 3, split)
    with pytest.raises(UserError, match="f.pickle"):
        features.load_features(path, split, "stage", some_without=True)
