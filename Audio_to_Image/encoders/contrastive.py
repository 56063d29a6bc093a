"""A small speech encoder for contrastive learning: a GRU or convolutions over frame features, and attention pooling.

It is trained together with an image network on pairs alone (contrastive_objective.py).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from Audio_to_Image.front_ends import front_end

HEADS = 4
BLOCKS, KERNEL = 3, 5  # of the body of convolutions
STEM_KERNEL = 5


class _Block(nn.Module):
    """A residual convolution over time; `[N, T, width]` likewise."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.conv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)

    def forward(self, x, valid):
        inside = self.norm(x) * valid[:, :, None]  # silence is 0 for the neighbours
        return x + self.dropout(F.gelu(self.conv(inside.transpose(1, 2)).transpose(1, 2)))


class ContrastiveEncoder(nn.Module):
    """Frame features → a vector for each position, and one of length sqrt(nhidden) for the sentence.

    n_filters  features of a column of the front end
    nhidden    width of the output, of the sentence as of the positions
    width      of the body: both directions of the GRU, or channels of the convolutions
    body       "gru" or "conv"
    halvings   convolutions of stride 2 before the body: two for columns of 10 ms, none for those of 80 ms
    dropout    before and after the body

    The sentence has numbers of variance about 1, so that a generator's linear layer is served by it as it is.
    """

    name = "contrastive"
    objective = "Audio_to_Image.encoders.contrastive_objective:ContrastiveObjective"
    defaults = {
        "batch_size": 64,
        "learning_rate": 2e-3,
        "lr_schedule": "cosine",
        "grad_clip": 1.0,
        "epochs": 60,
        "eval_every": 10,
    }

    def __init__(
        self,
        n_filters: int = 40,
        nhidden: int = 256,
        width: int = 256,
        body: str = "gru",
        halvings: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        if width % 2:
            raise ValueError(f"a bidirectional GRU needs an even width, not {width}")
        self.n_filters, self.nhidden, self.body, self.halvings = n_filters, nhidden, body, halvings
        self.norm = nn.BatchNorm1d(n_filters)
        self.stem = nn.ModuleList(
            nn.Conv1d(width if number else n_filters, width, STEM_KERNEL, 2, STEM_KERNEL // 2)
            for number in range(halvings)
        )
        inputs = width if halvings else n_filters
        if body == "gru":
            self.rnn = nn.GRU(inputs, width // 2, batch_first=True, bidirectional=True)
        else:
            self.inlet = nn.Linear(inputs, width)
            self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(BLOCKS))
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Linear(width, HEADS)
        self.words = nn.Linear(width, nhidden)
        self.sentence = nn.Linear(HEADS * nhidden, nhidden)

    @classmethod
    def from_settings(cls, network, width: int) -> "ContrastiveEncoder":
        front = front_end(network.front_end)
        halvings = 2 if front.columns(2048) > 1024 else 0
        return cls(front.bands, network.sentence_width, body=network.body, halvings=halvings)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "attention.weight" in state and "sentence.weight" in state and "norm.running_mean" in state

    @classmethod
    def from_state(cls, state: dict) -> "ContrastiveEncoder":
        return cls(
            state["norm.running_mean"].shape[0],
            state["sentence.weight"].shape[0],
            state["attention.weight"].shape[1],
            "gru" if "rnn.weight_hh_l0" in state else "conv",
            sum(1 for key in state if key.startswith("stem.") and key.endswith(".weight")),
        )

    def positions(self, n_frames: torch.Tensor) -> torch.Tensor:
        for _ in range(self.halvings):
            n_frames = (n_frames + 1) // 2
        return n_frames.clamp(min=1)

    def describe(self) -> dict:
        return {"rnn_layers": 1 if self.body == "gru" else 0, "bidirectional": True, "body": self.body}

    def forward(self, x: torch.Tensor, lens, n_frames) -> tuple[torch.Tensor, torch.Tensor]:
        """x: features `[N, n_filters, T]`; n_frames: `[N]`, columns of each clip, on the CPU.

        → (words `[N, nhidden, T']`, zero where a clip has ended; sentence `[N, nhidden]`). Clips may come in any order;
        lens is not needed. T' is the number of positions of the whole map.
        """
        assert x.dim() == 3 and x.shape[1] == self.n_filters, tuple(x.shape)
        n_frames = torch.as_tensor(n_frames, device="cpu").long().clamp(min=1, max=x.shape[2])
        total = int(self.positions(torch.tensor([x.shape[2]])))
        x = x[:, :, : int(n_frames.max())]
        valid = _within(n_frames, x.shape[2], x.device)
        x = self._normalised(x.transpose(1, 2), valid)
        lens = n_frames
        for conv in self.stem:
            x = F.gelu(conv(x.transpose(1, 2)).transpose(1, 2))
            lens = (lens + 1) // 2
            valid = _within(lens, x.shape[1], x.device)
            x = x * valid[:, :, None]
        x = self.dropout(self._body(self.dropout(x), lens, valid))
        scores = self.attention(x).float().masked_fill(~valid[:, :, None], -torch.inf)
        words = self.words(x) * valid[:, :, None]
        pooled = scores.softmax(1).transpose(1, 2) @ words.float()  # [N, HEADS, nhidden]
        sentence = F.normalize(self.sentence(pooled.flatten(1)).float(), dim=1) * self.nhidden**0.5
        return F.pad(words.transpose(1, 2), (0, total - words.shape[1])), sentence

    def _normalised(self, x, valid):
        """Each feature to mean 0 and variance 1 over the columns that are heard, 0 beyond."""
        result = x.new_zeros(x.shape)
        result[valid] = self.norm(x[valid]).to(x.dtype)
        return result

    def _body(self, x, lens, valid):
        if self.body == "gru":
            packed = pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        x = self.inlet(x)
        for block in self.blocks:
            x = block(x, valid)
        return x


def _within(lens: torch.Tensor, total: int, device) -> torch.Tensor:
    """bool `[N, total]`: the columns of each clip."""
    return torch.arange(total, device=device) < lens.to(device)[:, None]
