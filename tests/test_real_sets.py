"""`bash scripts/<set>.sh` from the original archives, in miniature and on loopback, to samples and metrics."""

import hashlib
import json
import math
import resource
import subprocess
import sys

import numpy as np
import original_archives
import pytest
import yaml
from fault.stages import WIDTH, small_features
from loopback_files import serving
from PIL import Image
from test_recipe import TINY, bash
from toy_caffemodel import caffemodel, random_weights

from common import ROOT
from common.features import feature_path, load_features
from common.splits import load_split
from scripts.data.download.registry import BUILT_IN

SHARED = {name: TINY[name] for name in ("device", "encoder_options", "extract_options", "evaluate_options")}
SHARED["gan_options"] = TINY["gan_options"] + " --set TREE.BASE_SIZE=16"
SPEECH = {"engine": "espeak", "speech_options": "--jobs 1"}
LITE0 = {"teacher": "efficientnet_lite0", "teacher_options": "--view_size 64 --jobs 1"}
CHANGES = {
    "birds": SPEECH | {"teacher_options": "--jobs 1"},  # through GoogLeNet, here with random weights
    "flowers": SPEECH | LITE0,
    "places": LITE0,
    "flickr8k": LITE0 | {"evaluate_options": "--metrics fid,kid --lite0_size 64 --quiet"},
}  # without classes
LOCAL = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
# images to learn from, images to test on, captions an image
SIZES = {"birds": (4, 2, 10), "flowers": (7, 2, 10), "places": (35, 14, 1), "flickr8k": (12, 2, 5)}
SAMPLE = {
    "birds": "023.Brandt_Cormorant/Brandt_Cormorant_0002_2001.jpg_64_sentence9_0.png",
    "flowers": "image_00005.jpg_64_sentence9_0.png",
    "places": "dinette/home/gsun_0000002c.jpg_64_sentence0_0.png",
    "flickr8k": "1015_693b08cb0e.jpg_64_sentence4_0.png",
}


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def googlenet():
    return caffemodel(random_weights(), "V1")


def registry_of(server, files: dict[str, bytes], path) -> None:
    """Write a registry file in which these names, otherwise as they are, lead to `files` on loopback."""
    entries = {}
    for name, body in files.items():
        server.files[f"/{name}"] = body
        known = yaml.safe_load(BUILT_IN.read_text())[name]
        kept = ("purpose", "goal", "licence", "file", "unpack", "needs")
        entries[name] = {key: known[key] for key in kept if key in known}
        entries[name] |= {"urls": [server.url(f"/{name}")], "size": len(body), "md5": hashlib.md5(body).hexdigest()}
    # the FID's network is not to be had: every recipe goes on without it
    known = yaml.safe_load(BUILT_IN.read_text())["fid_inception"]
    entries["fid_inception"] = {**known, "urls": [server.url("/nowhere.pth")]}
    path.write_text(json.dumps(entries))


def recipe(name, place, registry, *words):
    options = (
        SHARED
        | CHANGES[name]
        | {
            "prepare": f"./scripts/prepare_{name}.py --any_size",
            "download_options": f"--registry {registry} --retries 0",
        }
    )
    words = [*words, *(word for option, value in options.items() for word in (f"--{option}", value))]
    return bash(
        ROOT / f"scripts/{name}.sh",
        "--data_root",
        place / "my data",
        "--output_root",
        place / "it's out",
        *(() if "--stop_stage" in words else ("--stop_stage", 7)),
        *words,
        **LOCAL,
    )


@pytest.mark.parametrize("name", CHANGES)
def test_one_command_from_the_archives_to_samples(name, server, googlenet, tmp_path):
    registry, place = tmp_path / "registry.json", tmp_path / "it's a place"
    archives = original_archives.make(name, tmp_path / "original")
    by_hand = archives if name == "places" else {}
    registry_of(server, {"googlenet": googlenet} | (archives if not by_hand else {}), registry)
    data = place / "my data" / ("Places_subset" if name == "places" else name)
    if by_hand:
        get_by_hand(place, registry, archives["Places_audio"], tmp_path)
    if name != "birds":  # which alone trains at the full width of the teacher's features
        result = recipe(name, place, registry, "--stop_stage", 2)
        assert result.returncode == 0 and "going on without fid_inception" in result.stderr, (
            result.stdout + result.stderr
        )
        check_features(name, data, "image")
        small_features(data)
    result = recipe(name, place, registry)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "going on without fid_inception" in result.stderr or name != "birds"
    for kind in ("image", "audio"):
        check_features(name, data, kind, None if name == "birds" else WIDTH)
    out, tag = place / "it's out", data.name
    check_samples(name, data, out / f"StackGAN_v2/{tag}_speech_encoder/Model/iteration2")
    speech = json.loads((out / f"Audio_to_Image/log/{tag}_speech_encoder/metric-speech.jsonl").read_text())
    assert speech["captions"] == SIZES[name][1] * SIZES[name][2]
    assert ("accuracy" in speech) == (name != "flickr8k")
    seen = len(server.requests)
    result = recipe(name, place, registry, "--download", "")  # how the archives came makes no stage run again
    stages = 8 if "engine" in CHANGES[name] else 7
    assert result.returncode == 0 and result.stdout.count("done before") == stages, result.stdout + result.stderr
    assert len(server.requests) == seen


def get_by_hand(place, registry, archive: bytes, folder) -> None:
    """Places: without its archive the recipe says how to get it; then what a person does who has it."""
    result = recipe("places", place, registry)
    assert result.returncode == 2 and "fill in the form" in result.stderr and "Traceback" not in result.stderr
    assert not list(place.rglob(".done_0")) and not list(place.rglob("train.json"))
    copy = folder / "PlacesAudio_400k_distro.tar.gz"
    copy.write_bytes(archive)
    subprocess.run(
        [sys.executable, "scripts/download.py", "Places_audio", "--archive", copy, "--data_root", place / "my data"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (folder / "original/images256").rename(place / "my data/Places_subset/images256")


def check_features(name, data, kind, width=None) -> None:
    """Teacher or speech features of every image and caption, whose shapes show how many captions an image has."""
    train, test, captions = SIZES[name]
    teacher, teacher_width = ("googlenet_caffe", 1024) if name == "birds" else ("efficientnet_lite0", 1280)
    for part, count in (("train", train), ("test", test)):
        split = load_split(data, part)
        assert len(split.items) == count and split.has_classes == (name != "flickr8k")
        features = load_features(feature_path(data, part, kind, teacher), split, "the recipe")
        rows = 10 if kind == "image" else captions
        assert len(features) == count and {one.shape for one in features} == {(rows, width or teacher_width)}
        assert np.isfinite(np.concatenate(features)).all() and np.concatenate(features).std() > 0


def check_samples(name, data, iteration) -> None:
    """One image of 64 pixels for every test sentence, under the published name; numbers that are numbers."""
    split, folder = load_split(data, "test"), iteration / "single_samples/valid"
    samples = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(samples) == {
        f"{item.image.relative_to(split.image_root)}_64_sentence{k}_0.png"
        for item in split.items
        for k in range(SIZES[name][2])
    }
    assert SAMPLE[name] in samples and len(samples) == SIZES[name][1] * SIZES[name][2]
    assert {Image.open(path).size for path in samples.values()} == {(64, 64)}
    metrics = json.loads((iteration / "metrics.json").read_text())
    assert len(metrics) >= 2 and all(math.isfinite(record["value"]) for record in metrics.values())


def test_a_folder_of_cubs_size_is_prepared_in_2_gib(tmp_path):
    original_archives.make_whole_cub(tmp_path / "birds")
    result = subprocess.run(
        [sys.executable, "scripts/prepare_birds.py", "--output_dir", tmp_path / "birds"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    said = result.stdout
    assert result.returncode == 0, said + result.stderr
    assert "8,855 images of 150 classes, 88,550 captions" in said
    assert "2,933 images of 50 classes, 29,330 captions" in said
