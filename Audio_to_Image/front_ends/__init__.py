"""Front ends of the speech encoders by name: what turns a clip's samples into the frame features that they read.

Adding one: a module with its class, and a line in `FRONT_ENDS`. Its features are computed once, into a cache
(mel_cache.py). The name of the front end stands in an encoder's file. This module imports no torch, so that options
can be checked with it.
"""

import functools
import importlib
from typing import Protocol

from common.cli import UserError

FRONT_ENDS = {
    "log_mel": "Audio_to_Image.front_ends.log_mel:LogMel",
    "speech_embedding": "Audio_to_Image.front_ends.speech_embedding:SpeechEmbedding",
}
WIDTH_MULTIPLE = 64  # of a padded map's columns: encoders halve the time axis up to six times


class FrontEnd(Protocol):
    """What a front end offers. Lengths of clips are always in frames of 10 ms, its own time steps are columns.

    name       its name in `FRONT_ENDS`
    bands      features of a column
    file       name of its cache, without suffix
    step       unit of the int16 values in the cache
    settings   what the features depend on, as plain values; a cache made with others is made again
    """

    name: str
    bands: int
    file: str
    step: float
    settings: dict

    @staticmethod
    def columns(n_frames):
        """Columns of a clip of `n_frames` frames of 10 ms; of an int, an array or a tensor of them."""

    def compute(self, clips: list) -> list:
        """Mono float32 samples at 16 kHz of each clip, of which audio.MAX_FRAMES frames count at most → float32
        `[bands, columns(frames)]` of each. A clip's numbers do not depend on the others."""


@functools.cache
def front_end(name: str) -> FrontEnd:
    """The front end of that name. UserError for an unknown name, or if the package with its weights is missing."""
    if name not in FRONT_ENDS:
        raise UserError(f"--front_end {name}: choose one of {', '.join(FRONT_ENDS)}")
    module, kind = FRONT_ENDS[name].split(":")
    return getattr(importlib.import_module(module), kind)()


def width_of(front: FrontEnd, max_frames: int) -> int:
    """Columns of a padded map of `max_frames` frames: a multiple of 64."""
    return -(-int(front.columns(max_frames)) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
