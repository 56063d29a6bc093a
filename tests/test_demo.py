"""scripts/demo.sh: a page of the pretrained networks first, then the recipe; --no_training stops before it."""

import os
import shutil
import subprocess

import pytest
from tiny_networks import make_runs

from common import ROOT
from scripts import first_look

STUBS = {
    "scripts/setup.sh": "echo setup",
    "scripts/toybirds.sh": 'echo toybirds "$@"',
    ".venv/bin/python": '#!/bin/sh\necho python "$@"\nexit ${STATUS:-0}',
}


@pytest.fixture
def project(tmp_path):
    """A project whose set-up, recipe and interpreter say what they were called with."""
    root = tmp_path / "a project"
    for name, text in STUBS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    shutil.copy(ROOT / "scripts/demo.sh", root / "scripts")
    return root


def add_networks(root):
    (root / "pretrained/toybirds").mkdir(parents=True)
    for name in ("encoder.pth", "generator.pth", "card.json"):
        (root / "pretrained/toybirds" / name).touch()


def demo(root, *words, **variables):
    command = ["bash", root / "scripts/demo.sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    lines = [line.replace(str(root), "ROOT") for line in done.stdout.splitlines()]
    return done.returncode, [line for line in lines if line.startswith(("python", "toybirds"))], done.stderr


def test_without_networks_it_trains_at_once(project):
    assert demo(project, "--seed", "3") == (0, ["toybirds --seed 3"], "")
    status, called, said = demo(project, "--no_training")
    assert status == 2 and not called and "no networks in pretrained/toybirds" in said


def test_the_first_page_comes_before_training(project):
    add_networks(project)
    status, called, _ = demo(project, "--output_root", "o u t", "--device", "cpu")
    first, then = called
    assert status == 0 and then == "toybirds --output_root o u t --device cpu"
    assert "first_look.py" in first and "--output ROOT/scripts/../o u t/demo/index.html --device cpu" in first
    assert (
        demo(project, "--no_training", "--seed", "3")[1][0].startswith("python")
        and len(demo(project, "--no_training")[1]) == 1
    )
    assert demo(project, "--stage", "3")[1] == ["toybirds --stage 3"]  # a part of the recipe alone


def test_a_page_of_trained_networks_is_not_replaced_by_the_first_one(project):
    add_networks(project)
    (project / "output/demo").mkdir(parents=True)
    (project / "output/demo/.done_8").touch()
    assert demo(project)[1] == ["toybirds "] or demo(project)[1] == ["toybirds"]


def test_a_first_page_that_fails_does_not_keep_the_recipe_from_running(project):
    add_networks(project)
    assert demo(project, STATUS="2")[1][-1].startswith("toybirds")
    status, called, _ = demo(project, "--no_training", STATUS="2")
    assert status == 2 and len(called) == 1


def test_the_first_page_shows_sentences_and_their_images(tmp_path, monkeypatch, capfd):
    encoder, run = make_runs(tmp_path / "output")
    monkeypatch.setattr(first_look, "SPECIES", 2)
    page = tmp_path / "page/index.html"
    words = ["--encoder", encoder, "--generator", run / "Model/latest.pth", "--data_root", tmp_path / "data"]
    assert first_look.main([*map(str, words), "--output", str(page), "--device", "cpu"]) == 0
    text = page.read_text()
    assert text.count('class="sentence"') >= 12 and "data:image/png" in text and "data:audio" in text
    before = page.stat().st_mtime_ns
    assert first_look.main([*map(str, words), "--output", str(page), "--device", "cpu"]) == 0  # again: replaced
    assert page.stat().st_mtime_ns > before
