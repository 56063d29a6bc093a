"""Settings: declared once, checked after every override, the same in options, cfg keys, help, options.json and report."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from Audio_to_Image import train_audio_encoder
from Audio_to_Image.command_settings import EmbeddingOptions, EncoderEvaluation, SpeechOptions, TeacherOptions
from Audio_to_Image.settings import EncoderOptions
from common import cli, settings
from common.cli import UserError
from common.options import add_options, by_option, describe_options, key_overrides, parse_groups
from common.settings import Group, SettingError, setting
from scripts import finetune_inception
from StackGAN_v2 import main
from StackGAN_v2.config import IGNORED, Config, GanSettings, TreeSettings, load_config
from StackGAN_v2.evaluation.settings import EvaluateOptions
from StackGAN_v2.interpolation_settings import ImageOptions
from StackGAN_v2.settings import GeneratorOptions

ROOT = Path(__file__).resolve().parent.parent
ENCODER = ["--dataset", "birds", "--output_dir", "run", "--jel_flag"]
CFG = str(ROOT / "StackGAN_v2/cfg/birds_3stages.yml")


@dataclasses.dataclass(frozen=True)
class Example(Group):
    """An example. Of everything a setting can be."""

    size: int = setting(4, "size", unit="pixels", at_least=2, at_most=64, multiple_of=2)
    rate: float = setting(0.5, "rate", above=0, below=1, options=("--speed", "--rate"))
    kind: str = setting("a", "kind", choices=("a", "b"))
    on: bool = setting(True, "whether", no_option="--off")
    pair: tuple[float, float] = setting((0.0, 1.0), "pair", options=(), at_least=0)
    most: int | None = setting(None, "most", none="all", at_least=1)
    sizes: tuple[int, ...] = setting((1, 2), "sizes", at_most=9)
    kinds: tuple[str, ...] | None = setting(None, "kinds", choices=("a", "b"), parse=cli.name_list, none="all")


# ---- bounds and types ----


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("size", 3, "size is 3; it must be a multiple of 2 and at least 2 and at most 64"),
        ("size", 66, "at most 64"),
        ("size", 0, "at least 2"),
        ("size", "4", "size is '4'; expected a whole number such as 4"),
        ("size", True, "a whole number"),
        ("size", 4.0, "a whole number"),
        ("rate", 0, "above 0"),
        ("rate", 1.0, "below 1"),
        ("rate", float("nan"), "above 0"),
        ("rate", 10**400, "a number such as 0.5"),
        ("kind", "c", "kind is 'c'; known are a, b"),
        ("kind", None, "a text"),
        ("on", 1, "True or False"),
        ("pair", (1.0,), "a list such as [0.0, 1.0]"),
        ("pair", (0, -1), "at least 0"),
        ("most", 0, "at least 1"),
        ("most", 1 << 32, "at most 2147483648"),
        ("sizes", (1, 10), "sizes is 10; it must be at most 9"),
        ("sizes", 1, "sizes is 1; expected a list"),
        ("kinds", ("a", "c"), "kinds is 'c'; known are a, b"),
    ],
)
def test_a_group_refuses_what_is_out_of_bounds(name, value, reason):
    with pytest.raises(SettingError) as error:
        Example(**{name: value})
    assert reason in str(error.value)


def test_values_are_frozen_and_of_their_types():
    example = Example(rate=0.25, pair=[1, 2])
    assert settings.to_plain(example) == {
        "size": 4,
        "rate": 0.25,
        "kind": "a",
        "on": True,
        "pair": [1.0, 2.0],
        "most": None,
        "sizes": [1, 2],
        "kinds": None,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.size = 6


def test_options_of_a_group(capsys):
    parser = cli.Parser("test")
    add_options(parser, Example)

    def parsed(*words):
        return parse_groups(parser, Example, words)[1]

    assert parsed() == Example() and parsed("--rate", "1e-1", "--off", "--most", "3") == Example(
        rate=0.1, on=False, most=3
    )
    assert parsed("--most", "all", "--kind", "b") == Example(kind="b")
    assert by_option(parsed("--rate", "0.1"))["speed"] == 0.1
    assert parsed("--sizes", "3", "4", "--kinds", "b, a") == Example(sizes=(3, 4), kinds=("b", "a"))
    assert "--sizes N [N ...] sizes (default: 1 2)" in " ".join(parser.format_help().split())
    for words, said in (
        (["--size", "5"], "--size: 5 was given; it must be a multiple of 2"),
        (["--kind", "c"], "'c'"),
        (["--size", "x"], "--size: 'x' is not a whole number"),
        (["--rate", "nan"], "--speed/--rate: nan"),
        (["--sizes", "3", "10"], "--sizes: 10 was given; it must be at most 9"),
        (["--kinds", "a,c"], "--kinds: 'c' was given; known are a, b"),
    ):
        with pytest.raises(SystemExit) as error:
            parsed(*words)
        text = capsys.readouterr().err
        assert error.value.code == 2 and said in text and text.count("\n") == 1


@pytest.mark.parametrize(
    "group",
    [
        EncoderOptions,
        EmbeddingOptions,
        EncoderEvaluation,
        TeacherOptions,
        SpeechOptions,
        Config,
        GeneratorOptions,
        ImageOptions,
        EvaluateOptions,
    ],
)
def test_every_setting_says_what_it_means_and_every_default_is_within_its_bounds(group):
    described = settings.describe(group)
    assert len(described) > (10 if group in (EncoderEvaluation, TeacherOptions, ImageOptions) else 15)
    assert all(one.meaning and one.meaning == one.meaning.strip() for one in described.values())
    for inner in settings.groups_of(group).values():
        if not any(field.default is settings.REQUIRED for field in settings.fields_of(inner).values()):
            inner()
    for one in described.values():
        assert not one.only_with or one.only_with in described


# ---- one option, from the help to its use ----


def test_one_option_from_the_help_to_its_use(tmp_path, capsys, monkeypatch):
    """--lr_scheduler_step_size: help, bounds, --dry_run, options.json's name, the report's words, the trainer's rate."""
    about = settings.fields_of(EncoderOptions.__dataclass_fields__["training"].type)["lr_step"].about
    with pytest.raises(SystemExit):
        train_audio_encoder.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"--lr_scheduler_step_size N {about.meaning} (default: 200)" in text
    options = train_audio_encoder.parse([*ENCODER, "--lr_scheduler_step_size", "7"])
    assert by_option(options)["lr_scheduler_step_size"] == 7
    assert describe_options(EncoderOptions)["lr_scheduler_step_size"][:3] == (about.meaning, "", 200)
    with pytest.raises(SystemExit):
        train_audio_encoder.parse([*ENCODER, "--lr_scheduler_step_size", "0"])
    assert "--lr_scheduler_step_size: 0 was given; it must be at least 1" in capsys.readouterr().err
    from Audio_to_Image.trainer import Trainer

    job = Trainer.__new__(Trainer)  # the rate is a function of where the training is, and nothing else
    job.settings, job.steps_per_epoch = options.training, 3
    rates = []
    for job.step in (0, 20, 21, 42):
        rates.append(job.learning_rate())
    assert rates == [1e-3, 1e-3, 5e-4, 2.5e-4]


def test_a_cfg_key_with_an_option_from_the_help_to_its_use(capsys):
    """--branch_num, over --set, over the file; --tick is TRAIN.LOG_INTERVAL."""
    parser = main.make_parser()
    assert "(default: cfg TREE.BRANCH_NUM)" in " ".join(parser.format_help().split())

    def config(*words):
        given, _ = parse_groups(parser, GeneratorOptions, ["--cfg", CFG, *words])
        return load_config(given.cfg, given.settings, *key_overrides(Config, given))

    assert config().TREE.BRANCH_NUM == 3 and config("--set", "TREE.BRANCH_NUM=2").TREE.BRANCH_NUM == 2
    assert config("--set", "TREE.BRANCH_NUM=2", "--branch_num", "1", "--tick", "9").TREE.BRANCH_NUM == 1
    assert config("--tick", "9").TRAIN.LOG_INTERVAL == 9


@pytest.mark.parametrize(
    "command, words", [(train_audio_encoder, ENCODER), (main, ["--cfg", CFG]), (finetune_inception, [])]
)
def test_help_answers_without_torch(command, words):
    code = (
        "import sys, time; began = time.monotonic(); sys.argv = [sys.argv[1], '--help']\nimport runpy\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as end: assert not end.code, end\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command.__file__],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0 and "--device" in done.stdout, done.stderr


# ---- checks after every override ----


@pytest.mark.parametrize(
    "file, words, said",
    [
        (
            "GAN: {GF_DIM: 2}\nTREE: {BRANCH_NUM: 2}",
            ["--branch_num", "3"],
            "x.yml: GAN.GF_DIM is 2; it must be a multiple of 4 (TREE.BRANCH_NUM is 3 by --branch_num)",
        ),
        (
            "",
            ["--set", "GAN.GF_DIM=6"],
            "--set: GAN.GF_DIM is 6; it must be a multiple of 4 (TREE.BRANCH_NUM is 3 by default)",
        ),
        ("GAN: {R_NUM: -1}", [], "x.yml: GAN.R_NUM is -1; it must be at least 0"),
        ("GAN: {R_NUM: 65}", [], "at most 64"),
        ("TRAIN: {BATCH_SIZE: 1}", [], "TRAIN.BATCH_SIZE is 1; it must be at least 2"),
        ("TRAIN: {COEFF: {KL: -1}}", [], "TRAIN.COEFF.KL is -1.0; it must be at least 0"),
        ("GAN: {Z_DIM: 1000000}", [], "GAN.Z_DIM is 1000000; it must be at least 1 and at most 65536"),
        ("TRAIN: {BETAS: [0.5]}", [], "TRAIN.BETAS is [0.5]; expected a list such as [0.5, 0.999]"),
        ("TRAIN: {BETAS: [0.5, 1]}", [], "TRAIN.BETAS is 1.0; it must be at least 0 and below 1"),
        ("GAN: {B_CONDITION: False}", [], "GAN.B_CONDITION is False; an unconditional generator"),
        ("TRAIN: {GENERATOR_LR: .inf}", [], "TRAIN.GENERATOR_LR is inf"),
        ("WORKERS: -1", [], "WORKERS is -1"),
        ("NO_SUCH_KEY: 1", [], "unknown key NO_SUCH_KEY; known here: DATASET_NAME"),
        ("TRAIN: {LR: 1}", [], "unknown key TRAIN.LR; known here: TRAIN.FLAG"),
    ],
)
def test_a_cfg_is_checked_after_every_override(tmp_path, file, words, said, monkeypatch):
    (tmp_path / "x.yml").write_text(file or "{}")
    monkeypatch.setattr(sys, "argv", ["main.py", "--cfg", str(tmp_path / "x.yml"), "--dry_run", *words])
    with pytest.raises(UserError) as error:
        main.main()
    assert said in str(error.value) and "\n" not in str(error.value)


def test_as_many_residual_blocks_as_may_be_trained_can_be_read_back():
    from StackGAN_v2.model import Generator, generator_settings

    for r_num in (0, 20):
        assert generator_settings(Generator(2, 16, 4, 5, 6, 7, r_num).state_dict())["r_num"] == r_num
        assert GanSettings(R_NUM=r_num).R_NUM == r_num


@pytest.mark.parametrize(
    "words, said",
    [
        (["--batch_size", "0"], "--batch_size: 0 was given; it must be at least 1"),
        (
            ["--manualSeed", "5000000000"],
            "--manualSeed: 5000000000 was given; it must be at least 0 and at most 4294967295",
        ),
        (["--dropout", "1"], "--dropout: 1 was given; it must be at least 0 and below 1"),
        (["--distill_T", "0"], "--distill_T: 0 was given; it must be above 0"),
        (["--loss_diff", "inf"], "--loss_diff: inf"),
        (["--epoch", "3000000000"], "--epoch: 3000000000 was given; it must be at least 1 and at most 2147483648"),
        (["--max_frames", "4096"], "--max_frames: 4096 was given"),
        (["--rnn_layers", "17"], "--rnn_layers: 17"),
        (["--init_weights", "/nowhere.pth"], "--init_weights: /nowhere.pth does not exist"),
    ],
)
def test_encoder_options_name_themselves(words, said, capsys):
    with pytest.raises(SystemExit) as error:
        train_audio_encoder.parse([*ENCODER, *words])
    text = capsys.readouterr().err
    assert error.value.code == 2 and said in text and text.count("\n") == 1


# ---- published files and options ----

PUBLISHED = """
CONFIG_NAME: '3stages'
DATASET_NAME: 'birds'
EMBEDDING_TYPE: 'cnn-rnn'
DATA_DIR: './data/birds'
GPU_ID: '0'
CUDA: False
PROJECT_ROOT: '.'
BIRDS_DATA_ROOT: '.'
BIRDS_EMBEDDING_ROOT: '.'
INCEPTION_CUB: False
B_VALIDATION: False
WORKERS: 8
TREE: {BRANCH_NUM: 2}
TEST: {B_EXAMPLE: False, SAMPLE_NUM: 100, TRUNC: 0.5}
TRAIN: {FLAG: True, NET_G: '', BATCH_SIZE: 24, MAX_EPOCH: 10000, VIS_COUNT: 32, LOG_INTERVAL: 100, DISCRIMINATOR_LR: 2e-4,
        COEFF: {UNCOND_LOSS: 1.0, CAL_LOSS: 50.0}}
GAN: {R_NUM: 2, B_CONDITION: True, NETWORK_TYPE: default}
TEXT: {DIMENSION: 1024}
"""


def test_published_cfg_files_load_as_they_are(tmp_path, capsys):
    (tmp_path / "published.yml").write_text(PUBLISHED)
    cfg = load_config(tmp_path / "published.yml")
    told = capsys.readouterr().err
    assert told == (
        f"{tmp_path / 'published.yml'}: ignored: CONFIG_NAME, EMBEDDING_TYPE, PROJECT_ROOT, BIRDS_DATA_ROOT, "
        "BIRDS_EMBEDDING_ROOT, INCEPTION_CUB, B_VALIDATION, TEST.TRUNC, GAN.NETWORK_TYPE\n"
    )
    assert (cfg.TREE.BRANCH_NUM, cfg.TRAIN.LOG_INTERVAL, cfg.TRAIN.VIS_COUNT, cfg.CUDA) == (2, 100, 32, False)
    assert not set(IGNORED) & set(settings.describe(Config))


def test_published_cuda_false_means_the_cpu(tmp_path, capsys, monkeypatch):
    (tmp_path / "x.yml").write_text(PUBLISHED)
    words = [
        "main.py",
        "--cfg",
        str(tmp_path / "x.yml"),
        "--data_dir",
        str(tmp_path),
        "--dry_run",
        "--distributed",
        "--local_rank",
        "0",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert main.main() == 0
    out, err = capsys.readouterr()
    shown = yaml.safe_load(out)
    assert shown["options"]["device"] == "cpu" and shown["cfg"]["TRAIN"]["LOG_INTERVAL"] == 100
    assert "main.py: ignored: --distributed, --local_rank" in err
    assert shown["cfg"] == json.loads(json.dumps(shown["cfg"]))


@pytest.mark.parametrize(
    "option, said", [("--my_dataset", "--data_dir names any data set"), ("--asr_flag", "--audio_switch")]
)
def test_published_options_without_a_meaning_say_what_to_use(option, said, capsys):
    with pytest.raises(SystemExit) as error:
        main.make_parser().parse_args(["--cfg", CFG, option])
    assert error.value.code == 2 and said in capsys.readouterr().err


def test_published_options_of_the_encoder(tmp_path, capsys):
    (tmp_path / "mine.json").write_text("{}")
    options = train_audio_encoder.parse(
        [
            *ENCODER,
            "--local_rank",
            "0",
            "--num_workers",
            "8",
            "--data_path",
            "./data/x",
            "--print_every",
            "50",
            "--no_cuda",
            "--distributed",
            "--distill_T",
            "3",
            "--dropout",
            "0.2",
            "--train_json",
            str(tmp_path / "mine.json"),
            "--val_json",
            str(tmp_path / "mine.json"),
        ]
    )
    assert capsys.readouterr().err.endswith(": ignored: --local_rank, --data_path, --distributed\n")
    assert (options.training.workers, options.training.log_every, options.compute.device) == (8, 50, "cpu")
    assert (options.training.distill_temperature, options.network.dropout) == (3, 0.2)
    assert options.data.train_json == options.data.val_json == tmp_path / "mine.json"
    assert TreeSettings().BRANCH_NUM == 3  # the classes themselves stay as declared


def test_places_is_the_folder_places_subset(tmp_path):
    from common import splits

    (tmp_path / "Places_subset").mkdir()
    assert splits.data_dir("places", tmp_path) == tmp_path / "Places_subset"
    (tmp_path / "places").mkdir()
    assert splits.data_dir("places", tmp_path) == tmp_path / "places"
