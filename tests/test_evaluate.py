"""The evaluation command: names, records, caches and refusals, on small images through a stub network."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import ROOT, splits
from common.cli import UserError
from common.files import write_json
from StackGAN_v2 import evaluate
from StackGAN_v2.data.image_names import first_sentences, image_name
from StackGAN_v2.evaluation import attribute_probe, feature_extractors, records
from StackGAN_v2.evaluation.image_sets import RealImages

SIZE, CLASSES, IMAGES, SENTENCES = 16, 4, 3, 2
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210), "white": (240, 240, 240)}
ALL = ",".join(evaluate.METRICS)


class StubExtractor(feature_extractors.Extractor):
    """Features: the mean colour of each quadrant (12); logits: the mean colour of the whole (3), a quarter of it."""

    width, classes, name, identity, what = 12, 3, "lite0", "stub", "a stub"
    calls = 0

    def __init__(self, device="cpu", view=224):
        self.device = torch.device(device)

    def _forward(self, images):
        type(self).calls += len(images)
        features = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 255
        return features, images.float().mean((2, 3)) / 64


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(feature_extractors, "Lite0Extractor", StubExtractor)
    monkeypatch.setattr(StubExtractor, "calls", 0)
    # a short training is enough for squares of one colour
    monkeypatch.setattr(
        attribute_probe, "train_probe", functools.partial(attribute_probe.train_probe, steps=25, batch=12)
    )
    return StubExtractor


@pytest.fixture
def data(tmp_path):
    """A set of coloured squares with boxes and attributes: `train` and `test`, CUB's layout."""
    folder, random = tmp_path / "data", np.random.default_rng(0)
    images, boxes, captions = [], [], {}
    for split in ("train", "test"):
        items = []
        for c, (name, colour) in enumerate(COLOURS.items()):
            for i in range(IMAGES):
                image = f"{c + 1:03d}.{name}/{split}_{i}.jpg"
                path = folder / "CUB_200_2011/images" / image
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(90, 130, (40, 50, 3), np.uint8)
                pixels[10:30, 15:35] = np.clip(np.array(colour) + random.integers(-15, 15, (20, 20, 3)), 0, 255)
                Image.fromarray(pixels).save(path, quality=95)
                images.append(f"{len(images) + 1} {image}\n")
                boxes.append(f"{len(images)} 15 10 20 20\n")
                captions[image] = [[0]] * SENTENCES
                items.append({"image": image, "class": f"{c + 1:03d}.{name}", "text": ["a bird"] * SENTENCES})
        write_json(folder / f"{split}.json", {"image_base_path": str(folder / "CUB_200_2011/images"), "data": items})
    (folder / "CUB_200_2011/images.txt").write_text("".join(images))
    (folder / "CUB_200_2011/bounding_boxes.txt").write_text("".join(boxes))
    write_json(
        folder / "attributes.json",
        {
            "attributes": {"body": list(COLOURS)},
            "captions": captions,
            "classes": {f"{c + 1:03d}.{name}": [name] for c, name in enumerate(COLOURS)},
        },
    )
    return folder


@pytest.fixture
def images(data, tmp_path):
    """The real test images under the names of generated ones: the best generator there could be."""
    return generate(data, tmp_path / "run/iteration9/single_samples/valid")


def generate(data, folder, order=None, size=SIZE):
    split = splits.load_split(data, "test")
    real, firsts = RealImages(split, size), first_sentences(split)
    for i, item in enumerate(split.items):
        for k in range(len(item.texts)):
            path = folder / image_name(split, item, size, firsts[i] + k)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(real.load(real.number[i] if order is None else order[i])).save(path)
    return folder


def run(data, images, *options):
    always = ["--images", str(images), "--data_dir", str(data), "--quiet", "--device", "cpu"]
    assert evaluate.main([*always, *options]) == 0
    return json.loads((images.parent.parent / "metrics.json").read_text())


def command(*options):
    return subprocess.run(
        [sys.executable, "StackGAN_v2/evaluate.py", *map(str, options)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_perfect_images(data, images, stub, capsys):
    found = run(data, images)
    stem = "lite0_16px_box_test12_gen24"
    assert set(found) == {
        f"{name}_{stem}"
        for name in (
            "fid",
            "kid",
            "precision",
            "recall",
            "retrieval_map",
            "retrieval_r1",
            "retrieval_r5",
            "retrieval_r10",
            "retrieval_image_r1",
            "retrieval_image_r5",
            "retrieval_image_r10",
            "retrieval_image_r50",
            "class_accuracy",
        )
    } | {"is_lite0_16px_gen24", "attribute_agreement_16px_test_gen24"}
    assert found[f"fid_{stem}"]["value"] < 1e-2
    assert found[f"precision_{stem}"]["value"] == found[f"recall_{stem}"]["value"] == 1
    assert found[f"retrieval_map_{stem}"]["value"] == pytest.approx(100)
    assert 25 < found[f"retrieval_map_{stem}"]["chance"] < 40
    assert found[f"retrieval_r1_{stem}"]["chance"] == pytest.approx(25)
    assert found[f"retrieval_image_r1_{stem}"]["value"] == 100
    assert found[f"retrieval_image_r1_{stem}"]["chance"] == pytest.approx(100 * 2 / 24)
    assert found[f"class_accuracy_{stem}"]["value"] == 100 and found[f"class_accuracy_{stem}"]["chance"] == 25
    agreement = found["attribute_agreement_16px_test_gen24"]
    assert agreement["value"] == agreement["ceiling"] > agreement["chance"] and agreement["normalised"] == 1
    assert agreement["attributes"]["body"]["named"] == 24
    record = found[f"kid_{stem}"]
    assert record["protocol"]["generated_images"] == 24 and record["protocol"]["crop"] == "box"
    assert any("subsets of 12 images" in warning for warning in record["warnings"])
    out = capsys.readouterr().out
    assert "lite0 stands in for the FID Inception" in out and "fid_" + stem in out


def test_one_row_a_caption_gives_the_same_numbers(data, images, stub, tmp_path):
    """A set may list an image in several items, one for each sentence: the same images, names and numbers."""
    before = run(data, images)
    names = {path.relative_to(images) for path in images.rglob("*.png")}
    for split in ("train", "test"):
        content = json.loads((data / f"{split}.json").read_text())
        content["data"] = [{**item, "text": ["a bird"]} for item in content["data"] for _ in range(SENTENCES)]
        write_json(data / f"{split}.json", content)
    again = generate(data, tmp_path / "run/iteration9/again/single_samples/valid")
    assert {path.relative_to(again) for path in again.rglob("*.png")} == names
    found = run(data, again)
    assert found.keys() == before.keys()
    for name, record in found.items():
        assert [record.get(key) for key in ("value", "std", "ceiling", "chance")] == [
            before[name].get(key) for key in ("value", "std", "ceiling", "chance")
        ], name
        assert record["protocol"]["sentences"] == 24 and record["protocol"]["sentences_without_image"] == 0
    some = sorted(again.rglob("*.png"))[1]
    some.rename(some.with_name(some.name.replace("sentence1", "sentence2")))
    with pytest.raises(UserError, match="is for sentence 2, but .* gives its image 2 sentences"):
        run(data, again, "--metrics", "fid")


@pytest.mark.parametrize("classes", [True, False])
def test_s2igans_retrieval(data, images, stub, tmp_path, monkeypatch, classes):
    class Torchvision(StubExtractor):
        name = "torchvision"

        def __init__(self, path, device):
            super().__init__()

        @staticmethod
        def cached_weights():
            return None

    monkeypatch.setattr(feature_extractors, "TorchvisionInception", Torchvision)
    with pytest.raises(UserError, match="--metrics s2igan: torchvision's Inception-v3 is not in its cache"):
        run(data, images, "--metrics", "s2igan")
    if not classes:
        content = json.loads((data / "test.json").read_text())
        write_json(data / "test.json", {**content, "data": [{**item, "class": ""} for item in content["data"]]})
    (tmp_path / "weights.pth").touch()
    found = run(data, images, "--metrics", "s2igan", "--torchvision_weights", str(tmp_path / "weights.pth"))
    stem = "torchvision_16px_box_test8_gen24" if classes else "torchvision_16px_box_test12_gen24"
    assert set(found) == {f"s2igan_{name}_{stem}" for name in ("map", "r1", "r5", "r10", *([] if classes else ["r50"]))}
    record = found[f"s2igan_r1_{stem}"]
    assert record["value"] == 100 and record["chance"] == pytest.approx(25 if classes else 100 / 12)
    assert any("fewer than 2 real or 20 generated" in warning for warning in record["warnings"]) == classes
    assert record["protocol"]["gallery"] == "24 generated images"


def test_wrong_images_are_worse(data, tmp_path, stub):
    order = np.roll(np.arange(CLASSES * IMAGES), IMAGES)  # everything in the next class's colour
    found = run(
        data,
        generate(data, tmp_path / "run/iteration9/single_samples/valid", order),
        "--metrics",
        "fid,class,attributes,retrieval",
    )
    assert found["fid_lite0_16px_box_test12_gen24"]["value"] < 1e-2  # as a set, as good as the real ones
    assert found["class_accuracy_lite0_16px_box_test12_gen24"]["value"] == 0
    assert found["retrieval_r1_lite0_16px_box_test12_gen24"]["value"] == 0
    assert found["attribute_agreement_16px_test_gen24"]["normalised"] < 0


def test_values_equal_a_direct_computation(data, images, stub):
    from scipy import linalg

    found = run(data, images, "--metrics", "fid,is", "--crop", "whole")
    extractor = StubExtractor()
    paths = sorted(images.rglob("*.png"))
    generated, logits = extractor(torch.from_numpy(np.stack([Image.open(p) for p in paths])).permute(0, 3, 1, 2))
    real = RealImages(splits.load_split(data, "test"), SIZE, "whole")
    true, _ = extractor(torch.stack([torch.from_numpy(real.load(i).copy()).permute(2, 0, 1) for i in range(len(real))]))
    x, y = generated.double().numpy(), true.double().numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    fid = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    record = found["fid_lite0_16px_whole_test12_gen24"]
    assert record["value"] == pytest.approx(fid, rel=1e-3)
    assert any("12 real images for 12 features" in warning for warning in record["warnings"])
    p = logits[np.random.RandomState(2020).permutation(24)].double().softmax(1)
    scores = [
        torch.exp((q * (q / q.mean(0)).log()).sum(1).mean()).item()
        for q in (p[i * 24 // 10 : (i + 1) * 24 // 10] for i in range(10))
    ]
    assert found["is_lite0_16px_gen24"]["value"] == pytest.approx(np.mean(scores), rel=1e-6)


def test_real_side_and_probe_are_kept_and_notice_changes(data, images, stub):
    run(data, images, "--metrics", "fid,attributes")
    first, probe = stub.calls, data / "train/attribute_probe.pth"
    stamp = probe.stat().st_mtime_ns
    run(data, images, "--metrics", "fid,attributes", "--max_images", "20")
    assert (first, stub.calls - first) == (12 + 24, 20) and probe.stat().st_mtime_ns == stamp
    item = splits.load_split(data, "test").items[0]
    Image.new("RGB", (40, 40)).save(item.image)
    run(data, images, "--metrics", "fid")
    assert stub.calls == 12 + 24 + 20 + 12 + 24


def test_records_are_appended_and_the_latest_kept(data, images, stub, tmp_path):
    for _ in range(2):
        run(data, images, "--metrics", "is")
    lines = (tmp_path / "run/iteration9/metric-is_lite0_16px_gen24.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["value"] == json.loads(lines[1])["value"]
    found = run(data, images, "--metrics", "fid", "--size", "8")
    assert set(found) == {"is_lite0_16px_gen24", "fid_lite0_8px_box_test12_gen24"}


def test_only_the_largest_size_is_used(data, images, stub):
    generate(data, images, size=8)
    assert set(run(data, images, "--metrics", "is")) == {"is_lite0_16px_gen24"}
    assert "is_lite0_8px_gen24" in run(data, images, "--metrics", "is", "--image_size", "8")


def test_faults_are_one_sentence(data, images, stub, tmp_path):
    def fault(*options):
        with pytest.raises(UserError) as error:
            run(data, images, *options)
        return str(error.value)

    assert "holds no images" in fault("--image_size", "99")
    assert "at least 10 generated images, and there is 1" in fault("--metrics", "is", "--max_images", "1")
    assert "at least 2 generated images, and there is 1" in fault("--metrics", "fid,kid", "--max_images", "1")
    some = sorted(images.rglob("*.png"))[5]
    other = some.rename(some.with_name("other.jpg_16_sentence0_0.png"))
    assert "is not of an image in" in fault("--metrics", "fid")
    other.unlink()
    (data / "attributes.json").unlink()
    assert "has no attributes.json" in fault("--metrics", "attributes")
    (tmp_path / "fake.pth").write_bytes(b"no weights")
    weights = str(tmp_path / "fake.pth")
    assert "is not that of the FID Inception" in fault("--metrics", "fid", "--inception_weights", weights)


def test_few_images_give_what_can_be_given(data, images, stub, capsys):
    """All metrics that so few images allow, and a reason for each of the others."""
    found = {name.partition("_lite0")[0]: record for name, record in run(data, images, "--max_images", "1").items()}
    assert {"retrieval_map", "retrieval_image_r1", "class_accuracy"} <= found.keys()
    assert not {"fid", "is", "kid", "precision", "recall"} & found.keys()
    out = capsys.readouterr().out
    for name, fewest in (("fid", 2), ("is", 10), ("kid", 2), ("pr", 4)):
        assert f"without {name}: it needs at least {fewest} generated images, and there is 1" in out
    attributes = json.loads((data / "attributes.json").read_text())
    attributes["captions"] = {image: [[]] * SENTENCES for image in attributes["captions"]}
    write_json(data / "attributes.json", attributes)
    assert run(data, images, "--metrics", "attributes,is").keys()
    assert "without attributes: no sentence of these images names one" in capsys.readouterr().out


@pytest.mark.parametrize("metric", ["fid", "is", "kid", "pr", "retrieval", "class"])
@pytest.mark.parametrize("side", ["generated", "real"])
def test_features_that_are_not_finite_are_refused(data, images, stub, tmp_path, monkeypatch, metric, side):
    """Comparisons with NaN are false, so that precision would be 0.0000 without a word."""
    plain = StubExtractor._forward

    def forward(self, batch):
        features, logits = plain(self, batch)
        bad = len(batch) == (24 if side == "generated" else 12)
        return torch.where(torch.tensor(bad), torch.nan, features), torch.where(torch.tensor(bad), torch.inf, logits)

    monkeypatch.setattr(StubExtractor, "_forward", forward)
    if (metric, side) == ("is", "real"):
        return  # it sees no real images
    with pytest.raises(UserError, match="is not a finite number; are its weights damaged"):
        run(data, images, "--metrics", metric)
    assert not (tmp_path / "run/iteration9/metrics.json").exists()


def records_of(data, images, *options):
    return list(run(data, images, *options).values())


def cut(path, by=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * by)])


def test_all_damaged_images_are_named(data, images, stub):
    paths = sorted(images.rglob("*.png"))
    cut(paths[5])
    with pytest.raises(UserError, match=f"^{paths[5]} is a damaged image"):
        run(data, images, "--metrics", "fid", "--batch_size", "4")
    for path in paths[2:15:2]:
        cut(path)
    with pytest.raises(UserError) as error:
        run(data, images, "--metrics", "fid", "--batch_size", "4")
    text = str(error.value)
    assert text.startswith("8 images cannot be used: ") and text.endswith("; and 3 more") and "\n" not in text
    assert [str(path) in text for path in paths[2:8]] == [True, False, True, True, True, False]
    for path in paths[2:15:2]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="7 images cannot be used: .* is empty .expected"):
        run(data, images, "--metrics", "fid", "--max_images", "0")


def test_damaged_real_images_are_named(data, images, stub):
    items = splits.load_split(data, "test").items
    for item in items[3:5]:
        cut(item.image)
    with pytest.raises(UserError, match="^2 images cannot be used: ") as error:
        run(data, images, "--metrics", "fid")
    assert all(str(item.image) in str(error.value) for item in items[3:5])


def test_mixed_sizes_are_refused_before_anything_is_computed(data, images, stub):
    paths = sorted(images.rglob("*.png"))
    for path in paths[:2]:
        Image.new("RGB", (8, 9)).save(path)
    with pytest.raises(UserError, match="^2 images cannot be used: .*8 × 9 pixels, but its name says 16") as error:
        run(data, images, "--metrics", "fid")
    assert str(paths[1]) in str(error.value) and stub.calls == 0


def test_grey_and_transparent_images_are_warned_of(data, images, stub, capsys):
    paths = sorted(images.rglob("*.png"))
    Image.open(paths[0]).convert("L").save(paths[0])
    for path in paths[1:3]:
        Image.open(path).convert("RGBA").save(path)
    for record in records_of(data, images, "--metrics", "fid,is"):
        told = [w for w in record["warnings"] if "not RGB" in w]
        assert [w.split(",")[0] for w in told] == ["1 images are L", "2 images are RGBA"]
        assert str(paths[0]) in told[0] and "transparency laid on white" in told[1]
    assert "warning: fid, is: 2 images are RGBA, not RGB" in capsys.readouterr().out


def test_sentences_without_an_image_are_warned_of(data, images, stub, capsys):
    for path in sorted(images.rglob("*.png"))[4:7]:
        path.unlink()
    (record,) = records_of(data, images, "--metrics", "fid")
    assert "3 of the 24 sentences have no image; papers take one for every sentence" in record["warnings"]
    assert record["protocol"]["sentences"] == 24 and record["protocol"]["sentences_without_image"] == 3
    assert "gen21" in record["metric"] and "warning: fid: 3 of the 24" in capsys.readouterr().out


def test_one_image_a_sentence_is_taken(data, images, stub):
    first = sorted(images.rglob("*.png"))[0]
    value = records_of(data, images, "--metrics", "fid")[0]["value"]
    Image.new("RGB", (SIZE, SIZE)).save(first.with_name(first.name.replace("_0.png", "_1.png")))
    Image.new("RGB", (SIZE, SIZE)).save(first.with_name("holiday.jpg"))
    record = records_of(data, images, "--metrics", "fid")[0]
    assert record["value"] == value and record["protocol"]["generated_images"] == 24
    assert "1 further images of sentences that have one are left out: one a sentence is taken" in record["warnings"]
    assert any(w.startswith("1 images not named as main.py") and "holiday.jpg" in w for w in record["warnings"])


def test_a_sentence_that_the_set_does_not_have_is_refused(data, images, stub):
    some = sorted(images.rglob("*.png"))[1]
    some.rename(some.with_name(some.name.replace("sentence1", "sentence7")))
    with pytest.raises(UserError, match="is for sentence 7, but .* gives its image 2 sentences"):
        run(data, images, "--metrics", "fid")


def test_fewer_images_than_features_are_warned_of(data, images, stub):
    (record,) = records_of(data, images, "--metrics", "fid", "--max_images", "11")
    told = "11 generated images for 12 features: their covariance is singular and the distance biased upwards"
    assert any(told in warning for warning in record["warnings"])


def test_a_set_without_classes_is_asked_by_image(data, images, stub, capsys):
    content = json.loads((data / "test.json").read_text())
    for item in content["data"]:
        del item["class"]
    write_json(data / "test.json", content)
    (data / "attributes.json").unlink()
    found = {name.split("_lite0")[0]: record for name, record in run(data, images).items()}
    assert "class_accuracy" not in found and "without class" in capsys.readouterr().out
    ours = {name for name in found if name.startswith("retrieval")}
    assert ours == {f"retrieval_image_{name}" for name in ("map", "r1", "r5", "r10", "r50")}
    assert found["retrieval_image_r1"]["value"] == 100
    assert found["retrieval_image_r1"]["protocol"]["right"] == "generated for a sentence of the very image"
    assert found["retrieval_image_r50"]["chance"] == pytest.approx(100)  # more than there are


def test_extractors_are_chosen_and_found(data, images, stub, tmp_path, monkeypatch):
    class Named(StubExtractor):
        name, incomparable = "inception", ""

        def __init__(self, path, device, any_weights):
            super().__init__()
            self.path = path

    monkeypatch.setattr(feature_extractors, "InceptionExtractor", Named)
    with pytest.raises(UserError, match="--extractor inception: its weights are not in .*download.py fid_inception"):
        run(data, images, "--metrics", "fid", "--extractor", "inception")
    weights = data.parent / "pretrained" / evaluate.WEIGHTS_NAME
    weights.parent.mkdir()
    weights.touch()
    assert records_of(data, images, "--metrics", "fid")[0]["metric"] == "fid_inception_16px_box_test12_gen24"
    assert "fid_lite0_16px_box_test12_gen24" in run(data, images, "--metrics", "fid", "--extractor", "lite0")
    with pytest.raises(UserError, match="--extractor lite0 has no use for"):
        run(data, images, "--extractor", "lite0", "--inception_weights", str(weights))


def test_lite2_takes_the_place_of_lite0_in_every_metric(data, images, stub, monkeypatch, capsys):
    class Lite2(StubExtractor):
        name, identity = "lite2", "lite2"

    monkeypatch.setattr(feature_extractors, "Lite2Extractor", Lite2)
    monkeypatch.setattr(feature_extractors, "Lite0Extractor", None)  # it is not even loaded
    names = run(data, images, "--metrics", "fid,is,kid,pr,retrieval,class", "--extractor", "lite2")
    assert names and all("_lite2_" in name for name in names)
    assert "lite2 stands in for the FID Inception" in capsys.readouterr().out
    monkeypatch.setattr(feature_extractors, "Lite0Extractor", stub)
    (images.parent.parent / "metrics.json").unlink()
    names = run(data, images, "--metrics", "kid,class", "--extractor", "lite0", "--class_extractor", "lite2")
    assert sorted(name.split("_16px")[0] for name in names) == ["class_accuracy_lite2", "kid_lite0"]


def test_the_registry_and_the_command_mean_the_same_file():
    from scripts.data.download import registry

    entry = registry.load()["fid_inception"]
    assert entry.goal == f"pretrained/{evaluate.WEIGHTS_NAME}" and entry.sum == (
        "sha256",
        feature_extractors.INCEPTION_SHA256,
    )


def test_metric_names_agree():
    assert tuple(records.RECORDS) == evaluate.METRICS


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--metrics", "fid,beauty"], "'beauty' was given; known are fid, is, kid"),
        (["--colour", "1"], "unrecognized arguments: --colour 1"),
        (["--batch_size", "0"], "--batch_size: 0 was given; it must be at least 1"),
        (["--inception_weights", "none.pth"], "none.pth does not exist"),
    ],
)
def test_options_are_checked(tmp_path, options, reason, capsys):
    with pytest.raises(SystemExit) as status:
        evaluate.parse(["--images", str(tmp_path), "--data_dir", str(tmp_path), *options])
    assert status.value.code == 2 and reason in capsys.readouterr().err


def test_the_command_itself(data, tmp_path):
    assert "--inception_weights" in command("--help").stdout
    (tmp_path / "empty").mkdir()
    answer = command("--images", tmp_path / "empty", "--data_dir", data)
    assert answer.returncode == 2 and "holds no images" in answer.stderr and "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1 and Path(tmp_path / "empty").is_dir()


def test_the_inception_score_of_a_tensorflow_checkpoint(data, images, stub, tmp_path, monkeypatch):
    """It needs as many images as fill a batch of the authors' script; the file is known by its content."""
    from tf_checkpoint_writer import write_v1

    from StackGAN_v2.evaluation import stackgan_inception

    class FineTuned(StubExtractor):
        name, batch, fine_tuned = "stackgan3_0", 16, True

        def __init__(self, path, device):
            super().__init__()

    monkeypatch.setattr(stackgan_inception, "StackGANInception", FineTuned)
    write_v1(tmp_path / "model.ckpt-5000", {"a": np.zeros(3)})
    words = ("--metrics", "is", "--is_weights", str(tmp_path / "model.ckpt-5000"))
    with pytest.raises(UserError, match="at least 64 generated images, and there are 24"):
        run(data, images, *words)
    monkeypatch.setattr(stackgan_inception, "BATCH", 16)
    (record,) = records_of(data, images, *words)
    assert record["metric"] == "is_stackgan3_0_16px_gen24" and record["protocol"]["batch"] == 16
