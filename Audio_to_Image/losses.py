"""Losses of the speech encoder: pure functions of embeddings. Li et al. 2020, section III-A."""

import torch
import torch.nn.functional as F


def joint_embedding_loss(
    audio: torch.Tensor, image: torch.Tensor, labels: torch.Tensor, loss_diff: float, loss_same: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Structured joint embedding (after Reed et al., CVPR 2016, equation 5, over all pairs).

    audio, image: `[N, d]`, rows i of both from the same item; labels: `[N]`, class of each item.
    For each image, its own speech should score highest: by a margin of 1 over speech of other classes (weight
    `loss_diff`), by any margin over speech of its own class (weight `loss_same`). Returns the loss and the accuracy in
    percent, both 0-d; accuracy is the share of images whose highest score is that of their own speech.
    """
    assert audio.dim() == 2 and audio.shape == image.shape and labels.shape == audio.shape[:1], (
        audio.shape,
        image.shape,
        labels.shape,
    )
    scores = image @ audio.T  # [image i, speech j]
    excess = scores - scores.diagonal()  # over speech j's score with its own image
    same = labels[:, None] == labels[None, :]
    # The diagonal is of the same class and its excess is 0, so that it adds nothing.
    loss = torch.where(same, loss_same * excess.clamp(min=0), loss_diff * (excess + 1).clamp(min=0)).sum()
    own = torch.arange(len(labels), device=labels.device)
    accuracy = 100.0 * (scores.detach().argmax(1) == own).float().mean()
    return loss / len(labels) ** 2, accuracy


def l1_loss(audio: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, 0-d, of `[N, d]` and `[N, d]`, each divided by the Frobenius norm of its batch."""
    assert audio.dim() == 2 and audio.shape == image.shape, (audio.shape, image.shape)
    return F.l1_loss(audio / audio.norm(), image / image.norm())


def distillation_loss(audio: torch.Tensor, image: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """KL(softmax(image / temperature) ‖ softmax(audio)), 0-d: the mean over all N·d elements of `[N, d]`.

    As published, the temperature applies to the teacher alone (Hinton et al. 2015 apply it to both).
    """

    assert audio.dim() == 2 and audio.shape == image.shape, (audio.shape, image.shape)
    return F.kl_div(F.log_softmax(audio, 1), F.softmax(image / temperature, 1), reduction="sum") / audio.numel()
