"""From sums and features to records, one a number.

A record is {"metric", "value", "unit", …, "comparable_with", "published", "protocol", "date", "warnings"}; its name
carries the protocol, as in `fid_lite0_64px_box_test240_gen2400`.
"""

import datetime
import math

import torch

from common.cli import UserError
from common.retrieval import blocks, cosine, retrieval, retrieval_by_chance
from StackGAN_v2.evaluation import attribute_probe, metrics
from StackGAN_v2.evaluation.feature_extractors import Extractor
from StackGAN_v2.evaluation.published_results import Setting, comparable_with

IS_SPLITS, KID_SUBSETS, KID_SUBSET_SIZE, PR_NEIGHBOURS = 10, 100, 1000, 3
S2IGAN_QUERIES, S2IGAN_GALLERY = 2, 20  # of each class: 100 among 1,000 on CUB, 40 among 400 on Oxford-102
RANKS, IMAGE_RANKS = (1, 5, 10), (1, 5, 10, 50)  # of the same class; of the very image


def of(job, seen, real: dict, warnings: list[str]) -> list[dict]:
    """All records of a `measure.Job`, in the order of its metrics; `warnings` go into each of them."""
    found = [record for name, make in RECORDS.items() if name in job.wanted for record in make(job, seen, real)]
    for record in found:
        record["warnings"] += warnings
    return found


def _record(job, extractor: Extractor | None, name: str, value, unit: str, warnings=(), protocol=None, **more) -> dict:
    for number in (value, *more.values()):
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{name} or what belongs to it is not a finite number; are the network's weights damaged?")
    kind = "r50" if name.startswith("s2igan_r50") else name.split("_")[0]
    text, published = comparable_with(
        kind,
        Setting(
            incomparable=extractor.incomparable if extractor else "",
            real_images=len(job.real),
            classes=len(set(job.split.labels)) if job.split.has_classes else 0,
            generated=len(job.images),
            size=job.size,
            generated_size=job.found.size,
            crop=job.real.crop,
            classifier_classes=extractor.classes if extractor and extractor.fine_tuned else 0,
        ),
    )
    shared = {
        "generated_images": len(job.images),
        "sentences": job.found.sentences,
        "sentences_without_image": job.found.missing,
        **({"captions_used": unspoken} if (unspoken := job.split.captions_used()) else {}),
        "size_px": job.size,
        "image_size_px": job.found.size,
        **job.protocol,
    }
    return {
        "metric": name,
        "value": value,
        "unit": unit,
        **more,
        "comparable_with": text,
        "published": published,
        "protocol": {**shared, **(protocol or {})},
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "warnings": list(warnings),
    }


def _against_real(job, extractor: Extractor) -> tuple[str, dict]:
    """The part of a name that says what was compared, and the same for the protocol."""
    stem = f"{extractor.name}_{job.size}px_{job.real.crop}_{job.split.name}{len(job.real)}_gen{len(job.images)}"
    return stem, {
        "extractor": extractor.what,
        "crop": job.real.crop,
        "real_split": str(job.split.path),
        "real_images": len(job.real),
    }


def _fid(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    moments = metrics.Moments(job.main.width, job.device)
    for rows in blocks(real[job.main.name]):
        moments.update(rows)
    value = metrics.frechet_distance(seen.moments.mean, seen.moments.covariance, moments.mean, moments.covariance)
    few = [
        f"{count} {side} images for {job.main.width} features: their covariance is singular and the distance "
        "biased upwards; compare only with the same numbers of images"
        for side, count in (("generated", seen.moments.count), ("real", moments.count))
        if count <= job.main.width
    ]
    return [_record(job, job.main, f"fid_{stem}", value, "", few, protocol)]


def _kid(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    generated, true = seen.files[job.main.name], real[job.main.name]
    size = min(KID_SUBSET_SIZE, len(generated), len(true))
    value, std = metrics.kernel_distance(generated, true, KID_SUBSETS, size)
    few = [f"subsets of {size} images, not {KID_SUBSET_SIZE}, for want of images"] if size < KID_SUBSET_SIZE else []
    protocol |= {"subsets": KID_SUBSETS, "subset_size": size}
    return [_record(job, job.main, f"kid_{stem}", value, "", few, protocol, std=std)]


def _is(job, seen, real):
    value, std = seen.score.value()
    few = (
        [f"{len(job.images)} images: the score of fewer than 5000 is biased downwards"]
        if len(job.images) < 5000
        else []
    )
    return [
        _record(
            job,
            job.classifier,
            f"is_{job.classifier.name}_{job.size}px_gen{len(job.images)}",
            value,
            "",
            few,
            {"extractor": job.classifier.what, "splits": IS_SPLITS, "batch": job.classifier.batch},
            std=std,
        )
    ]


def _pr(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    values = metrics.precision_recall(seen.files[job.main.name], real[job.main.name], PR_NEIGHBOURS)
    return [
        _record(job, job.main, f"{name}_{stem}", value, "", (), {**protocol, "neighbours": PR_NEIGHBOURS})
        for name, value in zip(("precision", "recall"), values)
    ]


def _retrieval(job, seen, real):
    stem, protocol = _against_real(job, job.class_extractor)
    true, generated = real[job.class_extractor.name], seen.files[job.class_extractor.name]
    protocol |= {
        "queries": "real images",
        "gallery": "generated images",
        "similarity": "cosine",
        "chance": "mean over all orders of the gallery",
    }
    found = []
    if job.split.has_classes:
        labels, shown = job.labels, job.real_labels
        values = retrieval(true, generated, shown, labels, RANKS, cosine)
        try:
            ceiling = retrieval(true, true, shown, shown, RANKS, cosine, without_self=True)
        except ValueError:  # classes of one image: nothing to find but the query
            ceiling = dict.fromkeys(values)
        chance = retrieval_by_chance(shown, labels, RANKS)
        how = {**protocol, "right": "of the same class", "ceiling": "real images in the gallery, without the query"}
        found += [
            _record(
                job,
                job.class_extractor,
                f"retrieval_{name}_{stem}",
                value,
                "%",
                (),
                how,
                ceiling=ceiling[name],
                chance=chance[name],
            )
            for name, value in values.items()
        ]
    own, images = torch.tensor([job.real.number[image.item] for image in job.images]), torch.arange(len(job.real))
    values = retrieval(true, generated, images, own, IMAGE_RANKS, cosine)
    chance = retrieval_by_chance(images, own, IMAGE_RANKS)
    how = {**protocol, "right": "generated for a sentence of the very image"}
    if job.split.has_classes:  # its mean average precision is S2IGAN's, by class
        del values["map"]
    return found + [
        _record(job, job.class_extractor, f"retrieval_image_{name}_{stem}", value, "%", (), how, chance=chance[name])
        for name, value in values.items()
    ]


def _s2igan(job, seen, real):
    """S2IGAN's retrieval (mAP_evaluate.py and Recall_evaluate.py of its repository): with classes some images of each,
    without classes all of them, the right ones being those of the very image."""
    extractor = job.torchvision
    true, generated = real[extractor.name], seen.files[extractor.name]
    own = torch.tensor([job.real.number[image.item] for image in job.images])
    queries, gallery = torch.arange(len(job.real)), torch.arange(len(job.images))
    query_ids, gallery_ids, ranks, warnings = queries, own, IMAGE_RANKS, []
    if job.split.has_classes:
        query_ids, gallery_ids, ranks = job.real_labels, job.labels, RANKS
        queries, gallery = _some_of_each(query_ids, S2IGAN_QUERIES), _some_of_each(gallery_ids, S2IGAN_GALLERY)
        classes = len(query_ids.unique())
        if (len(queries), len(gallery)) != (S2IGAN_QUERIES * classes, S2IGAN_GALLERY * classes):
            warnings.append(
                f"some class has fewer than {S2IGAN_QUERIES} real or {S2IGAN_GALLERY} generated images, so "
                f"that {len(queries)} ask among {len(gallery)}"
            )
    query_ids, gallery_ids = query_ids[queries], gallery_ids[gallery]
    values = retrieval(true[queries], generated[gallery], query_ids, gallery_ids, ranks, cosine)
    chance = retrieval_by_chance(query_ids, gallery_ids, ranks)
    stem = f"{extractor.name}_{job.size}px_{job.real.crop}_{job.split.name}{len(queries)}_gen{len(gallery)}"
    how = {
        "extractor": extractor.what,
        "crop": job.real.crop,
        "real_split": str(job.split.path),
        "similarity": "cosine",
        "queries": f"{len(queries)} real images",
        "gallery": f"{len(gallery)} generated images",
        "right": "of the same class" if job.split.has_classes else "generated for a sentence of the very image",
    }
    return [
        _record(job, extractor, f"s2igan_{name}_{stem}", value, "%", warnings, how, chance=chance[name])
        for name, value in values.items()
    ]


def _some_of_each(labels: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    """The places of at most `count` entries of each label, drawn at random, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == label][:count] for label in labels.unique()]).sort().values


def _class(job, seen, real):
    stem, protocol = _against_real(job, job.class_extractor)
    values = metrics.centroid_accuracy(
        seen.files[job.class_extractor.name], job.labels, real[job.class_extractor.name], job.real_labels
    )
    protocol |= {
        "right": "nearest class centroid of the real images, cosine",
        "ceiling": "real images, each against centroids made without it",
    }
    alone = [] if values["ceiling"] is not None else ["no class has two real images, so there is no ceiling"]
    return [
        _record(
            job,
            job.class_extractor,
            f"class_accuracy_{stem}",
            values["accuracy"],
            "%",
            alone,
            protocol,
            ceiling=values["ceiling"],
            chance=values["chance"],
        )
    ]


def _attributes(job, seen, real):
    reader = seen.reader
    wanted = torch.stack([reader.attributes.named(job.split, p.item, p.sentence) for p in job.images])
    report = attribute_probe.agreement_report(torch.cat(seen.read), reader.real, wanted, job.labels, reader.attributes)
    if report["agreement"] is None:
        job.left_out.append("attributes: no sentence of these images names one")
        return []
    few = (
        []
        if report["normalised"] is not None
        else [
            "the probe reads real images no better than chance, or nothing can be shuffled: there is no normalised score"
        ]
    )
    protocol = {
        "probe": f"convolutional, {attribute_probe.SIZE} px, trained on the real training images",
        "real_split": str(job.split.path),
        "ceiling": "the same sentences, read from their real images",
        "chance": "sentences of other classes, mean over all pairs",
    }
    return [
        _record(
            job,
            None,
            f"attribute_agreement_{job.size}px_{job.split.name}_gen{len(job.images)}",
            report.pop("agreement"),
            "%",
            few,
            protocol,
            **report,
        )
    ]


RECORDS = {
    "fid": _fid,
    "is": _is,
    "kid": _kid,
    "pr": _pr,
    "retrieval": _retrieval,
    "s2igan": _s2igan,
    "class": _class,
    "attributes": _attributes,
}
