"""When a stage of a recipe is done: its mark holds command and input. The stages here only write down their names."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from common import ROOT

# what recipe.sh gives to run.sh, with stages that take no time; stage 1 adds to the split files, as the real one does
PROGRAM = """
set -euo pipefail
own_choices="change"; change=
source "{root}/scripts/recipe.sh"
made() {{ echo "$1" >> "$data_root/made"; }}
speech() {{ made 1; grep -q audio "$data/train.json" || echo audio >> "$data/train.json"; }}
run_stage 0 data made 0
run_stage 1 speech speech
run_stage 2 "image features" made 2
run_stage 3 encoder {train} 3 "$change"
run_stage 4 "speech features" made 4
run_stage 5 generator {train} 5
end_of_training
run_stage 6 images made 6
"""


class Recipe:
    """The program above in a folder of its own, with the files that its stages would read."""

    def __init__(self, place: Path, train: str = "made"):
        self.place, self.marks = place, place / "output/trial"
        self.program = place / "program.sh"
        self.program.write_text(PROGRAM.format(root=ROOT, train=train))
        self.train, self.image, self.audio, self.encoder, self.generator, self.cfg = self.inputs = [
            place / name
            for name in (
                "data/toy/train.json",
                "data/toy/test/image_features_stub.pickle",
                "data/toy/train/audio_features_stub.pickle",
                "output/Audio_to_Image/log/trial_speech_encoder/latest.pth",
                "output/StackGAN_v2/trial_speech_encoder/Model/latest.pth",
                "gan cfg/toy.yml",
            )
        ]
        for path in self.inputs:
            path.parent.mkdir(parents=True)
            path.write_text("as made")

    def start(self, *words) -> subprocess.Popen:
        command = [
            "bash",
            self.program,
            "--dataset",
            "toy",
            "--tag",
            "trial",
            "--teacher",
            "stub",
            "--gan_cfg",
            self.cfg,
            "--data_root",
            self.place / "data",
            "--output_root",
            self.place / "output",
            *words,
        ]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *words) -> str:
        """→ the numbers of the stages that ran."""
        (self.place / "data/made").unlink(missing_ok=True)
        with self.start(*words) as process:
            self.output = process.stdout.read()
        assert process.returncode == 0, self.output
        return (self.place / "data/made").read_text().replace("\n", "") if (self.place / "data/made").exists() else ""


@pytest.fixture
def recipe(tmp_path):
    """One whose stages have all run."""
    (tmp_path / "it's a place").mkdir()
    recipe = Recipe(tmp_path / "it's a place")
    assert recipe.run() == "0123456"
    return recipe


def test_nothing_runs_again_without_a_reason(recipe):
    for path in recipe.inputs:  # a copy of the folder has other times
        os.utime(path, (1, 1))
    assert recipe.run() == "" and recipe.output.count("done before") == 7


@pytest.mark.parametrize(
    "name, again",
    [("train", "123456"), ("image", "3456"), ("encoder", "456"), ("audio", "56"), ("generator", "6"), ("cfg", "56")],
)
def test_a_changed_input_repeats_its_stage_and_those_behind_it(recipe, name, again):
    path = getattr(recipe, name)
    path.write_text(path.read_text().replace("as made", "as MADE"))  # of the same size
    assert recipe.run() == again and recipe.run() == ""


def test_a_mark_of_older_form_means_again(recipe):
    (recipe.marks / ".done_2").write_text("made 2 ")
    assert recipe.run() == "23456"


def test_an_interrupted_training_goes_on_unless_its_input_has_changed(recipe):
    resume = recipe.encoder.with_name("resume.pth")
    for text, kept in (("as made", True), ("another", False)):
        resume.touch()
        (recipe.marks / ".done_3").unlink()
        recipe.image.write_text(text)
        assert recipe.run() == "3456" and resume.exists() is kept


def test_other_machines_come_to_the_same_conclusion_and_leave_no_mark(recipe):
    second = ("--nnodes", "2", "--node_rank", "1", "--master_addr", "localhost")
    assert recipe.run(*second) == "" and recipe.run(*second, "--stage", "3") == "35"
    assert recipe.run(*second, "--change", "x") == "35"
    recipe.audio.write_text("another")
    assert recipe.run(*second) == "5"
    recipe.train.write_text("another")
    before = {path.name: path.stat().st_mtime_ns for path in recipe.marks.glob(".[db]*")}
    assert recipe.run(*second) == "35"
    assert before == {path.name: path.stat().st_mtime_ns for path in recipe.marks.glob(".[db]*")}


def test_two_machines_train_together_and_the_second_waits_for_the_first(tmp_path):
    """Both trainings, one after the other through the same port."""
    recipe = Recipe(tmp_path, train=f"launch {tmp_path / 'training.py'}")
    (tmp_path / "training.py").write_text(
        f"import os, sys; open({str(tmp_path / 'ranks')!r}, 'a').write("
        "' '.join([sys.argv[1], os.environ['RANK'], os.environ['WORLD_SIZE']]) + '\\n')"
    )
    port = str(random.SystemRandom().randrange(10000, 30000))
    where = ("--nnodes", "2", "--master_addr", "127.0.0.1", "--master_port", port, "--wait_for_machines", "60")
    second = recipe.start(*where, "--node_rank", "1")
    line = ""
    while "waiting for machine 0" not in line:
        line = second.stdout.readline()
        assert line
    first = recipe.run(*where, "--node_rank", "0")
    assert first == "01246" and second.wait(60) == 0
    assert "stage 5 (generator), machine 1" in second.stdout.read()
    assert sorted((tmp_path / "ranks").read_text().splitlines()) == ["3 0 2", "3 1 2", "5 0 2", "5 1 2"]
    assert recipe.run(*where, "--node_rank", "1") == ""
    second.stdout.close()
