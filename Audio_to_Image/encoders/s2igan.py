"""The speech encoder of S2IGAN: two convolutions, a bidirectional GRU and attention pooling to a unit vector.

Wang et al., "S2IGAN: Speech-to-Image Generation via Adversarial Learning", INTERSPEECH 2020 (arXiv 2005.06968),
section 2.1. Layer names, and so checkpoints, are those of the authors' implementation.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from Audio_to_Image.front_ends import front_end

KERNEL, STRIDE = 6, 2  # of both convolutions, without padding
TEMPERATURE = 10.0  # factor of the cosines in `matching_loss`


def positions(n_frames: torch.Tensor) -> torch.Tensor:
    """Positions that the convolutions leave of clips of `n_frames` frames: int64, at least 1."""
    for _ in range(2):
        n_frames = (n_frames - KERNEL) // STRIDE + 1
    return n_frames.clamp(min=1)


class _AttentionHead(nn.Module):
    """A weight for every position and channel, softmax over time, and the weighted sum."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.orthogonal_(self.hidden.weight)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """x: `[N, T, width]`; valid: bool `[N, T]`, the positions that count → `[N, width]`."""
        weights = self.out(torch.tanh(self.hidden(x))).masked_fill(~valid[:, :, None], -torch.inf).softmax(1)
        return (weights * x).sum(1)


class _Attention(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int):
        super().__init__()
        self.att_heads = nn.ModuleList(_AttentionHead(width, hidden) for _ in range(heads))

    def forward(self, x, valid):
        return torch.cat([head(x, valid) for head in self.att_heads], 1)


class S2IGANEncoder(nn.Module):
    """Log-mel frames → a vector for about every four frames, and a unit vector for the sentence.

    n_filters  mel bands of the input
    nhidden    width of the output: both directions of the GRU
    drop_prob  dropout between the GRU's two layers

    The authors' input is another log-mel (22,050 Hz, per-band mean and variance); here each clip's bands are normalised
    to mean 0 and variance 1 over its frames, so that any log-mel serves.
    """

    name = "s2igan"
    objective = "Audio_to_Image.encoders.s2igan_objective:MatchingObjective"
    defaults = {"batch_size": 128, "learning_rate": 2e-4, "beta1": 0.95}

    def __init__(
        self, n_filters: int = 40, nhidden: int = 1024, drop_prob: float = 0.0, attention: int = 128, heads: int = 1
    ):
        super().__init__()
        if nhidden % 2:
            raise ValueError(f"a bidirectional GRU needs an even width, not {nhidden}")
        self.n_filters, self.nhidden = n_filters, nhidden * heads
        self.Conv1, self.bnorm1 = nn.Conv1d(n_filters, 64, KERNEL, STRIDE), nn.BatchNorm1d(64)
        self.Conv2, self.bnorm2 = nn.Conv1d(64, 128, KERNEL, STRIDE), nn.BatchNorm1d(128)
        self.rnn = nn.GRU(128, nhidden // 2, 2, batch_first=True, dropout=drop_prob, bidirectional=True)
        self.att = _Attention(nhidden, attention, heads)

    @classmethod
    def from_settings(cls, network, width: int) -> "S2IGANEncoder":
        return cls(front_end(network.front_end).bands, drop_prob=0.0)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "Conv1.weight" in state and "att.att_heads.0.hidden.weight" in state

    @classmethod
    def from_state(cls, state: dict) -> "S2IGANEncoder":
        heads = sum(1 for key in state if key.startswith("att.att_heads.") and key.endswith(".hidden.weight"))
        return cls(
            state["Conv1.weight"].shape[1],
            2 * state["rnn.weight_hh_l0"].shape[1],
            attention=state["att.att_heads.0.hidden.weight"].shape[0],
            heads=heads,
        )

    @staticmethod
    def positions(n_frames: torch.Tensor) -> torch.Tensor:
        return positions(n_frames)

    def describe(self) -> dict:
        return {"rnn_layers": 2, "bidirectional": True}

    def forward(self, x: torch.Tensor, lens, n_frames) -> tuple[torch.Tensor, torch.Tensor]:
        """x: log-mels `[N, n_filters, T]` or `[N, 1, n_filters, T]`; n_frames: `[N]`, frames of each clip.

        → (words `[N, nhidden, T']`, zero where a clip has ended; sentence `[N, nhidden · heads]` of length 1). Clips
        may come in any order; lens is not needed.
        """
        x = x.flatten(1, 2) if x.dim() == 4 else x
        assert x.dim() == 3 and x.shape[1] == self.n_filters, tuple(x.shape)
        n_frames = torch.as_tensor(n_frames, device="cpu").long().clamp(max=x.shape[2])
        x = self.bnorm1(self.Conv1(normalise_bands(x, n_frames)))
        x = self.bnorm2(self.Conv2(x))
        lens = positions(n_frames).clamp(max=x.shape[2])
        packed = pack_padded_sequence(x.transpose(1, 2), lens, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[2])
        valid = torch.arange(x.shape[2], device=x.device) < lens.to(x.device)[:, None]
        return outputs.transpose(1, 2), F.normalize(self.att(outputs, valid).float(), dim=1)


def normalise_bands(x: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """Each band of each clip to mean 0 and variance 1 over its own frames, 0 beyond: `[N, bands, T]` likewise."""
    heard = (torch.arange(x.shape[2], device=x.device) < n_frames.to(x.device)[:, None])[:, None]
    count = n_frames.to(x.device).clamp(min=1)[:, None, None]
    mean = (x * heard).sum(2, keepdim=True) / count
    centred = (x - mean) * heard
    return centred / ((centred**2).sum(2, keepdim=True) / count + 1e-5).sqrt()


class ImageHead(nn.Module):
    """The image's side: a linear layer on frozen features, to a unit vector."""

    def __init__(self, inputs: int, outputs: int = 1024):
        super().__init__()
        self.L1 = nn.Linear(inputs, outputs)
        nn.init.uniform_(self.L1.weight, -0.1, 0.1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`[N, inputs]` → `[N, outputs]` of length 1."""
        return F.normalize(self.L1(features), dim=1)


def matching_loss(
    audio: torch.Tensor, image: torch.Tensor, labels: torch.Tensor, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Cross entropy both ways over a batch's pairs; other pairs of the same class do not count as wrong (equation 1).

    audio, image: `[N, d]`; labels: `[N]`. Scores are `temperature` times the cosine.
    """
    assert audio.shape == image.shape and labels.shape == audio.shape[:1], (audio.shape, image.shape, labels.shape)
    scores = temperature * F.normalize(image, dim=1) @ F.normalize(audio, dim=1).T
    same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = scores.masked_fill(same, -torch.inf)
    pairs = torch.arange(len(labels), device=labels.device)
    return F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)
