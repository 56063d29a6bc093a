"""Sets, settings and weights in the published forms go through the published commands as these are written."""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import published_set
import pytest
from PIL import Image

from Audio_to_Image import extract_audio_feature, prepare_image_feature
from Audio_to_Image.speech_encoder import CNNRNN, load_encoder
from common import checkpoint
from common.features import find_features, load_features
from common.splits import data_dir, load_split, load_split_file

ROOT = Path(__file__).resolve().parent.parent
CODE = ("Audio_to_Image", "StackGAN_v2", "common", "scripts", "run_audio_encoder.sh")
RUN = "./output/Audio_to_Image/log/birds_speech_encoder"
CFG = """
CONFIG_NAME: '3stages'
DATASET_NAME: 'birds'
EMBEDDING_TYPE: 'cnn-rnn'
DATA_DIR: './data/birds'
GPU_ID: '0'
WORKERS: 8
TREE: {BRANCH_NUM: 3}
TEST: {B_EXAMPLE: False, SAMPLE_NUM: 3000}
TRAIN: {FLAG: %s, NET_G: '%s', NET_D: '', BATCH_SIZE: 24, MAX_EPOCH: 10000, SNAPSHOT_INTERVAL: 5000, LOG_INTERVAL: 100,
        VIS_COUNT: 4, DISCRIMINATOR_LR: 0.0002, GENERATOR_LR: 0.0002, COEFF: {KL: 2.0, UNCOND_LOSS: 1.0, COLOR_LOSS: 0.0}}
GAN: {EMBEDDING_DIM: 128, DF_DIM: 64, GF_DIM: 64, Z_DIM: 100, R_NUM: 2}
TEXT: {DIMENSION: 1024}
"""
SMALL = (
    "--max_steps 2 --set TREE.BASE_SIZE=16 --set GAN.GF_DIM=8 --set GAN.DF_DIM=4 --set GAN.EMBEDDING_DIM=6 "
    "--set GAN.Z_DIM=5 --set TRAIN.BATCH_SIZE=2"
)

# Word for word (README); behind the bar what makes it small enough for a test.
TO_SPEECH = (
    "python ./Audio_to_Image/text_to_speech.py --dataset birds --output_dir ./data/birds/CUB_200_2011_audio --APP_ID 1 "
    "--API_KEY 2 --SECRET_KEY 3 |"
)
TO_FEATURES = "python ./Audio_to_Image/prepare_image_feature.py --dataset birds | --device cpu"
TO_ENCODER = (
    f"bash ./run_audio_encoder.sh 1 --output_dir {RUN} --epoch 1000 --eval_every 10 --lr_scheduler_step_size 200 "
    "--lr_scheduler_gamma 0.5 --loss_diff 1 --loss_same 0.1 --l1_flag --jel_flag --lambda_l1 5 --distill_flag "
    "--lambda_distill 1000 --learning_rate 1e-3 --dataset birds --bidirectional --rnn_layers 1 "
    "| --max_steps 2 --device cpu --max_frames 128 --batch_size 2 --jobs 1"
)
TO_SPEECH_FEATURES = (
    f"python ./Audio_to_Image/extract_audio_feature.py --model {RUN}/latest.pth --audio_switch googlenet_caffe "
    "--dataset birds --bidirectional --rnn_layers 1 | --device cpu --jobs 1"
)
TO_GENERATOR = (
    "python ./StackGAN_v2/main.py --cfg ./StackGAN_v2/cfg/birds_3stages.yml --output_dir birds_speech_encoder "
    f"--audio_switch googlenet_caffe --data_dir ./data/birds --branch_num 3 | --device cpu {SMALL}"
)
TO_IMAGES = (
    "python ./StackGAN_v2/main.py --cfg ./StackGAN_v2/cfg/eval_birds.yml --audio_switch googlenet_caffe --data_dir "
    "./data/birds --eval_net_g ./output/StackGAN_v2/birds_speech_encoder/Model/netG_220000.pth | --device cpu"
)
TO_LINE = (
    f"python ./StackGAN_v2/interpolation.py --input_text 'a red bird' --input_text_other 'a blue bird' --type interpolation "
    f"--audio_encoder_path {RUN}/epoch_1000.pth --gan_path ./output/StackGAN_v2/birds_speech_encoder/Model/netG_220000.pth "
    "--gan_cfg ./StackGAN_v2/cfg/eval_birds.yml --interpolation_num 3 --img_filename_base img --out_rnn_layer | --device cpu"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project's code with data/birds as published."""
    root = tmp_path_factory.mktemp("clone")
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(
            ROOT / name,
            root / name,
            **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}),
        )
    published_set.make_birds(root / "data")
    published_set.write(root / "StackGAN_v2/cfg/birds_3stages.yml", CFG % ("True", ""))
    published_set.write(root / "StackGAN_v2/cfg/eval_birds.yml", CFG % ("False", "./not/there/netG.pth"))
    return root


def run(project, words: str) -> str:
    command = [sys.executable if word == "python" else word for word in shlex.split(words.replace(" |", ""))]
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_birds_through_the_published_commands(project):
    """Each with the files that the one before wrote, or with published weights in their place."""
    files = {path: path.read_bytes() for path in (project / "data").rglob("*") if path.is_file()}
    assert "16 captions, 16 of them spoken before; 0 to speak" in run(project, TO_SPEECH)
    assert run(project, TO_FEATURES).count("published features of 4 images") == 2
    assert "4 training images with 8 captions, 4 test images with 8" in run(project, TO_ENCODER)
    encoder = project / RUN / "epoch_1000.pth"
    published_set.write_old_weights(
        encoder, load_encoder(project / RUN / "latest.pth")[0].state_dict(), {"epoch": 1000}
    )
    (project / RUN / "latest.pth").unlink()
    (project / RUN / "latest.pth").symlink_to(encoder)
    assert "4 images, 8 captions, 1024 numbers each" in run(project, TO_SPEECH_FEATURES)
    told = run(project, TO_GENERATOR)
    assert "ignored: CONFIG_NAME, EMBEDDING_TYPE" in told and "finished at iteration 2" in told
    model = project / "output/StackGAN_v2/birds_speech_encoder/Model"
    published_set.write_old_weights(model / "netG_220000.pth", checkpoint.load(model / "netG_2.pth"))
    assert "8 images written" in run(project, TO_IMAGES)
    (image,) = (model / "iteration220000/single_samples/valid/003.Wren").glob("Wren_0000_val.jpg_64_sentence1_0.png")
    assert Image.open(image).size == (64, 64)
    told = run(project, TO_LINE)
    assert "ignored: --gan_cfg, --out_rnn_layer" in told
    line = sorted(path.name for path in (project / "output/interpolation").iterdir())
    assert line == [*(f"img_seed0_0{k}.png" for k in range(4)), "img_seed0_strip.png"]
    assert all(path.read_bytes() == before for path, before in files.items())  # nothing published was changed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sets below another data root than the one that their split files name."""
    folder = tmp_path_factory.mktemp("elsewhere") / "data"
    for make in (published_set.make_birds, published_set.make_flowers, published_set.make_places):
        make(folder)
    return folder


def test_the_pickles_are_what_python_2_writes():
    rows = published_set.views(np.random.default_rng(0), 2)
    for read, written in zip(pickle.loads(published_set.python_2_pickle(rows), encoding="latin1"), rows):
        np.testing.assert_array_equal(read, written)
    assert pickle.loads(published_set.text_pickle(["a/b"]), encoding="latin1") == ["a/b"]


@pytest.mark.parametrize("dataset", ["birds", "flowers", "places"])
def test_splits_and_features_are_found(data, dataset, capsys):
    folder = data_dir(dataset, data)
    for name in ("train", "test"):
        split = load_split(folder, name)
        assert split.name == name and split.folder == folder and split.has_classes
        assert all(item.image.is_file() and all(path.is_file() for path in item.audio) for item in split.items)
        rows = load_features(find_features(split, "image", "googlenet_caffe"), split, "")
        assert [row.shape for row in rows] == [(10, 1024)] * 4
        if dataset != "birds":
            rows = load_features(find_features(split, "audio", "0"), split, "")
            assert [row.shape for row in rows] == [(1, 1024)] * 4
    assert sorted({*load_split(folder, "train").labels}) == ([0, 5] if dataset == "places" else [0, 1])
    assert prepare_image_feature.main(["--dataset", dataset, "--data_root", str(data), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("published features of 4 images") == 2


def test_split_files_by_path(data, tmp_path):
    assert load_split_file(data / "birds/val.json").name == "test"
    places = load_split_file(data / "Places_subset/metadata/val_split.json")
    assert (places.name, places.folder) == ("test", data / "Places_subset")
    plain = published_set.make_places(tmp_path, form="{}.json")
    assert load_split(plain, "test").path == plain / "metadata/val.json"
    published_set.write(plain / "metadata/test.json", (plain / "metadata/val.json").read_text())
    assert load_split_file(plain / "metadata/val.json").name == "val" and load_split(plain, "test").path.stem == "test"


def test_extraction_leaves_published_features_alone_and_comes_before_them(data, tmp_path, monkeypatch):
    network = CNNRNN(embedding_dim=16, nhidden=8, bidirectional=True)
    weights = published_set.write_old_weights(tmp_path / "epoch_300.pth", network.state_dict(), {"epoch": 300})
    published = data / "Places_subset/metadata/val_split_audio_features_0.pickle"
    before = published.read_bytes()
    words = f"x --model {weights} --dataset places --data_root {data} --audio_switch 0 --no_cuda --jobs 1 --feature_len 8 --dropout 0"
    monkeypatch.setattr(sys, "argv", words.split())
    assert extract_audio_feature.main() == 0
    split = load_split(data / "Places_subset", "test")
    found = find_features(split, "audio", "0")
    assert found == data / "Places_subset/test/audio_features_0.pickle" and published.read_bytes() == before
    assert load_features(found, split, "")[0].shape == (1, 8)
    words = f"x --model {weights} --train_json {data}/birds/train.json --val_json {data}/birds/val.json --audio_switch s --jobs 1"
    monkeypatch.setattr(sys, "argv", words.split())
    assert extract_audio_feature.main() == 0
    assert (data / "birds/train/audio_features_s.pickle").is_file() and (
        data / "birds/test/audio_features_s.pickle"
    ).is_file()
