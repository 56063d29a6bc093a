"""The encoder's numbers on a set without classes: every caption counts, alike in training's log and in the command."""

import json

import numpy as np
import pytest
import torch
from test_encoder_training import META, call, make_set, make_trainer, parts, stats

from Audio_to_Image import datasets, encoder_metrics, evaluate
from Audio_to_Image.speech_encoder import load_encoder
from common import splits
from common.features import feature_path, load_features

NAMES = {f"{way}_{name}" for way in ("speech_to_image", "image_to_speech") for name in ("map", "r1", "r5", "r10")}


def plain_retrieval(scores: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """mAP and R@K in percent, query by query, from the definition. scores, right: `[queries, gallery]`."""
    precisions, found = [], {k: 0 for k in (1, 5, 10)}
    for row, own in zip(scores, right):
        hits = own[np.argsort(-row)]
        places = np.flatnonzero(hits) + 1
        precisions.append(np.mean([(i + 1) / place for i, place in enumerate(places)]))
        for k in found:
            found[k] += hits[:k].any()
    return {"map": 100 * np.mean(precisions), **{f"r{k}": 100 * n / len(scores) for k, n in found.items()}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("classless")
    folder = make_set(root / "data", classes=False)
    make_trainer(folder, root / "run", epochs=2, eval_every=1).fit()
    return folder, root / "run"


def test_every_evaluation_in_training_logs_retrieval_both_ways(trained):
    lines = [line for line in stats(trained[1]) if any(name.startswith("eval_") for name in line)]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all({name.removeprefix("eval_") for name in line if name.startswith("eval_")} == NAMES for line in lines)
    assert "speech_to_image_r10" in (trained[1] / "log.txt").read_text()


def test_the_command_counts_every_caption(trained, monkeypatch, capsys):
    folder, run = trained
    assert (
        call(
            monkeypatch,
            evaluate,
            "--model",
            run / "latest.pth",
            "--dataset",
            "tiny",
            "--data_root",
            folder.parent,
            "--teacher",
            "stub",
            "--device",
            "cpu",
        )
        == 0
    )
    line = json.loads((run / "metric-speech.jsonl").read_text())
    encoder, meta = load_encoder(run / "latest.pth")
    _, clips, image = parts(folder)
    audio = datasets.embed_clips(encoder.eval(), {**META, **meta}, clips, 64).double()
    items = clips.items[clips.usable]
    assert line["captions"] == len(items) == 20 and line["images"] == 12 and line["unusable"] == 4
    right = items[:, None] == np.arange(12)
    for end, (a, b) in (
        ("", (audio, image.double())),
        ("_cosine", [torch.nn.functional.normalize(x) for x in (audio, image.double())]),
    ):
        scores = (a @ b.T).numpy()
        for way, expected in (
            ("speech_to_image", plain_retrieval(scores, right)),
            ("image_to_speech", plain_retrieval(scores.T, right.T)),
        ):
            assert {name: line[f"{way}_{name}{end}"] for name in expected} == pytest.approx(expected)
    assert "speech_to_image_map" in capsys.readouterr().out and "accuracy" not in line
    last = [entry for entry in stats(run) if "eval_speech_to_image_map" in entry][-1]
    assert {name: last[f"eval_{name}"] for name in NAMES} == pytest.approx({name: line[name] for name in NAMES})


def test_an_image_in_several_items_is_one(trained):
    """One row a caption or all captions of an image in one item: the same numbers."""
    folder, run = trained
    encoder, meta = load_encoder(run / "latest.pth")
    meta = {**META, **meta}
    split = splits.load_split(folder, "test")
    rows = load_features(feature_path(folder, "test", "image", "stub"), split, "")
    content = json.loads(split.path.read_text())
    numbers = [i for i, item in enumerate(content["data"]) for _ in item["audio"]]
    content["data"] = [
        {**item, "text": [text], "audio": [wav]}
        for item in content["data"]
        for text, wav in zip(item["text"], item["audio"])
    ]
    (folder / "rows.json").write_text(json.dumps(content))
    other = splits.load_split(folder, "rows")
    assert other.image_numbers == other.labels == numbers  # without classes an image is its own
    found = [
        encoder_metrics.evaluate(
            encoder,
            meta,
            datasets.open_clips(one, meta["max_frames"], torch.device("cpu"), jobs=1),
            encoder_metrics.mean_views([rows[i] for i in images]),
            64,
        )
        for one, images in ((split, range(len(rows))), (other, numbers))
    ]
    assert found[1] == pytest.approx(found[0])
