"""Every stage killed at any moment: no half file under a final name, and the same command ends as if nothing had been."""
import random
import re
import shutil
import zlib

import pytest

import compare
import stages
from nursery import Nursery
from recipes import Recipe
from trial import Trial

# stage → kills before a change of a file drawn by chance, after a share of its time, in the middle of a write; and
# changes before which it is killed in any case, or (1) before the change that follows
KILLS = {
    "data": (2, 0, 1, []),
    "speech": (2, 0, 1, [(r"open .*/\.train[^/]*json$", 0)]),
    "image features": (1, 0, 1, [(r"open .*/\.image_features_[^/]*json$", 0)]),
    "encoder": (1, 1, 1, [(r"rename .*/log_mels\.npy$", 0), (r"rename .*/latest\.pth$", 0),
                          (r"rename .*/resume\.pth$", 1)]),
    "speech features": (2, 0, 1, []),
    "generator": (1, 1, 1, [(r"rename .*/images_64\.npy$", 0), (r"rename .*/latest\.pth$", 0),
                            (r"rename .*/resume\.pth$", 1)]),
    "pictures": (2, 0, 1, []),
    "speech numbers": (0, 1, 0, []),
    "picture numbers": (2, 0, 0, []),
    "report": (0, 1, 1, []),
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    with Nursery() as nursery:
        yield Trial(folder, nursery)
    shutil.rmtree(folder)


def drawn(trial, name, seed):
    """The kills of a stage that a seed means."""
    by_chance, by_time, in_writes, always = KILLS[name]
    dice = random.Random(seed + zlib.crc32(name.encode()))
    ended = trial.ended[name]
    for i in range(by_chance):
        yield {"change": int((i + dice.random()) / by_chance * len(ended.changes))}
    for i in range(by_time):
        yield {"after": ended.seconds * (i + dice.random()) / by_time}
    for _ in range(in_writes):
        yield {"at_bytes": int(trial.sizes[name][-1] * dice.random())}
    for pattern, later in always if seed == 0 else ():
        found = [number for number, change in enumerate(ended.changes[:-1]) if re.search(pattern, change)]
        assert found, f"{name} has no change '{pattern}' any more"
        yield {"change": dice.choice(found) + later}


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_stage_finishes_as_if_left_alone(name, trial, count, seeds):
    trial.make(name)
    for seed in seeds(0.5 / len(KILLS)):
        for kill in drawn(trial, name, seed):
            if trial.survive(name, **kill):
                count("kills")


# ---- run.sh as a whole, in processes of its own ---------------------------------------------------------------------

# stage in which run.sh is killed → who dies: everybody, run.sh alone, or that just before it sets a mark
DEATHS = {0: "everybody", 1: "run.sh", 2: ".done_2", 3: "everybody", 4: ".begun_4", 5: "run.sh", 6: "everybody",
          7: "run.sh", 8: ".done_8"}


def test_a_recipe_killed_in_every_stage_ends_as_if_left_alone(trial, tmp_path, count, seeds):
    trial.make("picture numbers")
    for seed in seeds(0.2):
        recipe = Recipe(tmp_path / f"another place {seed}")
        for stage, who in DEATHS.items():
            recipe.kill(stage, who, random.Random(seed + stage))
            count("kills")
            compare.contents(recipe.place)         # every file is whole
            if stage == 0:
                recipe.finish(0)
                stages.few_captions(recipe.data)
                stages.small_features(recipe.data)
        assert "the page: " in recipe.finish()
        expected, found = (
            {name: held for name, held in contents.items()
             if not name.startswith("output/trial/") and "/resume" not in name}
            for contents in (trial.after["picture numbers"], compare.contents(recipe.place)))
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
        assert not compare.temporaries(recipe.place)
        assert recipe.finish().count("done before") == 9
