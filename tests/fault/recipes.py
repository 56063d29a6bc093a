"""run.sh on the set of `stages`, started again and again and killed."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import compare
import stages
from fork_server import ROOT, at_work, ended_soon

# After what a stage has said, and how many seconds later at most, it is killed.
MOMENTS = {
    0: ("stage 0", 0.5),
    1: ("to speak with", 0.5),
    2: ("stage 2", 1.5),
    3: ("step      3", 0.2),
    4: ("stage 4", 2),
    5: ("iteration 2 of 4", 0.2),
    6: ("stage 6", 2),
    7: ("accuracy", 2),
    8: ("stage 8", 2),
}
# stage in which run.sh is killed → who dies: everybody, run.sh alone, or that just before it sets a mark
DEATHS = {
    0: "everybody",
    1: "run.sh",
    2: ".done_2",
    3: "everybody",
    4: ".begun_4",
    5: "run.sh",
    6: "everybody",
    7: "run.sh",
    8: ".done_8",
}
# Put before the real one: what run.sh gives its marks their names with.
MV = """#!/bin/sh
if [ "${2##*/}" = "$DIE_BEFORE" ]; then kill -9 $PPID; fi
exec %s "$@"
"""


class Recipe:
    """run.sh with everything below `place`, and `changes` of its choices."""

    def __init__(self, place: Path):
        self.place, self.data, self.changes = place, place / "data/toybirds", {}
        self.tools = place.with_name(f"{place.name} tools")
        self.tools.mkdir()
        (self.tools / "mv").write_text(MV % shutil.which("mv"))
        (self.tools / "mv").chmod(0o755)

    def start(self, last: int, die_before: str = "") -> subprocess.Popen:
        """run.sh up to stage `last`, in a session of its own."""
        choices = {
            "data_root": self.place / "data",
            "output_root": self.place / "output",
            "tag": "trial",
            "prepare": stages.MAKE,
            "engine": "espeak",
            "captions_per_image": "10",
            "speech_options": stages.SPEECH,
            "device": "cpu",
            "teacher": stages.SWITCH,
            "teacher_options": stages.TEACHER,
            "encoder_options": stages.ENCODER,
            "extract_options": "--jobs 1",
            "gan_cfg": "StackGAN_v2/cfg/toybirds_3stages.yml",
            "gan_options": stages.GENERATOR,
            "sample_options": stages.SAMPLING,
            "evaluate_options": stages.NUMBERS,
            "stop_stage": last,
        }
        words = [str(word) for name, value in (choices | self.changes).items() for word in (f"--{name}", value)]
        variables = {"OMP_NUM_THREADS": "1", "DIE_BEFORE": die_before, "PATH": f"{self.tools}:{os.environ['PATH']}"}
        return subprocess.Popen(
            ["bash", ROOT / "scripts/run.sh", "--dataset", "toybirds", *words],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | variables,
        )

    def kill(self, stage: int, who: str, after: float = 0) -> bool:
        """Start and kill it in `stage`: 'everybody', 'run.sh' alone, or that before it sets the mark `who`.

        after: the share of the stage's longest wait that passes before. False if it had ended before.
        AssertionError for a process that goes on for long afterwards.
        """
        process = self.start(stage, who if who.startswith(".") else "")
        output = ""
        if not who.startswith("."):
            said, seconds = MOMENTS[stage]
            output = _until(process, said)
            time.sleep(after * seconds)
            (os.killpg if who == "everybody" else os.kill)(process.pid, signal.SIGKILL)
        output += process.stdout.read()  # to the end of the last process that writes
        status = process.wait()
        left = ended_soon(lambda: at_work(self.place))
        assert not left, f"killing {who} in stage {stage} left {left} at work\n{output}"
        assert status in (0, -signal.SIGKILL), output
        return status != 0

    def begins(self, stage: int) -> str:
        """What it says up to the beginning of `stage`, before which everybody is killed."""
        process = self.start(stage)
        output = _until(process, f"stage {stage} (")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not ended_soon(lambda: at_work(self.place))
        return output

    def finish(self, last: int = 8) -> str:
        process = self.start(last)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        return output


def _until(process, said: str) -> str:
    """What a process prints up to the line with `said`."""
    output = ""
    while said not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    return output


def killed(place: Path, seed: int) -> tuple[Recipe, int]:
    """A recipe that was killed in every stage and then finished, and how often it was killed."""
    recipe, kills, dice = Recipe(place), 0, random.Random(seed)
    for stage, who in DEATHS.items():
        kills += recipe.kill(stage, who, dice.random())
        compare.contents(place)  # every file is whole
        if stage == 0:
            recipe.finish(0)
            stages.few_captions(recipe.data)
            stages.small_features(recipe.data)
    assert "the page: " in recipe.finish()
    return recipe, kills
