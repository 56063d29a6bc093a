"""StackGAN_v2.evaluation.metrics and attribute_probe: answers worked out by hand, and torch-fidelity's on the same features."""

import functools
import math

import numpy as np
import pytest
import torch

from common import retrieval
from common.attributes import Attributes, load_attributes
from common.cli import UserError
from common.files import write_json
from StackGAN_v2.evaluation import attribute_probe, metrics
from StackGAN_v2.evaluation.image_sets import FeatureFile


def rows(count, width, seed=0, shift=0.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (count, width)))


def feature_file(tmp_path, values):
    path = tmp_path / f"{len(values)}.f32"
    path.write_bytes(values.float().numpy().tobytes())
    return FeatureFile(path, values.shape[1])


def test_moments_equal_numpy_in_any_batches():
    x = rows(23, 4) * 5 + 1e4  # far from zero: sums of squares would cancel
    moments = metrics.Moments(4)
    for batch in x.split((1, 9, 0, 13)):
        moments.update(batch)
    np.testing.assert_allclose(moments.mean, x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-9)


def test_one_image_has_no_covariance():
    moments = metrics.Moments(2)
    moments.update(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        _ = moments.covariance


def test_frechet_distance_by_hand():
    # commuting covariances: |Δμ|² + Σ (σ1 − σ2)² = 9 + 16 + (2 − 1)² + (3 − 5)²
    close = functools.partial(pytest.approx, rel=1e-12)
    assert metrics.frechet_distance([0, 0], np.diag([4.0, 9]), [3, 4], np.diag([1.0, 25])) == close(30)
    # one direction each, at a right angle: nothing in common, so the traces add
    assert metrics.frechet_distance([0, 0], np.diag([4.0, 0]), [0, 0], np.diag([0, 9.0])) == close(13)


def test_frechet_distance_is_rotation_free_and_zero_on_itself():
    turn, _ = np.linalg.qr(rows(5, 5).numpy())
    a, b = np.diag([1.0, 2, 3, 4, 5]), np.cov(rows(9, 5, 1).numpy(), rowvar=False)
    zero = np.zeros(5)
    assert metrics.frechet_distance(zero, turn @ a @ turn.T, zero, turn @ b @ turn.T) == pytest.approx(
        metrics.frechet_distance(zero, a, zero, b), rel=1e-10
    )
    assert abs(metrics.frechet_distance(zero, b, zero, b)) < 1e-12


def test_frechet_distance_equals_torch_fidelity():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = rows(60, 6), rows(50, 6, 1, 0.3)
    expected = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), False)
    found = metrics.Moments(6), metrics.Moments(6)
    found[0].update(x), found[1].update(y)
    assert metrics.frechet_distance(
        found[0].mean, found[0].covariance, found[1].mean, found[1].covariance
    ) == pytest.approx(expected["frechet_inception_distance"], rel=1e-9)


def test_inception_score_by_hand():
    # four certain images evenly over four classes: exp(log 4); all images alike: exp(0)
    certain = torch.eye(4).repeat(5, 1) * 200
    score = metrics.InceptionScore(20, 4, splits=1)
    score.update(certain)
    assert score.value() == pytest.approx((4, 0), rel=1e-12)
    score = metrics.InceptionScore(20, 4, splits=2)
    score.update(torch.ones(20, 4))
    assert score.value() == pytest.approx((1, 0), abs=1e-12)
    # p = (.8, .2) and (.2, .8): exp(log 2 − H(.8)) = 2 · .8^.8 · .2^.2
    score = metrics.InceptionScore(2, 2, splits=1)
    score.update(torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64).log())
    assert score.value()[0] == pytest.approx(2 * 0.8**0.8 * 0.2**0.2, rel=1e-12)


def test_inception_score_equals_torch_fidelity_in_any_batches():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = rows(107, 7) * 2
    score = metrics.InceptionScore(107, 7)
    for batch in logits.split(10):
        score.update(batch)
    expected = isc_features_to_metric(logits)
    assert score.value() == pytest.approx((expected["inception_score_mean"], expected["inception_score_std"]), rel=1e-9)


def test_inception_score_needs_a_image_a_part():
    with pytest.raises(ValueError, match="at least 10 images, not 9"):
        metrics.InceptionScore(9, 4)


def test_squared_mmd_equals_the_double_loop():
    x, y = rows(5, 3), rows(4, 3, 1)
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert metrics.squared_mmd(x, y) == pytest.approx(expected, rel=1e-12)
    assert metrics.squared_mmd(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_equals_torch_fidelity(tmp_path):
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = rows(60, 6).float(), rows(50, 6, 1, 0.5).float()
    expected = kid_features_to_metric(x.double(), y.double(), kid_subsets=4, kid_subset_size=20, verbose=False)
    found = metrics.kernel_distance(feature_file(tmp_path, x), feature_file(tmp_path, y), 4, 20)
    assert found == pytest.approx(
        tuple(expected[f"kernel_inception_distance_{name}"] for name in ("mean", "std")), rel=1e-5
    )


def test_kernel_distance_refuses_too_few():
    with pytest.raises(ValueError, match="subsets of 1000 from 3 and 5000"):
        metrics.kernel_distance(torch.zeros(3, 2), torch.zeros(5000, 2))


def test_precision_recall_by_hand():
    # on a line, one neighbour. Real 0 1 2 (balls of 1), generated 2.5 9 10 (balls of 6.5, 1, 1)
    real, generated = torch.tensor([[0.0], [1], [2]]), torch.tensor([[2.5], [9], [10]])
    assert metrics.precision_recall(generated, real, 1) == pytest.approx((1 / 3, 1))
    with pytest.raises(ValueError, match="3 neighbours from 3 and 3"):
        metrics.precision_recall(generated, real)


def test_precision_recall_in_blocks_equals_torch_fidelity(tmp_path, monkeypatch):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    monkeypatch.setattr(retrieval, "BLOCK", 7)
    x, y = rows(60, 3).float(), rows(45, 3, 1, 0.7).float()
    expected = calculate_precision_recall_full(x, y)
    assert 0 < min(expected) and max(expected) < 1
    assert metrics.precision_recall(feature_file(tmp_path, x), feature_file(tmp_path, y)) == pytest.approx(expected)


def test_centroid_accuracy_by_hand():
    real, real_labels = torch.tensor([[1, 0], [0.9, 0.1], [0, 1], [0.9, 0.2], [-1, 0]]), torch.tensor([0, 0, 4, 4, 6])
    generated, labels = torch.tensor([[2.0, 0], [0, 2], [-3, 0]]), torch.tensor([0, 4, 0])
    values = metrics.centroid_accuracy(generated, labels, real, real_labels)
    # left out in turn, rows 0, 1 and 2 are nearest to the rest of their class, row 3 to class 0; class 6 has one row
    # and is not asked
    assert values == pytest.approx({"accuracy": 200 / 3, "ceiling": 75, "chance": 100 / 3})


# --- attribute agreement ---

READ = torch.tensor([[0, 1], [1, 1], [1, 0]])
WANTED = torch.tensor([[0, -1], [1, 0], [0, 0]])
LABELS = torch.tensor([5, 5, 9])


def test_agreement_by_hand():
    right, named = attribute_probe.agreement(READ, WANTED)
    assert right.tolist() == [2, 1] and named.tolist() == [3, 2]


def test_shuffled_agreement_equals_all_pairs():
    right, named = attribute_probe.shuffled_agreement(READ, WANTED, LABELS, [2, 2])
    pairs = [(i, j) for i in range(3) for j in range(3) if LABELS[i] != LABELS[j]]
    for a in range(2):
        said = [(i, j) for i, j in pairs if WANTED[j, a] >= 0]
        assert named[a] == len(said)
        assert right[a] == sum(int(READ[i, a] == WANTED[j, a]) for i, j in said)


def test_agreement_report():
    attributes = Attributes(("back", "belly"), (("red", "blue"),) * 2, {}, {})
    truth = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    report = attribute_probe.agreement_report(truth, truth, truth, torch.arange(4), attributes)
    # of the three other sentences, one agrees on each attribute
    assert report["agreement"] == report["ceiling"] == 100 and report["chance"] == pytest.approx(100 / 3)
    assert report["normalised"] == 1 and report["named"] == 8 and report["attributes"]["belly"]["named"] == 4
    only_back = torch.where(torch.tensor([True, False]), truth, -1)
    half = attribute_probe.agreement_report(
        torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1]]), truth, only_back, torch.arange(4), attributes
    )
    assert half["agreement"] == 75 and half["attributes"]["belly"]["agreement"] is None
    # each reading against the three other sentences: red finds 1 red of 3, red 1, red 2, blue 1
    assert half["chance"] == pytest.approx(100 * 5 / 12)


def test_a_probe_learns_where_and_what():
    """Two attributes, the colours of two places that wander: only a probe that looks at the right one can tell them."""
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.integers(0, (3, 2), (96, 2)))
    images = torch.full((96, 3, 76, 76), 120, dtype=torch.uint8)
    for image, (top, bottom), x in zip(images, truth.tolist(), random.integers(10, 50, 96)):
        image[:, 10:26, x : x + 16] = torch.eye(3, dtype=torch.uint8)[:, top, None, None] * 250
        image[:, 48:64, x : x + 16] = bottom * 250
    probe = attribute_probe.train_probe(images[:64], truth[:64], [3, 2], steps=40, batch=16, progress=False)
    read = attribute_probe.read_attributes(probe, images[64:, :, 6:70, 6:70])
    assert (read == truth[64:]).double().mean() > 0.9
    content = attribute_probe.probe_state(probe)
    again = attribute_probe.probe_from_state(content, "probe.pth")
    assert torch.equal(attribute_probe.read_attributes(again, images[64:, :, 6:70, 6:70]), read)
    twin = attribute_probe.train_probe(images[:64], truth[:64], [3, 2], steps=3, batch=16, progress=False)
    third = attribute_probe.train_probe(images[:64], truth[:64], [3, 2], steps=3, batch=16, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(twin.state_dict().values(), third.state_dict().values()))


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"attributes": {"back": ["red"]}, "classes": {"001.A": ["blue"]}, "captions": {}}, "ValueError"),
        ({"attributes": {"back": ["red"]}, "classes": {}, "captions": {"a.jpg": [[1]]}}, "AssertionError"),
        ([], "TypeError"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path, content, reason):
    write_json(tmp_path / "attributes.json", content)
    with pytest.raises(UserError, match=f"no table of attributes .{reason}"):
        load_attributes(tmp_path / "attributes.json")


def test_a_ceiling_needs_a_class_of_two():
    values = metrics.centroid_accuracy(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]))
    assert values == {"accuracy": 100, "ceiling": None, "chance": 50}


def test_scores_are_finite_for_certain_classes():
    score = metrics.InceptionScore(10, 3)
    score.update(torch.eye(3).repeat(4, 1)[:10] * 1e4)  # probabilities of exactly 0: 0 · log 0 counts as 0
    assert math.isfinite(score.value()[0])
