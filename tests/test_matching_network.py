"""The matching network, the parts that it looks at, and the directions of the embeddings."""

import math

import pytest
import torch

from common import matching_network
from common.matching_network import (
    CANONICAL,
    Matcher,
    align,
    canonical_directions,
    fitted,
    load_or_train,
    matching_loss,
    principal_directions,
    train_matcher,
)
from common.part_attention import SIZE, PartsReader


@pytest.fixture
def few_batches(monkeypatch):
    monkeypatch.setattr(matching_network, "ALIGNED_ON", 3)


class ColouredPairs:
    """Images of one colour and embeddings that name it, hidden in directions of little variance."""

    device = torch.device("cpu")

    def __init__(self, size=SIZE):
        torch.manual_seed(0)
        self.size, self.told = size, 0
        self.loud, self.quiet = torch.randn(1, 20), 0.3 * torch.randn(3, 20)
        self.speech = self._speech(torch.rand(500, 3) * 2 - 1)

    def _speech(self, colours):
        return 5 + torch.randn(len(colours), 1) @ self.loud + colours @ self.quiet

    def __call__(self, step):
        self.told += 1
        colours = torch.rand(12, 3) * 2 - 1
        images = colours[:, :, None, None].expand(-1, -1, self.size, self.size)
        return images, self._speech(colours), torch.arange(12)


def test_the_parts_are_means_over_places():
    """Of an image of one colour every inner place holds the same, so that a part that looks there is what the place holds."""
    torch.manual_seed(0)
    reader = PartsReader(parts=5, width=4).eval()
    seen = reader(torch.randn(2, 3, SIZE, SIZE))
    assert seen.shape == (2, 5, 24) and torch.isfinite(seen).all()
    with torch.no_grad():
        for parameter in (reader.where_fine.weight, reader.where_fused.weight):
            parameter.zero_()
        reader.prior[:, 16, 16] = 100.0
    alike = reader(torch.full((1, 3, SIZE, SIZE), 0.3))
    torch.testing.assert_close(alike, alike[:, :1].expand(-1, 5, -1))
    with pytest.raises(AssertionError):
        reader(torch.randn(2, 3, 32, 32))


def test_features_under_halved_attention_equal_those_of_doubled_maps():
    """The plain computation: every map at 32 × 32, and its mean under the attention there."""
    torch.manual_seed(0)
    reader, maps, images = PartsReader(parts=5, width=4).eval(), {}, torch.randn(2, 3, SIZE, SIZE)
    reader.prior.data.normal_()
    for name in ("fine", "middle", "fuse", "where_fine", "where_fused"):
        getattr(reader, name).register_forward_hook(lambda module, given, made, name=name: maps.update({name: made}))
    seen = reader(images)
    doubled = lambda x: torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    where = (maps["where_fine"] + doubled(maps["where_fused"]) + reader.prior).flatten(2).softmax(2)
    values = torch.cat((maps["fine"], doubled(torch.cat((maps["middle"], maps["fuse"]), 1))), 1)
    torch.testing.assert_close(seen, torch.einsum("npq,ncq->npc", where, values.flatten(2)))


def test_directions_have_unit_variance_and_keep_what_differs_little():
    torch.manual_seed(0)
    spread = torch.tensor([10.0, 1.0, 0.1])
    speech = torch.randn(2000, 3, dtype=torch.double) * spread + 7
    mean, directions = principal_directions(speech, 3, floor=0.0)
    white = (speech - mean) @ directions.double()
    torch.testing.assert_close(white.T @ white / 2000, torch.eye(3, dtype=torch.double), atol=1e-3, rtol=0)
    _, floored = principal_directions(speech, 3, floor=0.05)
    # the deviations are about 10, 1, 0.1 and the floor is 0.5: 10 / 10.5, 1 / 1.5, 0.1 / 0.6
    deviation = ((speech - mean) @ floored.double()).std(0)
    torch.testing.assert_close(deviation, torch.tensor([0.952, 0.667, 0.167], dtype=torch.double), atol=0.02, rtol=0)
    assert principal_directions(speech, 5)[1].shape == (3, 5) and principal_directions(speech, 5)[1][:, 3:].eq(0).all()


def made_sides(rows=400):
    """Two numbers that both sides show, one of them loudly, among others that only one side has."""
    torch.manual_seed(0)
    shared = torch.randn(rows, 2, dtype=torch.double)
    a = shared @ torch.randn(2, 4).double() + 0.7 * torch.randn(rows, 4).double()
    b = shared * torch.tensor([3.0, 0.5]) @ torch.randn(2, 3).double() + 0.4 * torch.randn(rows, 3).double()
    return a - a.mean(0), b - b.mean(0)


def test_canonical_directions_equal_the_plain_computation():
    """The squared correlations are the eigenvalues of A⁻¹·C·B⁻¹·Cᵀ, A and B the regularised covariances."""
    a, b = made_sides()
    of_a, of_b = (directions.double() for directions in canonical_directions(a, b, 5))
    assert of_a.shape == (4, 5) and of_b.shape == (3, 5)
    assert of_a[:, 3:].eq(0).all() and of_b[:, 3:].eq(0).all()  # of three numbers there are three directions
    ours, theirs = (x.T @ x / 400 for x in (a, b))
    ours, theirs = (x + 0.1 * x.trace() / len(x) * torch.eye(len(x), dtype=torch.double) for x in (ours, theirs))
    across = a.T @ b / 400
    values, vectors = torch.linalg.eig(ours.inverse() @ across @ theirs.inverse() @ across.T)
    order = values.real.argsort(descending=True)[:3]
    correlations = values.real[order].sqrt()
    assert correlations[0] > 0.7 > correlations[1] + 0.02 and correlations[2] < 0.2
    close = {"atol": 1e-5, "rtol": 1e-5}
    of_a, of_b = of_a[:, :3], of_b[:, :3]
    torch.testing.assert_close(of_a.T @ ours @ of_a, correlations.diag(), **close)
    torch.testing.assert_close(of_b.T @ theirs @ of_b, correlations.diag(), **close)
    torch.testing.assert_close(of_a.T @ across @ of_b, correlations.square().diag(), **close)
    for found, expected in zip(of_a.T, vectors.real[:, order].T):
        assert abs(float(torch.cosine_similarity(found, expected, dim=0))) == pytest.approx(1, abs=1e-6)


def test_the_variance_along_a_direction_is_about_the_correlation(monkeypatch):
    a, b = made_sides()
    monkeypatch.setattr(matching_network, "RIDGE", 0.0)
    of_a, of_b = (rows @ directions.double() for rows, directions in zip((a, b), canonical_directions(a, b, 2)))
    for one, other in zip(of_a.T, of_b.T):
        correlation = float(one @ other / (one.norm() * other.norm()))
        assert correlation > 0.3
        for side in (one, other):
            assert float(side.square().mean()) == pytest.approx(correlation, rel=1e-4)


def test_sides_that_share_nothing_and_constant_ones_are_no_error():
    for rows in (torch.zeros(6, 4), torch.zeros(1, 4)):
        for directions in canonical_directions(rows.double(), rows[:, :3].double(), 2):
            assert directions.isfinite().all() and directions.dtype == torch.float32


def mean_loss(matcher, pairs, batches):
    losses = []
    for step in batches:
        images, speech, labels = pairs(step)
        losses.append(float(matching_loss(matcher(images), matcher.said(speech), labels)))
    return sum(losses) / len(losses)


@torch.no_grad()
def test_alignment_tells_pairs_apart():
    """The features of an untrained network hold colours, but its last layer mixes them with others at random."""
    pairs = ColouredPairs(16)
    matcher = Matcher(20)
    matcher.mean, matcher.directions = principal_directions(pairs.speech, 128)
    matcher.eval()
    before = mean_loss(matcher, pairs, range(5))
    told, features = pairs.told, {name: value.clone() for name, value in matcher.parts.state_dict().items()}
    numbers = []
    align(matcher, lambda step: numbers.append(step) or pairs(step), 7)
    assert numbers == list(range(7, 157)) and pairs.told == told + 150
    after = mean_loss(matcher, pairs, range(5))
    assert after < 0.5 * math.log(12) < 0.9 * math.log(12) < before
    images, speech, _ = pairs(0)
    seen, said = matcher(images), matcher.said(speech)
    assert seen.shape == said.shape == (12, 128) and seen[:, CANONICAL:].eq(0).all() and said[:, 20:].eq(0).all()
    assert torch.cosine_similarity(seen, said).mean() > 0.8
    assert torch.cosine_similarity(seen, said.roll(1, 0)).mean() < 0.5
    assert all(torch.equal(features[name], value) for name, value in matcher.parts.state_dict().items())


def test_alignment_centres_both_sides(few_batches):
    pairs = ColouredPairs(16)
    batches = [pairs(step) for step in range(3)]
    matcher = Matcher(20).eval().requires_grad_(False)
    align(matcher, batches.__getitem__, 0)
    for rows in ([matcher(images) for images, _, _ in batches], [matcher.said(speech) for _, speech, _ in batches]):
        rows = torch.cat(rows)
        assert rows.std() > 0.01
        torch.testing.assert_close(rows.mean(0), torch.zeros(128), atol=1e-3, rtol=0)


def test_the_loss_of_two_pairs_by_hand():
    """Scores are cosines over the temperature 0.1: own 10 and other 0 one way, the reverse if they are swapped."""
    seen, said = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    right = matching_loss(seen, said, torch.tensor([0, 1]))
    assert float(right) == pytest.approx(math.log(1 + math.exp(-10)), abs=1e-6)
    assert float(matching_loss(seen, said.flip(0), torch.tensor([0, 1]))) == pytest.approx(10, rel=1e-4)
    # two pairs of one class: neither is wrong for the other, so nothing is left to confuse
    assert float(matching_loss(seen, said.flip(0), torch.tensor([4, 4]))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [16, 64, 256])
def test_images_of_any_size_are_read_at_64(size):
    colour = torch.tensor([0.2, -0.4, 0.9])[None, :, None, None]
    torch.testing.assert_close(fitted(colour.expand(2, 3, size, size)), colour.expand(2, 3, 64, 64))


def test_it_learns_from_pairs_alone_and_then_stays_as_it_is(tmp_path):
    pairs = ColouredPairs(16)
    matcher = train_matcher(pairs, pairs.speech, 40, progress=False)
    assert not matcher.training and not any(p.requires_grad for p in matcher.parameters())
    images, speech, labels = pairs(0)
    loss = matching_loss(matcher(images), matcher.said(speech), labels)
    assert float(loss) < 0.6 * math.log(12)  # log 12: no idea which of twelve
    images = images.clone().requires_grad_()
    matching_loss(matcher(images), matcher.said(speech), labels).backward()
    assert images.grad.abs().sum() > 0


def test_it_is_kept_and_trained_again_only_for_something_else(tmp_path, few_batches):
    path, pairs = tmp_path / "matcher.pth", ColouredPairs(16)
    make = lambda seed: load_or_train(
        path, {"seed": seed}, 20, pairs.device, lambda: train_matcher(pairs, pairs.speech, 2, seed=seed, progress=False)
    )
    first = make(0)
    told = pairs.told
    again = make(0)
    assert pairs.told == told and all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values())
    )
    make(1)
    assert pairs.told == told + 2 + 3
    path.write_bytes(path.read_bytes()[:1000])  # damaged: made again, not an error
    make(1)
    assert pairs.told == told + 2 * (2 + 3)


def test_equal_arguments_give_equal_matchers(few_batches):
    states = []
    for _ in range(2):
        pairs = ColouredPairs(16)
        states.append(train_matcher(pairs, pairs.speech, 2, seed=3, progress=False).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_speech_of_another_width_is_told_at_once():
    with pytest.raises(AssertionError):
        Matcher(9).said(torch.randn(2, 8))
