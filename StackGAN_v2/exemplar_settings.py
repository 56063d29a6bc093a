"""The cfg keys EXEMPLAR.*, of the exemplar generator and its training."""

from dataclasses import dataclass

from common.settings import Group, setting


@dataclass(frozen=True)
class ExemplarSettings(Group):
    """MODEL: exemplar."""

    PARTS: int = setting(16, "parts, each a mask and a colour", at_least=1, at_most=256, published=False)
    COLOURS: int = setting(48, "colours that a part may have", at_least=1, at_most=4096, published=False)
    HIDDEN_DIM: int = setting(
        128, "width of the layers that choose a part's colour", at_least=1, at_most=65536, published=False
    )
    CONDITION_DIM: int = setting(
        32, "width of the speech embedding's projection", at_least=1, at_most=65536, published=False
    )
    SPATIAL_DIM: int = setting(4, "channels of the spatial code", at_least=1, at_most=256, published=False)
    GLOBAL_DIM: int = setting(8, "width of the global code", at_least=1, at_most=4096, published=False)
    CONSTANTS: int = setting(8, "channels of the learnt constant maps", at_least=1, at_most=256, published=False)
    COARSE_DIM: int = setting(48, "channels of the decoder's 16×16 maps", at_least=1, at_most=4096, published=False)
    FINE_DIM: int = setting(
        32,
        "channels of the decoder's 32×32 maps",
        at_least=1,
        at_most=4096,
        published=False,
        more="larger maps have half of those before, 16 at least",
    )
    SAID_LOSS: float = setting(
        1.0,
        "weight of the reconstruction with the colours that the sentence says",
        at_least=0,
        published=False,
        more="that with the true mean colours of the parts has weight 1",
    )
    COLOUR_LOSS: float = setting(
        0.1, "weight of the cross-entropy of the parts' true colours", at_least=0, published=False
    )
    COARSE_LOSS: float = setting(1.0, "weight of the L1 distance of 4×4 means", at_least=0, published=False)
    KL_SPATIAL: float = setting(1e-5, "weight of the spatial code's KL term", at_least=0, published=False)
    KL_GLOBAL: float = setting(2e-3, "weight of the global code's KL term", at_least=0, published=False)
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
        4096, "training images whose codes are kept, at the most", at_least=1, at_most=1 << 20, published=False
    )
