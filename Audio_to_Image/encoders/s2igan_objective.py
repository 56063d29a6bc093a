"""What S2IGAN's encoder learns from: matching with the teacher's features through a linear layer, and the classes.

Wang et al. 2020, section 2.1. The authors' image features are 2,048 numbers of an Inception network; here they are
those of the set's teacher, of any width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from Audio_to_Image.encoders.s2igan import ImageHead, matching_loss
from Audio_to_Image.objectives import Objective
from common.distributed import ranks


class MatchingObjective(Objective):
    """Matching loss, and where there are classes the cross entropy of one linear layer on both sides, equally weighted.

    width     of the teacher's features
    nhidden   of the encoder's sentence
    classes   int64 `[C]`, the class numbers of the training split, ascending; empty: no class loss
    """

    def __init__(self, width: int, nhidden: int, classes: torch.Tensor):
        super().__init__()
        self.feature_width = width
        self.image_head = ImageHead(width, nhidden)
        self.class_layer = nn.Linear(nhidden, len(classes)) if len(classes) else None
        self.register_buffer("classes", classes)
        self.terms = ("match", "class", "class_accuracy") if len(classes) else ("match",)

    @classmethod
    def from_data(cls, options, network, train):
        split = train.clips.split
        labels = torch.tensor(split.labels if split.has_classes else [], dtype=torch.int64)
        return cls(train.width, network.nhidden, labels.unique())

    @classmethod
    def from_state(cls, state, network, settings):
        if "L1.weight" in state:  # the authors' best_image_model.pth
            state.update({f"image_head.{key}": state.pop(key) for key in ("L1.weight", "L1.bias")})
            state["classes"] = torch.zeros(0, dtype=torch.int64)
        return cls(state["image_head.L1.weight"].shape[1], network.nhidden, state["classes"])

    def forward(self, words, lens, sentence, batch, seed):
        audio, labels = ranks.gather_rows(sentence), ranks.gather_rows(batch.labels)
        image = self.image_head(ranks.gather_rows(batch.image))
        total = match = matching_loss(audio, image, labels)
        terms = {"match": match}
        if self.class_layer is not None:
            wanted = torch.searchsorted(self.classes, labels)
            scores = self.class_layer(audio)
            terms["class"] = F.cross_entropy(scores, wanted) + F.cross_entropy(self.class_layer(image), wanted)
            terms["class_accuracy"] = 100 * (scores.detach().argmax(1) == wanted).float().mean()
            total = total + terms["class"]
        return total, {"loss": total, **terms}

    @torch.no_grad()
    def embed_images(self, features, split, precision="fp32"):
        return self.image_head(features.to(self.classes.device))
