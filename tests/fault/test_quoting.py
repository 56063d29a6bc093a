"""Folders whose names have spaces, quotes, dollars and letters of other alphabets: shell scripts hand them on whole."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = 'it\'s a "place" $HOME `id` *; 鳥'


def bash(*words):
    return subprocess.run(
        ["bash", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    return folder


def test_the_recipe(place):
    """Stage 0 with all its places in such a folder, and again, when it must know its own marks."""
    words = [
        "scripts/run.sh",
        "--dataset",
        "it's birds",
        "--data_root",
        place / "data",
        "--output_root",
        place / "out",
        "--tag",
        "a $tag's",
        "--stop_stage",
        "0",
        "--prepare",
        "./scripts/make_toybirds.py --classes 3 --test_classes 1 --images_per_class 1 --image_size 48 --jobs 1",
    ]
    first, second = bash(*words), bash(*words)
    assert first.returncode == 0 and (place / "data/it's birds/train.json").is_file(), first.stderr
    assert second.returncode == 0 and "done before" in second.stdout, second.stdout + second.stderr
    assert sorted(path.name for path in place.iterdir()) == ["data", "out"] and (place / "out/a $tag's").is_dir()
    assert [path.name for path in place.parent.iterdir()] == [NAME]


def test_the_encoder(place):
    """run_audio_encoder.sh starts its processes with every word as it was given: the folder's name comes back whole."""
    ended = bash(
        "run_audio_encoder.sh",
        "1",
        "--output_dir",
        place / "run",
        "--dataset",
        "a b",
        "--data_root",
        place,
        "--jel_flag",
    )
    assert ended.returncode == 2 and f"{place}/a b does not exist" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr and not (place / "run").exists()
