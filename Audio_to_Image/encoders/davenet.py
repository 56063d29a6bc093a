"""DAVEnet: a convolutional speech network and VGG16 that share a space of 1024 channels, compared by matchmaps.

Harwath et al., "Jointly Discovering Visual Objects and Spoken Words from Raw Sensory Input", ECCV 2018 (arXiv
1804.01452). Layer names, and so checkpoints, are those of the authors' implementation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from Audio_to_Image.front_ends import front_end

FRAMES_PER_POSITION = 16  # four poolings halve the time axis
SIMILARITIES = ("SISA", "MISA", "SIMA")


class DAVEnetAudio(nn.Module):
    """Log-mel frames → one vector for every 16 frames.

    n_filters      mel bands of the input
    embedding_dim  channels of the output
    """

    name = "davenet"
    objective = "Audio_to_Image.encoders.davenet_objective:MatchmapObjective"
    defaults = {
        "batch_size": 100,
        "learning_rate": 1e-3,
        "optimizer": "sgd",
        "beta1": 0.9,
        "weight_decay": 5e-7,
        "lr_scheduler_step_size": 40,
        "lr_scheduler_gamma": 0.1,
    }

    def __init__(self, n_filters: int = 40, embedding_dim: int = 1024):
        super().__init__()
        self.n_filters, self.embedding_dim, self.nhidden = n_filters, embedding_dim, embedding_dim
        self.batchnorm1 = nn.BatchNorm2d(1)
        self.conv1 = nn.Conv2d(1, 128, (n_filters, 1))
        self.conv2 = nn.Conv2d(128, 256, (1, 11), padding=(0, 5))
        self.conv3 = nn.Conv2d(256, 512, (1, 17), padding=(0, 8))
        self.conv4 = nn.Conv2d(512, 512, (1, 17), padding=(0, 8))
        self.conv5 = nn.Conv2d(512, embedding_dim, (1, 17), padding=(0, 8))
        self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))

    @classmethod
    def from_settings(cls, network, width: int) -> "DAVEnetAudio":
        return cls(front_end(network.front_end).bands)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "batchnorm1.weight" in state and "conv5.weight" in state

    @classmethod
    def from_state(cls, state: dict) -> "DAVEnetAudio":
        return cls(state["conv1.weight"].shape[2], state["conv5.weight"].shape[0])

    @staticmethod
    def positions(n_frames: torch.Tensor) -> torch.Tensor:
        return (n_frames // FRAMES_PER_POSITION).clamp(min=1)

    def describe(self) -> dict:
        return {"embedding_dim": self.embedding_dim, "rnn_layers": 0, "bidirectional": False}

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Log-mels `[N, n_filters, T]` or `[N, 1, n_filters, T]`, T a multiple of 16 → `[N, embedding_dim, T/16]`."""
        x = x.unsqueeze(1) if x.dim() == 3 else x
        assert x.dim() == 4 and x.shape[2] == self.n_filters and x.shape[3] % FRAMES_PER_POSITION == 0, tuple(x.shape)
        x = F.relu(self.conv1(self.batchnorm1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        for conv in (self.conv3, self.conv4, self.conv5):
            x = self.pool(F.relu(conv(x)))
        return x.squeeze(2)

    def forward(self, x: torch.Tensor, lens, n_frames=None) -> tuple[torch.Tensor, torch.Tensor]:
        """→ (words `[N, d, T/16]`, zero where a clip has ended; sentence `[N, d]`, their mean over its own positions).

        lens: `[N]`, positions of each clip: n_frames // 16, at least 1. n_frames is not needed.
        """
        maps = self.maps(x)
        lens = torch.as_tensor(lens, device=maps.device).clamp(1, maps.shape[2])
        words = maps * (torch.arange(maps.shape[2], device=maps.device) < lens[:, None])[:, None]
        return words, words.sum(2, dtype=torch.float32) / lens[:, None]


class VGG16Image(nn.Module):
    """VGG16 up to its last convolution, then a 3 × 3 convolution to the shared space. Weights are drawn at random."""

    def __init__(self, embedding_dim: int = 1024):
        super().__init__()
        from torchvision.models import vgg16

        layers = list(vgg16(weights=None).features)[:-1]  # without the last pooling
        self.embedding_dim = embedding_dim
        self.image_model = nn.Sequential(*layers, nn.Conv2d(512, embedding_dim, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `[N, 3, H, W]`, normalised as for ImageNet → maps `[N, embedding_dim, H/16, W/16]`."""
        assert images.dim() == 4 and images.shape[1] == 3, tuple(images.shape)
        return self.image_model(images)


def similarity(image: torch.Tensor, audio: torch.Tensor, lens: torch.Tensor, kind: str = "MISA") -> torch.Tensor:
    """Similarity of every image with every clip, `[N, M]`, by matchmaps M[h, w, t] = ⟨image[:, h, w], audio[:, t]⟩.

    image: `[N, D, H, W]`; audio: `[M, D, T]`; lens: `[M]`, the positions of each clip that count.
    SISA: the mean of the matchmap; MISA: its largest value over the image, then the mean over time; SIMA: its largest
    value over time, then the mean over the image. Memory: one image's matchmaps with all clips at a time.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"no similarity {kind}; there are {', '.join(SIMILARITIES)}")
    assert image.dim() == 4 and audio.dim() == 3 and image.shape[1] == audio.shape[1] and lens.shape == audio.shape[:1]
    lens = lens.clamp(1, audio.shape[2])
    heard = torch.arange(audio.shape[2], device=audio.device) < lens[:, None]  # [M, T]
    if kind == "SISA":  # the mean of products is the product of means
        return image.mean((2, 3)) @ ((audio * heard[:, None]).sum(2) / lens[:, None]).T
    rows = []
    for one in image.flatten(2):  # [D, H·W]
        matchmap = torch.einsum("dp,mdt->mpt", one, audio)
        if kind == "MISA":
            rows.append((matchmap.amax(1) * heard).sum(1) / lens)
        else:
            rows.append(matchmap.masked_fill(~heard[:, None], -torch.inf).amax(2).mean(1))
    return torch.stack(rows)


def pair_similarity(image: torch.Tensor, audio: torch.Tensor, lens: torch.Tensor, kind: str = "MISA") -> torch.Tensor:
    """`similarity` of image i and clip i alone: `[N]`. image: `[N, D, H, W]`; audio: `[N, D, T]`; lens: `[N]`."""
    if kind not in SIMILARITIES:
        raise ValueError(f"no similarity {kind}; there are {', '.join(SIMILARITIES)}")
    assert len(image) == len(audio) == len(lens) and image.shape[1] == audio.shape[1], (image.shape, audio.shape)
    lens = lens.clamp(1, audio.shape[2])
    heard = torch.arange(audio.shape[2], device=audio.device) < lens[:, None]  # [N, T]
    matchmap = image.flatten(2).transpose(1, 2) @ audio  # [N, H·W, T]
    if kind == "SIMA":
        return matchmap.masked_fill(~heard[:, None], -torch.inf).amax(2).mean(1)
    over_image = matchmap.amax(1) if kind == "MISA" else matchmap.mean(1)
    return (over_image * heard).sum(1) / lens


def margin_loss(own: torch.Tensor, wrong_image: torch.Tensor, wrong_clip: torch.Tensor, margin: float) -> torch.Tensor:
    """Σ max(0, margin + S_impostor − S_own) over both impostors of every pair, divided by the pairs; all `[N]`."""
    return (F.relu(margin + wrong_image - own) + F.relu(margin + wrong_clip - own)).sum() / len(own)


def sampled_margin_loss(
    scores: torch.Tensor, impostor_images: torch.Tensor, impostor_clips: torch.Tensor, margin: float = 1.0
) -> torch.Tensor:
    """Margin ranking loss with one impostor image and one impostor clip for every pair (section 4.3 of the paper).

    scores: `[N, N]`, similarity of image i and clip j; pairs stand on the diagonal. impostor_*: `[N]`, row numbers
    other than the pair's own. Σ max(0, margin + S_impostor − S_own) over both kinds, divided by N.
    """
    rows = torch.arange(len(scores), device=scores.device)
    assert scores.shape == (len(scores), len(scores)) and not (impostor_images == rows).any(), tuple(scores.shape)
    assert not (impostor_clips == rows).any()
    own = scores.diagonal()
    wrong_image, wrong_clip = scores[impostor_images, rows], scores[rows, impostor_clips]
    return margin_loss(own, wrong_image, wrong_clip, margin)


def draw_impostors(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """For each of `count` pairs the number of another one, all equally likely: int64 `[count]`."""
    steps = torch.randint(1, count, (count,), generator=generator)
    return (torch.arange(count) + steps) % count


def recalls(scores: torch.Tensor, ranks=(1, 5, 10)) -> dict[str, float]:
    """Recall of one caption an image, in percent: `{"audio_to_image_r1", …, "image_to_audio_r10"}`, as the authors.

    scores: `[N, N]`, images in rows, clips in columns, pairs on the diagonal. Equal scores count as worse.
    """
    assert scores.shape == (len(scores), len(scores)), tuple(scores.shape)
    own = scores.diagonal()
    better_images = (scores >= own).sum(0) - 1  # for each clip: images at least as good as its own
    better_clips = (scores >= own[:, None]).sum(1) - 1
    return {
        f"{way}_r{k}": 100 * (better < k).double().mean().item()
        for way, better in (("audio_to_image", better_images), ("image_to_audio", better_clips))
        for k in ranks
    }
