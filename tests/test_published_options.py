"""Every option and cfg key of the published code: does what it says, is named as ignored, or says what to use instead."""

import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from Audio_to_Image import extract_audio_feature, prepare_image_feature, text_to_speech, train_audio_encoder
from Audio_to_Image.teachers import googlenet
from Audio_to_Image.teachers.googlenet import read_mean
from common import settings
from common.cli import UserError
from StackGAN_v2 import interpolation, main
from StackGAN_v2.config import IGNORED, Config

ROOT = Path(__file__).resolve().parent.parent
CFG = str(ROOT / "StackGAN_v2/cfg/birds_3stages.yml")
FILE, FOLDER = str(ROOT / "README.md"), str(ROOT)
IGNORED_OPTION, REFUSED = "ignored", "refused"
COMMANDS = {
    "text_to_speech": (text_to_speech.parse_options, ["--dataset", "birds"]),
    "prepare_image_feature": (prepare_image_feature.parse, ["--dataset", "birds"]),
    "train_audio_encoder": (train_audio_encoder.parse, ["--dataset", "birds", "--output_dir", "run", "--jel_flag"]),
    "extract_audio_feature": (extract_audio_feature.parse, ["--dataset", "birds", "--model", FILE]),
    "main": (lambda: main.make_parser().parse_args(), ["--cfg", CFG]),
    "interpolation": (interpolation.parse, []),
}

# command, option with its value, where the value is found afterwards (or IGNORED_OPTION, or REFUSED), the value or sentence
TABLE = [
    *(
        ("text_to_speech", *row)
        for row in (
            ("--APP_ID 1", "APP_ID", "1"),
            ("--API_KEY k", "API_KEY", "k"),
            ("--SECRET_KEY s", "SECRET_KEY", "s"),
            ("--output_dir x", "output_dir", Path("x")),
            ("--person 3", "voices", "3"),
            ("--dataset places", "dataset", "places"),
            ("--one_by_one", IGNORED_OPTION, ""),
            ("--text word --save_path x.wav", "text", "word"),
            ("--text word --save_path x.wav", "save_path", Path("x.wav")),
            ("--text word", REFUSED, "--save_path"),
        )
    ),
    *(
        ("prepare_image_feature", *row)
        for row in (
            (f"--caffe_root {FOLDER}", "caffe_root", Path(FOLDER)),
            (f"--mean_file {FILE}", "mean_file", Path(FILE)),
            ("--dataset flowers", "dataset", "flowers"),
            ("--task zsl", IGNORED_OPTION, ""),
        )
    ),
    *(
        ("train_audio_encoder", *row)
        for row in (
            ("--local_rank 0", IGNORED_OPTION, ""),
            ("--num_workers 8", "training.workers", 8),
            (f"--resume {FILE}", "start.resume", FILE),
            ("--data_path ./data/birds/CUB_200_2011_audio/audio/0", IGNORED_OPTION, ""),
            ("--output_dir x", "data.output_dir", "x"),
            ("--batch_size 32", "training.batch_size", 32),
            ("--epoch 9", "training.epochs", 9),
            ("--learning_rate 1e-4", "training.learning_rate", 1e-4),
            ("--print_every 50", "training.log_every", 50),
            ("--eval_every 5", "training.eval_every", 5),
            ("--loss_diff 2", "training.loss_diff", 2),
            ("--loss_same 3", "training.loss_same", 3),
            ("--lr_scheduler_step_size 30", "training.lr_step", 30),
            ("--lr_scheduler_gamma 0.2", "training.lr_gamma", 0.2),
            ("--dataset places", "data.dataset", "places"),
            ("--jel_flag", "training.jel", True),
            ("--l1_flag", "training.l1", True),
            ("--distill_flag", "training.distill", True),
            ("--lambda_l1 7", "training.lambda_l1", 7),
            ("--lambda_distill 9", "training.lambda_distill", 9),
            ("--distill_T 3", "training.distill_temperature", 3),
            ("--dropout 0.3", "network.dropout", 0.3),
            ("--bidirectional", "network.bidirectional", True),
            ("--rnn_layers 2", "network.rnn_layers", 2),
            ("--distributed", IGNORED_OPTION, ""),
        )
    ),
    *(
        ("extract_audio_feature", *row)
        for row in (
            (f"--train_json {FILE}", "train_json", Path(FILE)),
            (f"--val_json {FILE}", "val_json", Path(FILE)),
            (f"--model {FILE}", "model", Path(FILE)),
            ("--audio_switch 0", "audio_switch", "0"),
            ("--no_cuda", "device", "cpu"),
            ("--feature_len 1024", "feature_len", 1024),
            ("--dropout 0", IGNORED_OPTION, ""),
            ("--dataset places", "dataset", "places"),
            ("--bidirectional", "bidirectional", True),
        )
    ),
    *(
        ("main", *row)
        for row in (
            (f"--cfg {CFG}", "cfg", Path(CFG)),
            ("--local_rank 0", IGNORED_OPTION, ""),
            (f"--data_dir {FOLDER}", "data_dir", Path(FOLDER)),
            ("--manualSeed 7", "manualSeed", 7),
            ("--my_dataset", REFUSED, "--data_dir"),
            ("--asr_flag", REFUSED, "--audio_switch"),
            ("--audio_switch s", "audio_switch", "s"),
            ("--output_dir x", "output_dir", "x"),
            ("--distributed", IGNORED_OPTION, ""),
            (f"--eval_net_g {FILE}", "eval_net_g", Path(FILE)),
            ("--branch_num 2", "branch_num", 2),
        )
    ),
    *(
        ("interpolation", *row)
        for row in (
            ("--input_text a", "text", ("a",)),
            ("--input_text a --input_text_other b --type interpolation", "text", ("a", "b")),
            ("--input_text a --input_text_other b", "text", ("a",)),
            ("", "type", "inference"),
            (f"--audio_encoder_path {FILE}", "encoder", FILE),
            (f"--gan_path {FILE}", "generator", FILE),
            ("--out_rnn_layer", IGNORED_OPTION, ""),
            ("--out_attn_layer", IGNORED_OPTION, ""),
            (f"--gan_cfg {CFG}", IGNORED_OPTION, ""),
            ("--output_dir x", "output_dir", Path("x")),
            ("--interpolation_num 4", "interpolation_num", 4),
            ("--img_filename_base img", "img_filename_base", "img"),
            ("--img_filename_base a/b", REFUSED, "--img_filename_base"),
            ("--type interpolation", "type", "interpolation"),
        )
    ),
]


@pytest.mark.parametrize("command, words, where, value", TABLE, ids=lambda one: str(one).replace(FOLDER, ""))
def test_a_published_option(command, words, where, value, monkeypatch, capsys):
    parse, always = COMMANDS[command]
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *always, *words.split()])
    if where == REFUSED:
        with pytest.raises(SystemExit) as ended:
            parse()
        told = capsys.readouterr().err
        assert ended.value.code == 2 and value in told and "unrecognized" not in told and told.count("\n") == 1
        return
    found = parse()
    if where == IGNORED_OPTION:
        told = capsys.readouterr().err or f"ignored: {', '.join(found.ignored)}\n"  # main.py says it after parsing
        assert told.endswith(f"ignored: {words.split()[0]}\n") and told.count("\n") == 1
        return
    for name in where.split("."):
        found = getattr(found, name)
    assert found == value


KEYS = """PROJECT_ROOT BIRDS_DATA_ROOT BIRDS_EMBEDDING_ROOT DATASET_NAME EMBEDDING_TYPE CONFIG_NAME DATA_DIR GPU_ID CUDA WORKERS
TREE.BRANCH_NUM TREE.BASE_SIZE INCEPTION_CUB TEST.B_EXAMPLE TEST.SAMPLE_NUM TEST.TRUNC TRAIN.BATCH_SIZE TRAIN.VIS_COUNT
TRAIN.MAX_EPOCH TRAIN.SNAPSHOT_INTERVAL TRAIN.DISCRIMINATOR_LR TRAIN.GENERATOR_LR TRAIN.FLAG TRAIN.NET_G TRAIN.NET_D
TRAIN.COEFF.KL TRAIN.COEFF.CAL_LOSS TRAIN.COEFF.UNCOND_LOSS TRAIN.COEFF.COLOR_LOSS TRAIN.LOG_INTERVAL GAN.EMBEDDING_DIM
GAN.DF_DIM GAN.GF_DIM GAN.Z_DIM GAN.NETWORK_TYPE GAN.R_NUM GAN.B_CONDITION TEXT.DIMENSION""".split()


@pytest.mark.parametrize("key", KEYS)
def test_a_published_key_is_known_or_named_as_ignored(key):
    assert (key in settings.describe(Config)) != any(fnmatch.fnmatchcase(key, pattern) for pattern in IGNORED)


# ---- what they do ----


def test_weights_and_mean_of_a_tree_of_caffe(tmp_path):
    def options(*words):
        return prepare_image_feature.parse(["--dataset", "birds", "--caffe_root", str(tmp_path), *words])

    with pytest.raises(UserError, match="--caffe_root .*bvlc_googlenet.caffemodel"):
        prepare_image_feature.weights_of(options())
    weights = tmp_path / prepare_image_feature.IN_CAFFE
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert prepare_image_feature.weights_of(options()) == weights and prepare_image_feature.mean_of(options()) is None
    assert prepare_image_feature.weights_of(options("--weights", "mine")) == "mine"
    mean, given = tmp_path / prepare_image_feature.MEAN_IN_CAFFE, tmp_path / "given.npy"
    mean.parent.mkdir(parents=True)
    np.save(mean, np.broadcast_to(np.array([1, 2, 3.5]).reshape(3, 1, 1), (3, 8, 8)))
    np.save(given, np.ones((3, 4, 4)) * np.reshape(googlenet.MEAN_BGR, (3, 1, 1)) + np.linspace(-1, 1, 4))
    assert prepare_image_feature.mean_of(options()) == (1, 2, 3.5)
    assert prepare_image_feature.mean_of(options("--mean_file", str(given))) is None  # the published ones
    with pytest.raises(UserError, match="--mean_file is for --teacher googlenet_caffe"):
        prepare_image_feature.mean_of(options("--mean_file", str(given), "--teacher", "efficientnet_lite0"))


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", np.zeros((4, 2, 2)), np.full(3, np.nan), np.array([{}]), np.full(3, 300)]
)
def test_files_that_hold_no_mean(tmp_path, content):
    path = tmp_path / "mean.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match="--mean_file .*mean.npy") as error:
        read_mean(path)
    assert "\n" not in str(error.value)


def test_the_width_that_is_claimed():
    options = extract_audio_feature.parse(["--dataset", "birds", "--model", FILE, "--feature_len", "2048"])
    meta = {"nhidden": 1024, "bidirectional": True, "rnn_layers": 1}
    with pytest.raises(UserError, match="--feature_len 2048 contradicts .* 1024 numbers"):
        extract_audio_feature.check_claims(options, meta)


def launcher(folder, **variables):
    """run_audio_encoder.sh with an interpreter that says what it was called with."""
    python = folder / "python"
    python.write_text('#!/bin/sh\ncase "$1" in */installed.py) exit ${LACKS:-0} ;; esac\necho "$@"\n')
    python.chmod(0o755)
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("NNODES", "NODE_RANK", "MASTER"))
    }
    return subprocess.run(
        ["bash", ROOT / "run_audio_encoder.sh", "2", "--epoch", "1"],
        capture_output=True,
        text=True,
        env=clean | {"PYTHON": str(python)} | variables,
    )


def test_the_launcher_takes_the_published_variables(tmp_path):
    assert "--standalone --nproc_per_node 2" in launcher(tmp_path).stdout
    done = launcher(
        tmp_path,
        ARNOLD_SERVER_NUM="1",
        ARNOLD_WORKER_NUM="2",
        ARNOLD_ID="1",
        METIS_SERVER_0_HOST="one",
        METIS_WORKER_0_HOST="two",
        METIS_WORKER_0_PORT="7",
    )
    assert "--nnodes 3 --node_rank 1 --master_addr one --master_port 7 --nproc_per_node 2" in done.stdout, done.stderr
    assert "--standalone" in launcher(tmp_path, ARNOLD_WORKER_NUM="1").stdout
    for said, variables in (
        ("ARNOLD", {"ARNOLD_WORKER_NUM": "x"}),
        ("bash scripts/setup.sh", {"LACKS": "1"}),
        ("PYTHON is /no/python", {"PYTHON": "/no/python"}),
    ):
        done = launcher(tmp_path, **variables)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
