"""FID, KID and IS of the command agree with pytorch-fid and with a direct computation in float64 on equal weights.

The weights are random (He: the default start collapses). Ten generated and five real images, so that a CPU can do it.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from common.cli import UserError
from common.files import sha256, write_json
from StackGAN_v2 import evaluate
from StackGAN_v2.evaluation import feature_extractors

SIZE, REAL, SENTENCES = 48, 5, 2
CLOSE = {"rel": 1e-3}


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's Inception with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # the class reads a file or the network; here it reads nothing
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        network = FeatureExtractorInceptionV3("a", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    return network


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(data, generated): a set whose images need no resizing, and images of another colour for its sentences."""
    random, root = np.random.default_rng(0), tmp_path_factory.mktemp("set")
    data, generated = root / "data", root / "run/single_samples/valid"

    def image(path, tint):
        small = (random.random((6, 6, 3)) * 255 * tint).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((SIZE, SIZE), Image.BICUBIC).save(path)

    items = []
    for i in range(REAL):
        name = f"00{i % 2 + 1}.bird/{i}.png"
        image(data / "images" / name, (1, 1, 1))
        for k in range(SENTENCES):
            image(generated / f"{name}_{SIZE}_sentence{k}_0.png", (1, 0.5, 0.5))
        items.append({"image": name, "class": name.split("/")[0], "text": ["a bird"] * SENTENCES})
    write_json(data / "test.json", {"image_base_path": str(data / "images"), "data": items})
    return data, generated


def measured(folders, weights, *options):
    data, generated = folders
    assert (
        evaluate.main(
            [
                "--images",
                str(generated),
                "--data_dir",
                str(data),
                "--quiet",
                "--device",
                "cpu",
                "--any_weights",
                "--inception_weights",
                str(weights),
                *options,
            ]
        )
        == 0
    )
    return json.loads((generated.parent.parent / "metrics.json").read_text())


def pixels(folder):
    """In the order of the command: by image, then by sentence."""
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2), paths


def moments(x, y):
    """Means and covariances in the space that all rows span, which keeps distances; 2048 dimensions take minutes."""
    basis = np.linalg.svd(np.concatenate((x, y)), full_matrices=False)[2].T
    return [f(z @ basis) for z in (x, y) for f in (lambda r: r.mean(0), lambda r: np.cov(r, rowvar=False))]


def direct_fid(x, y):
    mean1, covariance1, mean2, covariance2 = moments(x, y)
    root = linalg.sqrtm(covariance1 @ covariance2)
    return ((mean1 - mean2) ** 2).sum() + np.trace(covariance1 + covariance2 - 2 * root.real)


def direct_kid(x, y, subsets=100):
    """Subsets as torch-fidelity draws them, of as many as the smaller set has; the kernel's sums written out."""
    random, size, values = np.random.RandomState(2020), min(len(x), len(y)), []
    for _ in range(subsets):
        a, b = (z[random.choice(len(z), size, replace=False)] for z in (x, y))
        aa, bb, ab = ((p @ q.T / 2048 + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
        values.append(sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (aa, bb)) - 2 * ab.mean())
    return np.mean(values), np.std(values)


def direct_is(logits, splits=10):
    p = torch.from_numpy(logits[np.random.RandomState(2020).permutation(len(logits))]).softmax(1).numpy()
    parts = [p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)]
    return np.mean([np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in parts])


def test_the_command_agrees_with_float64_and_with_pytorch_fids_distance(folders, network, weights):
    from pytorch_fid.fid_score import calculate_frechet_distance

    found = measured(folders, weights, "--metrics", "fid,is,kid", "--extractor", "inception", "--crop", "whole")
    stem = f"inception_{sha256(weights)[:8]}_48px"
    fid, kid, score = (
        found[f"{name}_{stem}_{rest}"]
        for name, rest in (("fid", "whole_test5_gen10"), ("kid", "whole_test5_gen10"), ("is", "gen10"))
    )
    exact = network.double()
    exact.feature_extractor_internal_dtype = torch.float64
    generated, logits = (z.double().numpy() for z in exact(pixels(folders[1])[0]))
    real = exact(pixels(folders[0] / "images")[0])[0].double().numpy()
    assert fid["value"] == pytest.approx(direct_fid(generated, real), **CLOSE) and fid["value"] > 0.1
    assert fid["value"] == pytest.approx(calculate_frechet_distance(*moments(generated, real)), **CLOSE)
    assert (kid["value"], kid["std"]) == pytest.approx(direct_kid(generated, real), **CLOSE)
    assert score["value"] == pytest.approx(direct_is(logits), **CLOSE)
    for record in (fid, kid):  # weights of another file are never the field's FID
        assert record["published"] == [] and record["comparable_with"].startswith("none: ")
        assert "weights of another file" in record["protocol"]["extractor"]
    assert "the weights are not the FID Inception's" in fid["comparable_with"]


def test_the_command_agrees_with_pytorch_fid(folders, network, weights, monkeypatch):
    """pytorch-fid reads the same files through its own network, resizing and scaling."""
    from pytorch_fid import fid_score, inception

    found = measured(folders, weights, "--metrics", "fid", "--extractor", "pytorch_fid", "--crop", "whole")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: torch.load(weights, weights_only=True))
    theirs = inception.InceptionV3([3])
    activations = [
        fid_score.get_activations(pixels(folder)[1], theirs, num_workers=0)
        for folder in (folders[1], folders[0] / "images")
    ]
    expected = fid_score.calculate_frechet_distance(*moments(*activations))
    value = found[f"fid_pytorchfid_{sha256(weights)[:8]}_48px_whole_test5_gen10"]["value"]
    assert value == pytest.approx(expected, **CLOSE)
    others = [record["value"] for name, record in found.items() if name.startswith("fid_inception_")]
    assert all(abs(value / other - 1) > 2e-3 for other in others)  # why the two have different names


def test_other_weights_are_refused_before_they_are_read(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was read"))
    with pytest.raises(UserError, match="is not that of the FID Inception"):
        feature_extractors.InceptionExtractor(weights)


def test_nothing_but_tensors_is_read_even_if_any_weights_will_do(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"fc.weight": torch.zeros(1), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="damaged or holds more than tensors"):
        feature_extractors.InceptionExtractor(tmp_path / "evil.pth", any_weights=True)
    assert not (tmp_path / "ran").exists()
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is of another architecture"):
        feature_extractors.InceptionExtractor(tmp_path / "other.pth", any_weights=True)
