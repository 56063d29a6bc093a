"""The stages of a recipe on the smallest set that they take: eight images, 24 sentences, four steps of training."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH = 8  # of the stand-in for teacher features, which makes a small encoder
SWITCH = "efficientnet_lite0"
MAKE = "scripts/make_toybirds.py --classes 4 --test_classes 2 --images_per_class 2 --image_size 48 --jobs 1"
SPEECH = "--jobs 1 --speed 1.6"
TEACHER = "--view_size 32 --jobs 1"
ENCODER = (
    "--jel_flag --l1_flag --distill_flag --bidirectional --max_frames 192 --batch_size 2 --epoch 2 "
    "--eval_every 1 --save_every 1 --log_every 1 --keep 1 --jobs 1"
)
GENERATOR = (
    "--max_steps 4 --tick 1 --set TRAIN.BATCH_SIZE=2 --set TRAIN.SNAPSHOT_INTERVAL=2 --set GAN.GF_DIM=4 "
    "--set GAN.DF_DIM=4 --set GAN.EMBEDDING_DIM=8 --set GAN.Z_DIM=4 --set TRAIN.MATCHER_STEPS=2 --keep 1"
)
SAMPLING = "--all_sizes --limit 12 --batch_size 5"
NUMBERS = "--metrics kid,class --lite0_size 32 --quiet"
CFG = "StackGAN_v2/cfg/toybirds_3stages.yml"


@dataclass(frozen=True)
class Stage:
    """words: the command file and its options."""

    name: str
    words: list


def stages(place: Path) -> list[Stage]:
    """All stages, as run.sh starts them, with data sets in `place`/data and runs in `place`/output."""
    data, root = place / "data/toybirds", place / "data"
    encoder = place / "output/Audio_to_Image/log/trial_speech_encoder"
    generator = place / "output/StackGAN_v2/trial_speech_encoder"
    common = ["--dataset", "toybirds", "--data_root", root]
    cpu = ["--device", "cpu"]
    gan = ["StackGAN_v2/main.py", "--cfg", CFG]
    gan_data = ["--audio_switch", SWITCH, "--data_dir", data, *cpu]
    return [
        Stage("data", [*MAKE.split(), "--output_dir", data]),
        Stage("speech", ["Audio_to_Image/text_to_speech.py", *common, "--engine", "espeak", *SPEECH.split()]),
        Stage(
            "image features",
            ["Audio_to_Image/prepare_image_feature.py", *common, "--teacher", SWITCH, *cpu, *TEACHER.split()],
        ),
        Stage(
            "encoder",
            [
                "Audio_to_Image/train_audio_encoder.py",
                *common,
                "--output_dir",
                encoder,
                "--teacher",
                SWITCH,
                *cpu,
                "--manualSeed",
                "0",
                *ENCODER.split(),
            ],
        ),
        Stage(
            "speech features",
            [
                "Audio_to_Image/extract_audio_feature.py",
                "--model",
                encoder / "latest.pth",
                "--audio_switch",
                SWITCH,
                *common,
                *cpu,
                "--jobs",
                "1",
            ],
        ),
        Stage("generator", [*gan, "--output_dir", generator, *gan_data, "--manualSeed", "0", *GENERATOR.split()]),
        Stage(
            "images",
            [
                *gan,
                "--set",
                "TRAIN.FLAG=False",
                "--eval_net_g",
                generator / "Model/latest.pth",
                *gan_data,
                *SAMPLING.split(),
            ],
        ),
        Stage(
            "speech numbers",
            ["Audio_to_Image/evaluate.py", "--model", encoder / "latest.pth", *common, "--teacher", SWITCH, *cpu],
        ),
        Stage(
            "image numbers",
            [
                "StackGAN_v2/evaluate.py",
                "--images",
                generator / "Model/iteration4/single_samples/valid",
                "--data_dir",
                data,
                *cpu,
                *NUMBERS.split(),
            ],
        ),
        Stage(
            "report",
            ["scripts/report.py", place / "output/trial", *common, "--output", place / "output/trial/index.html", *cpu],
        ),
    ]


def few_captions(data: Path, most: int = 3) -> None:
    """Split files whose images have at most so many sentences."""
    from common.files import read_json, write_json

    for name in ("train", "test"):
        content = read_json(data / f"{name}.json")
        write_json(
            data / f"{name}.json",
            content | {"data": [item | {"text": item["text"][:most]} for item in content["data"]]},
        )


def small_features(data: Path) -> None:
    """Published image features of a narrow teacher: files without a description, which are used as they are."""
    from common.features import feature_path, save_features
    from common.splits import load_split

    for number, name in enumerate(("train", "test")):
        split = load_split(data, name)
        path = feature_path(data, name, "image", SWITCH)
        save_features(path, np.random.default_rng(number).normal(size=(len(split.items), 10, WIDTH)), split)
        path.with_suffix(".json").unlink()


def restore(saved: Path, place: Path) -> None:
    """Make `place` what it was when it was copied to `saved`, times of change included."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved, place, symlinks=True)
