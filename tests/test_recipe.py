"""The whole chain with two steps, through the scripts that users run, in folders with spaces; and the scripts' own errors."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fault.stages import small_features
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MAKE = "./scripts/make_toybirds.py --classes 6 --test_classes 3 --images_per_class 2 --image_size 64 --jobs 1"
TINY = {
    "prepare": MAKE,
    "engine": "espeak",
    "captions_per_image": "3",
    "speech_options": "--jobs 1",
    "device": "cpu",
    "teacher_options": "--view_size 64 --jobs 1",
    "encoder_options": "--jel_flag --l1_flag --distill_flag --bidirectional --max_frames 128 --batch_size 4 --max_steps 2 "
    "--epoch 1 --jobs 1",
    "extract_options": "--jobs 1",
    "gan_cfg": "StackGAN_v2/cfg/toybirds_3stages.yml",
    "gan_options": "--max_steps 2 --set TRAIN.BATCH_SIZE=4 --set TRAIN.MATCHER_STEPS=2 --set GAN.GF_DIM=8 "
    "--set GAN.DF_DIM=4",
    "sample_options": "--all_sizes --limit 12",
    "evaluate_options": "--metrics fid,class --lite0_size 64 --quiet",
}


def bash(*words, **variables):
    return subprocess.run(
        ["bash", *map(str, words)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )


def recipe(folder: Path, *words, **changes):
    options = [word for name, value in (TINY | changes).items() for word in (f"--{name}", value)]
    return bash(
        ROOT / "scripts/run.sh",
        "--dataset",
        "toybirds",
        "--data_root",
        folder / "my data",
        "--output_root",
        folder / "out put",
        "--tag",
        "trial",
        *options,
        *map(str, words),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All stages; in between, the set gets narrower features, for smaller trainings."""
    folder = tmp_path_factory.mktemp("it's a recipe")
    data = folder / "my data" / "toybirds"
    for last, shrink in ((2, small_features), (8, None)):
        result = recipe(folder, "--stop_stage", last)
        assert result.returncode == 0, result.stdout + result.stderr
        if shrink:
            shrink(data)
    return folder, result.stdout


def test_the_whole_chain(done):
    """Every stage ran, in order, with its time; the page holds sound, images of three sizes and numbers."""
    folder, output = done
    stages = [json.loads(line) for line in (folder / "out put/trial/stages.jsonl").read_text().splitlines()]
    assert [stage["stage"] for stage in stages] == list(range(9))
    assert all(stage["seconds"] > 0 for stage in stages)
    model = folder / "out put/StackGAN_v2/trial_speech_encoder/Model"
    images = list((model / "iteration2/single_samples/valid").rglob("*.png"))
    assert len(images) == 36 and {Image.open(path).size for path in images} == {(16, 16), (32, 32), (64, 64)}
    assert json.loads((model / "iteration2/metrics.json").read_text())
    page = (folder / "out put/trial/index.html").read_text()
    assert "<audio" in page and "data:image/png;base64" in page and "http-equiv" in page
    assert output.rstrip().splitlines()[-1] == f"the page: {folder}/out put/trial/index.html"


def test_a_second_run_repeats_nothing(done):
    folder, _ = done
    result = recipe(folder)
    assert result.returncode == 0 and result.stdout.count("done before") == 9, result.stdout


def test_a_changed_choice_repeats_its_stage_and_those_behind_it(done):
    folder, _ = done
    result = recipe(folder, "--stop_stage", "6", sample_options="--all_sizes --limit 6")
    assert result.returncode == 0 and result.stdout.count("done before") == 6, result.stdout + result.stderr
    assert "stage 6 (images)\n" in result.stdout


def test_own_voice(done, tmp_path):
    """Inference and interpolation from files alone: ogg, stereo, another rate; a short clip is heard by padding."""
    import numpy as np
    import soundfile

    folder, _ = done
    tone = 0.1 * np.sin(np.arange(44100 * 2) / 20)
    soundfile.write(tmp_path / "a.ogg", np.stack([tone, tone], 1), 44100)
    soundfile.write(tmp_path / "b.flac", tone, 22050)
    soundfile.write(tmp_path / "short.wav", tone[:4000], 16000)
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    common = [
        ROOT / "StackGAN_v2/interpolation.py",
        "--output_dir",
        tmp_path / "out",
        "--device",
        "cpu",
        "--encoder",
        folder / "out put/Audio_to_Image/log/trial_speech_encoder/latest.pth",
        "--generator",
        folder / "out put/StackGAN_v2/trial_speech_encoder/Model/latest.pth",
    ]

    def run(*words):
        return subprocess.run(
            [sys.executable, *map(str, [*common, *words])], capture_output=True, text=True, timeout=120
        )

    result = run(
        "--type",
        "inference",
        "--wav",
        tmp_path / "a.ogg",
        tmp_path / "short.wav",
        tmp_path / "no.wav",
        "--text",
        "a red bird",
        "--engine",
        "espeak",
        "--seeds",
        "0-1",
    )
    assert result.returncode == 2 and "1 of 4 inputs" in result.stderr and "no.wav" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}_seed{seed}.png" for name in ("a", "short", "a_red_bird") for seed in (0, 1)
    }
    result = run("--type", "interpolation", "--wav", tmp_path / "a.ogg", tmp_path / "b.flac")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out").glob("a_to_b_seed0_*.png"))) == 12
    assert Image.open(tmp_path / "out/a_to_b_seed0_strip.png").size == (11 * 66 - 2, 64)
    line = ["--type", "interpolation", "--wav", tmp_path / "a.ogg", tmp_path / "b.flac", "--interpolation_num"]
    assert run(*line, "2", "--seeds", "5").returncode == 0 and len(list((tmp_path / "out").glob("a_to_b_seed5_*"))) == 4
    for words, sentence in (
        (["--type", "interpolation", "--wav", tmp_path / "a.ogg"], "between two inputs, not 1"),
        ([*line, "2000"], "--interpolation_num: 2000 was given; it must be at least 1 and at most 1000"),
        (["--type", "inference"], "nothing to generate"),
        (["--type", "inference", "--wav", tmp_path / "none.wav"], "none.wav"),
    ):
        result = run(*words)
        assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1


def test_a_changed_training_starts_anew(done):
    """Another batch size: the resume file of the old run would not fit, and is not asked to."""
    folder, _ = done
    result = recipe(folder, "--stop_stage", "3", encoder_options=TINY["encoder_options"].replace("size 4", "size 3"))
    assert result.returncode == 0 and result.stdout.count("done before") == 3, result.stdout + result.stderr
    assert "steps of 3 an epoch" in result.stdout


def test_an_ablation_trains_each_row_once(done):
    """A row that is done is skipped, another is added, and the table holds what was asked for."""
    folder, _ = done

    def ablate(*words):
        options = [word for name, value in TINY.items() for word in (f"--{name}", value)]
        return bash(
            ROOT / "scripts/ablate.sh",
            "--dataset",
            "toybirds",
            "--data_root",
            folder / "my data",
            "--output_root",
            folder / "out put",
            "--tag",
            "trial",
            "--stage",
            "3",
            *options,
            *words,
        )

    result = ablate("--only", "l1")
    assert result.returncode == 0, result.stdout + result.stderr
    result = ablate("--only", "l1 jel+distill")
    assert result.returncode == 0 and result.stdout.count("done before") == 2, result.stdout + result.stderr
    table = (folder / "out put/trial_ablation/table.csv").read_text().splitlines()
    assert table[0].startswith("JEL,L1,distillation,seed,epochs,accuracy,ap50")
    assert [line[:7] for line in table[1:]] == ["0,1,0,0", "1,0,1,0"]
    assert not list((folder / "out put/trial_ablation").rglob("resume*"))
    for words, sentence in (
        (["--only", "jel+jel"], "--only jel+jel is none of"),
        (["--seeds", "x"], "--seeds x"),
        (["--stop_stage", "5"], "--stop_stage is for run.sh"),
        (["--encoder_options", "--encoder contrastive"], "its encoder learns without these losses"),
    ):
        result = ablate(*words)
        assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1


def test_a_comparison_runs_every_row_with_every_seed(tmp_path):
    """run.sh and python write down their words here: each row has its method, changes, seed, time and features."""
    (tmp_path / "scripts").mkdir()
    for name in ("compare_recipes.sh", "recipe.sh", "toybirds.sh"):
        (tmp_path / "scripts" / name).write_bytes((ROOT / "scripts" / name).read_bytes())
    (tmp_path / "scripts/run.sh").write_text('printf "%s|" run "$@" >> said; echo >> said\n')
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$1" in */comparison_page.py) ;; *) exit 0 ;; esac\n'
        'printf "%s|" page "$@" >> said; echo >> said\necho table > "$7/table.md"\n'
    )
    python.chmod(0o755)
    (tmp_path / "my parts.txt").write_text(
        "# a comment\n\nno average | --gan_changes '--set TRAIN.EMA=0' --minutes 3\n"
    )
    folder = tmp_path / "output/demo_comparison"
    folder.mkdir(parents=True)
    words = [
        "--rows",
        "improved",
        "--variants",
        tmp_path / "my parts.txt",
        "--seeds",
        "0 3",
        "--captions_per_image",
        "2",
    ]
    result = bash(tmp_path / "scripts/compare_recipes.sh", "--dataset", "toybirds", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    said = [line.split("|")[:-1] for line in (tmp_path / "said").read_text().splitlines()]
    assert [line[0] for line in said] == ["run", "page"] * 4
    shared = ["--captions_per_image", "2", "--dataset", "toybirds", "--data_root", "data", "--output_root", str(folder)]
    runs = [line[1:] for line in said[::2]]
    for run, row, seed, change in zip(
        runs,
        ("improved", "no_average") * 2,
        ("0", "0", "3", "3"),
        (["--method", "improved"], ["--method", "modern", "--gan_changes", "--set TRAIN.EMA=0", "--minutes", "3"]) * 2,
    ):
        own = ["--tag", f"{row}_seed{seed}", "--seed", seed, "--minutes", "10", "--features", f"demo_{row}_seed{seed}"]
        assert sorted(run) == sorted(["--dataset", "toybirds", *shared, *own, "--stop_stage", "7", *change])
        assert run[-len(change) :] == change
    assert said[-1][-4:] == [str(folder / f"{row}_seed{seed}") for seed in "03" for row in ("improved", "no_average")]
    assert result.stdout.endswith(f"table\nthe page: {folder}/index.html\n")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--rows", "best"], "--rows best: choose published, improved or modern"),
        (["--base", "best"], "--base best: choose published, improved or modern"),
        (["--seeds", "x"], "--seeds x is not a whole number"),
        (["--method", "modern"], "--method are for run.sh"),
        (["--variants", "/no/file"], "--variants /no/file does not exist"),
        (["--rows", "", "--variants", "{}"], "is not of the form: name | changes"),
    ],
)
def test_mistakes_in_a_comparison_get_one_sentence(tmp_path, words, sentence):
    (tmp_path / "bad.txt").write_text("no change here\n")
    words = [word.replace("{}", str(tmp_path / "bad.txt")) for word in words]
    result = bash(ROOT / "scripts/compare_recipes.sh", "--dataset", "toybirds", "--output_root", tmp_path, *words)
    assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_evaluation_stops_at_its_first_fault(done):
    """Speech is measured first; that the images could still be measured does not make the stage a success."""
    folder, _ = done
    result = recipe(folder, "--stage", "7", "--stop_stage", "7", "--teacher", "nobody")
    assert result.returncode == 2 and "stage 7 (evaluation) ended with status 2" in result.stderr, result.stderr
    assert "image_features_nobody" in result.stderr and not (folder / "out put/trial/.done_7").exists()


def test_a_stage_that_fails_is_not_marked_done(tmp_path):
    result = recipe(tmp_path, "--stop_stage", "1", speech_options="--voices nobody")
    assert result.returncode == 2 and "nobody" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "out put/trial/.done_0").exists() and not (tmp_path / "out put/trial/.done_1").exists()


def test_published_speech_from_an_archive(tmp_path):
    """Stage 1 takes the authors' recordings; keys are asked for only where one is missing."""
    birds, archive = tmp_path / "data/birds", tmp_path / "speech.zip"
    birds.mkdir(parents=True)
    names = [f"001.Gull/{split}_{n}" for split in ("train", "test") for n in range(2)]
    for split in ("train", "test"):
        items = [{"image": f"{name}.jpg", "class": "001.Gull", "text": ["a", "b"]} for name in names if split in name]
        (birds / f"{split}.json").write_text(json.dumps({"image_base_path": str(birds), "data": items}))
    tone, wav = np.sin(np.arange(16000) / 9), io.BytesIO()
    soundfile.write(wav, tone, 16000, format="WAV", subtype="PCM_16")
    with zipfile.ZipFile(archive, "w") as packed:
        for name in names:
            for k in range(2):
                packed.writestr(f"CUB_200_2011_audio/audio/0/{name}_{k}.wav", wav.getvalue())
    words = (
        ROOT / "scripts/birds.sh",
        "--data_root",
        tmp_path / "data",
        "--output_root",
        tmp_path / "out",
        "--stage",
        1,
        "--stop_stage",
        1,
        "--speech",
        "published",
        "--speech_archive",
        archive,
    )
    keyless = {f"BAIDU_{name}": "" for name in ("APP_ID", "API_KEY", "SECRET_KEY")}
    result = bash(*words, **keyless)
    assert result.returncode == 0 and "8 captions, 8 of them spoken before" in result.stdout, (
        result.stdout + result.stderr
    )
    recordings = list((birds / "CUB_200_2011_audio/audio/0").rglob("*.wav"))
    assert len(recordings) == 8 and json.loads((birds / "train.json").read_text())["data"][1]["audio"] == [
        f"0/001.Gull/train_1_{k}.wav" for k in range(2)
    ]
    with (birds / "test.json").open() as file:
        content = json.load(file)
    content["data"].append(
        {"image": "001.Gull/new.jpg", "class": "001.Gull", "text": ["c"], "audio": ["0/001.Gull/new_0.wav"]}
    )
    (birds / "test.json").write_text(json.dumps(content))
    result = bash(*words, **keyless)
    assert (
        result.returncode == 2
        and "BAIDU_API_KEY" in result.stderr
        and all(path.read_bytes() == wav.getvalue() for path in recordings)
    )


@pytest.mark.parametrize("has_libraries", [True, False])
def test_a_recipe_without_an_environment(tmp_path, has_libraries):
    """It goes on with a python3 that has the libraries, and runs set-up otherwise."""
    for name in ("scripts/run.sh", "scripts/recipe.sh", "scripts/installed.py", "scripts/shell_parts.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "scripts/setup.sh").write_text("echo set-up ran >&2\nexit 3\n")
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\ncase "$1" in scripts/installed.py) exit {int(not has_libraries)} ;;\n'
        f'scripts/shell_parts.py) exec "{sys.executable}" "$@" ;; esac\necho $@ >&2\nexit 5\n'
    )
    python.chmod(0o755)
    result = bash(
        tmp_path / "scripts/run.sh",
        "--dataset",
        "mine",
        "--engine",
        "espeak",
        PATH=f"{python.parent}:{os.environ['PATH']}",
    )
    said = "text_to_speech.py --dataset mine" if has_libraries else "set-up ran"
    assert result.returncode == (5 if has_libraries else 3) and said in result.stderr, result.stderr


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--dataset", "toybirds", "--speech", "x"], "choose synthesised or published"),
        (["--dataset", "toybirds", "--speech", "published"], "no speech was published for --dataset toybirds"),
        (["--dataset", "birds", "--speech", "published", "--speech_archive", "/no.zip"], "/no.zip does not exist"),
        (["--dataset", "toybirds", "--no_such_choice", "1"], "unknown option --no_such_choice"),
        (["--dataset", "toybirds", "--stage"], "--stage needs a value"),
        (["--dataset", "toybirds", "--method", "x"], "choose published, improved or modern"),
        (["--dataset", "flowers", "--method", "improved"], "--dataset flowers has no choices for it"),
        (["--dataset", "toybirds", "--minutes", "0"], "--minutes 0 is not a number of minutes"),
        (["--dataset", "toybirds", "--minutes", "5", "--encoder_share", "100"], "--encoder_share 100"),
        (["--dataset", "places", "--captions_per_image", "2"], "nothing is spoken for --dataset Places_subset"),
        ([], "--dataset is missing"),
        (["--dataset", "../x"], "not the name of a folder"),
        (["--dataset", "toybirds", "--stage", "x"], "not a whole number"),
    ],
)
def test_mistakes_in_a_recipe_get_one_sentence(words, sentence):
    result = bash(ROOT / "scripts/run.sh", *words)
    assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name, expected",
    [
        ("birds", "googlenet_caffe"),
        ("flowers", "flowers_3stages"),
        ("places", "Places_subset"),
        ("flickr8k", "engine             none"),
        ("toybirds", "toybirds_exemplar"),
        ("toybirds_256", "TREE.BASE_SIZE=64"),
        ("cub100", "captions_per_image 2,1"),
        ("birds_modern", "cfg/birds_modern.yml"),
    ],
)
def test_every_recipe_shows_its_choices(name, expected):
    result = bash(ROOT / f"scripts/{name}.sh", "--help")
    assert result.returncode == 0 and expected in result.stdout and "2 image features" in result.stdout


@pytest.mark.parametrize(
    "words, encoder, cfg",
    [
        ("flowers --method published", "--jel_flag", "flowers_3stages"),
        ("toybirds --method published", "--epoch 1000", "birds_3stages"),
        ("toybirds --method modern", "--encoder contrastive", "toybirds_exemplar"),
        ("cub100", "--encoder contrastive", "toybirds_exemplar"),
        ("cub100 --method improved", "--jel_flag", "toybirds_3stages"),
    ],
)
def test_a_method_chooses_encoder_and_cfg(words, encoder, cfg):
    shown = bash(ROOT / "scripts/run.sh", "--dataset", *words.split(), "--help").stdout
    assert encoder in shown and f"cfg/{cfg}.yml" in shown


def test_a_method_that_needs_no_teacher_leaves_its_features_out(tmp_path):
    """And within its minutes the encoder has a third of the time; the features have a name of their own."""
    (tmp_path / "data/toy").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / f"data/toy/{split}.json").write_text('{"audio": "a.wav"}')
    program = (
        f'set -euo pipefail; program=toy; set -- --dataset toy --data_root "{tmp_path}/data" '
        f'--output_root "{tmp_path}/out" --method modern --minutes 10; source {ROOT}/scripts/recipe.sh; '
        "python=echo; data_stages; echo $features $tag; echo $encoder_options; echo $gan_options"
    )
    result = bash("-c", program)
    assert result.returncode == 0 and "prepare_image_feature" not in result.stdout, result.stderr
    assert "contrastive toy_modern\n" in result.stdout and "--max_minutes 3.3\n" in result.stdout
    assert "--max_minutes 6.7 --set TRAIN.MAX_ITERATIONS=0" in result.stdout


def test_set_up_says_what_is_missing(tmp_path):
    """A copy of the project without .venv: no Python, an old one, no package index."""
    for name in ("scripts/setup.sh", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "oldpython"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.8.1 ;; *) exit 1 ;; esac\n')
    old.chmod(0o755)
    setup = tmp_path / "scripts/setup.sh"
    for python, sentence in (("/no/python", "was not found"), (str(old), "Python 3.8.1 is too old")):
        result = bash(setup, PYTHON=python)
        assert result.returncode == 2 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()
    result = bash(
        setup,
        PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_CONFIG_FILE=os.devnull,
        PIP_EXTRA_INDEX_URL="",
        PIP_FIND_LINKS="",
    )
    assert result.returncode == 2 and "no package index could be reached" in result.stderr, result.stderr
