"""Notices a discriminator that has won: one that tells everything apart has nothing left to teach the generator."""

import math

SHARE = 0.05  # of the loss of guessing, below which a discriminator has won …
ITERATIONS = 500  # … if its loss stays there for so long

_OF_GUESSING = {"bce": math.log(2), "hinge": 1.0}  # a term at logit 0


def bound(adversarial: str, uncond_weight: float) -> float:
    """The loss of `losses.d_loss` below which a discriminator has won: 5 % of what it is where all logits are 0.

    With the unconditional terms at weight 1: 0.208 (bce), 0.3 (hinge); without them: 0.069 and 0.1.
    """
    terms = 3 + 3 * uncond_weight if uncond_weight else 2
    return SHARE * terms * _OF_GUESSING[adversarial]


class DiscriminatorMonitor:
    """Follows the discriminators' mean losses from tick to tick and warns once an episode.

    An episode lasts until the mean of a tick is at the bound or above. A run that goes on from a resume file counts
    from zero.
    """

    def __init__(self, adversarial: str, uncond_weight: float):
        self.bound = bound(adversarial, uncond_weight)
        self.below: dict[str, int] = {}  # discriminator → iterations below the bound without a break

    def update(self, iterations: int, means: dict[str, float]) -> list[str]:
        """Take in the means over the last `iterations` of the terms `D0`, `D1`, …; → what there is to warn about."""
        warnings = []
        for name, mean in means.items():
            if name[0] != "D" or not name[1:].isdigit():
                continue
            before = self.below.get(name, 0)
            now = self.below[name] = before + iterations if mean < self.bound else 0
            if before < ITERATIONS <= now:
                warnings.append(
                    f"warning: discriminator {name} has won: its loss has been below {self.bound:.3f} ({SHARE:.0%} of "
                    f"that of guessing) for {now} iterations, so that the generator learns little from it; lower "
                    f"TRAIN.DISCRIMINATOR_LR, or set TRAIN.COEFF.MA_PENALTY"
                )
        return warnings
