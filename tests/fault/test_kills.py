"""Every stage killed at any moment: no half file under a final name, and the same command ends as if nothing was."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import compare
import original_archives
import pytest
import stages
from fork_server import ROOT, at_work, ended_soon
from loopback_files import serving
from test_real_sets import registry_of
from trial import TRAINERS, Trial

# stage → kills before a change of a file drawn by chance, after a share of its time, in the middle of a write; and
# changes before which it is killed in any case, or (1) before the change that follows
KILLS = {
    "data": (1, 0, 1, []),
    "speech": (1, 0, 1, [(r"open .*/\.train[^/]*json$", 0)]),
    "image features": (1, 0, 1, [(r"open .*/\.image_features_[^/]*json$", 0)]),
    "encoder": (
        1,
        0,
        1,
        [(r"rename .*/log_mels\.npy$", 0), (r"rename .*/latest\.pth$", 0), (r"rename .*/resume\.pth$", 1)],
    ),
    "speech features": (1, 0, 1, []),
    "generator": (
        1,
        0,
        1,
        [(r"rename .*/images_64\.npy$", 0), (r"rename .*/latest\.pth$", 0), (r"rename .*/resume\.pth$", 1)],
    ),
    "images": (1, 0, 1, []),
    "speech numbers": (0, 1, 0, []),
    "image numbers": (1, 0, 0, []),
    "report": (0, 1, 1, []),
}


def drawn(trial, name, seed, kills):
    """The kills of a stage that a seed means."""
    by_chance, by_time, in_writes, always = kills
    dice = random.Random(seed + zlib.crc32(name.encode()))
    ended = trial.ended[name]
    for i in range(by_chance):
        yield {"change": int((i + dice.random()) / by_chance * len(ended.changes))}
    for i in range(by_time):
        yield {"after": ended.seconds * (i + dice.random()) / by_time}
    for _ in range(in_writes):
        least = 1 << 14 if name in TRAINERS else 0  # no kill cuts a line of statistics, a single small write
        yield {"at_bytes": max(least, int(trial.sizes[name][-1] * dice.random()))}
    for pattern, later in always if seed == 0 else ():
        found = [number for number, change in enumerate(ended.changes[:-1]) if re.search(pattern, change)]
        assert found, f"{name} has no change '{pattern}' any more"
        yield {"change": dice.choice(found) + later}


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_stage_finishes_as_if_left_alone(name, trial, count, seeds):
    trial.make(name)
    for seed in seeds(0.3 / len(KILLS)):
        for kill in drawn(trial, name, seed, KILLS[name]):
            if trial.survive(name, **kill):
                count("kills")


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def archives(tmp_path_factory, fork_server, server):
    """A trial whose stages fetch CUB and Reed's captions in miniature, and prepare them."""
    folder = tmp_path_factory.mktemp("archives")
    registry_of(server, original_archives.make("birds", folder / "original"), folder / "registry.json")
    fetch = [
        "scripts/download.py",
        "CUB_200_2011",
        "cvpr2016_cub",
        "--registry",
        folder / "registry.json",
        "--retries",
        0,
    ]
    yield Trial(
        folder,
        fork_server,
        lambda place: [
            stages.Stage("download", [*fetch, "--data_root", place / "data"]),
            stages.Stage("prepare", ["scripts/prepare_birds.py", "--any_size", "--output_dir", place / "data/birds"]),
        ],
    )
    shutil.rmtree(folder)


FETCHING = {
    "download": (
        1,
        0,
        1,
        [(r"rename .*/CUB_200_2011\.tgz$", 1), (r"rename .*/CUB_200_2011$", 0), (r"rename .*/CUB_200_2011$", 1)],
    ),
    "prepare": (1, 0, 0, [(r"rename .*/train\.json$", 1)]),
}


@pytest.mark.parametrize("name", FETCHING)
def test_a_killed_download_finishes_as_if_left_alone(name, archives, count, seeds):
    archives.make(name)
    for seed in seeds(0.02):
        for kill in drawn(archives, name, seed, FETCHING[name]):
            if archives.survive(name, **kill):
                count("kills")


@pytest.mark.parametrize("name", ["data", "speech"])
def test_workers_do_not_outlive_their_leader(name, trial, count, seeds):
    trial.make(name)
    for seed in seeds(0.02):
        dice = random.Random(seed)
        if trial.survive(name, jobs=2, alone=True, after=dice.uniform(0.5, 3)):
            count("kills")


def test_a_killed_rank_ends_a_training_without_restarts(trial, count):
    """Two processes over Gloo: the other one does not wait for the dead one for ever, and the reason is told."""
    trial.make("encoder")
    stages.restore(trial.saved("encoder"), trial.place)
    words = [str(word) for word in trial.stages["encoder"].words]
    for option, value in (("--epoch", "1000"), ("--eval_every", "500"), ("--save_every", "500")):
        words[words.index(option) + 1] = value
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "common.distributed.launch",
            "--standalone",
            "--nproc_per_node",
            "2",
            "--max_restarts",
            "0",
            *words,
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = ""
        while "step      3" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        ranks = {
            variables[b"RANK"]: number
            for number in at_work(trial.place)
            if b"RANK" in (variables := environment(number))
        }
        assert set(ranks) == {b"0", b"1"}
        os.kill(ranks[b"1"], signal.SIGKILL)
        output += process.communicate(timeout=90)[0]  # the process group's own patience is ten minutes
    assert process.returncode == 137 and "process 1 was killed (SIGKILL)" in output, output
    assert not ended_soon(lambda: at_work(trial.place))
    compare.contents(trial.place)  # every file is whole
    count("kills")


def environment(process: int) -> dict[bytes, bytes]:
    lines = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return dict(line.split(b"=", 1) for line in lines if b"=" in line)


def test_a_child_may_die_before_its_session_has_begun(fork_server, tmp_path):
    """The process that forks once died of it: there was no such group yet."""
    words = ["scripts/make_toybirds.py", "--classes", "40", "--output_dir", tmp_path / "birds"]
    assert fork_server.run(words, tmp_path, after=0.0).status == 137
    assert fork_server.run(["scripts/report.py", "--help"], tmp_path).status == 0
