"""Recipes compared: means, spreads and verdicts worked out by hand, and the page that shows them with their images."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from common.cli import UserError
from common.splits import load_split
from scripts import comparison_page
from scripts.report import comparison


def make_set(root):
    """Two test classes of two images, two sentences each, of which the first is spoken."""
    (root / "images").mkdir(parents=True)
    data = []
    for number in range(4):
        name = f"{number // 2 + 1:03d}.kind/{number}.png"
        (root / "images" / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 80), (60 * number, 0, 0)).save(root / "images" / name)
        data.append(
            {"image": name, "class": name[:8], "text": [f"bird {number}", "unspoken"], "audio": [f"{number}.wav"]}
        )
    content = {"image_base_path": str(root / "images"), "audio_base_path": str(root), "data": data}
    (root / "test.json").write_text(json.dumps(content))
    return load_split(root, "test")


def make_run(root, split, row, seed, agreement, kid):
    """A folder as run.sh leaves it under --tag <row>_seed<n>, with samples of 16 pixels; the last image is missing."""
    tag = f"{row}_seed{seed}"
    (root / tag).mkdir(parents=True)
    stages = [{"stage": stage, "name": "x", "seconds": 60.0 * stage} for stage in (3, 4, 5)]
    (root / tag / "stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stages))
    model = root / "StackGAN_v2" / f"{tag}_speech_encoder" / "Model"
    samples = model / "iteration7" / "single_samples" / "valid"
    for item in split.items[:-1]:
        path = samples / f"{item.key}.png_16_sentence0_0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (0, 200, 0)).save(path)
    (model / "netG_7.pth").write_bytes(b"")
    (model / "latest.pth").symlink_to("netG_7.pth")
    back = {"agreement": agreement + 1, "chance": 12.0, "ceiling": 90.0, "normalised": 0.5}
    metrics = {
        "attribute_agreement_16px_test_gen4": {
            "value": agreement,
            "normalised": agreement / 100,
            "attributes": {"back": back},
        },
        "kid_lite0_16px_box_test4_gen4": {"value": kid},
    }
    (model / "iteration7" / "metrics.json").write_text(json.dumps(metrics))
    return root / tag


@pytest.fixture
def runs(tmp_path):
    split = make_set(tmp_path / "data" / "toy")
    given = (("published", 0, 20, 0.4), ("modern", 0, 50, 0.3), ("published", 1, 24, 0.2), ("modern", 1, 56, 0.1))
    return split, [make_run(tmp_path / "out", split, *one) for one in given]


def test_means_spreads_and_verdicts_by_hand(runs):
    split, folders = runs
    text = comparison.markdown(comparison.read(folders, split))
    head, _, published, modern, *_ = text.splitlines()
    assert head.startswith(
        "| recipe | agreement, % ↑ | agreement, normalised ↑ | KID ↓ | encoder, min | generator, min | seeds |"
    )
    # (20 + 24) / 2; √(2² + 2²) over n − 1 = 1; the ranges of KID overlap
    assert published == "| published | 22.0 ± 2.8 | 0.220 ± 0.028 | 0.300 ± 0.141 | 3.0 ± 0.0 | 5.0 ± 0.0 | 0, 1 |"
    assert modern == "| modern | 53.0 ± 4.2 ▲ | 0.530 ± 0.042 ▲ | 0.200 ± 0.141 | 3.0 ± 0.0 | 5.0 ± 0.0 | 0, 1 |"
    assert "| Back | 23 ± 3 (0.50) | 54 ± 4 (0.50) | 12 | 90 |" in text
    lines = comparison.comma_separated(comparison.read(folders, split)).splitlines()
    assert lines[0] == "row,seed,attribute_agreement,normalised,kid,back,encoder, min,generator, min".replace(
        "encoder, min,generator, min", '"encoder, min","generator, min"'
    )
    assert lines[2] == "modern,0,50.0,0.5,0.3,51.0,3.00,5.00"


@pytest.mark.parametrize(
    "values, first, lower, said",
    [
        ([3, 4], [1, 2], False, " ▲"),
        ([3, 4], [1, 2], True, " ▼"),
        ([2, 4], [1, 3], False, ""),
        ([2, 4], [1], False, ""),
        ([0.1, 0.2], [0.3, 0.4], True, " ▲"),
    ],
)
def test_a_verdict_needs_every_seed(values, first, lower, said):
    assert comparison.verdict(values, first, lower) == said


def test_numbers_of_several_protocols_are_told(runs):
    split, folders = runs
    model = (
        folders[0].parent / "StackGAN_v2" / "published_seed0_speech_encoder" / "Model" / "iteration7" / "metrics.json"
    )
    model.write_text(model.read_text().replace("kid_lite0_16px", "kid_lite0_32px"))
    assert "KID was measured in several ways" in comparison.markdown(comparison.read(folders, split))


def test_of_several_extractors_the_independent_one_counts(runs):
    """EfficientNet-lite0 may have taught the generator, through teacher features or --best_by."""
    split, folders = runs
    for number, folder in enumerate(folders):
        path = folder.parent / "StackGAN_v2" / f"{folder.name}_speech_encoder" / "Model" / "iteration7" / "metrics.json"
        metrics = json.loads(path.read_text()) | {"kid_lite2_16px_box_test4_gen4": {"value": number}}
        path.write_text(json.dumps(metrics))
    results = comparison.read(folders, split)
    assert [result.values["kid"] for result in results] == [0, 1, 2, 3]
    assert {result.names["kid"] for result in results} == {"kid_lite2_16px_box_test4_gen4"}


def test_the_page_shows_the_same_sentences_of_each(runs, tmp_path, monkeypatch):
    split, folders = runs
    words = ["--dataset", "toy", "--data_root", tmp_path / "data", "--output", tmp_path / "out", *folders]
    monkeypatch.setattr(sys, "argv", ["comparison_page.py", *map(str, words)])
    assert comparison_page.main() == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/") == 3 and "modern, seed 0" in page and "real images" in page
    assert "bird 3" in page and "unspoken" not in page and "<script" not in page
    assert comparison_page.main() == 0  # its own page is written again


def test_sheets_leave_a_missing_image_white(runs):
    from scripts.report import comparison_sheets

    split, folders = runs
    sheets, said = comparison_sheets.make(comparison.read(folders, split), split, 4)
    assert [title for title, _ in sheets] == ["real images", "published, seed 0", "modern, seed 0"] and len(said) == 4
    first = np.flatnonzero((sheets[1][1].reshape(16, -1, 3)[8] == [0, 200, 0]).all(1))
    assert len(first) == 3 * 16 and (sheets[1][1][8, -8] == 255).all()


def test_a_folder_that_is_no_row_is_an_error(runs, tmp_path):
    split, folders = runs
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is not named <row>_seed<n>"):
        comparison.read([tmp_path / "other"], split)
    (tmp_path / "out" / "new_seed0").mkdir()
    (tmp_path / "out" / "new_seed0" / "stages.jsonl").write_text("")
    with pytest.raises(UserError, match="no numbers of generated images"):
        comparison.read([tmp_path / "out" / "new_seed0"], split)
