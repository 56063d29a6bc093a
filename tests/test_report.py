"""The report page: complete with everything there, exact about what is missing, harmless whatever the files say."""

import json
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from common import checkpoint
from common.cli import UserError
from common.features import feature_path, save_features
from common.settings import to_plain
from common.splits import load_split
from scripts.report import figures, page_data, published_settings, run_records, runs, sentences
from StackGAN_v2.config import load_config
from StackGAN_v2.model import Generator

ROOT = Path(__file__).resolve().parent.parent
PARTS = "Audio_to_Image/log/trial_speech_encoder", "StackGAN_v2/trial_speech_encoder", "trial"
EVIL = "<script>alert('x')</script> & \"quoted\""


def make_set(root: Path, classes: bool = True, sound: bool = True, items: int = 6) -> Path:
    """A set of `items` test images with two captions each; the first caption of all is hostile."""
    rng, folder = np.random.default_rng(0), root / "data" / "tiny"
    for name in ("train", "test"):
        data = []
        for i in range(items):
            picture = root / "images" / name / f"{i}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 50 + i, 3), np.uint8)).save(picture)
            item = {"image": f"{name}/{i}.png", "text": [EVIL if i == 0 else f"a bird, number {i}", "a red bird"]}
            if classes:
                item["class"] = f"{i % 3 + (4 if name == 'test' else 1):03d}.{name}_kind"
            if sound:
                item["audio"] = [f"{name}_{i}_{k}.wav" for k in range(2)]
                for wav in item["audio"]:
                    soundfile.write(root / wav, 0.1 * rng.standard_normal(8000), 16000)
            data.append(item)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(
            json.dumps({"image_base_path": str(root / "images"), "audio_base_path": str(root), "data": data})
        )
    split = load_split(folder, "test")
    save_features(feature_path(folder, "test", "audio", "stub"), rng.standard_normal((items, 2, 9)), split)
    return folder


def make_runs(root: Path) -> None:
    """An encoder run, a generator run with measured images, and a recipe's times."""
    encoder, generator, recipe = (root / "out" / part for part in PARTS)
    for folder in (encoder, generator / "Model" / "iteration5", recipe):
        folder.mkdir(parents=True)
    write_json(
        encoder / "options.json",
        {
            "options": {
                "teacher": "efficientnet_lite0",
                "lr_schedule": "cosine",
                "l1_flag": True,
                "lambda_l1": 5.0,
                "bidirectional": True,
                "max_frames": 640,
                "dataset": "tiny",
                "data_root": str(root / "data"),
            }
        },
    )
    write_lines(
        encoder / "stats.jsonl",
        [{"step": i, "epoch": i / 2, "loss": 9 / i, "jel": 1 / i, "l1": 1 / i, "distill": 0} for i in range(1, 9)]
        + [
            {
                "step": 8,
                "epoch": 4,
                "eval_accuracy": 50.0,
                "eval_ap50": 33.0,
                "eval_chance": 33.3,
                "eval_ap50_chance": 33.3,
            }
        ],
    )
    write_lines(
        encoder / "metric-speech.jsonl",
        [
            {
                "accuracy": 61.5,
                "chance": 33.3,
                "ap50": 34.0,
                "ap50_chance": 33.3,
                "images": 6,
                "captions": 12,
                "unusable": 0,
                "protocol": {"accuracy": "as told"},
            }
        ],
    )
    torch.manual_seed(0)
    net = Generator(branch_num=3, base_size=8, gf_dim=8, z_dim=4, embedding_dim=5, text_dim=9)
    checkpoint.save(generator / "Model" / "netG_5.pth", net.state_dict())
    (generator / "Model" / "latest.pth").symlink_to("netG_5.pth")
    cfg = load_config(settings=["TRAIN.ADVERSARIAL=hinge", "TRAIN.COEFF.MA_PENALTY=2", "GAN.GF_DIM=8"])
    write_json(
        generator / "options.json",
        {
            "options": {
                "cfg": to_plain(cfg),
                "audio_switch": "stub",
                "iterations": 5,
                "data_dir": str(root / "data" / "tiny"),
            },
            "versions": {"torch": EVIL},
            "revision": "abc",
        },
    )
    write_lines(
        generator / "stats.jsonl",
        [{"step": i, "D0": 3.0, "D1": 2.0, "D2": 1.5, "G0": -i, "G": i, "KL": 1e-4 * i} for i in range(1, 6)],
    )
    write_json(
        generator / "Model" / "iteration5" / "metrics.json",
        {
            "attribute_agreement_32px_test_gen12": {
                "value": 42.0,
                "unit": "%",
                "chance": 10.0,
                "ceiling": 80.0,
                "normalised": 0.46,
                "protocol": {"probe": EVIL},
                "warnings": [EVIL],
                "attributes": {"crown": {"agreement": 40.0, "chance": 9.0, "ceiling": 81.0}},
            },
            "fid_lite0_32px_box_test6_gen12": {"value": 123.4, "unit": "", "protocol": {}, "warnings": []},
            "broken": {"value": "x"},
        },
    )
    write_lines(
        recipe / "stages.jsonl",
        [{"stage": 3, "name": "encoder", "seconds": 99.0}, {"stage": 3, "name": "encoder", "seconds": 201.4}],
    )


def write_json(path, value):
    path.write_text(json.dumps(value))


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "half a li")


class Page(HTMLParser):
    """The elements and the visible text of a page, and a check that every element is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag, **wanted):
        return [
            a for t, a in self.elements if t == tag and all((a.get(k) or "").startswith(v) for k, v in wanted.items())
        ]


def report(root, *words, status=0):
    """The command, in this process; returns the page."""
    from common import cli

    command = runpy.run_path(str(ROOT / "scripts" / "report.py"))  # the package beside it has its name
    output, before = root / "page" / "index.html", sys.argv
    sys.argv = [
        "report.py",
        *map(str, words),
        "--dataset",
        "tiny",
        "--data_root",
        str(root / "data"),
        "--output",
        str(output),
        "--device",
        "cpu",
    ]
    try:
        with pytest.raises(SystemExit) as end:
            cli.run(command["main"])
    finally:
        sys.argv = before
    assert (end.value.code or 0) == status
    return Page(output) if status == 0 else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole 'set'")
    make_set(root)
    make_runs(root)
    return root


@pytest.fixture(scope="module")
def page(whole):
    return report(whole, whole / "out" / "trial", "--sentences", 4)


def test_everything_is_there_and_inlined(page):
    assert len(page.all("audio", src="data:audio/")) == 4 + 2
    assert len(page.all("img", src="data:image/")) == 4 * (1 + 3 + 4) + 11
    assert not [a for _, a in page.elements if re.match(r"(https?:)?//", a.get("src") or a.get("href") or "")]
    for words in ("8 px", "16 px", "32 px", "61.5 %", "6 test images of 3 classes"):
        assert words in page.text
    assert "62 %" in page.text and "chance 33 %" in page.text  # of metric-speech.jsonl, not of training
    assert "42 %" in page.text and "123.4" in page.text and "crown" in page.text
    assert "3 min 21 s" in page.text and "1 min 39 s" not in page.text  # the last run of a stage counts
    assert "any of the 3 classes" in page.text  # disjoint from training's
    assert "hinge" in page.text and "EfficientNet-lite0" in page.text and "cosine" in page.text
    assert "missing" not in page.text.lower()


@pytest.fixture(scope="module")
def three(whole):
    """The recipe beside a generator of other images, measured twice, and an encoder; with an ablation."""
    second, third = whole / "other" / "second", whole / "other" / "third"
    generator = whole / "out" / PARTS[1]
    for iteration in (5, 9):
        folder = second / "Model" / f"iteration{iteration}"
        folder.mkdir(parents=True)
        write_json(
            folder / "metrics.json",
            {
                "attribute_agreement_32px_test_gen12": {
                    "value": 40.0 + iteration,
                    "unit": "%",
                    "chance": 10.0,
                    "ceiling": 80.0,
                    "protocol": {"probe": "another"},
                    "warnings": [],
                    "attributes": {"crown": {"agreement": 73.0, "chance": 9.0, "ceiling": 89.0}},
                },
                "fid_inception_8px_box_test6_gen12": {
                    "value": 55.5,
                    "unit": "",
                    "protocol": {"crop": "box"},
                    "warnings": [],
                    "published": [{"method": "Li et al.", "value": "18.37"}, "damaged"],
                    "comparable_with": "FID of Li et al.: carefully",
                },
            },
        )
    torch.manual_seed(1)
    net = Generator(branch_num=2, base_size=8, gf_dim=8, z_dim=4, embedding_dim=5, text_dim=9)
    checkpoint.save(second / "Model" / "netG_9.pth", net.state_dict())
    (second / "Model" / "latest.pth").symlink_to("netG_9.pth")
    for name in ("options.json", "stats.jsonl"):
        (second / name).write_bytes((generator / name).read_bytes())
    third.mkdir()
    write_json(third / "options.json", {"options": {"dataset": "tiny", "teacher": "googlenet_caffe"}})
    write_lines(third / "stats.jsonl", [{"step": i, "epoch": i, "loss": 4 / i} for i in range(1, 5)])
    ablation = whole / "out" / "trial_ablation"
    ablation.mkdir()
    (ablation / "table.csv").write_text("JEL,L1,distillation,seed,epochs,accuracy,ap50\n1,0,1,0,5,77.6543,12.0\n")
    yield report(whole, whole / "out" / "trial", generator, second, third, "--sentences", 3)
    (ablation / "table.csv").unlink()


def test_several_runs_stand_side_by_side(three):
    assert len(three.all("audio", src="data:audio/")) == 3 + 2  # a sentence is heard once
    assert len(three.all("img", src="data:image/")) == 3 * (1 + 2 * (1 + 4)) + 2 * 11
    assert "3 runs stand side by side: trial, second, third" in three.text  # the recipe's generator counts once
    header = "number trial second third how".split()
    assert " ".join(header) in " ".join(three.text.split())
    for words in (
        "55.5",
        "42 %",
        "49 %",
        "Compares with FID of Li et al.: carefully",
        "Li et al.: 18.37",
        "second: probe: another",
        "normalised 0.80",
        "77.7",
        "third: Missing: the numbers of the speech encoder",
    ):
        assert words in " ".join(three.text.split()), words
    assert "third: Missing: the numbers of the images" not in three.text  # an encoder generates none
    charts_ = [a["aria-label"] for a in three.all("div", role="img")]
    assert any(title.startswith("Attributes generated as said") for title in charts_)
    assert any(title.startswith("Discriminator of the last branch") for title in charts_)
    assert not three.all("script")


def test_which_runs_are_meant(whole, three, tmp_path):
    encoder, generator, recipe = (whole / "out" / part for part in PARTS)
    second, third = whole / "other" / "second", whole / "other" / "third"

    def labels(*paths):
        columns, ablations = runs.columns(paths)
        return [(c.label, bool(c.encoder), bool(c.generator)) for c in columns], [path.name for path in ablations]

    assert labels(recipe) == ([("trial", True, True)], ["trial_ablation"])
    assert labels(encoder, generator)[0] == labels(generator, encoder)[0] == [("trial", True, True)]  # one name
    assert labels(third, second)[0] == [("second", True, True)]  # the only ones
    assert labels(third, second, generator)[0] == [
        ("third", True, False),
        ("second", False, True),
        ("trial", False, True),
    ]
    assert labels(encoder, third, encoder)[0] == [("trial", True, False), ("third", True, False)]
    twin = tmp_path / "third"
    twin.mkdir()
    (twin / "options.json").write_text("{}")
    assert [label for label, *_ in labels(twin, third)[0]] == [f"{tmp_path.name}/third", "other/third"]  # told apart
    assert runs.dataset(runs.columns([third])[0]) == ROOT / "data" / "tiny"
    write_json(twin / "options.json", {"options": {"dataset": "tiny", "data_root": "elsewhere"}})
    with pytest.raises(UserError, match="elsewhere/tiny"):
        runs.dataset(runs.columns([third, twin])[0])


def test_what_files_say_stays_text(page):
    assert EVIL in page.text and not page.all("script")
    assert page.source.count("alert(") == page.source.count("&lt;script&gt;alert(")
    assert "default-src 'none'" in page.all("meta", content="default-src")[0]["content"]


def test_images_are_those_that_main_generates(whole):
    from StackGAN_v2 import sampler
    from StackGAN_v2.generators import load_generator

    generator = load_generator(whole / "out" / PARTS[1] / "Model" / "latest.pth")
    split = load_split(whole / "data" / "tiny", "test")
    rows = [np.float32(np.random.default_rng(i).standard_normal((2, 9))) for i in range(6)]
    chosen = sentences.choose(split, [2] * 6, 4)
    generated = sentences.generate(generator, rows, chosen, "fp32")
    how = sampler.Sampling(batch_size=5, all_sizes=True, progress=False)
    sampler.sample_split(generator, split, rows, whole / "valid", how)
    for sentence, own in zip(chosen, generated):
        for size, pixels in zip(generator.sizes, own.branches):
            path = whole / "valid" / sampler.image_name(split, sentence.item, size, sentence.number)
            assert np.abs(np.asarray(Image.open(path)).astype(int) - pixels).max() <= 1


def test_choice_is_spread_and_without_repeats(whole):
    split = load_split(whole / "data" / "tiny", "test")
    three = sentences.choose(split, [2] * 6, 3)
    assert sorted({s.item.label for s in three}) == sorted(set(split.labels)) and three == sentences.choose(
        split, [2] * 6, 3
    )
    everything = sentences.choose(split, [2] * 6, 50)
    assert len({(s.place, s.number) for s in everything}) == len(everything) == 12
    assert len(sentences.choose(split, [0, 1, 0, 0, 0, 1], 12)) == 2


def test_nothing_there_is_said(tmp_path, capsys):
    make_set(tmp_path, classes=False, sound=False, items=1)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / ".begun_0").touch()
    page = report(tmp_path, tmp_path / "trial")
    assert not page.all("audio") and len(page.all("img")) == 2  # the real images of the two sentences
    for words in (
        "no generated images",
        "nothing to play",
        "no interpolation",
        "No encoder run",
        "No generator run",
        "Missing: the numbers",
        "not measured",
        "No recipe",
    ):
        assert words in page.text, words
    assert "index.html" in capsys.readouterr().out.splitlines()[-1]


def test_damaged_runs_are_said(whole, tmp_path):
    broken = tmp_path / "broken"
    (broken / "Model").mkdir(parents=True)
    (broken / "options.json").write_text("[1, 2")
    (broken / "stats.jsonl").write_bytes(b'\xff\n{"step": "a", "G": 1}\n{"step": 1, "G": NaN, "D0": 1e400}\n')
    (broken / "Model" / "latest.pth").write_bytes(b"no checkpoint")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for name in ("options.json", "stats.jsonl"):
        (encoder / name).write_bytes((broken / name).read_bytes())
    (encoder / "metric-speech.jsonl").write_text('{"accuracy": "high"}\n[]\n')
    page = report(whole, encoder, broken)
    assert "latest.pth is refused" in page.text and "not JSON" in page.text and "No values yet" in page.text


def test_features_of_another_width_are_said(whole, tmp_path):
    split = load_split(whole / "data" / "tiny", "test")
    save_features(feature_path(whole / "data" / "tiny", "test", "audio", "other"), np.zeros((6, 2, 7)), split)
    page = report(whole, whole / "out" / PARTS[1], "--audio_switch", "other")
    assert "expects speech features of width 9" in page.text


def test_user_errors(tmp_path, capsys):
    (tmp_path / "stages.jsonl").touch()
    report(tmp_path, tmp_path, status=2)
    assert "--dataset tiny" in capsys.readouterr().err
    report(tmp_path, tmp_path / "nowhere", status=2)
    assert "nowhere does not exist" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    report(tmp_path, tmp_path / "data", status=2)
    assert "data is no run" in capsys.readouterr().err


def test_departures_name_additions_first(whole):
    rows = published_settings.departures(
        run_records.run_folder(whole / "out" / PARTS[0]), run_records.run_folder(whole / "out" / PARTS[1]), "tiny"
    )
    added = [d.name for d in rows if d.added]
    assert [d.added for d in rows] == sorted((d.added for d in rows), reverse=True)
    assert any("adversarial" in name for name in added) and any("matching-aware" in name for name in added)
    assert any(d.name == "teacher network" and d.published == "GoogLeNet (Caffe)" and not d.added for d in rows)
    ahead = run_records.RunFolder(whole, {"cfg": {"TRAIN": {"LATER_IDEA": True}}})  # of a version after this page's
    assert [(d.name, d.added) for d in published_settings.departures(None, ahead, "birds")] == [
        ("TRAIN.LATER_IDEA", True)
    ]
    published = run_records.RunFolder(
        whole, {"cfg": to_plain(load_config(ROOT / "StackGAN_v2/cfg/birds_3stages.yml")), "iterations": 220000}
    )
    assert published_settings.departures(None, published, "birds") == []


def test_equal_inputs_give_equal_pages(whole):
    first, again = (report(whole, whole / "out" / PARTS[1], "--sentences", 2) for _ in range(2))
    assert first.source == again.source and "<svg" in first.source


def test_what_a_generator_remarks_stands_beside_its_images(whole, monkeypatch):
    remark = "Outlines are those of <b>training</b> images."
    plain = report(whole, whole / "out" / PARTS[1], "--sentences", 1)
    monkeypatch.setattr(Generator, "remark", remark)
    said = report(whole, whole / "out" / PARTS[1], "--sentences", 1)
    assert "Outlines" not in plain.source
    assert said.source.count("Outlines are those of &lt;b&gt;training&lt;/b&gt; images.") == 1


def test_what_training_has_met_is_said_as_it_is(tmp_path):
    folder = make_set(tmp_path)
    split, train = load_split(folder, "test"), folder / "train.json"

    def said(*trained_on):
        options = [{"dataset": one.name, "data_root": str(one.parent)} if one else {} for one in trained_on]
        columns_ = [runs.Column("a", *(run_records.RunFolder(Path("run"), o) for o in options))]
        return page_data.novelty(split, folder, columns_)

    assert said() == ""
    assert said(folder).startswith("The speech encoder has not met any of the 3 classes")
    assert said(folder, folder).startswith("Neither has met any of the 3 classes")
    assert (
        said(folder, None)
        == said(None)
        == ("Whether training has met the test images is not known: run does not name its training set.")
    )
    moved, other = tmp_path / "gone" / "tiny", tmp_path / "other"
    assert said(moved) == said(folder) and "other/train.json does not exist" in said(folder, other)
    content = json.loads(train.read_text())
    for item in content["data"]:
        item["class"] = item["class"].replace("train", "test").replace("001", "004")
    write_json(train, content)
    assert said(folder, folder).startswith("Neither has met any of the images that")
    content["data"][0]["image"] = "test/2.png"
    content["image_base_path"] += "/../images"
    write_json(train, content)
    assert said(folder).startswith("1 of the 6 test images were in the training split, too")
    content["data"] = [{key: value for key, value in item.items() if key != "class"} for item in content["data"][1:]]
    write_json(train, content)
    assert said(folder).startswith("The speech encoder has not met any of the images that")


def test_halves_of_characters_are_replaced(whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "options.json").write_text('{"options": {"teacher": "\\ud800 $\\\\frac{"}}')
    assert "? $\\frac{" in report(whole, run).text


def test_ticks_and_thinning():
    assert [figures.tick(value) for value in (0, 0.05, -12, 1500, 2e4, 3e6)] == [
        "0",
        "0.05",
        "−12",
        "1500",
        "20k",
        "3M",
    ]
    assert figures.thin([(i, 2 * i) for i in range(1000)], 10)[0].tolist() == [49.5, 99]
    assert len(figures.thin([(i, i) for i in range(300)], 160)) == 160
    assert figures.line_chart("t", [figures.Line("a", [(1, float("nan"))])], "x", "y").svg == ""
    assert figures.line_chart("t", [figures.Line("a", [(3, 0.0)])], "x", "y").svg.count("var(--s1)") >= 1  # a marker


@pytest.mark.parametrize(
    "values", ([0, 0], [1e-20, 2e-20], [5, 5 + 1e-12], [-1e29, 1e29], [3e-7], [1, 1e9], [0.3, 0.30001])
)
@pytest.mark.parametrize("log", (False, True))
def test_charts_of_odd_ranges(values, log):
    drawn = figures.line_chart("t", [figures.Line("a", list(enumerate(values)))], "x", "y", log=log).svg
    assert "nan" not in drawn and "inf" not in drawn
    heights = re.findall(r' y="([-0-9.]+)"', drawn)
    assert all(-50 < float(y) < 320 for y in heights) and (len(heights) > 4 or log and max(values) <= 0)


def test_figures_follow_the_page(page):
    drawings = re.findall(r"<svg viewBox.*?</svg>", page.source, re.DOTALL)
    assert len(drawings) > 4 and not any(
        re.search(r"#[0-9a-f]{6}\b|<style|<metadata|<!--|font-family", d) for d in drawings
    )


def test_help_is_quick():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", "--help"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0 and "RUN" in done.stdout


def test_a_page_of_others_is_kept(whole, capsys):
    page = whole / "page" / "index.html"
    before = page.read_bytes() if page.exists() else None
    page.parent.mkdir(exist_ok=True)
    page.write_text("<html>mine</html>")
    try:
        report(whole, whole / "out" / "trial", status=2)
        assert page.read_text() == "<html>mine</html>"
        assert "index.html is there and was not written by this project" in capsys.readouterr().err
    finally:
        page.unlink() if before is None else page.write_bytes(before)
