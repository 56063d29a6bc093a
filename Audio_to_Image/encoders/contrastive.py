"""A small speech encoder for contrastive learning: a convolution or a GRU over frame features, and attention pooling.

It is trained together with an image network on pairs alone (contrastive_objective.py).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from Audio_to_Image.front_ends import front_end

MOST_HEADS = 8  # of the attention: each named attribute stands at another place of the sentence
KERNEL = 5  # of the convolution: five columns of 80 ms are about a word and its neighbour
STEM_KERNEL = 5


class ContrastiveEncoder(nn.Module):
    """Frame features → a vector for each position, and one of length sqrt(nhidden) for the sentence.

    n_filters  features of a column of the front end
    nhidden    width of the output, of the sentence as of the positions
    width      of the body: both directions of the GRU, or channels of the convolution
    body       "conv" or "gru"
    halvings   convolutions of stride 2 before the body: two for columns of 10 ms, none for those of 80 ms
    dropout    before and after the body; on toybirds 0.2 gained nothing and took a seventh of the time
    summary    let 2·n_filters numbers of the sentence be mean and maximum of each feature over the clip, as they come
               from the front end: what an image does not show, or not to so small a network, is then not lost

    Each head of the attention pools its own share of the words' features; the sentence is all heads side by side. Its
    numbers have variance about 1, so that a generator's linear layer is served by it as it is.
    """

    name = "contrastive"
    sentence_only = False  # an objective that has no use for the words sets it
    objective = "Audio_to_Image.encoders.contrastive_objective:ContrastiveObjective"
    defaults = {
        "batch_size": 128,
        "learning_rate": 2e-3,
        "lr_schedule": "cosine",
        "grad_clip": 1.0,
        "epochs": 30,
        "eval_every": 10,
    }

    def __init__(
        self,
        n_filters: int = 40,
        nhidden: int = 512,
        width: int = 192,
        body: str = "conv",
        halvings: int = 2,
        dropout: float = 0.0,
        summary: bool = False,
    ):
        super().__init__()
        learnt = nhidden - 2 * n_filters if summary else nhidden
        if summary and (halvings or learnt < 1):
            raise ValueError(
                f"a summary of {n_filters} features needs columns as they come and a sentence wider than "
                f"{2 * n_filters}, not {nhidden}"
            )
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
            self.conv = nn.Conv1d(inputs, width, KERNEL, padding=KERNEL // 2)
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Linear(width, math.gcd(learnt, MOST_HEADS))
        self.words = nn.Linear(width, learnt)
        self.summary = nn.BatchNorm1d(2 * n_filters) if summary else None

    @classmethod
    def from_settings(cls, network, width: int) -> "ContrastiveEncoder":
        front = front_end(network.front_end)
        halvings = 2 if front.columns(2048) > 1024 else 0
        summary = not halvings and network.sentence_width >= 4 * front.bands
        return cls(front.bands, network.sentence_width, body=network.body, halvings=halvings, summary=summary)

    @staticmethod
    def recognises(state: dict) -> bool:
        return "attention.weight" in state and "words.weight" in state and "norm.running_mean" in state

    @classmethod
    def from_state(cls, state: dict) -> "ContrastiveEncoder":
        filters, summary = state["norm.running_mean"].shape[0], "summary.running_mean" in state
        return cls(
            filters,
            state["words.weight"].shape[0] + (2 * filters if summary else 0),
            state["attention.weight"].shape[1],
            "gru" if "rnn.weight_hh_l0" in state else "conv",
            sum(1 for key in state if key.startswith("stem.") and key.endswith(".weight")),
            summary=summary,
        )

    def positions(self, n_frames: torch.Tensor) -> torch.Tensor:
        for _ in range(self.halvings):
            n_frames = (n_frames + 1) // 2
        return n_frames.clamp(min=1)

    def describe(self) -> dict:
        return {"rnn_layers": 1 if self.body == "gru" else 0, "bidirectional": True, "body": self.body}

    def forward(self, x: torch.Tensor, lens, n_frames) -> tuple[torch.Tensor, torch.Tensor]:
        """x: features `[N, n_filters, T]`; n_frames: `[N]`, columns of each clip, on the CPU.

        → (words `[N, nhidden, T']`, zero where a clip has ended, or None with `sentence_only`; sentence `[N, nhidden]`).
        Clips may come in any order; lens is not needed. T' is the number of positions of the whole map.
        """
        assert x.dim() == 3 and x.shape[1] == self.n_filters, tuple(x.shape)
        n_frames = torch.as_tensor(n_frames, device="cpu").long().clamp(min=1, max=x.shape[2])
        total = int(self.positions(torch.tensor([x.shape[2]])))
        x = x[:, :, : int(n_frames.max())].transpose(1, 2)
        heard = _within(n_frames, x.shape[1], x.device)
        columns = self.norm(x[heard])  # [columns of all clips, n_filters]: what lies beyond a clip costs nothing
        lens, valid, x = self._halved(columns, n_frames, heard)
        x = self.dropout(self._body(self.dropout(x), lens, valid))
        scores = _padded(self.attention(x).float(), valid, -torch.inf).softmax(1)[valid]
        words = self.words(x)
        shares = words.float().unflatten(1, (scores.shape[1], -1))  # [columns, heads, learnt / heads]
        sentence = _spread(_padded((scores[:, :, None] * shares).flatten(1), valid).sum(1))
        if self.summary is not None:
            mean = _padded(columns, heard).sum(1) / n_frames[:, None].to(columns.device)
            most = _padded(columns, heard, -torch.inf).amax(1)
            sentence = _spread(torch.cat((sentence, self.summary(torch.cat((mean, most), 1)).float()), 1))
        if self.sentence_only:
            return None, sentence
        if self.summary is not None:
            words = torch.cat((words, columns.to(words.dtype), columns.to(words.dtype)), 1)
        words = _padded(words, valid).transpose(1, 2)
        return F.pad(words, (0, total - words.shape[2])), sentence

    def _halved(self, x, lens, valid):
        """Columns of all clips `[M, C]`, their lengths and where they lie → (lengths, places, columns) after the stem."""
        if not self.stem:
            return lens, valid, x
        x = _padded(x, valid)
        for conv in self.stem:
            lens = (lens + 1) // 2
            valid = _within(lens, (x.shape[1] + 1) // 2, x.device)
            x = F.gelu(conv(x.transpose(1, 2)).transpose(1, 2)) * valid[:, :, None]
        return lens, valid, x[valid]

    def _body(self, x, lens, valid):
        """`[M, C]` → `[M, width]`"""
        x = _padded(x, valid)
        if self.body == "gru":
            packed = pack_padded_sequence(x, lens, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0][valid]
        return F.gelu(self.conv(x.transpose(1, 2)).transpose(1, 2)[valid])


def _spread(sentence):
    """float32 `[N, d]` of length sqrt(d)."""
    return F.normalize(sentence.float(), dim=1) * sentence.shape[1] ** 0.5


def _padded(columns, where, value: float = 0.0):
    """`[M, C]` and bool `[N, T]` with M ones → `[N, T, C]`, `value` elsewhere."""
    result = columns.new_full((*where.shape, columns.shape[1]), value)
    result[where] = columns
    return result


def _within(lens: torch.Tensor, total: int, device) -> torch.Tensor:
    """bool `[N, total]`: the columns of each clip."""
    return torch.arange(total, device=device) < lens.to(device)[:, None]
