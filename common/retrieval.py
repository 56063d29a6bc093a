"""Ranking a gallery for queries: mean average precision and recall, for speech and images alike.

Where scores are equal the wrong entry counts as the better one, so that a network that says the same about everything
gets nothing for it. Sets may be too large for memory: they are tensors `[N, d]`, or anything with `len()` that gives
tensors for slices.
"""

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 2048  # rows compared at a time


def dot(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Scores `[Q, G]` of rows `[Q, d]` and `[G, d]`: their dot products."""
    return queries @ gallery.T


def cosine(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    return F.normalize(queries) @ F.normalize(gallery).T


def blocks(rows):
    """Rows in tensors of at most `BLOCK` rows, in order."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def retrieval(
    queries,
    gallery,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    ranks=(1, 5, 10),
    score=dot,
    without_self: bool = False,
) -> dict[str, float]:
    """Mean average precision and recall at `ranks`, in percent: {"map", "r1", "r5", "r10"}.

    queries `[Q, d]`, gallery `[G, d]`; an entry is right where `query_ids` `[Q]` and `gallery_ids` `[G]` are equal.
    score: one of the functions above. R@k: share of queries with a right entry among the k best. Queries with no right
    entry are left out; ValueError if all are. without_self: query i is not compared with entry i.
    """
    assert query_ids.shape == (len(queries),) and gallery_ids.shape == (len(gallery),)
    width = max(1, BLOCK * BLOCK // len(gallery))  # queries at a time, so that scores take the same room in any gallery
    precision, found, count = 0.0, np.zeros(len(ranks)), 0
    for start in range(0, len(queries), width):
        rows = queries[start : start + width]
        scores = torch.cat([score(rows, others) for others in blocks(gallery)], 1)
        right = query_ids[start : start + len(rows), None] == gallery_ids
        if without_self:
            own = torch.arange(len(rows))
            scores[own, start + own], right[own, start + own] = -torch.inf, False
        average, hits = ranking(scores.to(right.device), right, ranks)
        possible = right.any(1)
        precision += average[possible].sum().item()
        found += hits[possible].sum(0).cpu().numpy()
        count += int(possible.sum())
    if not count:
        raise ValueError("no query has a right entry in the gallery")
    return {"map": 100 * precision / count, **{f"r{k}": 100 * float(f) / count for k, f in zip(ranks, found)}}


def ranking(scores: torch.Tensor, right: torch.Tensor, ranks=(1, 5, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    """Average precision `[Q]` (float64, 0..1) and whether one of the k best is right `[Q, ranks]`, for scores `[Q, G]`.

    right: bool `[Q, G]`. AP is the mean, over right entries, of the share of right ones down to that entry.
    """
    hits = best_first(scores, right)
    places = torch.arange(1, scores.shape[1] + 1, device=hits.device, dtype=torch.float64)
    average = (hits * hits.cumsum(1) / places).sum(1) / hits.sum(1).clamp(min=1)
    return average, torch.stack([hits[:, :k].any(1) for k in ranks], 1)


def best_first(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`right` `[Q, G]` (bool), each row in the order of descending `scores` `[Q, G]`; among equals wrong ones first."""
    wrong_first = right.to(torch.uint8).argsort(dim=1, stable=True)
    order = scores.gather(1, wrong_first).argsort(dim=1, descending=True, stable=True)
    return right.gather(1, wrong_first).gather(1, order)


def retrieval_by_chance(query_ids: torch.Tensor, gallery_ids: torch.Tensor, ranks=(1, 5, 10)) -> dict[str, float]:
    """What `retrieval` gives on average over all orders of the gallery, in percent.

    With m right entries among G, one of the first k is right with 1 − C(G − m, k) / C(G, k); the mean average precision
    is (m − 1) / (G − 1) + H(G) (G − m) / (G (G − 1)), H(G) being the harmonic number (all right if G is 1).
    """
    ids, counts = gallery_ids.unique(return_counts=True)
    place = torch.searchsorted(ids, query_ids).clamp(max=len(ids) - 1)
    right, total = counts[place][ids[place] == query_ids].double(), len(gallery_ids)

    def log_choose(n, k):
        return torch.lgamma(n + 1) - torch.lgamma(n - k + 1)  # of C(n, k), up to a factor of k! that cancels

    harmonic = (1 / torch.arange(1, total + 1, dtype=torch.float64)).sum()
    average = (right - 1 + harmonic * (total - right) / total) / (total - 1) if total > 1 else right
    hits = {}
    for k in ranks:
        missed = (log_choose(total - right, k) - log_choose(torch.tensor(total).double(), k)).exp()
        hits[f"r{k}"] = 100 * torch.where(total - right < k, 1, 1 - missed).mean().item()
    return {"map": 100 * average.mean().item(), **hits}
