"""The metrics of an encoder on a split: its captions are embedded and compared with the images."""

import numpy as np
import torch

from Audio_to_Image.datasets import SpeechClips, embed_clips
from Audio_to_Image.encoders import SpeechEncoder
from Audio_to_Image.metrics import speech_metrics


def evaluate(
    encoder: SpeechEncoder,
    meta: dict,
    clips: SpeechClips,
    image: torch.Tensor,
    batch_size: int,
    precision: str = "fp32",
    everything: bool = True,
    progress: bool = False,
    project=None,
) -> dict[str, float]:
    """`speech_metrics` over every usable caption of a split. image: `[images, d]`, what they are compared with.

    project: the objective's, of sentences that are compared in a space of its own; None: as they are.

    The encoder is left in the mode that it was in. Every rank gets the result.
    """
    training = encoder.training
    audio = embed_clips(encoder.eval(), meta, clips, batch_size, precision, progress)
    encoder.train(training)
    if project:
        with torch.no_grad():
            audio = project(audio)
    numbers = np.array(clips.split.image_numbers)  # an image that several items share counts once
    first = np.unique(numbers, return_index=True)[1]
    own = torch.from_numpy(numbers[clips.items[clips.usable]]).to(audio.device)
    labels = torch.tensor(clips.split.labels)[first].to(audio.device) if clips.split.has_classes else None
    return speech_metrics(audio, own, image[first].to(audio.device), labels, everything)


def mean_views(features: list[np.ndarray]) -> torch.Tensor:
    """One array `[views, d]` an image → `[images, d]`."""
    return torch.from_numpy(np.stack([rows.mean(0) for rows in features]))
