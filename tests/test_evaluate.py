"""The evaluation command: names, records, caches and refusals, on small pictures through a stub network."""
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
from StackGAN_v2 import attribute_probe, evaluate, extractors, measure, picture_sets
from StackGAN_v2.picture_sets import FeatureFile, RealPictures
from StackGAN_v2.sampler import picture_name

SIZE, CLASSES, IMAGES, SENTENCES = 16, 4, 3, 2
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210), "white": (240, 240, 240)}
ALL = ",".join(evaluate.METRICS)


class StubExtractor(extractors.Extractor):
    """Features: the mean colour of each quadrant (12); logits: the mean colour of the whole (3), a quarter of it."""
    width, classes, name, identity, what = 12, 3, "lite0", "stub", "a stub"
    calls = 0

    def __init__(self, device="cpu", view=224):
        self.device = torch.device(device)

    def _forward(self, pictures):
        type(self).calls += len(pictures)
        features = torch.nn.functional.adaptive_avg_pool2d(pictures.float(), 2).flatten(1) / 255
        return features, pictures.float().mean((2, 3)) / 64


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(extractors, "Lite0Extractor", StubExtractor)
    monkeypatch.setattr(StubExtractor, "calls", 0)
    # a short training is enough for squares of one colour
    monkeypatch.setattr(attribute_probe, "train_probe",
                        functools.partial(attribute_probe.train_probe, steps=25, batch=12))
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
                picture = f"{c + 1:03d}.{name}/{split}_{i}.jpg"
                path = folder / "CUB_200_2011/images" / picture
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(90, 130, (40, 50, 3), np.uint8)
                pixels[10:30, 15:35] = np.clip(np.array(colour) + random.integers(-15, 15, (20, 20, 3)), 0, 255)
                Image.fromarray(pixels).save(path, quality=95)
                images.append(f"{len(images) + 1} {picture}\n")
                boxes.append(f"{len(images)} 15 10 20 20\n")
                captions[picture] = [[0]] * SENTENCES
                items.append({"image": picture, "class": f"{c + 1:03d}.{name}", "text": ["a bird"] * SENTENCES})
        write_json(folder / f"{split}.json", {"image_base_path": str(folder / "CUB_200_2011/images"), "data": items})
    (folder / "CUB_200_2011/images.txt").write_text("".join(images))
    (folder / "CUB_200_2011/bounding_boxes.txt").write_text("".join(boxes))
    write_json(folder / "attributes.json", {"attributes": {"body": list(COLOURS)}, "captions": captions, "classes": {
        f"{c + 1:03d}.{name}": [name] for c, name in enumerate(COLOURS)}})
    return folder


@pytest.fixture
def pictures(data, tmp_path):
    """The real test pictures under the names of generated ones: the best generator there could be."""
    return paint(data, tmp_path / "run/iteration9/single_samples/valid")


def paint(data, folder, order=None, size=SIZE):
    split = splits.load_split(data, "test")
    real = RealPictures(split, size)
    for i, item in enumerate(split.items):
        for k in range(SENTENCES):
            path = folder / picture_name(split, item, size, k)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(real.load(i if order is None else order[i])).save(path)
    return folder


def run(data, pictures, *options):
    always = ["--images", str(pictures), "--data_dir", str(data), "--quiet", "--device", "cpu"]
    assert evaluate.main([*always, *options]) == 0
    return json.loads((pictures.parent.parent / "metrics.json").read_text())


def command(*options):
    return subprocess.run([sys.executable, "StackGAN_v2/evaluate.py", *map(str, options)], cwd=ROOT, text=True,
                          capture_output=True, timeout=60)


def test_perfect_pictures(data, pictures, stub, capsys):
    found = run(data, pictures)
    stem = "lite0_16px_box_test12_gen24"
    assert set(found) == {f"{name}_{stem}" for name in (
        "fid", "kid", "precision", "recall", "retrieval_map", "retrieval_r1", "retrieval_r5", "retrieval_r10",
        "class_accuracy")} | {"is_lite0_16px_gen24", "attribute_agreement_16px_test_gen24"}
    assert found[f"fid_{stem}"]["value"] < 1e-2
    assert found[f"precision_{stem}"]["value"] == found[f"recall_{stem}"]["value"] == 1
    assert found[f"retrieval_map_{stem}"]["value"] == pytest.approx(100)
    assert found[f"retrieval_map_{stem}"]["chance"] == pytest.approx(25)
    assert found[f"class_accuracy_{stem}"]["value"] == 100 and found[f"class_accuracy_{stem}"]["chance"] == 25
    agreement = found["attribute_agreement_16px_test_gen24"]
    assert agreement["value"] == agreement["ceiling"] > agreement["chance"] and agreement["normalised"] == 1
    assert agreement["attributes"]["body"]["named"] == 24
    record = found[f"kid_{stem}"]
    assert record["protocol"]["generated_pictures"] == 24 and record["protocol"]["crop"] == "box"
    assert any("subsets of 12 pictures" in warning for warning in record["warnings"])
    out = capsys.readouterr().out
    assert "lite0 stands in for the FID Inception" in out and "fid_" + stem in out


def test_wrong_pictures_are_worse(data, tmp_path, stub):
    order = np.roll(np.arange(CLASSES * IMAGES), IMAGES)           # everything in the next class's colour
    found = run(data, paint(data, tmp_path / "run/iteration9/single_samples/valid", order), "--metrics",
                "fid,class,attributes,retrieval")
    assert found["fid_lite0_16px_box_test12_gen24"]["value"] < 1e-2     # as a set, as good as the real ones
    assert found["class_accuracy_lite0_16px_box_test12_gen24"]["value"] == 0
    assert found["retrieval_r1_lite0_16px_box_test12_gen24"]["value"] == 0
    assert found["attribute_agreement_16px_test_gen24"]["normalised"] < 0


def test_values_equal_a_direct_computation(data, pictures, stub):
    from scipy import linalg
    found = run(data, pictures, "--metrics", "fid,is", "--crop", "whole")
    extractor = StubExtractor()
    paths = sorted(pictures.rglob("*.png"))
    generated, logits = extractor(torch.from_numpy(np.stack([Image.open(p) for p in paths])).permute(0, 3, 1, 2))
    real = RealPictures(splits.load_split(data, "test"), SIZE, "whole")
    true, _ = extractor(torch.stack([torch.from_numpy(real.load(i).copy()).permute(2, 0, 1) for i in range(len(real))]))
    x, y = generated.double().numpy(), true.double().numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    fid = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    record = found["fid_lite0_16px_whole_test12_gen24"]
    assert record["value"] == pytest.approx(fid, rel=1e-3)
    assert any("12 real pictures for 12 features" in warning for warning in record["warnings"])
    p = logits[np.random.RandomState(2020).permutation(24)].double().softmax(1)
    scores = [torch.exp((q * (q / q.mean(0)).log()).sum(1).mean()).item()
              for q in (p[i * 24 // 10:(i + 1) * 24 // 10] for i in range(10))]
    assert found["is_lite0_16px_gen24"]["value"] == pytest.approx(np.mean(scores), rel=1e-6)


def test_real_side_and_probe_are_kept_and_notice_changes(data, pictures, stub):
    run(data, pictures, "--metrics", "fid,attributes")
    first, probe = stub.calls, data / "train/attribute_probe.pth"
    stamp = probe.stat().st_mtime_ns
    run(data, pictures, "--metrics", "fid,attributes", "--max_pictures", "20")
    assert (first, stub.calls - first) == (12 + 24, 20) and probe.stat().st_mtime_ns == stamp
    item = splits.load_split(data, "test").items[0]
    Image.new("RGB", (40, 40)).save(item.image)
    run(data, pictures, "--metrics", "fid")
    assert stub.calls == 12 + 24 + 20 + 12 + 24


def test_records_are_appended_and_the_latest_kept(data, pictures, stub, tmp_path):
    for _ in range(2):
        run(data, pictures, "--metrics", "is")
    lines = (tmp_path / "run/iteration9/metric-is_lite0_16px_gen24.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["value"] == json.loads(lines[1])["value"]
    found = run(data, pictures, "--metrics", "fid", "--size", "8")
    assert set(found) == {"is_lite0_16px_gen24", "fid_lite0_8px_box_test12_gen24"}


def test_only_the_largest_size_is_used(data, pictures, stub):
    paint(data, pictures, size=8)
    assert set(run(data, pictures, "--metrics", "is")) == {"is_lite0_16px_gen24"}
    assert "is_lite0_8px_gen24" in run(data, pictures, "--metrics", "is", "--picture_size", "8")


def test_faults_are_one_sentence(data, pictures, stub, tmp_path):
    def fault(*options):
        with pytest.raises(UserError) as error:
            run(data, pictures, *options)
        return str(error.value)

    assert "holds no pictures" in fault("--picture_size", "99")
    assert "at least 10 generated pictures, and there is 1" in fault("--metrics", "is", "--max_pictures", "1")
    assert "at least 2 generated pictures, and there is 1" in fault("--metrics", "fid", "--max_pictures", "1")
    some = sorted(pictures.rglob("*.png"))[5]
    whole = some.read_bytes()
    some.write_bytes(whole[:len(whole) // 2])
    assert str(some) in fault("--metrics", "fid") and "damaged" in fault("--metrics", "fid")
    Image.new("RGB", (8, 8)).save(some)
    assert "8 × 8 pixels, but its name says 16" in fault("--metrics", "fid")
    stranger = some.rename(some.with_name("stranger.jpg_16_sentence0_0.png"))
    assert "is not of a picture in" in fault("--metrics", "fid")
    stranger.unlink()
    (data / "attributes.json").unlink()
    assert "has no attributes.json" in fault("--metrics", "attributes")
    (tmp_path / "fake.pth").write_bytes(b"no weights")
    weights = str(tmp_path / "fake.pth")
    assert "is not that of the FID Inception" in fault("--metrics", "fid", "--inception_weights", weights)


def test_feature_file(tmp_path):
    values = torch.arange(12.0).view(6, 2)
    (tmp_path / "a").write_bytes(values.numpy().tobytes())
    file = FeatureFile(tmp_path / "a", 2)
    assert len(file) == 6 and torch.equal(file[1:3], values[1:3]) and torch.equal(file[:], values)
    assert torch.equal(file[np.array([4, 0])], values[[4, 0]])


def test_batches_keep_the_order_and_stop_at_a_fault():
    def load(i):
        if i == 7:
            raise UserError("seven")
        return np.full((2, 2, 3), i, np.uint8)
    found = [batch[:, 0, 0, 0].tolist() for batch in picture_sets.batches(load, 7, 3, 2)]
    assert found == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(UserError, match="seven"):
        list(picture_sets.batches(load, 9, 3, 2))


def test_inception_through_torch_fidelity(tmp_path):
    """Random weights (He: the default ones collapse), a whole extractor, against a direct float64 computation."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:     # the class reads a file or the network; here it reads nothing
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        network = FeatureExtractorInceptionV3("a", ["2048"], feature_extractor_weights_path="none")
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match="is not that of the FID Inception"):
        extractors.InceptionExtractor(path)
    extractor = extractors.InceptionExtractor(path, any_weights=True)
    assert extractor.name.startswith("inception_") and len(extractor.name) == 18
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features, logits = extractor(pictures)
    exact = network.double()
    exact.feature_extractor_internal_dtype = torch.float64
    torch.testing.assert_close(features, exact(pictures)[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, features @ extractor.network.fc.weight.T, rtol=1e-4, atol=1e-4)


def test_a_finetuned_inception_of_any_number_of_classes(tmp_path):
    from torchvision.models import Inception3
    torch.manual_seed(0)
    network = Inception3(5, aux_logits=False, transform_input=False, init_weights=False).eval()
    torch.save({"module." + key: value for key, value in network.state_dict().items()}, tmp_path / "birds.pth")
    extractor = extractors.FinetunedInception(tmp_path / "birds.pth")
    assert extractor.classes == 5 and extractor.name.startswith("finetuned5_")
    pictures = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(extractor(pictures)[1], network(pictures.float() / 127.5 - 1), rtol=1e-4, atol=1e-4)
    torch.save({"conv": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is no torchvision Inception-v3"):
        extractors.FinetunedInception(tmp_path / "other.pth")


def test_lite0_logits_are_the_networks_own():
    extractor = extractors.Lite0Extractor(view=64)
    features, logits = extractor(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert extractor.name == "lite0at64" and features.shape == (2, 1280) and logits.shape == (2, 1000)
    torch.testing.assert_close(logits, features @ extractor.weight.T + extractor.bias)


def test_metric_names_agree():
    assert evaluate.METRICS == measure.METRICS and set(measure._RECORDS) == set(measure.METRICS)


@pytest.mark.parametrize("options, reason", [
    (["--metrics", "fid,beauty"], "'beauty' is not one of fid, is, kid"),
    (["--colour", "1"], "unrecognized arguments: --colour 1"),
    (["--batch_size", "0"], "0 is not a whole number above 0"),
    (["--inception_weights", "none.pth"], "none.pth does not exist")])
def test_options_are_checked(tmp_path, options, reason, capsys):
    with pytest.raises(SystemExit) as status:
        evaluate.parse(["--images", str(tmp_path), "--data_dir", str(tmp_path), *options])
    assert status.value.code == 2 and reason in capsys.readouterr().err


def test_the_command_itself(data, tmp_path):
    assert "--inception_weights" in command("--help").stdout
    (tmp_path / "empty").mkdir()
    answer = command("--images", tmp_path / "empty", "--data_dir", data)
    assert answer.returncode == 2 and "holds no pictures" in answer.stderr and "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1 and Path(tmp_path / "empty").is_dir()
