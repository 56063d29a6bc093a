"""Feature files that others made: S2IGAN's form as input of the generator, and metrics of two feature pickles."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from test_encoder_training import call, make_set

from Audio_to_Image import evaluate
from Audio_to_Image.metrics import speech_metrics
from common.cli import UserError
from common.features import encoder_of, feature_path, load_features
from common.splits import load_split


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path)


def published(folder, name: str, rows, names) -> None:
    """As S2IGAN writes: a list of arrays by Python 3; names by Python 2 (protocol 0, byte strings)."""
    (folder / "test" / name).write_bytes(pickle.dumps(rows, protocol=3))
    lines = b"".join(f"S'{one}'\np{i + 1}\na".encode() for i, one in enumerate(names))
    (folder / "test" / "filenames.pickle").write_bytes(b"(lp0\n" + lines + b".")


def make(count: int = 14, width: int = 8):
    """Rows of 14 images, of which the split has 12 in another order, each with 10 captions."""
    order = np.random.default_rng(3).permutation(count)
    return ([np.full((10, width), float(i), np.float32) for i in order], [f"test_{i}" for i in order])


@pytest.mark.parametrize("switch, name", [("mine", "mine"), ("s2igan", "s2igan"), ("s2igan", "test")])
def test_rows_are_matched_by_name(folder, switch, name):
    rows, names = make()
    published(folder, f"speech_embeddings_{name}.pickle", rows, names)
    split, path = load_split(folder, "test"), feature_path(folder, "test", "audio", switch)
    found = load_features(path, split, "extraction", some_without=True)
    assert [row.shape for row in found] == [(10, 8)] * 12 and [row[0, 0] for row in found] == list(range(12))
    assert encoder_of(path) is None
    for others in ([f"{one}.jpg" for one in names], [f"001.kind/{one}" for one in names]):
        published(folder, f"speech_embeddings_{name}.pickle", np.stack(rows), others)
        assert [row[0, 0] for row in load_features(path, split, "extraction")] == list(range(12))


def test_our_own_file_goes_before(folder):
    rows, names = make()
    published(folder, "speech_embeddings_mine.pickle", rows, names)
    path = feature_path(folder, "test", "audio", "mine")
    path.write_bytes(pickle.dumps(np.ones((12, 1, 3), np.float32)))
    assert load_features(path, load_split(folder, "test"), "")[0].shape == (1, 3)


def test_what_does_not_fit_is_one_sentence(folder):
    rows, names = make()
    split, path = load_split(folder, "test"), feature_path(folder, "test", "audio", "mine")
    load = lambda: load_features(path, split, "extraction")
    with pytest.raises(UserError, match="audio_features_mine.pickle does not exist; run extraction"):
        load()
    published(folder, "speech_embeddings_mine.pickle", rows, names[:-1])
    with pytest.raises(UserError, match="do not belong together"):
        load()
    published(folder, "speech_embeddings_mine.pickle", rows, ["x" if one == "test_0" else one for one in names])
    with pytest.raises(UserError, match="filenames.pickle does not name 'test_0' of .*test.json"):
        load()
    published(folder, "speech_embeddings_mine.pickle", [row[:, : 1 + i % 2] for i, row in enumerate(rows)], names)
    with pytest.raises(UserError, match="one array of equal width"):
        load()
    (folder / "test" / "filenames.pickle").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(UserError, match="filenames.pickle is not a feature pickle"):
        load()
    (folder / "test" / "filenames.pickle").unlink()
    with pytest.raises(UserError, match="filenames.pickle does not exist, which says what the rows"):
        load()


def test_two_feature_files_are_measured(folder, monkeypatch, capsys):
    generator = np.random.default_rng(5)
    split = load_split(folder, "test")
    image = generator.standard_normal((12, 8)).astype(np.float32)
    speech = [row + 0.3 * generator.standard_normal((2, 8)).astype(np.float32) for row in image]
    files = [folder / "test" / f"{name}.pickle" for name in ("their speech", "their images")]
    for path, rows in zip(files, (speech, image[:, None])):
        path.write_bytes(pickle.dumps(rows, protocol=2))
    words = ["--dataset", "tiny", "--data_root", folder.parent, "--split", "test", "--speech_features", files[0]]
    assert call(monkeypatch, evaluate, *words, "--image_features", files[1]) == 0
    assert "speech_to_image_r1" in capsys.readouterr().out
    line = json.loads((folder / "test" / "metric-speech.jsonl").read_text())
    expected = speech_metrics(
        torch.from_numpy(np.concatenate(speech)),
        torch.arange(12).repeat_interleave(2),
        torch.from_numpy(image),
        torch.tensor(split.labels),
    )
    assert {name: line[name] for name in expected} == pytest.approx(expected) and line["captions"] == 24
    files[1].write_bytes(pickle.dumps(image[:, None, :5], protocol=2))
    with pytest.raises(UserError, match="8 numbers wide and .* 5; give two files of one space"):
        call(monkeypatch, evaluate, *words, "--image_features", files[1])
    for wrong, said in ((words, "belong together"), (words[:6], "give either --model, or")):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, wrong)])
        with pytest.raises(SystemExit) as error:
            evaluate.main()
        assert error.value.code == 2 and said in capsys.readouterr().err
