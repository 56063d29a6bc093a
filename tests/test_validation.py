"""What --val_share holds out: by class or by image, the same for equal seeds, never trained on."""

import json

import numpy as np
import pytest
import torch
from gan_set import make_set as make_generator_set
from test_encoder_training import make_set as make_spoken_set

from Audio_to_Image import datasets, train_audio_encoder, trainer
from common import checkpoint, splits, validation
from common.cli import UserError
from common.features import feature_path, load_features
from StackGAN_v2 import main
from StackGAN_v2.data import image_cache
from StackGAN_v2.data.datasets import Batches


def make_split(folder, name, classes, images=3, captions=1):
    data = [
        {"image": f"{kind}/{name}_{i}.jpg", "text": ["words"] * captions, **({"class": kind} if kind else {})}
        for kind in classes
        for i in range(images)
    ]
    (folder / f"{name}.json").write_text(json.dumps({"image_base_path": str(folder), "data": data}))


def sets(folder, train, test, images=3):
    make_split(folder, "train", train, images)
    make_split(folder, "test", test, images)
    return splits.load_split(folder, "train"), splits.load_split(folder, "test")


def names(split, numbers):
    return {split.items[i].class_name for i in numbers}


def test_zero_shot_sets_lose_classes(tmp_path):
    train, test = sets(tmp_path, [f"{i:03d}.a" for i in range(1, 21)], [f"{i:03d}.a" for i in range(21, 25)])
    kept, held = validation.hold_out(train, test, 0.25, 0)
    assert len(names(train, held)) == 5 and len(names(train, kept)) == 15 and len(held) == 15
    assert not names(train, held) & names(train, kept)
    assert sorted([*kept, *held]) == list(range(60)) and (np.diff(held) > 0).all()


def test_other_sets_lose_images_whose_items_stay_together(tmp_path):
    train, test = sets(tmp_path, ["001.a", "002.a"], ["001.a", "002.a"], images=10)
    items = train.items + train.items[:5]  # five images are listed twice
    train = splits.Split("train", train.path, items, train.image_root, None, True)
    kept, held = validation.hold_out(train, test, 0.3, 0)
    images = [{train.items[i].image for i in part} for part in (kept, held)]
    assert len(images[1]) == 6 and len(images[0]) == 14 and not images[0] & images[1]
    assert len(validation.hold_out(train, None, 0.3, 0)[1]) == len(held)


def test_the_choice_depends_on_seed_and_names_not_on_the_order(tmp_path):
    train, test = sets(tmp_path, [f"{i:03d}.a" for i in range(1, 21)], ["030.a"])
    held = names(train, validation.hold_out(train, test, 0.2, 7)[1])
    backwards = splits.Split("train", train.path, train.items[::-1], train.image_root, None, True)
    assert names(backwards, validation.hold_out(backwards, test, 0.2, 7)[1]) == held
    assert any(names(train, validation.hold_out(train, test, 0.2, seed)[1]) != held for seed in range(3))


def test_two_at_least_stay_on_either_side(tmp_path):
    train, test = sets(tmp_path, ["001.a", "002.a", "003.a", "004.a"], ["005.a"])
    assert len(names(train, validation.hold_out(train, test, 0.01, 0)[1])) == 2
    with pytest.raises(UserError, match="--val_share 0.7: .*train.json has 4 classes, too few to train on some"):
        validation.hold_out(train, test, 0.7, 0)


def test_a_subset_keeps_labels_and_has_a_digest_of_its_own(tmp_path):
    train, test = sets(tmp_path, [f"{i:03d}.a" for i in range(1, 9)], ["010.a"])
    kept, held = validation.hold_out(train, test, 0.25, 0)
    part = validation.subset(train, held, "validation")
    assert part.labels == [train.labels[i] for i in held] and part.name == "validation"
    assert len({train.digest(), part.digest(), validation.subset(train, kept, "train").digest()}) == 3
    assert "left out of training" in validation.choice_note(0.25, validation.subset(train, kept, "train"), part)
    assert f"the test split, {test.path}" in validation.choice_note(0, train, test)


# ---- the two trainings ----


def encoder_command(monkeypatch, folder, output, *more):
    words = (
        f"--dataset tiny --data_root {folder.parent} --output_dir {output} --teacher stub --jel_flag --bidirectional"
    )
    words += " --max_frames 128 --batch_size 4 --device cpu --max_steps 4 --eval_every 1 --short_clips skip"
    monkeypatch.setattr("sys.argv", ["train_audio_encoder.py", *words.split(), *map(str, more)])
    return train_audio_encoder.main()


def test_the_encoder_never_sees_what_chooses_its_best_snapshot(tmp_path, monkeypatch):
    folder = make_spoken_set(tmp_path)
    feature_path(folder, "test", "image", "stub").unlink()  # the test split is not measured on
    used = {}
    make = trainer.Trainer.__init__

    def remember(self, network, train, test, *others):
        used.update(train=train, test=test, image=others[0])
        make(self, network, train, test, *others)

    monkeypatch.setattr(trainer.Trainer, "__init__", remember)
    assert encoder_command(monkeypatch, folder, tmp_path / "run", "--val_share", 0.34) == 0
    whole = splits.load_split(folder, "train")
    kept, held = validation.hold_out(whole, splits.load_split(folder, "test"), 0.34, 0)
    assert [item.key for item in used["train"].clips.split.items] == [whole.items[i].key for i in kept]
    assert [item.key for item in used["test"].split.items] == [whole.items[i].key for i in held] and len(held) == 4
    clips = datasets.open_clips(whole, 128, torch.device("cpu"), progress=False)
    for part, numbers in ((used["train"].clips, kept), (used["test"], held)):
        for clip in part.usable:
            path = part.cache.paths[clip]
            assert path in whole.items[numbers[part.items[clip]]].audio
            of_whole = clips.cache.paths.index(path)
            assert of_whole in clips.usable and torch.equal(part.mels([clip]), clips.mels([of_whole]))
    assert len(used["train"].clips.usable) + len(used["test"].usable) == len(clips.usable)
    rows = load_features(feature_path(folder, "train", "image", "stub"), whole, "")
    assert np.allclose(used["image"], np.stack([rows[i].mean(0) for i in held]))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "--val_share 0.34: the best snapshot is chosen on 4 of the 12 training items" in log
    assert "validation: " in log and " test: " not in log
    assert json.loads((tmp_path / "run" / "options.json").read_text())["options"]["val_share"] == 0.34
    assert checkpoint.load(tmp_path / "run" / "best.pth")["meta"]["settings"]["val_share"] == 0.34
    with pytest.raises(UserError, match="training items 8|val_share 0.34"):
        encoder_command(monkeypatch, folder, tmp_path / "run", "--val_share", 0.5)


def test_without_a_share_the_log_says_that_the_test_split_chooses(tmp_path, monkeypatch):
    folder = make_spoken_set(tmp_path)
    assert encoder_command(monkeypatch, folder, tmp_path / "run") == 0
    assert (
        f"the best snapshot is chosen on the test split, {folder / 'test.json'}"
        in (tmp_path / "run" / "log.txt").read_text()
    )
    with pytest.raises(SystemExit):
        encoder_command(monkeypatch, folder, tmp_path / "x", "--val_share", 0.2, "--val_json", folder / "test.json")


def generator_command(monkeypatch, folder, output, *more):
    words = ["--cfg", folder.parent / "tiny.yml", "--data_dir", folder, "--audio_switch", "stub", "--device", "cpu"]
    words += ["--output_dir", output, "--set", "TRAIN.SNAPSHOT_INTERVAL=1", *more]
    monkeypatch.setattr("sys.argv", ["main.py", *map(str, words)])
    return main.main()


def test_the_generator_never_sees_what_chooses_its_best_snapshot(tmp_path, monkeypatch):
    folder = make_generator_set(tmp_path)
    seen, metric = [], {}

    class Kid:
        name = "kid_lite0"

        def __init__(self, name, where, split, rows, *others):
            metric.update(where=where, split=split, rows=rows)

        def __call__(self, generator):
            return 0.5

    call = Batches.__call__

    def remember(self, iteration):
        real, wrong, _ = self.images(iteration)
        seen.append((self, [*real.tolist(), *wrong.tolist()]))
        return call(self, iteration)

    monkeypatch.setattr("StackGAN_v2.training.snapshot_metric.Kid", Kid)
    monkeypatch.setattr(Batches, "__call__", remember)
    share = ["--val_share", 0.3, "--best_by", "kid_lite0"]
    assert not generator_command(monkeypatch, folder, tmp_path / "run", "--max_steps", 3, *share)
    whole = splits.load_split(folder, "train")
    kept, held = validation.hold_out(whole, splits.load_split(folder, "test"), 0.3, 0)
    assert len(held) == 2 and [item.key for item in metric["split"].items] == [whole.items[i].key for i in held]
    rows = load_features(feature_path(folder, "train", "audio", "stub"), whole, "")
    assert all((row == rows[i]).all() for row, i in zip(metric["rows"], held))
    assert metric["where"].parent == folder / "train"  # beside the other caches, never in place of the split's own
    batches = seen[0][0]
    assert {i for _, numbers in seen for i in numbers} <= set(range(5)) and len(batches.cache) == 5
    assert batches.labels.tolist() == [whole.labels[i] for i in kept]
    cache = image_cache.build(whole, folder / "train", 64, progress=False)
    assert torch.equal(batches.cache.start, cache.start[kept])
    assert torch.equal(batches.features.flat, torch.from_numpy(np.concatenate([rows[i] for i in kept])))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "--val_share 0.3: the best snapshot is chosen on 2 of the 7 training items" in log
    with pytest.raises(UserError, match="was made with val_share = 0.3, now it is 0.6"):
        generator_command(monkeypatch, folder, tmp_path / "run", "--max_steps", 4, "--val_share", 0.6)
    with pytest.raises(UserError, match="was made with data set"):
        generator_command(monkeypatch, folder, tmp_path / "run", "--max_steps", 4)
    assert not generator_command(monkeypatch, folder, tmp_path / "other", "--max_steps", 1, "--best_by", "kid_lite0")
    assert "chosen on the test split" in (tmp_path / "other" / "log.txt").read_text()
