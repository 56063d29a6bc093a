"""run.sh as a whole, in processes of its own, killed in every stage."""

import re

import compare
import recipes

# a stop writes a sheet of samples at its own step, which stays
SHEET = re.compile(r"/Image/\d+_\d+\.png$")


def compared(contents: dict, *others: dict) -> dict:
    """Without what a recipe knows of its own stages, resume files, and sheets of samples that `others` do not have."""
    return {
        name: held
        for name, held in contents.items()
        if not name.startswith("output/trial/")
        and "/resume" not in name
        and (not SHEET.search(name) or all(name in other for other in others))
    }


def test_a_recipe_killed_in_every_stage_ends_as_if_left_alone(trial, first_recipe, tmp_path, count, seeds):
    trial.make("image numbers")
    for seed in seeds(0.1):
        recipe, kills = first_recipe.result() if seed == 0 else recipes.killed(tmp_path / f"another place {seed}", seed)
        alone = trial.after["image numbers"]
        expected, found = compared(alone), compared(compare.contents(recipe.place), alone)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
        assert not compare.temporaries(recipe.place)
        assert recipe.finish().count("done before") == 9
        # killed between two stages, a recipe still knows that what follows is to be done again
        recipe.changes = {"sample_options": "--limit 6"}
        assert recipe.kill(7, ".begun_7")
        assert recipe.begins(7).count("done before") == 7
        count("kills", kills + 2)
