"""Losses of the generator and the discriminators, pure functions: StackGAN-v2, section 4; Li et al. 2020."""

import torch
import torch.nn.functional as F

from StackGAN_v2.networks.exemplar import nearness


def d_loss(real, wrong, fake, kind: str = "bce", uncond_weight: float = 1.0):
    """Loss of one discriminator, 0-d (StackGAN-v2, equation 5; hinge: Lim & Ye 2017).

    real, wrong, fake: (cond_logits `[N]`, uncond_logits `[N]`) of real images with their speech, of real images of
    another class, and of generated images. To the unconditional term a wrong image is real.
    With uncond_weight 0 the conditional terms have the weights 1, ½, ½. kind: "bce" or "hinge".
    """
    as_real, as_fake = _D_TERMS[kind]
    if uncond_weight == 0:
        return as_real(real[0]) + 0.5 * (as_fake(wrong[0]) + as_fake(fake[0]))
    cond = as_real(real[0]) + as_fake(wrong[0]) + as_fake(fake[0])
    return cond + uncond_weight * (as_real(real[1]) + as_real(wrong[1]) + as_fake(fake[1]))


def g_loss(fake, kind: str = "bce", uncond_weight: float = 1.0):
    """The generator's loss from one discriminator, 0-d; fake: (cond_logits `[N]`, uncond_logits `[N]`)."""
    as_real = _G_TERM[kind]
    return as_real(fake[0]) + (uncond_weight * as_real(fake[1]) if uncond_weight else 0)


def _bce(logits, target: float):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


_D_TERMS = {
    "bce": (lambda x: _bce(x, 1.0), lambda x: _bce(x, 0.0)),
    "hinge": (lambda x: F.relu(1 - x).mean(), lambda x: F.relu(1 + x).mean()),  # Lim & Ye 2017
}
_G_TERM = {"bce": lambda x: _bce(x, 1.0), "hinge": lambda x: -x.mean()}


def kl_loss(mu, logvar):
    """Mean over all elements of KL(N(mu, exp(logvar)) ‖ N(0, 1)); mu, logvar `[N, E]` (StackGAN, section 3.2)."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def class_aware_loss(codes, labels):
    """By how much codes of the same class are less similar than any two codes; 0 if the batch has no pair of one class.

    codes `[N, D]`, labels `[N]`. With P = X·Xᵀ and M the pairs i ≠ j of equal class: max(0, mean(P) − mean(P[M])) / D
    (Li et al. 2020).
    """
    assert codes.dim() == 2 and labels.shape == codes.shape[:1], (codes.shape, labels.shape)
    products = codes @ codes.T
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    pairs = same.sum()
    mean_same = (products * same).sum() / pairs.clamp(min=1)
    return torch.where(pairs > 0, F.relu(products.mean() - mean_same), 0.0) / codes.shape[1]


def color_loss(fine, coarse):
    """Colour consistency between images of two branches (StackGAN-v2, equation 9).

    fine `[N, 3, s, s]`, coarse `[N, 3, t, t]`, which is the target (no gradient). MSE of the channels' means plus
    5 × MSE of their covariances.
    """
    assert fine.shape[:2] == coarse.shape[:2] and fine.shape[1] == 3, (fine.shape, coarse.shape)
    (mean, covariance), (target_mean, target_covariance) = _color_statistics(fine), _color_statistics(coarse.detach())
    return F.mse_loss(mean, target_mean) + 5 * F.mse_loss(covariance, target_covariance)


def _color_statistics(images):
    pixels = images.flatten(2).float()  # [N, 3, s²]
    mean = pixels.mean(2, keepdim=True)
    centred = pixels - mean
    return mean, centred @ centred.transpose(1, 2) / pixels.shape[2]


def matching_aware_penalty(cond_logits, image, condition, power: float = 6.0):
    """Gradient penalty at real images with matching speech (DF-GAN, Tao et al. 2022, equation 2, without its weight).

    cond_logits `[N]` are computed from image `[N, 3, s, s]` and condition `[N, E]`, both of which require gradients.
    """
    assert len(cond_logits) == len(image) == len(condition), (cond_logits.shape, image.shape, condition.shape)

    grads = torch.autograd.grad(cond_logits.sum(), (image, condition), create_graph=True)
    return torch.cat([grad.flatten(1) for grad in grads], 1).float().square().sum(1).add(1e-12).sqrt().pow(power).mean()


def colour_loss(logits, wanted, colours, areas, width: float = 0.08, seen: float = 0.01) -> torch.Tensor:
    """Cross-entropy of colours with soft targets (Zhang et al., Colorful Image Colorization, ECCV 2016, section 2.2), 0-d.

    logits `[N, K, C]`, wanted colours `[N, K, 3]` of the regions, the C colours `[C, 3]`, all within [−1, 1]; areas
    `[N, K]`: shares of the image, of which those below `seen` count less; width: standard deviation of the targets.
    """
    assert logits.shape[:2] == wanted.shape[:2] == areas.shape and logits.shape[2] == len(colours), logits.shape
    targets = nearness(wanted, colours, width).exp()
    each = -(targets * logits.log_softmax(2)).sum(2)
    weights = (areas / seen).clamp(max=1)
    return (each * weights).sum() / weights.sum()
