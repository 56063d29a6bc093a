"""Generators by name. Adding one: a module with its network class, and a line in `GENERATORS`.

A network class has what `GeneratorNetwork` lists. This module imports no torch, so that settings can be checked with it.
"""

import importlib
from typing import Protocol

from common.cli import UserError

GENERATORS = {
    "stackgan_v2": "StackGAN_v2.model:Generator",
    "affine": "StackGAN_v2.networks.affine:AffineGenerator",
    "exemplar": "StackGAN_v2.networks.exemplar:ExemplarGenerator",
}
DEFAULT = "stackgan_v2"  # the published one


class GeneratorNetwork(Protocol):
    """What a generator, a torch module, offers.

    name                   its name in `GENERATORS`
    z_dim, text_dim        widths of the noise and of the speech embedding
    embedding_dim          width of the further noise eps, that of conditioning augmentation; 0 without it
    sizes                  sides of the images that it makes, in pixels, the largest last
    widest_map             channels of the largest map, from which the memory that an image takes is estimated
    remark                 what somebody who looks at its images should know, a sentence; "": nothing
    """

    name: str
    z_dim: int
    text_dim: int
    embedding_dim: int
    widest_map: int
    remark: str

    @property
    def sizes(self) -> list[int]: ...

    @classmethod
    def from_settings(cls, cfg, text_dim: int):
        """A new network. cfg: config.Config."""

    @staticmethod
    def recognises(state: dict) -> bool:
        """Whether a state dict, without the prefix `module.`, seems to be of such a network."""

    @classmethod
    def from_state(cls, state: dict):
        """The network whose sizes are those of `state`; its weights are loaded afterwards. May raise KeyError,
        IndexError, ValueError or RuntimeError for a state dict without sense."""

    def discriminators(self, cfg) -> list:
        """New discriminators, one for each of `sizes`; [] for a generator that is trained without.

        They have `encode(image, groups)` → code, `condition_logits(code, condition, groups)` → `[N]` and
        `uncond_logits(code)` → `[N, …]`, or None for the latter; groups: the batches that an argument holds, one after
        the other. They have `initialise`, too.
        """

    def initialise(self) -> None:
        """Draw the weights that a training starts from."""

    def init_condition(self, speech) -> None:
        """Start the conditioning from embeddings `[M, text_dim]` (TRAIN.CONDITION_INIT); equal on all ranks."""

    def forward(self, z, speech, eps=None):
        """z `[N, z_dim]`, speech `[N, text_dim]`, eps `[N, embedding_dim]` → (an image `[N, 3, s, s]` in [−1, 1] for each
        size, the condition of the discriminators `[N, E]`, its log-variance for the KL loss or None)."""


def generator_class(name: str) -> type[GeneratorNetwork]:
    """The network class of a generator, by a known name."""
    module, kind = GENERATORS[name].split(":")
    return getattr(importlib.import_module(module), kind)


_OTHERS = {
    "Conv.1.0.weight": "a speech encoder",
    "uncond_logits.0.weight": "a discriminator",
    "joint.weight": "a discriminator",
}


def load_generator(path, device="cpu"):
    """The generator in a checkpoint `netG_<n>.pth`, this project's or a published one, in evaluation mode.

    Which one it is, and all its sizes, are read from the tensors' names and shapes. UserError: the file is missing,
    damaged or holds another network.
    """
    import torch

    from common import checkpoint

    state = checkpoint.state_dict_of(checkpoint.load(path), path)
    kind = next((kind for kind in map(generator_class, GENERATORS) if kind.recognises(state)), None)
    try:
        if kind is None:
            raise KeyError("its tensors have the names of none that is known")
        with torch.device("meta"):  # shapes alone: those of a damaged file may ask for any amount of memory
            checkpoint.require_same(kind.from_state(state), state, path)
        generator = kind.from_state(state)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:  # missing tensors, shapes without sense
        reason = f" ({' '.join(str(error).split())})"
        held = next((f" but {what}" for key, what in _OTHERS.items() if key in state), reason)
        raise UserError(f"{path} holds no generator{held}; give a netG_<iteration>.pth") from None
    checkpoint.load_into(generator, state, path)
    return generator.to(device).eval()
