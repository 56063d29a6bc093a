"""The table of an ablation: means and deviations worked out by hand, and what it must not keep quiet about."""

import csv
import json

import pytest

from common.cli import UserError
from scripts.report import ablation


def make_row(root, losses, seed, **line):
    """A folder as ablate.sh leaves it."""
    folder = root / f"{'+'.join(losses)}_seed{seed}" / "encoder"
    folder.mkdir(parents=True)
    options = {f"{name}_flag": name in losses for name in ("jel", "l1", "distill")}
    changed = line.pop("options", {})
    options |= {"manualSeed": seed, "epoch": 5, "output_dir": str(folder), "teacher": "stub", **changed}
    (folder / "options.json").write_text(json.dumps({"options": options}))
    older = {"accuracy": 1.0, "epoch": 1}  # a line of an earlier measurement, which does not count
    line = {"epoch": 5, "images": 6, "captions": 12, "split": "test", "dataset": "tiny", **line}
    (folder / "metric-speech.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in (older, line)))
    return folder.parent


CLASSED = {"ap50": 30.0, "chance": 20.0, "ap50_chance": 21.0, "ap50_highest": 60.0, "accuracy_cosine": 55.0}


def test_means_and_deviations_by_hand(tmp_path):
    rows = [
        make_row(tmp_path, losses, seed, accuracy=accuracy, **CLASSED)
        for losses, seed, accuracy in ((("jel",), 0, 40.0), (("l1", "distill"), 0, 10.0), (("jel",), 1, 46.0))
    ]
    text = ablation.write(tmp_path, ablation.read_runs(rows))
    assert text == (tmp_path / "table.md").read_text()
    lines = text.splitlines()
    # (40 + 46) / 2; √(3² + 3²) over n − 1 = 1
    assert lines[2] == "| ✓ |  |  | 43.00 ± 4.24 | 30.00 ± 0.00 | 55.00 ± 0.00 | 5 | 0, 1 |"
    assert lines[3] == "|  | ✓ | ✓ | 10.00 | 30.00 | 55.00 | 5 | 0 |" and lines[4] == ""
    for words in ("accuracy of 20.00 and an AP@50 of 21.00", "AP@50 of 60.00", "Only JEL trains these", "teacher stub"):
        assert words in text
    assert "more than their losses" not in text
    read = ablation.read_table(tmp_path / "table.csv")
    assert [(row["JEL"], row["distillation"], row["seed"], row["accuracy"]) for row in read] == [
        ("1", "0", "0", "40.0000"),
        ("0", "1", "0", "10.0000"),
        ("1", "0", "1", "46.0000"),
    ]


def test_rows_that_differ_in_more_are_told(tmp_path):
    rows = [
        make_row(tmp_path, ("jel",), 0, accuracy=4.0),
        make_row(tmp_path, ("jel", "l1"), 0, accuracy=5.0, options={"epoch": 9, "of_a_later_version": True}),
    ]
    runs = ablation.read_runs(rows)
    assert ablation.differing_options(runs) == ["epoch"]
    assert "**These rows differ in more than their losses**: epoch 5, 9" in ablation.markdown(runs)
    header, *lines = csv.reader(ablation.comma_separated(runs).splitlines())
    assert [line[header.index("epoch")] for line in lines] == ["5", "9"]


def test_a_set_without_classes_has_retrieval_in_its_table(tmp_path):
    row = make_row(
        tmp_path, ("l1",), 0, speech_to_image_map=12.5, speech_to_image_r10=50.0, speech_to_image_map_cosine=25.0
    )
    header, _, line, *_ = ablation.markdown(ablation.read_runs([row])).splitlines()
    assert "accuracy" not in header and "speech → image mAP, cosine" in header and "12.50 | 50.00 | 25.00" in line


def test_a_row_without_numbers_is_an_error(tmp_path):
    folder = make_row(tmp_path, ("l1",), 0)
    (folder / "encoder" / "metric-speech.jsonl").unlink()
    with pytest.raises(UserError, match="ablate.sh"):
        ablation.read_runs([folder])
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    assert ablation.read_table(tmp_path / "table.csv") == [] == ablation.read_table(tmp_path / "none.csv")
