"""What speech encoders learn from: losses with parameters of their own, and the images' side of the comparison."""

from typing import Any

import numpy as np
import torch
from torch import nn

from Audio_to_Image import losses
from Audio_to_Image.encoders import load_class
from Audio_to_Image.settings import LossSettings, MatchmapSettings
from common import checkpoint
from common.cli import UserError
from common.distributed import ranks
from common.settings import fields_of


class Objective(nn.Module):
    """Base of the objectives. Its parameters are trained with the encoder's; `state_dict` is kept in snapshots.

    needs_teacher   whether it wants the teacher's features of the images
    feature_width   width of the features that `embed_images` takes; None: any, or none are wanted
    terms           names of the numbers of a step, beside "loss"
    """

    needs_teacher = True
    feature_width: int | None = None
    terms: tuple[str, ...] = ()

    @classmethod
    def from_data(cls, options, network, train) -> "Objective":
        """A new one. options: settings.EncoderOptions; network: the encoder; train: datasets.TrainingSet."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: dict, network, settings: MatchmapSettings) -> "Objective":
        """What the weights `state` are for, to evaluate `network` with: those of a snapshot, or of the authors' image
        network, which are renamed in place. May raise KeyError or IndexError where `state` is of something else."""
        raise NotImplementedError

    def prepare(self, batch, seed: tuple[int, ...]):
        """Add to a batch what the losses want, in the thread that makes it; seed: of what is drawn at random."""
        return batch

    def forward(self, words, lens, sentence, batch, seed: tuple[int, ...]) -> tuple[Any, dict]:
        """→ (the total to minimise, {"loss": the total, `terms`}), of the global batch, alike on every rank.

        words, sentence: what the encoder says of this rank's rows, `[B, d, T']` and `[B, d]`; lens: `[B]`.
        """
        raise NotImplementedError

    def embed_images(self, features, split, precision: str = "fp32") -> torch.Tensor:
        """What the sentences of a split are compared with, `[images, d]`. features: `[images, width]`, the teacher's
        mean over views, or None where no teacher is needed."""
        return features

    def project(self, sentence: torch.Tensor) -> torch.Tensor:
        """`[N, nhidden]` sentences → `[N, d]`, what is compared with `embed_images`."""
        return sentence

    def more_metrics(self, encoder, meta: dict, clips, batch_size: int, precision: str) -> dict[str, float]:
        """Metrics of this objective alone, in percent. clips: datasets.SpeechClips. Every rank gets them."""
        return {}


class ImageObjective(Objective):
    """Base of the objectives that look at the images themselves; `images` are those of the training split."""

    needs_teacher = False

    def __init__(self):
        super().__init__()
        self.images: Any = None
        self._held: dict[tuple, Any] = {}

    def hold_training_images(self, split) -> None:
        """Read them now, so that no two threads of `prepare` do, and no batch asks for the split's digest."""
        self.images = self.images_of(split)

    def images_of(self, split):
        """The images of a split's items as `read_images` gives them, read once."""
        key = split.path, split.digest()  # what is held out for validation has the path of the rest
        if key not in self._held:
            self._held[key] = self.read_images(split)
        return self._held[key]

    def read_images(self, split):
        """One uint8 array `[H, W, 3]` an item, all held in memory. UserError names an image that cannot be used."""
        raise NotImplementedError


def loss_terms(audio, image, labels, settings: LossSettings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """→ (the total to minimise, the terms that it is made of, unweighted, and the training accuracy in percent).

    audio, image: `[N, d]` of the global batch, labels: `[N]`.
    """
    terms, total = {}, audio.new_zeros(())
    jel, accuracy = losses.joint_embedding_loss(audio, image, labels, settings.loss_diff, settings.loss_same)
    if settings.jel:
        terms["jel"] = jel
        total = total + jel
    if settings.l1:
        terms["l1"] = losses.l1_loss(audio, image)
        total = total + settings.lambda_l1 * terms["l1"]
    if settings.distill:
        terms["distill"] = losses.distillation_loss(audio, image, settings.distill_temperature)
        total = total + settings.lambda_distill * terms["distill"]
    return total, {"loss": total, **terms, "train_accuracy": accuracy}


class TeacherLosses(Objective):
    """The paper's: joint embedding, L1 and distillation against the teacher's features themselves."""

    def __init__(self, settings: LossSettings, width: int):
        super().__init__()
        self.settings, self.feature_width = settings, width
        self.terms = (*(name for name in ("jel", "l1", "distill") if getattr(settings, name)), "train_accuracy")

    @classmethod
    def from_data(cls, options, network, train):
        return cls(options.training, network.nhidden)

    @classmethod
    def from_state(cls, state, network, settings):
        return cls(LossSettings(), network.nhidden)

    def forward(self, words, lens, sentence, batch, seed):
        return loss_terms(
            ranks.gather_rows(sentence), ranks.gather_rows(batch.image), ranks.gather_rows(batch.labels), self.settings
        )


def objective_class(encoder) -> type[Objective]:
    """The objective's class of an encoder, given as network or as network class."""
    return load_class(encoder.objective)


def load_objective(path, encoder, image_model=None) -> Objective:
    """The image side that belongs to the encoder in the file `path`, to evaluate with, on the encoder's device.

    image_model: a file of the authors' image network, for encoder files without the objective's own weights.
    UserError if they are needed and not there, or of another architecture.
    """
    source, content = image_model or path, checkpoint.load(path)
    meta = content.get("meta") if isinstance(content, dict) else None
    used = meta.get("settings") if isinstance(meta, dict) else None
    known = {name: used[name] for name in fields_of(MatchmapSettings) if name in used} if isinstance(used, dict) else {}
    state = content.get("objective") if isinstance(content, dict) else None
    if image_model:
        state = checkpoint.state_dict_of(checkpoint.load(image_model), image_model)
    state = state if isinstance(state, dict) else {}
    try:
        objective = objective_class(encoder).from_state(state, encoder, MatchmapSettings(**known))
    except (KeyError, IndexError, AttributeError):
        raise UserError(
            f"{source} holds no image network that belongs to a {encoder.name} encoder; give one by "
            "--image_model, or a snapshot of train_audio_encoder.py"
        ) from None
    checkpoint.load_into(objective, state, source)
    device = next(encoder.parameters()).device
    return objective.to(device).eval()


def random_of(seed: tuple[int, ...]) -> np.random.Generator:
    return np.random.default_rng(list(seed))
