"""The matching network: how well an image matches a speech embedding.

It learns from pairs of real image and speech embedding alone, without text or attributes: first by the contrastive loss
of XMC-GAN (Zhang et al., CVPR 2021, equation 4) which principal directions of the embedding an image goes with, then both
sides are turned to the canonical directions (Hotelling, 1936) of image features and embedding: what of a sentence an
image shows. Afterwards it is fixed. It serves twice: its image features teach the contrastive encoder, and, trained
again on what that encoder makes of speech, it is a loss of the generator like DAMSM (Xu et al., AttnGAN, CVPR 2018,
section 3.2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError
from common.distributed import ranks
from common.part_attention import SIZE, PartsReader
from common.progress import tqdm

PARTS, DIRECTIONS, TEMPERATURE = 12, 128, 0.1  # parts of an image, width of the common space, of the softmax
CANONICAL = 32  # directions that are kept at last; the others are 0
RIDGE = 0.1  # added to the variance of each direction, in units of the mean variance
ALIGNED_ON = 150  # batches that the canonical directions are computed from
BATCH, LEARNING_RATE = 24, 4e-3
NAME = "matching network"


@dataclass(frozen=True)
class Pairs:
    """`pairs(step)` → images `[N, 3, s, s]` in [−1, 1], embeddings `[N, d]` of their speech and classes `[N]`."""

    draw: Callable[[int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    device: torch.device

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images, speech, labels = self.draw(step)
        return images.contiguous(memory_format=torch.channels_last), speech, labels


class Matcher(nn.Module):
    """`forward(images [N, 3, s, s] in [−1, 1])` and `said(speech [N, text_dim])` → `[N, 128]`; compared by the cosine.

    Both sides are linear layers, of the parts' features and of the embedding.
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, text_dim: int):
        super().__init__()
        self.parts = PartsReader(PARTS)
        self.what = nn.Linear(PARTS * self.parts.out_features, DIRECTIONS)
        self.register_buffer("mean", torch.zeros(text_dim))
        self.register_buffer("directions", torch.zeros(text_dim, DIRECTIONS))

    def forward(self, images):
        assert images.dim() == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3], tuple(images.shape)
        return self.what(F.dropout(self.features(images), 0.1, self.training))

    def features(self, images):
        """Images `[N, 3, s, s]` → features of all parts, `[N, F]`."""
        return self.parts(fitted(images)).flatten(1)

    def said(self, speech):
        assert speech.shape[1:] == self.mean.shape, (tuple(speech.shape), tuple(self.mean.shape))
        return (speech - self.mean) @ self.directions


def fitted(images: torch.Tensor) -> torch.Tensor:
    """Images `[N, 3, s, s]` scaled to `[N, 3, 64, 64]`, with antialiasing."""
    size = images.shape[3]
    if size % SIZE == 0:
        return F.avg_pool2d(images, size // SIZE) if size > SIZE else images
    return F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", antialias=True)


def matching_loss(seen: torch.Tensor, said: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Contrastive loss, 0-d: cross-entropy of each image's own speech within the batch, and the reverse; their mean.

    seen, said `[N, d]`: rows i of both belong together; labels `[N]`: other pairs of the same class are left out.
    """
    assert seen.shape == said.shape and labels.shape == seen.shape[:1], (seen.shape, said.shape, labels.shape)
    scores = F.normalize(seen.float()) @ F.normalize(said.float()).T / TEMPERATURE
    own = torch.arange(len(labels), device=labels.device)
    alike = (labels[:, None] == labels[None, :]) & (own[:, None] != own[None, :])
    scores = scores.masked_fill(alike, -1e4)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def principal_directions(speech: torch.Tensor, count: int, floor: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitening: speech `[M, d]` → mean `[d]`, directions `[d, count]`.

    `(speech − mean) @ directions` has about unit variance in each column. Embeddings vary 100 times as much along a few
    directions as along those that carry the colours of parts. `floor`, a share of the largest standard deviation,
    limits how much the noise in the smallest ones is amplified. If d is below `count`, the missing directions are 0.
    """
    assert speech.dim() == 2 and len(speech), tuple(speech.shape)
    speech = speech.double()
    mean = speech.mean(0)
    values, vectors = torch.linalg.eigh((speech - mean).T @ (speech - mean) / len(speech))
    values, vectors = values.flip(0)[:count].clamp(min=0).sqrt(), vectors.flip(1)[:, :count]
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1, 1)  # fix the sign, which eigh leaves open
    directions = vectors / (values + floor * values[0]).clamp(min=1e-12)
    return mean.float(), F.pad(directions, (0, count - directions.shape[1])).float()


def canonical_directions(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a `[M, d]`, b `[M, e]`, float64 with mean 0 → directions `[d, count]` and `[e, count]` by regularised canonical
    correlation analysis (Vinod, 1976), the most correlated first; 0 where d or e is below `count`.

    The variance of `a @ directions` is about the correlation: what the two sides do not share counts less.
    """
    whitened = []
    for rows in (a, b):
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        values = values.clamp(min=0)
        whitened.append(vectors * (values + RIDGE * values.mean() + 1e-12).rsqrt() @ vectors.T)
    u, correlations, v = torch.linalg.svd(whitened[0] @ (a.T @ b / len(a)) @ whitened[1], full_matrices=False)
    scales = correlations[:count].sqrt()
    of_a, of_b = whitened[0] @ u[:, :count] * scales, whitened[1] @ v.T[:, :count] * scales
    missing = (0, count - of_a.shape[1])
    return F.pad(of_a, missing).float(), F.pad(of_b, missing).float()


@torch.no_grad()
def align(matcher: Matcher, pairs, first: int) -> None:
    """Turn both sides of a matcher in evaluation mode to their canonical directions, on ALIGNED_ON draws of `pairs` from
    the number `first` on."""
    seen, said = [], []
    for step in range(first, first + ALIGNED_ON):
        images, speech, _ = pairs(step)
        seen.append(matcher.features(images))
        said.append(speech)
    shown, heard = torch.cat(seen).cpu().double(), torch.cat(said).cpu().double()
    of_image, of_speech = canonical_directions(shown - shown.mean(0), heard - heard.mean(0), CANONICAL)
    for parameter in matcher.what.parameters():
        parameter.zero_()
    matcher.what.weight[:CANONICAL] = of_image.T.to(matcher.what.weight)
    matcher.what.bias[:CANONICAL] = -(shown.mean(0).float() @ of_image).to(matcher.what.bias)
    matcher.mean.copy_(heard.mean(0))
    matcher.directions.zero_()
    matcher.directions[:, :CANONICAL] = of_speech.to(matcher.directions)


def train_matcher(
    pairs, speech: torch.Tensor, steps: int, *, seed: int = 0, aligned=True, name=NAME, progress: bool = True
) -> Matcher:
    """Train a matcher on real pairs; it is returned in evaluation mode, without gradients.

    pairs: as `Pairs`; speech `[M, text_dim]`: all training embeddings; aligned: turn both sides to their canonical
    directions at the end, without which its `features` alone are of use; name: of what is trained, for the progress.
    Equal arguments give equal weights on the CPU of one machine, with one number of threads.
    """
    device = pairs.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        matcher = Matcher(speech.shape[1])
        matcher.mean, matcher.directions = principal_directions(speech, DIRECTIONS)
        matcher.to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(matcher.parameters(), LEARNING_RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15)
        for step in tqdm(range(steps), desc=name, unit="step", disable=not progress):
            images, said, labels = pairs(step)
            loss = matching_loss(matcher(images), matcher.said(said), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        matcher.eval().requires_grad_(False)
        if aligned:
            align(matcher, pairs, steps)
    return matcher


def load_or_train(path, key: dict, width: int, device, train: Callable[[], Matcher], name: str = NAME) -> Matcher:
    """The matcher of embeddings of `width` in the file `path` if it was trained with `key`, else what `train` makes,
    written there by rank 0. name: what it is, for an error."""
    if ranks.is_main() and _read(path, key) is None:
        state = {name: value.cpu().contiguous() for name, value in train().state_dict().items()}
        checkpoint.save(path, {"key": key, "state_dict": state})
    ranks.barrier()
    kept = _read(path, key)
    if kept is None:
        raise UserError(
            f"{path} is not the {name} that rank 0 has trained; give an --output_dir that all machines share"
        )
    matcher = Matcher(width)
    checkpoint.load_into(matcher, kept, path)
    return matcher.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _read(path, key: dict) -> dict | None:
    if not path.is_file():
        return None
    try:
        content = checkpoint.load(path)
    except UserError:  # damaged: train it again
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    return checkpoint.state_dict_of(content, path)
