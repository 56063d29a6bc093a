"""common.retrieval: rankings, average precision and recall worked out by hand."""

import itertools

import pytest
import torch
from test_metrics import feature_file

from common import retrieval


def test_ranking_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1]])
    right = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=torch.bool)
    precision, hits = retrieval.ranking(scores, right, (1, 3))
    # (1/1 + 2/3) / 2; 1/4; among equals the right one comes last: 1/4
    assert precision.tolist() == pytest.approx([5 / 6, 1 / 4, 1 / 4])
    assert hits.tolist() == [[True, True], [False, False], [False, False]]


def test_retrieval_by_hand(tmp_path, monkeypatch):
    gallery = torch.tensor([[1, 0], [1, 0.2], [0, 3.0], [-1, 0]])
    queries, labels = torch.tensor([[5.0, 0], [0, 1], [1, 1]]), torch.tensor([0, 1, 7])
    gallery_labels = torch.tensor([1, 0, 1, 0])
    # query 0 (class 0): order 0 1 2 3, right at 2 and 4: (1/2 + 2/4) / 2; query 1: order 2 1 then 0 and 3 (equal, the
    # wrong one first), right at 1 and 4: (1 + 2/4) / 2; query 2 has nothing to find
    expected = {"map": 100 * (1 / 2 + 3 / 4) / 2, "r1": 50, "r5": 100}
    assert retrieval.retrieval(queries, gallery, labels, gallery_labels, (1, 5), retrieval.cosine) == pytest.approx(
        expected
    )
    monkeypatch.setattr(retrieval, "BLOCK", 2)
    assert retrieval.retrieval(
        feature_file(tmp_path, queries),
        feature_file(tmp_path, gallery),
        labels,
        gallery_labels,
        (1, 5),
        retrieval.cosine,
    ) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no query has a right entry"):
        retrieval.retrieval(queries[2:], gallery, labels[2:], gallery_labels)


def test_retrieval_by_chance_is_the_mean_over_all_orders():
    queries, gallery = torch.tensor([3, 3, 8, 5]), torch.tensor([3, 8, 3, 9, 9])  # 5 has nothing to find
    expected = {"map": 0, "r1": 0, "r2": 0, "r4": 0}
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        scores = torch.tensor(order, dtype=torch.float64).expand(3, 5)
        precision, hits = retrieval.ranking(scores, queries[:3, None] == gallery, (1, 2, 4))
        for name, value in zip(expected, (precision, *hits.double().T)):
            expected[name] += 100 * value.mean().item() / len(orders)
    assert retrieval.retrieval_by_chance(queries, gallery, (1, 2, 4)) == pytest.approx(expected)


def test_retrieval_without_self():
    points, labels = torch.tensor([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), torch.tensor([0, 0, 1, 1])
    assert retrieval.retrieval(points, points, labels, labels, (1,), retrieval.cosine, without_self=True) == {
        "map": 100,
        "r1": 100,
    }


def test_retrieval_by_dot_product():
    queries, gallery = torch.tensor([[1.0], [-1.0]]), torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    # query 0 ranks 0 1 2 3, right 1 and 3: precision (1/2 + 2/4) / 2; query 1 ranks 3 2 1 0, right 0: 1/4
    found = retrieval.retrieval(queries, gallery, torch.tensor([1, 0]), torch.tensor([0, 1, 2, 1]), ranks=(1, 2, 4))
    assert found == pytest.approx({"map": 100 * (0.5 + 0.25) / 2, "r1": 0, "r2": 50, "r4": 100})
    with pytest.raises(ValueError):
        retrieval.retrieval(queries, gallery, torch.tensor([8, 8]), torch.tensor([0, 1, 2, 1]))


def test_equal_scores_are_no_success():
    same = torch.ones(6, 4)
    for score in (retrieval.dot, retrieval.cosine):
        assert retrieval.retrieval(same, same, torch.arange(6), torch.arange(6), score=score)["r5"] == 0
