"""Images of recordings and sentences: bounded batches, names of any length, files of others that stay."""

import os
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from common import files
from common.cli import UserError
from common.splits import load_split
from StackGAN_v2 import interpolation, sampler
from StackGAN_v2.model import Generator, init_weights
from StackGAN_v2.networks.affine import AffineGenerator
from StackGAN_v2.networks.exemplar import ExemplarGenerator, Sizes


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return Generator(2, 16, 8, 4, 5, 6).apply(init_weights).eval()


def inputs(*names):
    torch.manual_seed(1)
    return [(name, torch.randn(6)) for name in names]


def options(folder, seeds=(0,), all_sizes=False):
    return Namespace(output_dir=folder, seeds=list(seeds), all_sizes=all_sizes, img_filename_base=None)


def pixels(path):
    return np.asarray(Image.open(path), int)


def test_many_seeds_are_generated_a_few_at_a_time(generator, tmp_path, monkeypatch):
    sizes, generate = [], sampler.generate
    monkeypatch.setattr(sampler, "generate", lambda *given: sizes.append(len(given[1])) or generate(*given))
    paths = list(interpolation._infer(options(tmp_path, range(20)), generator, inputs("a", "b")))
    assert [path.name for path in paths] == [f"{name}_seed{seed}.png" for name in "ab" for seed in range(20)]
    assert sizes == [8, 8, 4] * 2
    (alone,) = interpolation._infer(options(tmp_path / "alone", [13]), generator, inputs("a", "b")[1:])
    assert np.abs(pixels(alone) - pixels(tmp_path / "b_seed13.png")).max() <= 1
    assert len({path.read_bytes() for path in paths}) == 40


@pytest.mark.parametrize("name", ["affine", "exemplar"])
def test_a_generator_of_one_image_does_the_same(tmp_path, name):
    sizes = Sizes(32, regions=2, colours=3, width=4, hidden=4, z_dim=9, text_dim=6, condition_dim=5)
    generator = AffineGenerator([8, 8, 4, 4], 4, 6, 5, 3) if name == "affine" else ExemplarGenerator(sizes, 3)
    generator.eval()
    (image,) = interpolation._infer(options(tmp_path, all_sizes=True), generator, inputs("a"))
    *images, strip = interpolation._interpolate(options(tmp_path), generator, inputs("a", "b"), 3)
    assert pixels(image).shape == (32, 32, 3) and len(images) == 3 and pixels(strip).shape == (32, 100, 3)
    assert np.abs(pixels(image) - pixels(images[0])).max() <= 1


@pytest.mark.parametrize("steps", [2, 11, 25])
def test_a_line_has_any_number_of_steps(generator, tmp_path, steps):
    *images, strip = interpolation._interpolate(options(tmp_path), generator, inputs("a", "b"), steps)
    assert [path.name for path in images] == [f"a_to_b_seed0_{step:02d}.png" for step in range(steps)]
    assert pixels(strip).shape == (32, 34 * steps - 2, 3)
    for step in (0, steps - 1):
        assert (pixels(strip)[:, 34 * step :][:, :32] == pixels(images[step])).all()


@pytest.mark.parametrize("name", ["a" * 250, "鳥" * 84, "x\udcff" * 100])
def test_long_names_are_cut_by_bytes(generator, tmp_path, name):
    name = files.shortened(name, interpolation.NAME_BYTES)
    assert 170 < len(os.fsencode(name)) <= 180
    paths = [
        *interpolation._infer(options(tmp_path, [12345678], True), generator, inputs(name)),
        *interpolation._interpolate(options(tmp_path, [12345678], True), generator, inputs(name, name + "_")),
    ]
    assert all(path.is_file() for path in paths) and len(set(paths)) == 2 + 23
    assert len(interpolation._file_name("鳥 " * 200).encode()) <= 80


def test_files_of_others_are_never_replaced(generator, tmp_path):
    own = list(interpolation._infer(options(tmp_path, [0, 1], True), generator, inputs("a")))
    assert list(interpolation._infer(options(tmp_path, [0, 1], True), generator, inputs("a"))) == own  # ours are
    for name in ("a_seed2.png", "a_seed2_16.png", "a_to_b_seed2_03.png", "a_to_b_seed2_strip.png"):
        Image.new("RGB", (5, 5)).save(tmp_path / name)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for command, names in ((interpolation._infer, "a"), (interpolation._interpolate, "ab")):
            if ("_to_" in name) == (names == "ab"):
                with pytest.raises(UserError, match=f"{name} is there and was not written by this project"):
                    list(command(options(tmp_path, [1, 2], True), generator, inputs(*names)))
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        (tmp_path / name).unlink()
    (tmp_path / "a_seed0.png").unlink()
    (tmp_path / "a_seed0.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a_seed0.png"):
        list(interpolation._infer(options(tmp_path), generator, inputs("a")))


def test_sampling_a_split_leaves_files_of_others(generator, tmp_path):
    """A folder without a samples.json is not ours; in one of ours, other files stay when the images are made again."""
    from gan_set import make_set

    split = load_split(make_set(tmp_path), "test")
    rows = [
        np.random.default_rng(i).standard_normal((len(item.texts), 6)).astype(np.float32)
        for i, item in enumerate(split.items)
    ]
    folder = tmp_path / "run" / "single_samples" / "valid"

    def sample(**how):
        return sampler.sample_split(generator, split, rows, folder, sampler.Sampling(progress=False, **how))

    published = folder / sampler.image_name(split, split.items[0], 32, 0)
    published.parent.mkdir(parents=True)
    published.write_bytes(b"of someone else")
    with pytest.raises(UserError, match="holds files, but .*samples.json does not say"):
        sample()
    assert published.read_bytes() == b"of someone else" and not (folder.parent / "samples.json").exists()
    published.unlink()
    assert sample() == (10, 0) and sample() == (0, 10)
    (folder / "notes.txt").write_text("mine")
    assert sample(seed=1, limit=4, all_sizes=True) == (4, 0)
    assert (folder / "notes.txt").read_text() == "mine" and len(list(folder.rglob("*.png"))) == 8
