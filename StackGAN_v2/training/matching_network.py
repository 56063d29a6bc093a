"""The matching network: how well an image matches a speech embedding, as an additional loss of the generator.

Like DAMSM (Xu et al., AttnGAN, CVPR 2018, section 3.2) it is trained before the generator and fixed afterwards. It
learns from pairs of real image and speech embedding alone, without text or attributes: first by the contrastive loss of
XMC-GAN (Zhang et al., CVPR 2021, equation 4) which principal directions of the embedding an image goes with, then both
sides are turned to the canonical directions (Hotelling, 1936) of image features and embedding: what of a sentence an
image shows.
"""

import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError
from common.distributed import ranks
from common.part_attention import SIZE, PartsReader
from common.progress import tqdm
from StackGAN_v2.networks.condition_init import principal_directions

PARTS, DIRECTIONS, TEMPERATURE = 12, 128, 0.1  # parts of an image, width of the common space, of the softmax
CANONICAL = 32  # directions that are kept at last; the others are 0
RIDGE = 0.1  # added to the variance of each direction, in units of the mean variance
ALIGNED_ON = 150  # batches that the canonical directions are computed from
BATCH, LEARNING_RATE = 24, 4e-3


class Matcher(nn.Module):
    """`forward(images [N, 3, s, s] in [−1, 1])` and `said(speech [N, text_dim])` → `[N, 128]`; compared by the cosine.

    Both sides are linear layers, of the parts' features and of the embedding.
    """

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
    sides = (whitened[0] @ u[:, :count] * scales, whitened[1] @ v.T[:, :count] * scales)
    return tuple(F.pad(side, (0, count - side.shape[1])).float() for side in sides)


@torch.no_grad()
def align(matcher: Matcher, batches, first: int) -> None:
    """Turn both sides of a matcher in evaluation mode to their canonical directions, on ALIGNED_ON batches from the
    number `first` on."""
    seen, said = [], []
    for step in range(first, first + ALIGNED_ON):
        batch = batches(step)
        seen.append(matcher.features(batch.real[-1].contiguous(memory_format=torch.channels_last)))
        said.append(batch.speech)
    sides = [torch.cat(rows).cpu().double() for rows in (seen, said)]
    means = [rows.mean(0) for rows in sides]
    of_image, of_speech = canonical_directions(*(rows - mean for rows, mean in zip(sides, means)), CANONICAL)
    for parameter in matcher.what.parameters():
        parameter.zero_()
    matcher.what.weight[:CANONICAL] = of_image.T.to(matcher.what.weight)
    matcher.what.bias[:CANONICAL] = -(means[0].float() @ of_image).to(matcher.what.bias)
    matcher.mean.copy_(means[1])
    matcher.directions.zero_()
    matcher.directions[:, :CANONICAL] = of_speech.to(matcher.directions)


def train_matcher(batches, speech: torch.Tensor, steps: int, *, seed: int = 0, progress: bool = True) -> Matcher:
    """Train a matcher on real pairs; it is returned in evaluation mode, without gradients.

    batches(step) → a `datasets.Batch`, whose largest images are used; speech `[M, text_dim]`: all training embeddings.
    Equal arguments give equal weights on the CPU of one machine, with one number of threads.
    """
    device = batches.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        matcher = Matcher(speech.shape[1])
        matcher.mean, matcher.directions = principal_directions(speech, DIRECTIONS)
        matcher.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(matcher.parameters(), LEARNING_RATE, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15)
        for step in tqdm(range(steps), desc="matching network", unit="step", disable=not progress):
            batch = batches(step)
            images = batch.real[-1].contiguous(memory_format=torch.channels_last)
            loss = matching_loss(matcher(images), matcher.said(batch.speech), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        matcher.eval().requires_grad_(False)
        align(matcher, batches, steps)
    return matcher


def load_or_train(path, key: dict, batches, speech, steps: int, seed: int) -> Matcher:
    """The matcher in the file `path` if it was trained with `key`, else a new one, written there by rank 0."""
    if ranks.is_main() and _read(path, key) is None:
        matcher = train_matcher(batches, speech, steps, seed=seed)
        state = {name: value.cpu().contiguous() for name, value in matcher.state_dict().items()}
        checkpoint.save(path, {"key": key, "state_dict": state})
    ranks.barrier()
    state = _read(path, key)
    if state is None:
        raise UserError(
            f"{path} is not the matching network that rank 0 has trained; give an --output_dir that all machines share"
        )
    matcher = Matcher(speech.shape[1])
    checkpoint.load_into(matcher, state, path)
    return matcher.to(batches.device, memory_format=torch.channels_last).eval().requires_grad_(False)


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
