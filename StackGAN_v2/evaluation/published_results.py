"""Which published numbers a measured one may stand beside: derived from how it was measured, never from its value.

Published values are as quoted by later authors (Fusion-S2iGan, arXiv 2305.10126, and others); Speak-the-Art's are left
out, since they are measured otherwise.
"""
from dataclasses import dataclass

UNDER = "gaps under about 5 may be protocol: papers differ in Inception family, crop and resolution, and few state all"


@dataclass(frozen=True)
class PublishedSet:
    """A data set that papers report. images, classes, sentences: of its test split."""
    name: str
    images: int
    classes: int
    sentences: int
    fid: tuple[tuple[str, str], ...]
    inception_score: tuple[tuple[str, str], ...]


SETS = (
    PublishedSet("CUB-200-2011", 2933, 50, 29330,
                 (("Li et al. 2020", "18.37"), ("S2IGAN", "14.50"), ("Fusion-S2iGan", "13.09")),
                 (("Li et al. 2020", "4.09 ± 0.04"), ("S2IGAN", "4.29"), ("Fusion-S2iGan", "5.06"))),
    PublishedSet("Oxford-102", 1155, 20, 11550,
                 (("Li et al. 2020", "54.76 (unverified)"),),
                 (("Li et al. 2020", "3.23 ± 0.05 (unverified)"),)))


@dataclass(frozen=True)
class Setting:
    """How a number was measured. stranger: why no published number went through its network, or empty; classes: of the
    test split; judged: of the inception score's network, 0 if that was not fine-tuned; the rest are counts and pixels.
    """
    stranger: str
    real_images: int
    classes: int
    generated: int
    size: int
    generated_size: int
    crop: str
    judged: int = 0


def comparable_with(kind: str, setting: Setting) -> tuple[str, list[dict]]:
    """("none: <why>", []) or (a sentence with the published numbers and the caution, [{"method", "value"}, …]).

    kind: 'fid', 'is', 'retrieval', or any other, which no paper of this field reports.
    """
    known = next((one for one in SETS if (one.images, one.classes) == (setting.real_images, setting.classes)), None)
    reason = _obstacle(kind, setting, known)
    if reason:
        return f"none: {reason}", []
    rows = known.fid if kind == "fid" else known.inception_score
    numbers = ", ".join(f"{method} {value}" for method, value in rows)
    caution = (f"real images cut as '{setting.crop}'; {UNDER}" if kind == "fid" else
               "of the same kind, but through another network fine-tuned on the same classes, so the scales differ")
    return (f"{'FID' if kind == 'fid' else 'IS'} on {known.name}: {numbers}; {caution}",
            [{"method": method, "value": value} for method, value in rows])


def _obstacle(kind: str, setting: Setting, known: PublishedSet | None) -> str:
    if kind == "retrieval":
        return (f"{setting.stranger}; S2IGAN's mAP and R@K ask through torchvision's ImageNet Inception-v3, with a "
                "list of real images of its own")
    if kind not in ("fid", "is"):
        return "no paper of this field reports it"
    if kind == "is" and not setting.judged:
        return "published scores go through an Inception fine-tuned on the set (--is_weights), this one knows ImageNet"
    if setting.stranger and kind == "fid":
        return setting.stranger
    if not known:
        return f"no published test split has {setting.real_images} images of {setting.classes} classes"
    if kind == "is" and setting.judged != known.classes:
        return (f"published scores go through a network of the {known.classes} test classes, this one has "
                f"{setting.judged}")
    if (setting.size, setting.generated_size) != (256, 256):
        return (f"papers compare images of 256 pixels, these are generated at {setting.generated_size} and compared at "
                f"{setting.size}")
    if setting.generated != known.sentences:
        return f"papers take one image for each of the {known.sentences} test sentences, here are {setting.generated}"
    return ""
