"""How good a set of images is: pure functions of features, probabilities and labels, apart from reading and networks.

Sets may be too large for memory. What is summed (moments, inception score) takes batch after batch; what compares pairs
takes `Rows`: a tensor `[N, d]`, or anything with `len()` that gives tensors for slices and for index arrays.
"""
import numpy as np
import torch

BLOCK = 2048                                       # rows compared at a time


class Moments:
    """Mean and covariance of rows that arrive in batches, in float64, in memory of one matrix.

    Merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
    (1979): centred at each step, so that nothing cancels.
    """

    def __init__(self, width: int, device="cpu"):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, rows: torch.Tensor) -> None:
        """Take in `[N, width]`."""
        rows = rows.to(self.mean)
        assert rows.dim() == 2 and rows.shape[1] == len(self.mean), tuple(rows.shape)
        if not len(rows):
            return
        total = self.count + len(rows)
        mean = rows.mean(0)
        centred, shift = rows - mean, mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """Unbiased, `[width, width]`. ValueError for fewer than two rows, which have none."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(mean1, covariance1, mean2, covariance2) -> float:
    """|μ1 − μ2|² + tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½) of two Gaussians (Heusel et al., NeurIPS 2017, arXiv 1706.08500, eq. 6).

    Means `[d]`, covariances `[d, d]`, symmetric and not negative. With Σ = L Lᵀ the trace of the root is the sum of the
    singular values of L1ᵀ L2: real by construction, where the root of a product of rounded matrices may be complex.
    """
    mean1, covariance1, mean2, covariance2 = (torch.as_tensor(x, dtype=torch.float64)
                                              for x in (mean1, covariance1, mean2, covariance2))
    assert mean1.shape == mean2.shape and covariance1.shape == covariance2.shape == 2 * mean1.shape
    root_trace = torch.linalg.svdvals(_factor(covariance1).T @ _factor(covariance2)).sum()
    return ((mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * root_trace).item()


def _factor(matrix: torch.Tensor) -> torch.Tensor:
    """L with L Lᵀ = `matrix`, a column for each direction that has any extent: few, where the images were few."""
    values, vectors = torch.linalg.eigh(matrix)
    some = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, some] * values[some].sqrt()


class InceptionScore:
    """exp of the mean KL(p(y|x) ‖ p(y)), over `splits` parts of the images (Salimans et al., NeurIPS 2016, sec. 4).

    The parts are those of torch-fidelity: the images shuffled with `seed`, then cut. Logits may arrive in any
    batches; memory is that of one distribution a part.
    """

    def __init__(self, images: int, classes: int, splits: int = 10, seed: int = 2020):
        if images < splits:
            raise ValueError(f"the inception score over {splits} parts needs at least {splits} images, "
                             f"not {images}")
        place = np.empty(images, np.int64)
        place[np.random.RandomState(seed).permutation(images)] = np.arange(images)
        ends = [(part + 1) * images // splits for part in range(splits)]
        self._part = torch.from_numpy(np.searchsorted(ends, place, side="right"))
        self._seen = 0
        self._counts = self._part.bincount(minlength=splits)
        self._p = torch.zeros(splits, classes, dtype=torch.float64)
        self._negentropy = torch.zeros(splits, dtype=torch.float64)

    def update(self, logits: torch.Tensor) -> None:
        """Take in the logits `[N, classes]` of the next N images."""
        logits = logits.double().cpu()
        part = self._part[self._seen:self._seen + len(logits)]
        assert len(part) == len(logits), "more images than announced"
        p = logits.softmax(1)
        self._p.index_add_(0, part, p)
        self._negentropy.index_add_(0, part, (p * logits.log_softmax(1)).sum(1))
        self._seen += len(logits)

    def value(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts."""
        assert self._seen == len(self._part), f"{self._seen} of {len(self._part)} images seen"
        p = self._p / self._counts[:, None]
        scores = (self._negentropy / self._counts - torch.special.xlogy(p, p).sum(1)).exp()
        return scores.mean().item(), scores.std(correction=0).item()


def kernel_distance(generated, real, subsets: int = 100, subset_size: int = 1000,
                    seed: int = 2020) -> tuple[float, float]:
    """KID: the unbiased squared MMD with kernel (x·y / d + 1)³ (Bińkowski et al., ICLR 2018, arXiv 1801.01401).

    Rows `[N, d]` and `[M, d]`; ValueError if either has fewer than `subset_size` or 2. Returns mean and standard
    deviation over `subsets` random subsets of each, the ones that torch-fidelity draws. May be a little below 0.
    """
    if min(len(generated), len(real), subset_size) < max(2, subset_size):
        raise ValueError(f"subsets of {subset_size} from {len(generated)} and {len(real)} images")
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        x = generated[random.choice(len(generated), subset_size, replace=False)]
        y = real[random.choice(len(real), subset_size, replace=False)]
        values.append(squared_mmd(x, y))
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of `[m, d]` and `[n, d]` with the kernel (x·y / d + 1)³."""
    def kernel(a, b):                              # the products in their own precision; what cancels, in float64
        return (a @ b.T).double().div_(a.shape[1]).add_(1).pow_(3)

    def apart(a):
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))
    return (apart(x) + apart(y) - 2 * kernel(x, y).mean()).item()


def precision_recall(generated, real, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall, each in 0..1 (Kynkäänniemi et al., NeurIPS 2019, arXiv 1904.06991, eq. 1).

    The share of generated rows inside a ball of the real set, and of real rows inside one of the generated set; a row's
    ball reaches to its `neighbours`-th nearest neighbour. ValueError if a set has no more rows than that.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise ValueError(f"{neighbours} neighbours from {len(generated)} and {len(real)} images")
    return _share_inside(generated, real, neighbours), _share_inside(real, generated, neighbours)


def _share_inside(queries, centres, neighbours: int) -> float:
    radii = torch.cat([_radii(rows, centres, neighbours) for rows in blocks(centres)])
    inside = 0
    for rows in blocks(queries):
        hit = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for start, others in zip(range(0, len(centres), BLOCK), blocks(centres)):
            hit |= (torch.cdist(rows, others) <= radii[start:start + BLOCK]).any(1)
        inside += int(hit.sum())
    return inside / len(queries)


def _radii(rows, everyone, neighbours: int) -> torch.Tensor:
    """Distance of each of `rows` `[n, d]` to its `neighbours`-th neighbour among `everyone`, which includes the row."""
    nearest = rows.new_empty(len(rows), 0)
    for others in blocks(everyone):
        nearest = torch.cat((nearest, torch.cdist(rows, others)), 1)
        nearest = nearest.topk(min(neighbours + 1, nearest.shape[1]), largest=False).values
    return nearest[:, -1]


def blocks(rows):
    """`Rows` in tensors of at most `BLOCK` rows, in order."""
    return (rows[start:start + BLOCK] for start in range(0, len(rows), BLOCK))


def retrieval(queries, gallery, query_labels, gallery_labels, ranks=(1, 5, 10), without_self: bool = False) -> dict:
    """Class retrieval: mean average precision and recall at `ranks`, by cosine, in percent: {"map", "r1", "r5", "r10"}.

    queries `[Q, d]`, gallery `[G, d]`, labels `[Q]` and `[G]`; an entry is right where the labels are equal. S2IGAN
    (Wang et al., INTERSPEECH 2020, arXiv 2005.06968, section 3) asks with real images in a gallery of generated ones.
    R@k: share of queries with a right entry among the k best. Queries with no right entry are left out; ValueError if
    all are. `without_self`: query i is not compared with entry i. Among equal scores the wrong ones count as better.
    """
    width = max(1, BLOCK * BLOCK // len(gallery))  # queries at a time, so that scores take the same room in any gallery
    precisions, found, count = 0.0, np.zeros(len(ranks)), 0
    for start in range(0, len(queries), width):
        rows = unit(queries[start:start + width])
        scores = torch.cat([rows @ unit(others).T for others in blocks(gallery)], 1)
        right = query_labels[start:start + len(rows), None] == gallery_labels
        if without_self:
            own = torch.arange(len(rows))
            scores[own, start + own], right[own, start + own] = -torch.inf, False
        precision, hits = ranking(scores.cpu(), right, ranks)
        possible = right.any(1)
        precisions += precision[possible].sum().item()
        found += hits[possible].sum(0).numpy()
        count += int(possible.sum())
    if not count:
        raise ValueError("no query has a right entry in the gallery")
    return {"map": 100 * precisions / count, **{f"r{k}": 100 * float(f) / count for k, f in zip(ranks, found)}}


def ranking(scores: torch.Tensor, right: torch.Tensor, ranks=(1, 5, 10)) -> tuple[torch.Tensor, torch.Tensor]:
    """Average precision `[Q]` (float64, 0..1) and whether one of the k best is right `[Q, ranks]`, for scores `[Q, G]`.

    right: bool `[Q, G]`. AP is the mean, over right entries, of the share of right ones down to that entry.
    """
    wrong_first = right.to(torch.uint8).argsort(dim=1, stable=True)
    order = scores.gather(1, wrong_first).argsort(dim=1, descending=True, stable=True)
    hits = right.gather(1, wrong_first).gather(1, order)
    places = torch.arange(1, scores.shape[1] + 1)
    average = (hits * hits.cumsum(1) / places.double()).sum(1) / hits.sum(1).clamp(min=1)
    return average, torch.stack([hits[:, :k].any(1) for k in ranks], 1)


def retrieval_by_chance(query_labels, gallery_labels, ranks=(1, 5, 10)) -> dict:
    """What `retrieval` gives on average over all orders of the gallery, in percent.

    With m right ones among G, one of the first k is right with 1 − C(G − m, k) / C(G, k); the mean average precision is
    (m − 1) / (G − 1) + H(G) (G − m) / (G (G − 1)), H(G) being the harmonic number (all right if G is 1).
    """
    labels, counts = gallery_labels.unique(return_counts=True)
    place = torch.searchsorted(labels, query_labels).clamp(max=len(labels) - 1)
    right, total = counts[place][labels[place] == query_labels].double(), len(gallery_labels)

    def log_choose(n, k):
        return torch.lgamma(n + 1) - torch.lgamma(n - k + 1)       # of C(n, k), up to a factor of k! that cancels

    harmonic = (1 / torch.arange(1, total + 1, dtype=torch.float64)).sum()
    average = (right - 1 + harmonic * (total - right) / total) / (total - 1) if total > 1 else right
    hits = {}
    for k in ranks:
        missed = (log_choose(total - right, k) - log_choose(torch.tensor(total).double(), k)).exp()
        hits[f"r{k}"] = 100 * torch.where(total - right < k, 1, 1 - missed).mean().item()
    return {"map": 100 * average.mean().item(), **hits}


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows `[N, d]` scaled to length 1."""
    return torch.nn.functional.normalize(rows, dim=1)


def centroid_accuracy(generated, labels, real, real_labels) -> dict[str, float]:
    """How often the nearest class centroid of the real set is the right one, by cosine, in percent.

    generated `[N, d]` with classes `labels` `[N]`, real `[M, d]` with `real_labels` `[M]`; rows are scaled to length 1.
    Returns {"accuracy", "ceiling", "chance"}. The ceiling is that of the real rows, each against centroids made without
    it; a class of one row has no such centroid and gives no query there (None if all are). Chance: one class in C.
    """
    classes, own = real_labels.unique(return_inverse=True)
    real = unit(real[:]).double()
    sums = torch.zeros(len(classes), real.shape[1], dtype=torch.float64, device=real.device)
    sums.index_add_(0, own.to(real.device), real)
    centroids = unit(sums)
    right = sum(int((classes[(unit(rows).double() @ centroids.T).argmax(1).cpu()] == labels[start:start + BLOCK]).sum())
                for start, rows in zip(range(0, len(generated), BLOCK), blocks(generated)))
    scores = real @ centroids.T
    without = unit(sums[own] - real)               # each row's own centroid, had the row not been there
    scores[torch.arange(len(real)), own] = (real * without).sum(1)
    judged = own.bincount()[own] > 1
    ceiling = 100 * (scores.argmax(1).cpu() == own)[judged].double().mean().item() if judged.any() else None
    return {"accuracy": 100 * right / len(generated), "ceiling": ceiling, "chance": 100 / len(classes)}
