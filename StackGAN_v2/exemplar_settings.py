"""The cfg keys EXEMPLAR.*, of the exemplar generator and its training."""

from dataclasses import dataclass

from common.settings import Group, setting


@dataclass(frozen=True)
class ExemplarSettings(Group):
    """MODEL: exemplar."""

    REGIONS: int = setting(
        12, "regions that an image is cut into, each of one colour", at_least=1, at_most=256, published=False
    )
    COLOURS: int = setting(48, "colours that a region may have", at_least=1, at_most=4096, published=False)
    WIDTH: int = setting(
        32, "channels of the network that tells one region from another", at_least=1, at_most=4096, published=False
    )
    HIDDEN_DIM: int = setting(
        128, "width of the layers that choose a region's colour", at_least=1, at_most=65536, published=False
    )
    CONDITION_DIM: int = setting(
        32, "width of the speech embedding's projection", at_least=1, at_most=65536, published=False
    )
    KEEP: float = setting(
        0.3, "probability that a region keeps its own colour if nothing is said", at_least=0, at_most=1, published=False
    )
    CHOICE: float = setting(
        0.02,
        "temperature of the choice of an exemplar: the less, the better it goes with the sentence",
        above=0,
        published=False,
    )
    UNSAID: float = setting(
        0.15, "share of the sentences that are not heard in training", at_least=0, at_most=1, published=False
    )
    MATCH_FROM: float = setting(
        0.35,
        "share of the training from which images with other sentences are matched",
        at_least=0,
        at_most=1,
        published=False,
        only_with="TRAIN.COEFF.MATCHING",
    )
    MATCH_AGAINST: int = setting(
        256,
        "further sentences that an image's own is told from",
        at_least=0,
        at_most=65536,
        published=False,
        only_with="TRAIN.COEFF.MATCHING",
    )
    WEIGHT_DECAY: float = setting(1e-2, "AdamW's weight decay", at_least=0, published=False)
    CLIP: float = setting(1.0, "norm that the gradient is cut to", above=0, published=False)
    WARM_UP: int = setting(50, "iterations in which the learning rate rises", at_least=1, published=False)
    FINAL_LR: float = setting(
        0.02,
        "last learning rate, a share of the first",
        more="it falls as a cosine over the training",
        at_least=0,
        at_most=1,
        published=False,
    )
    BANK: int = setting(
        4096, "training images that are kept as exemplars, at the most", at_least=1, at_most=1 << 20, published=False
    )
