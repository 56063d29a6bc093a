"""Speech encoders by name. Adding one: a module with its network class, and a line in `ENCODERS`.

A network class has what `SpeechEncoder` lists. This module imports no torch, so that options can be checked with it.
"""

import importlib
from typing import Protocol

from common.cli import UserError

ENCODERS = {
    "cnn_rnn": "Audio_to_Image.speech_encoder:CNNRNN",
    "davenet": "Audio_to_Image.encoders.davenet:DAVEnetAudio",
    "s2igan": "Audio_to_Image.encoders.s2igan:S2IGANEncoder",
    "contrastive": "Audio_to_Image.encoders.contrastive:ContrastiveEncoder",
}


class SpeechEncoder(Protocol):
    """What an encoder's network, a torch module, offers beside `forward(mels, lens, n_frames)` → (words, sentence).

    name                 its name in `ENCODERS`
    objective            "module:class" of what it learns from (objectives.Objective)
    defaults             training options whose default is another than Li et al.'s, by their names on the command line
    n_filters, nhidden   mel bands of the input; width of the sentence's embedding
    """

    name: str
    objective: str
    defaults: dict
    n_filters: int
    nhidden: int

    @classmethod
    def from_settings(cls, network, width: int):
        """A new network. network: settings.NetworkSettings; width: that of the teacher's features."""

    @staticmethod
    def recognises(state: dict) -> bool:
        """Whether a state dict, without the prefix `module.`, seems to be of such a network."""

    @classmethod
    def from_state(cls, state: dict):
        """The network whose widths are those of `state`; its weights are loaded afterwards. May raise KeyError,
        IndexError, ValueError or RuntimeError for a state dict without sense."""

    @staticmethod
    def positions(n_frames):
        """`[N]` frames of each clip → `[N]` positions of the output that belong to it, at least 1 (`lens`)."""

    def describe(self) -> dict:
        """What a checkpoint's meta says of the network, as plain values: `rnn_layers` and `bidirectional` at least."""


def load_class(where: str):
    """ "module:class" → the class."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


def encoder_class(name: str) -> type[SpeechEncoder]:
    """The network class of an encoder. UserError for an unknown name."""
    if name not in ENCODERS:
        raise UserError(f"--encoder {name}: choose one of {', '.join(ENCODERS)}")
    return load_class(ENCODERS[name])


def class_of_state(state: dict, name=None) -> type[SpeechEncoder] | None:
    """The network class for a state dict: that of a known `name`, else the first that recognises it, or None."""
    if isinstance(name, str) and name in ENCODERS:
        return encoder_class(name)
    return next((kind for kind in map(encoder_class, ENCODERS) if kind.recognises(state)), None)
