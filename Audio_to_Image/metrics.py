"""How well speech and image features find each other: pure functions of embeddings. Scores are dot products, as in
training, unless cosines are asked for.

Where scores are equal the wrong candidate counts as the better one, so that an encoder that says the same about
everything gets nothing for it.
"""

import torch
import torch.nn.functional as F

from common.retrieval import best_first, retrieval


def class_retrieval(
    audio: torch.Tensor,
    image: torch.Tensor,
    labels: torch.Tensor,
    topk: int = 50,
    image_labels: torch.Tensor | None = None,
    cosine: bool = False,
) -> tuple[float, float]:
    """Zero-shot classification and AP@topk over class centres, as published (after Reed et al., CVPR 2016).

    audio: `[N, d]` speech embeddings with classes `labels` `[N]`; image: `[M, d]` features with classes `image_labels`
    `[M]` (those of the speech if not given). A class's centre is the mean of its speech embeddings. Returns, in
    percent: the share of images whose best centre is their class's; and the share of a class's own images among
    the `topk` images (all, if there are fewer) that its centre scores highest, averaged over classes.

    cosine: score by the cosine of image and centre instead of the published dot product. Only JEL trains the dot
    product; an encoder without it is free in the length of its embeddings, and a long centre then wins every image.
    """
    image_labels = labels if image_labels is None else image_labels
    assert audio.dim() == image.dim() == 2 and audio.shape[1] == image.shape[1], (audio.shape, image.shape)
    assert labels.shape == audio.shape[:1] and image_labels.shape == image.shape[:1], (labels.shape, image_labels.shape)
    classes, row = labels.unique(return_inverse=True)
    centres = torch.zeros(len(classes), audio.shape[1], dtype=torch.float64, device=audio.device)
    centres.index_add_(0, row, audio.double())
    centres /= row.bincount()[:, None]
    image = image.double()
    if cosine:
        image, centres = F.normalize(image), F.normalize(centres)
    scores = image @ centres.T  # [M, classes]
    own = image_labels[:, None] == classes
    best_own = scores.masked_fill(~own, -torch.inf).amax(1)
    best_other = scores.masked_fill(own, -torch.inf).amax(1)
    accuracy = (best_own > best_other).double().mean()
    hits = best_first(scores.T, own.T)[:, :topk]
    return 100 * accuracy.item(), 100 * hits.double().mean().item()


def class_chance(labels: torch.Tensor, image_labels: torch.Tensor | None = None) -> tuple[float, float]:
    """What guessing gives of `class_retrieval`'s two numbers, in percent: one class in C; the mean share of a class."""
    image_labels = labels if image_labels is None else image_labels
    classes = labels.unique()
    return 100 / len(classes), 100 * (image_labels[:, None] == classes).double().mean().item()


def highest_ap(labels: torch.Tensor, topk: int = 50) -> float:
    """AP@topk of a perfect ranking of images of classes `labels` `[M]`, in percent: a class of fewer images than `topk`
    cannot fill its places."""
    places, sizes = min(topk, len(labels)), labels.unique(return_counts=True)[1]
    return 100 * (sizes.clamp(max=places).double() / places).mean().item()


def both_ways(
    audio: torch.Tensor, image: torch.Tensor, audio_ids: torch.Tensor, image_ids: torch.Tensor
) -> dict[str, float]:
    """`retrieval` of images by speech and of speech by images: {"speech_to_image_map", …, "image_to_speech_r10"}."""
    ways = {
        "speech_to_image": retrieval(audio, image, audio_ids, image_ids),
        "image_to_speech": retrieval(image, audio, image_ids, audio_ids),
    }
    return {f"{way}_{name}": value for way, values in ways.items() for name, value in values.items()}


def speech_metrics(
    audio: torch.Tensor, items: torch.Tensor, image: torch.Tensor, labels: torch.Tensor | None, everything: bool = True
) -> dict[str, float]:
    """Every number of the encoder on one split, in percent.

    audio: `[captions, d]`, of items `items` `[captions]` (row numbers of `image`); image: `[images, d]`, the mean of an
    image's views; labels: `[images]`, classes, or None where there are none. With classes: accuracy, chance, ap50,
    ap50_chance, from all captions; without: `both_ways`, an image's own captions being right. everything: the same once
    more with cosines, as `<name>_cosine`; and with classes ap50_highest, the most that there can be, and `both_ways`.
    """
    places = torch.arange(len(image), device=items.device)
    if labels is None:
        values = both_ways(audio, image, items, places)
        if everything:
            cosines = both_ways(F.normalize(audio), F.normalize(image), items, places)
            values |= {f"{name}_cosine": value for name, value in cosines.items()}
        return values
    values = {}
    values["accuracy"], values["ap50"] = class_retrieval(audio, image, labels[items], 50, labels)
    values["chance"], values["ap50_chance"] = class_chance(labels[items], labels)
    if everything:
        values["ap50_highest"] = highest_ap(labels)
        cosines = class_retrieval(audio, image, labels[items], 50, labels, cosine=True)
        values["accuracy_cosine"], values["ap50_cosine"] = cosines
        values |= both_ways(audio, image, items, places)
    return values
