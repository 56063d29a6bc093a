"""Batches, caches and the training loop of the generator: exact continuation, published crops, files left behind."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import checkpoint
from common.cli import UserError
from common.features import feature_path, save_features
from common.splits import load_split
from StackGAN_v2 import image_cache, sampler
from StackGAN_v2.config import load_config
from StackGAN_v2.datasets import Order, OtherClass, SpeechFeatures
from StackGAN_v2.model import load_generator
from StackGAN_v2.trainer import Networks

ROOT = Path(__file__).resolve().parent.parent
CFG = """
DATASET_NAME: tiny
TREE: {BRANCH_NUM: 3, BASE_SIZE: 16}
TRAIN: {BATCH_SIZE: 4, MAX_EPOCH: 50, SNAPSHOT_INTERVAL: 3, EMA: 0.5, COEFF: {UNCOND_LOSS: 1, CAL_LOSS: 1, COLOR_LOSS: 1}}
GAN: {DF_DIM: 4, GF_DIM: 8, Z_DIM: 5, EMBEDDING_DIM: 6}
"""


def make_set(root: Path, items: int = 7) -> Path:
    """A set in the birds' form: pictures of several shapes, bounding boxes, uneven numbers of captions."""
    rng, folder = np.random.default_rng(0), root / "tiny"
    (folder / "CUB/images/1").mkdir(parents=True)
    names = [f"1/{name}_{i}.png" for name in ("train", "test") for i in range(items)]
    boxes = []
    for number, name in enumerate(names):
        size = (90 + 5 * number, 80)
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / "CUB/images" / name)
        boxes.append(f"{number + 1} {20 + number}.0 10.0 40.0 30.0")
    (folder / "CUB/images.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    (folder / "CUB/bounding_boxes.txt").write_text("\n".join(boxes))
    for offset, name in ((0, "train"), (items, "test")):
        data = [{"image": image, "class": f"{i % 3 + 1:03d}.kind", "text": ["words"] * (1 + i % 2)}
                for i, image in enumerate(names[offset:offset + items])]
        (folder / f"{name}.json").write_text(json.dumps({"image_base_path": str(folder / "CUB"), "data": data}))
        rows = [rng.standard_normal((1 + i % 2, 9)) for i in range(items)]
        save_features(feature_path(folder, name, "audio", "stub"), rows, load_split(folder, name))
    (root / "tiny.yml").write_text(CFG)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("with space 'and quote'"))


def run_main(folder, *words, status=0):
    """The command, in this process: its output folder is given as a path."""
    from StackGAN_v2 import main
    argv = ["main.py", "--cfg", str(folder.parent / "tiny.yml"), "--data_dir", str(folder), "--audio_switch", "stub",
            "--device", "cpu", "--precision", "fp32", *map(str, words)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        assert (main.main() or 0) == status


def test_the_stream_of_images_visits_every_one_before_any_again():
    order = Order(5, seed=3)
    whole = order.indices(0, 20)
    assert all(sorted(whole[i:i + 5].tolist()) == list(range(5)) for i in range(0, 20, 5))
    assert len({tuple(whole[i:i + 5].tolist()) for i in range(0, 20, 5)}) > 1
    pieces = torch.cat([Order(5, seed=3).indices(first, count) for first, count in ((0, 3), (3, 11), (14, 6))])
    assert torch.equal(pieces, whole)
    assert not torch.equal(Order(5, seed=4).indices(0, 20), whole)


def test_wrong_pictures_are_of_another_class_and_equally_likely():
    labels = [2, 0, 2, 1, 0, 2]
    images = torch.arange(6).repeat_interleave(600)
    drawn = OtherClass(labels).draw(images, torch.linspace(0, 1 - 1e-7, 600).repeat(6))
    for image, label in enumerate(labels):
        others = [i for i, other in enumerate(labels) if other != label]
        counts = torch.bincount(drawn[images == image], minlength=6)
        assert counts[others].tolist() == pytest.approx([600 / len(others)] * len(others), abs=2)
        assert int(counts.sum()) == int(counts[others].sum())
    with pytest.raises(UserError, match="single class"):
        OtherClass([1, 1])


def test_a_caption_is_picked_from_its_own_image():
    rows = [np.full((count, 2), 10.0 * i, np.float32) + np.arange(count)[:, None] for i, count in enumerate((3, 1, 2))]
    features = SpeechFeatures([row.astype(np.float32) for row in rows])
    picked = features.pick(torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0.0, 0.5, 0.9999999, 0.9, 0.4, 0.6]))
    assert picked[:, 0].tolist() == [0, 1, 2, 10, 20, 21]


def test_crop_box_by_hand():
    assert image_cache.crop_box((200, 100), (80, 40, 40, 20)) == (70, 20, 130, 80)      # centre (100, 50), half 30
    assert image_cache.crop_box((200, 100), (0, 0, 40, 20)) == (0, 0, 50, 40)           # clipped at the corner


def test_cached_batches_equal_the_pillow_path(folder):
    """Crop, mirror and the smaller sizes on the device against Pillow, one picture at a time."""
    split = load_split(folder, "train")
    cache = image_cache.build(split, folder / "train", 64, jobs=1, progress=False)
    offsets = torch.tensor([[0.0, 0.999], [0.5, 0.3], [0.7, 0.0]])
    mirror, indices, sizes = torch.tensor([False, True, False]), torch.tensor([0, 3, 6]), [16, 32, 64]
    batch = cache.batch(indices, offsets, mirror, sizes)
    boxes = image_cache.bounding_boxes(split)
    for n, index in enumerate(indices.tolist()):
        item = split.items[index]
        stored = Image.fromarray(image_cache.prepare(item.image, boxes[item.key], 76))
        assert min(stored.size) == 76
        top, left = (int(offsets[n, i] * (stored.size[1 - i] - 63)) for i in (0, 1))
        crop = stored.crop((left, top, left + 64, top + 64))
        crop = crop.transpose(Image.FLIP_LEFT_RIGHT) if mirror[n] else crop
        for size, pictures in zip(sizes, batch):
            expected = np.asarray(crop.resize((size, size), Image.BILINEAR), np.float32)
            found = (pictures[n].permute(1, 2, 0).numpy() + 1) * 127.5
            assert np.abs(found - expected).max() <= (1e-4 if size == 64 else 1.001)


def test_the_cache_is_rebuilt_when_a_picture_changes(folder):
    split = load_split(folder, "test")
    build = lambda: image_cache.build(split, folder / "test", 64, jobs=1, progress=False)      # noqa: E731
    first = build().pixels.clone()
    Image.new("RGB", (100, 80), "red").save(split.items[0].image)
    assert not torch.equal(build().pixels, first)
    (folder / "test" / "images_64.npy").write_bytes(b"cut")
    (folder / "test" / "images_64.json").unlink()
    assert len(build()) == len(split.items)


def test_two_runs_of_three_steps_equal_one_of_six(folder, tmp_path):
    run_main(folder, "--output_dir", tmp_path / "whole", "--max_steps", 6)
    run_main(folder, "--output_dir", tmp_path / "halves", "--max_steps", 2)
    run_main(folder, "--output_dir", tmp_path / "halves", "--max_steps", 6)
    whole, halves = (checkpoint.load(tmp_path / name / "resume.pth") for name in ("whole", "halves"))
    assert whole["iteration"] == 6
    for name in ("generator", "average", "discriminator0", "discriminator2"):
        assert all(torch.equal(whole[name][key], halves[name][key]) for key in whole[name])
    for name in ("optimiser_g", "optimiser_d1"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(whole[name]["state"].values(),
                                                               halves[name]["state"].values()) for key in a)


def test_what_a_run_leaves(folder, tmp_path):
    """Snapshot = average, not the live generator; sheets of every size; one line of numbers a tick; then pictures."""
    run = tmp_path / "run"
    run_main(folder, "--output_dir", run, "--max_steps", 4, "--tick", 2)
    content = checkpoint.load(run / "resume.pth")
    snapshot = checkpoint.load(run / "Model" / "netG_4.pth")
    assert all(torch.equal(snapshot[key], content["average"][key]) for key in snapshot)
    assert not torch.equal(snapshot["h_net1.fc.0.weight"], content["generator"]["h_net1.fc.0.weight"])
    assert (run / "Model" / "latest.pth").resolve() == (run / "Model" / "netG_4.pth").resolve()
    assert {path.name for path in (run / "Image").iterdir()} == {
        f"{size}_{step:06d}.png" for size in (16, 32, 64) for step in (0, 3, 4)}
    ticks = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [tick["step"] for tick in ticks] == [2, 3, 4]
    assert {"D0", "D1", "D2", "G", "KL", "CAL0", "color1"} <= ticks[0].keys()

    paint = ["--set", "TRAIN.FLAG=False", "--eval_net_g", run / "Model" / "latest.pth"]
    run_main(folder, *paint)
    valid = run / "Model" / "iteration4" / "single_samples" / "valid"
    names = sorted(path.name for path in valid.rglob("*.png"))
    assert names == sorted(f"test_{i}.png_64_sentence{k}_0.png" for i in range(7) for k in range(1 + i % 2))
    first = valid / "1" / "test_0.png_64_sentence0_0.png"
    before = first.read_bytes()
    first.unlink()
    others = {path: path.stat().st_mtime_ns for path in valid.rglob("*.png")}
    run_main(folder, *paint, "--batch_size", 3)
    assert first.read_bytes() == before                                     # the same noise in any batch
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())
    run_main(folder, *paint, "--all_sizes", "--manualSeed", 1)
    assert first.read_bytes() != before and len(list(valid.rglob("*.png"))) == 30


def test_a_stop_signal_leaves_a_resume_file(folder, tmp_path):
    run = tmp_path / "run"
    words = ["--cfg", folder.parent / "tiny.yml", "--data_dir", folder, "--audio_switch", "stub", "--device", "cpu",
             "--output_dir", run, "--max_steps", 100000, "--tick", 1, "--set", "TRAIN.SNAPSHOT_INTERVAL=100000",
             "--set", "TRAIN.MAX_EPOCH=100000"]
    process = subprocess.Popen([sys.executable, str(ROOT / "StackGAN_v2" / "main.py"), *map(str, words)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("iteration 3 "):
            process.terminate()
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    assert checkpoint.load(run / "resume.pth")["iteration"] >= 3


def test_the_average_follows_the_weights(folder):
    cfg = load_config(folder.parent / "tiny.yml")
    networks = Networks(cfg, 9, torch.device("cpu"))
    before = networks.average.h_net1.fc[0].weight.clone()
    with torch.no_grad():
        networks.generator.h_net1.fc[0].weight += 1
        networks.generator.h_net1.fc[1].running_mean += 3
    networks.update_average(0.75)
    torch.testing.assert_close(networks.average.h_net1.fc[0].weight, before + 0.25)
    assert torch.equal(networks.average.h_net1.fc[1].running_mean, networks.generator.h_net1.fc[1].running_mean)


def test_losses_that_are_not_finite_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"iteration 0: the loss term D0 is nan.*train_\d"):
        features = feature_path(folder, "train", "audio", "stub")
        kept = features.read_bytes()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("StackGAN_v2.losses.d_loss", lambda *a: sum(x[0].sum() for x in a[:3]) * float("nan"))
                run_main(folder, "--output_dir", tmp_path / "run", "--max_steps", 2)
        finally:
            features.write_bytes(kept)
    assert not (tmp_path / "run" / "resume.pth").exists()


@pytest.mark.parametrize("words, sentence", [
    (["--set", "TRAIN.BATCH=3"], "unknown key TRAIN.BATCH"),
    (["--set", "TRAIN.BATCH_SIZE=x"], "TRAIN.BATCH_SIZE is 'x'; expected a whole number"),
    (["--set", "TRAIN=3"], "TRAIN is a group of keys"),
    (["--set", "TREE.BRANCH_NUM=4"], "TREE.BRANCH_NUM is 4; known are 1, 2, 3"),
    (["--set", "TRAIN.FLAG=False"], "--eval_net_g is missing"),
    (["--audio_switch", "other"], "extract_audio_feature.py"),
    (["--resume", "/nowhere.pth"], "/nowhere.pth does not exist"),
    (["--device", "tpu"], "--device tpu: not a device"),
])
def test_mistakes_get_one_sentence(folder, tmp_path, words, sentence):
    with pytest.raises(UserError, match=sentence):
        run_main(folder, "--output_dir", tmp_path / "run", *words)
    assert not list(tmp_path.rglob("*.pth"))


def test_other_settings_do_not_resume(folder, tmp_path):
    run_main(folder, "--output_dir", tmp_path, "--max_steps", 1)
    with pytest.raises(UserError, match="made with seed = 0, now it is 5"):
        run_main(folder, "--output_dir", tmp_path, "--max_steps", 2, "--manualSeed", 5)


def test_a_generator_and_features_of_other_widths_do_not_meet(folder, tmp_path):
    from StackGAN_v2.model import Generator
    checkpoint.save(tmp_path / "netG_1.pth", Generator(1, 16, 4, 5, 6, 10).state_dict())
    with pytest.raises(UserError, match="width 10, but --audio_switch stub has 9"):
        run_main(folder, "--set", "TRAIN.FLAG=False", "--eval_net_g", tmp_path / "netG_1.pth")


def test_pixels_and_grids_by_hand():
    assert sampler.to_pixels(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 128, 255]
    sheet = sampler.grid(np.zeros((3, 2, 2, 3), np.uint8), columns=2, gap=1)
    assert sheet.shape == (5, 5, 3) and sheet[2].min() == 255 and sheet[:2, :2].max() == 0 and sheet[3:, 3:].min() == 255


def test_settings_files(tmp_path):
    published = load_config(ROOT / "StackGAN_v2" / "cfg" / "birds_3stages.yml")
    assert (published.TRAIN.BATCH_SIZE, published.TRAIN.COEFF.CAL_LOSS, published.TRAIN.GENERATOR_LR) == (24, 50.0, 2e-4)
    assert all(load_config(path) for path in (ROOT / "StackGAN_v2" / "cfg").glob("*.yml"))
    for text, words in (("a: [", "not YAML"), ("- 1", "holds no settings"), ("!!python/object/apply:os.getcwd []", "YAML"),
                        ("TRAIN: {EMA: 1.5}", "EMA is 1.5"), ("GAN: {GF_DIM: 6}", "must divide by 4")):
        (tmp_path / "x.yml").write_text(text)
        with pytest.raises(UserError, match=words):
            load_config(tmp_path / "x.yml")
