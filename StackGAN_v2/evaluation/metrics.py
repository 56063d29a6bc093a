"""How good a set of images is: pure functions of features, probabilities and labels, apart from reading and networks.

Sets may be too large for memory. What is summed (moments, inception score) takes batch after batch; what compares pairs
takes rows as a tensor `[N, d]`, or as anything with `len()` that gives tensors for slices and for index arrays.
"""

import numpy as np
import torch
from torch.nn.functional import normalize

from common.retrieval import blocks


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
    mean1, covariance1, mean2, covariance2 = (
        torch.as_tensor(x, dtype=torch.float64) for x in (mean1, covariance1, mean2, covariance2)
    )
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

    The parts are those of torch-fidelity: the images shuffled with `seed`, then cut. batch: count only as many as fill
    batches of this size, as the StackGAN authors' script does. Logits may arrive in any batches; memory is that of one
    distribution a part.
    """

    def __init__(self, images: int, classes: int, splits: int = 10, seed: int = 2020, batch: int = 1):
        counted = images // batch * batch
        if counted < splits:
            raise ValueError(
                f"the inception score over {splits} parts needs at least {max(splits, batch)} images, not {images}"
            )
        place = np.empty(images, np.int64)
        place[np.random.RandomState(seed).permutation(images)] = np.arange(images)
        ends = [(part + 1) * counted // splits for part in range(splits)]
        self._part = torch.from_numpy(np.searchsorted(ends, place, side="right"))  # `splits` for what is left out
        self._seen, self._splits = 0, splits
        self._counts = self._part.bincount(minlength=splits)[:splits]
        self._p = torch.zeros(splits + 1, classes, dtype=torch.float64)
        self._negentropy = torch.zeros(splits + 1, dtype=torch.float64)

    def update(self, logits: torch.Tensor) -> None:
        """Take in the logits `[N, classes]` of the next N images."""
        logits = logits.double().cpu()
        part = self._part[self._seen : self._seen + len(logits)]
        assert len(part) == len(logits), "more images than announced"
        p = logits.softmax(1)
        self._p.index_add_(0, part, p)
        self._negentropy.index_add_(0, part, (p * logits.log_softmax(1)).sum(1))
        self._seen += len(logits)

    def value(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts."""
        assert self._seen == len(self._part), f"{self._seen} of {len(self._part)} images seen"
        p = self._p[: self._splits] / self._counts[:, None]
        scores = (self._negentropy[: self._splits] / self._counts - torch.special.xlogy(p, p).sum(1)).exp()
        return scores.mean().item(), scores.std(correction=0).item()


def kernel_distance(
    generated, real, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
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

    def kernel(a, b):  # the products in their own precision; what cancels, in float64
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
        hit, start = torch.zeros(len(rows), dtype=torch.bool, device=rows.device), 0
        for others in blocks(centres):
            hit |= (torch.cdist(rows, others) <= radii[start : start + len(others)]).any(1)
            start += len(others)
        inside += int(hit.sum())
    return inside / len(queries)


def _radii(rows, everyone, neighbours: int) -> torch.Tensor:
    """Distance of each of `rows` `[n, d]` to its `neighbours`-th neighbour among `everyone`, which includes the row."""
    nearest = rows.new_empty(len(rows), 0)
    for others in blocks(everyone):
        nearest = torch.cat((nearest, torch.cdist(rows, others)), 1)
        nearest = nearest.topk(min(neighbours + 1, nearest.shape[1]), largest=False).values
    return nearest[:, -1]


def centroid_accuracy(generated, labels, real, real_labels) -> dict[str, float]:
    """How often the nearest class centroid of the real set is the right one, by cosine, in percent.

    generated `[N, d]` with classes `labels` `[N]`, real `[M, d]` with `real_labels` `[M]`; rows are scaled to length 1.
    Returns {"accuracy", "ceiling", "chance"}. The ceiling is that of the real rows, each against centroids made without
    it; a class of one row has no such centroid and gives no query there (None if all are). Chance: one class in C.
    """
    classes, own = real_labels.unique(return_inverse=True)
    real = normalize(real[:]).double()
    sums = torch.zeros(len(classes), real.shape[1], dtype=torch.float64, device=real.device)
    sums.index_add_(0, own.to(real.device), real)
    centroids = normalize(sums)
    nearest = torch.cat([(normalize(rows).double() @ centroids.T).argmax(1).cpu() for rows in blocks(generated)])
    right = int((classes[nearest] == labels).sum())
    scores = real @ centroids.T
    without = normalize(sums[own] - real)  # each row's own centroid, had the row not been there
    scores[torch.arange(len(real)), own] = (real * without).sum(1)
    asked = own.bincount()[own] > 1
    ceiling = 100 * (scores.argmax(1).cpu() == own)[asked].double().mean().item() if asked.any() else None
    return {"accuracy": 100 * right / len(generated), "ceiling": ceiling, "chance": 100 / len(classes)}
