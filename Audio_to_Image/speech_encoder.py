"""The paper's speech encoder, convolutions over log-mel frames and an LSTM; files of all encoders; embedding of clips.

Li et al., "Direct Speech-to-Image Translation", JSTSP 2020 (arXiv 2004.03413), section III-A.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from Audio_to_Image.encoders import SpeechEncoder, class_of_state
from Audio_to_Image.front_ends import FRONT_ENDS, front_end, width_of
from Audio_to_Image.padding_free_conv import convolve_columns
from common import checkpoint
from common.cli import UserError

FRAMES_PER_POSITION = 64  # the convolutions halve the time axis six times
PUBLISHED_FRAMES = 2048  # a map of the published encoder: 20.5 s of speech


def _conv(inputs: int, outputs: int, kernel, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, (1, stride), (0, padding), bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d((1, 3), (1, 2), (0, 1))


class CNNRNN(nn.Module):
    """Log-mel frames → one vector for every 64 frames, and one for the sentence.

    n_filters      mel bands of the input
    embedding_dim  channels of the last convolution, the LSTM's input width
    drop_prob      dropout between LSTM layers (not after the last one, so that one layer has none)
    nhidden        width of the output: that of the teacher's features
    rnn_layers     LSTM layers
    bidirectional  two LSTMs of half the width, one of them backwards
    nsent          unused, kept for the published signature: the sentence vector has `nhidden` numbers

    ValueError for a width below 1, and for an odd `nhidden` of a bidirectional encoder.
    """

    name = "cnn_rnn"
    objective = "Audio_to_Image.objectives:TeacherLosses"
    defaults: dict = {}
    # Convolve padding too, as published, instead of counting its equal columns (padding_free_conv.py). None: on a GPU,
    # where fixed shapes are faster.
    whole_maps = None

    def __init__(
        self,
        n_filters=40,
        embedding_dim=1024,
        drop_prob=0.5,
        nhidden=1024,
        rnn_layers=1,
        bidirectional=False,
        nsent=1024,
    ):
        super().__init__()
        directions = 2 if bidirectional else 1
        if min(n_filters, embedding_dim, nhidden, rnn_layers) < 1:
            raise ValueError(
                f"below 1: n_filters {n_filters}, embedding_dim {embedding_dim}, nhidden {nhidden} or "
                f"rnn_layers {rnn_layers}"
            )
        if nhidden % directions:
            raise ValueError(f"a bidirectional encoder needs an even width, not {nhidden}")
        self.n_filters, self.embedding_dim, self.nhidden = n_filters, embedding_dim, nhidden
        self.rnn_layers, self.bidirectional = rnn_layers, bidirectional
        self.Conv = nn.Sequential(  # frames: T
            nn.BatchNorm2d(1),
            _conv(1, 64, (n_filters, 1)),
            _conv(64, 64, (1, 3), padding=1),
            _halve(),  # T / 2
            _conv(64, 128, (1, 17), stride=2, padding=8),  # T / 4
            _conv(128, 256, (1, 13), stride=2, padding=6),  # T / 8
            _conv(256, 256, (1, 3), padding=1),
            _conv(256, 512, (1, 9), stride=2, padding=4),  # T / 16
            _halve(),  # T / 32
            _conv(512, 512, (1, 3), padding=1),
            _conv(512, embedding_dim, (1, 5), stride=2, padding=2),
        )  # T / 64
        self.RNN = nn.LSTM(
            embedding_dim,
            nhidden // directions,
            rnn_layers,
            batch_first=True,
            dropout=drop_prob if rnn_layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        for module in self.Conv.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_settings(cls, network, width: int) -> "CNNRNN":
        return cls(
            n_filters=front_end(network.front_end).bands,
            nhidden=width,
            rnn_layers=network.rnn_layers,
            bidirectional=network.bidirectional,
            drop_prob=network.dropout,
        )

    @staticmethod
    def recognises(state: dict) -> bool:
        return "Conv.1.0.weight" in state and "RNN.weight_hh_l0" in state

    @classmethod
    def from_state(cls, state: dict) -> "CNNRNN":
        layers = [key for key in state if re.fullmatch(r"RNN\.weight_hh_l\d+", key)]
        bidirectional = "RNN.weight_ih_l0_reverse" in state
        return cls(
            n_filters=state["Conv.1.0.weight"].shape[2],
            embedding_dim=state["Conv.10.0.weight"].shape[0],
            nhidden=state["RNN.weight_hh_l0"].shape[1] * (2 if bidirectional else 1),
            rnn_layers=len(layers),
            bidirectional=bidirectional,
        )

    @staticmethod
    def positions(n_frames: torch.Tensor) -> torch.Tensor:
        return positions_of(n_frames)

    def describe(self) -> dict:
        return {"embedding_dim": self.embedding_dim, "rnn_layers": self.rnn_layers, "bidirectional": self.bidirectional}

    def forward(self, x: torch.Tensor, lens, n_frames=None) -> tuple[torch.Tensor, torch.Tensor]:
        """→ words `[N, nhidden, T/64]`, 0 after a clip's end; sentence `[N, nhidden]`, the mean of all T/64 positions.

        x         log-mels `[N, n_filters, T]` or `[N, 1, n_filters, T]`, T a multiple of 64
        lens      `[N]`, n_frames // 64 of each clip, in descending order; on the CPU, where it is read
        n_frames  `[N]`: `x` is 0 from these frames on, which saves most of the work; None: not known
        """
        x = x.flatten(1, 2) if x.dim() == 4 and x.shape[1] == 1 else x
        assert x.dim() == 3 and x.shape[1] == self.n_filters and x.shape[2] % FRAMES_PER_POSITION == 0, tuple(x.shape)
        positions = x.shape[2] // FRAMES_PER_POSITION
        whole = x.is_cuda if self.whole_maps is None else self.whole_maps
        maps = self.convolve(x) if whole or n_frames is None else convolve_columns(self.Conv, x, n_frames)
        assert maps.shape == (x.shape[0], self.embedding_dim, 1, positions), tuple(maps.shape)
        lens = torch.as_tensor(lens, device="cpu").long()
        assert lens.shape == (len(x),), (tuple(lens.shape), len(x))
        packed = pack_padded_sequence(maps.squeeze(2).transpose(1, 2), lens, batch_first=True)
        outputs, _ = pad_packed_sequence(self.RNN(packed)[0], batch_first=True, total_length=positions)
        words = outputs.transpose(1, 2)
        return words, words.mean(2, dtype=torch.promote_types(words.dtype, torch.float32))

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, n_filters, T]` → `[N, embedding_dim, 1, T/64]`.

        The first convolution spans all bands, so the bands can serve as its channels: a matrix product over
        `[N, n_filters, 1, T]` in channels_last order, which is faster than a tall kernel over a map of one channel.
        """
        x = self.Conv[0](x.unsqueeze(1)).transpose(1, 2).contiguous(memory_format=torch.channels_last)
        tall, norm, relu = self.Conv[1]
        x = relu(norm(F.conv2d(x, tall.weight.transpose(1, 2))))
        for layer in list(self.Conv)[2:]:
            x = layer(x)
        return x


def build_from(state: dict, path, name=None) -> SpeechEncoder:
    """The network with the state dict `state`; all widths are read from its shapes. UserError, which names `path`.

    name: the encoder's, if the file says it; None: the kind is recognised by the tensors' names.
    """
    try:
        network = (class_of_state(state, name) or CNNRNN).from_state(state)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:  # missing tensors, shapes without sense
        fault = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        if "ca_net.fc.weight" in state:
            fault = "it holds a generator"
        raise UserError(
            f"{path} is no speech encoder: {fault}; give a latest.pth, best.pth or epoch_<n>.pth of "
            "train_audio_encoder.py"
        ) from None
    checkpoint.load_into(network, state, path)
    return network


def load_encoder(path, device="cpu") -> tuple[SpeechEncoder, dict]:
    """Read an encoder's file, this project's or a published one → (network in evaluation mode, meta).

    meta always has `encoder` (a name in encoders.ENCODERS), `front_end` (one in front_ends.FRONT_ENDS), `max_frames`
    (2048 if the file does not say), `nhidden`, `rnn_layers`, `bidirectional`, `n_filters`, `teacher` and `dataset` (None
    if unknown), `short_clips` ('skip' if the file does not say) and `digest`, the hash of the tensors.
    UserError: the file is missing, damaged, or of another architecture.
    """
    content = checkpoint.load(path)
    state = checkpoint.state_dict_of(content, path)
    stored = content.get("meta") if isinstance(content, dict) else None
    stored = stored if isinstance(stored, dict) else {}
    found = checkpoint.digest(state)
    if stored.get("digest", found) != found:
        raise UserError(f"{path} is damaged: its tensors hash to {found}, not {stored['digest']}; use an older one")
    network = build_from(state, path, stored.get("encoder"))
    frames = stored.get("max_frames", PUBLISHED_FRAMES)
    if not isinstance(frames, int) or frames <= 0 or frames % FRAMES_PER_POSITION:
        raise UserError(
            f"{path} is refused: its max_frames is {frames!r}, not a multiple of {FRAMES_PER_POSITION}; "
            "give another encoder"
        )
    front = stored.get("front_end", "log_mel")
    if front not in FRONT_ENDS:
        raise UserError(f"{path} is refused: its front end {front!r} is not one of {', '.join(FRONT_ENDS)}")
    if front != "log_mel" and front_end(front).bands != network.n_filters:
        raise UserError(
            f"{path} is refused: it reads {network.n_filters} numbers a column, but its front end {front} "
            f"gives {front_end(front).bands}; give another encoder"
        )
    short_clips = "pad" if stored.get("short_clips") == "pad" else "skip"
    meta = {
        "teacher": None,
        "dataset": None,
        **stored,
        "encoder": network.name,
        "front_end": front,
        "short_clips": short_clips,
        "max_frames": frames,
        "nhidden": network.nhidden,
        "n_filters": network.n_filters,
        **network.describe(),
        "digest": found,
    }
    return network.to(device).eval(), meta


def positions_of(n_frames: torch.Tensor) -> torch.Tensor:
    """Time steps of the LSTM for clips of `n_frames` `[N]`: one for every 64 frames, and one for a shorter clip."""
    return (n_frames // FRAMES_PER_POSITION).clamp(min=1)


@torch.inference_mode()
def embed(encoder: SpeechEncoder, meta: dict, mels: torch.Tensor, n_frames) -> torch.Tensor:
    """Sentence embeddings `[N, nhidden]`, float32 on the encoder's device, of clips in any order.

    mels: features `[N, n_filters, T]` of the encoder's front end, padded with 0; any T is cut or padded to the
    encoder's own `max_frames`, since the embedding may be a mean over them. n_frames: `[N]`, frames of 10 ms of each
    clip: 64 at least, or 1 if the encoder was trained to hear short clips by padding (ValueError). In batches of
    another size or width the embeddings are equal up to rounding.
    """
    assert mels.dim() == 3 and mels.shape[1] == encoder.n_filters and len(mels) == len(n_frames), tuple(mels.shape)
    n_frames = torch.as_tensor(n_frames, device="cpu").long().clamp(max=meta["max_frames"])
    fewest = 1 if meta.get("short_clips") == "pad" else FRAMES_PER_POSITION
    if n_frames.numel() and int(n_frames.min()) < fewest:
        raise ValueError(f"a clip of {int(n_frames.min())} frames: the encoder needs {fewest}")
    order = torch.argsort(n_frames, descending=True, stable=True)
    front = front_end(meta.get("front_end", "log_mel"))
    mels = F.pad(mels, (0, width_of(front, meta["max_frames"]) - mels.shape[2]))  # a negative padding cuts
    device = next(encoder.parameters()).device
    columns = front.columns(n_frames[order])
    _, sentence = encoder(mels[order.to(mels.device)].to(device), encoder.positions(columns), columns)
    result = torch.empty_like(sentence)
    result[order.to(device)] = sentence
    return result
