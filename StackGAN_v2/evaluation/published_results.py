"""Published results, with source and protocol, and which of them a measured number may stand beside.

The latter is derived from how the number was measured, never from its value. `markdown_table` is the table for
documents.
"""

from dataclasses import dataclass

UNDER = "gaps under about 5 may be protocol: papers differ in Inception family, crop and resolution, and few state all"

PROTOCOLS = {
    "fid": "FID: one image for each test sentence against the real test images, TensorFlow's Inception (2015), pool3; "
    "tools, crops and resolutions differ from paper to paper",
    "is": "IS: the StackGAN authors' TensorFlow Inception, fine-tuned on the set; ten parts",
    "r50": "R@50: real images ask among generated ones by cosine of torchvision's Inception features (S2IGAN's "
    "protocol); right is an image generated for a sentence of the very image; %",
}
QUOTED = "as quoted in Fusion-S2iGan (arXiv 2305.10126) and later work"
OTHERWISE = "Speak-the-Art measures otherwise (as quoted by its authors)"


@dataclass(frozen=True)
class Result:
    """A value that a paper reports: as printed there, since some have a deviation and some are not verified."""

    set: str
    method: str
    metric: str  # a key of PROTOCOLS
    value: str
    source: str = QUOTED
    input: str = "speech"
    comparable: bool = True  # whether its protocol is known to be that of PROTOCOLS


def _rows(set_: str, metrics: tuple[str, ...], *rows, **more) -> tuple[Result, ...]:
    return tuple(
        Result(set_, method, metric, value, **more)
        for method, *values in rows
        for metric, value in zip(metrics, values)
        if value
    )


RESULTS = (
    *_rows(
        "CUB-200-2011",
        ("fid", "is"),
        ("StackGAN-v2", "18.94", "4.14"),
        ("Li et al. 2020", "18.37", "4.09 ± 0.04"),
        ("S2IGAN", "14.50", "4.29"),
        ("Fusion-S2iGan", "13.09", "5.06"),
    ),
    *_rows("CUB-200-2011", ("fid", "is"), ("Speak-the-Art", "9.76", "4.07"), source=OTHERWISE, comparable=False),
    *_rows(
        "CUB-200-2011",
        ("fid",),
        ("AttnGAN, by pytorch-fid", "23.98"),
        ("AttnGAN, by TensorFlow", "14.01"),
        ("DM-GAN", "16.09"),
        ("DF-GAN", "14.81"),
        ("DF-GAN, released weights", "12.10"),
        ("VQ-Diffusion", "10.32"),
        ("Data Extrapolation, with further images from the web", "7.91"),
        input="text",
        source="their papers; truncated noise, several images a sentence, enlarged real sides and the best of all "
        "epochs occur",
        comparable=False,
    ),
    *_rows("Oxford-102", ("fid", "is"), ("Li et al. 2020", "54.76 (unverified)", "3.23 ± 0.05 (unverified)")),
    *_rows(
        "Flickr8k",
        ("fid", "r50"),
        ("StackGAN-v2", "101.74", "16.4"),
        ("S2IGAN", "93.29", "16.4"),
        ("Fusion-S2iGan", "70.80", "34.95"),
    ),
    *_rows("Flickr8k", ("fid", "r50"), ("Speak-the-Art", "31.15", "43.46"), source=OTHERWISE, comparable=False),
)
UNKNOWN = {"Places-subset": "papers report it, but no value has been verified for this table"}


def results(set_: str, metric: str) -> list[Result]:
    """The results of a set that a number measured by the protocol of `metric` may stand beside."""
    return [row for row in RESULTS if (row.set, row.metric) == (set_, metric) and row.comparable]


def markdown_table() -> str:
    """All results as a Markdown table, with the protocols below it."""
    titles = {"fid": "FID ↓", "is": "IS ↑", "r50": "R@50 ↑"}
    lines = [
        "| set | input | method | " + " | ".join(titles.values()) + " | source |",
        "|---|---|---|" + "---|" * (len(titles) + 1),
    ]
    for key in dict.fromkeys((row.set, row.input, row.method, row.source) for row in RESULTS):
        values = {row.metric: row.value for row in RESULTS if (row.set, row.input, row.method, row.source) == key}
        cells = [*key[:3], *(values.get(metric, "–") for metric in titles), key[3]]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | speech | – | – | – | – | {reason} |" for name, reason in UNKNOWN.items()]
    return "\n".join([*lines, "", *(f"- {text}." for text in PROTOCOLS.values())]) + "\n"


@dataclass(frozen=True)
class PublishedSet:
    """How a set that papers report is known: by the images, classes and sentences of its test split (0: no classes)."""

    name: str
    images: int
    classes: int
    sentences: int


SETS = (
    PublishedSet("CUB-200-2011", 2933, 50, 29330),
    PublishedSet("Oxford-102", 1155, 20, 11550),
    PublishedSet("Flickr8k", 1000, 0, 5000),
)


@dataclass(frozen=True)
class Setting:
    """How a number was measured. incomparable: why no published number went through its network, or empty; classes: of
    the test split; classifier_classes: of the inception score's network, 0 if that was not fine-tuned; the rest are
    counts and pixels.
    """

    incomparable: str
    real_images: int
    classes: int
    generated: int
    size: int
    generated_size: int
    crop: str
    classifier_classes: int = 0


def comparable_with(kind: str, setting: Setting) -> tuple[str, list[dict]]:
    """("none: <why>", []) or (a sentence with the published numbers and the caution, [{"method", "value"}, …]).

    kind: 'fid', 'is', 'retrieval', 's2igan', or any other, which no paper of this field reports.
    """
    known = next((one for one in SETS if (one.images, one.classes) == (setting.real_images, setting.classes)), None)
    reason = _obstacle(kind, setting, known)
    if reason:
        return f"none: {reason}", []
    rows = results(known.name, kind)
    if not rows:
        return f"none: no value of {known.name} has been verified", []
    numbers = ", ".join(f"{row.method} {row.value}" for row in rows)
    titles = {"fid": "FID", "is": "IS", "r50": "R@50"}
    caution = (
        f"real images cut as '{setting.crop}'; {UNDER}"
        if kind != "is"
        else "of the same kind, but through another network fine-tuned on the same classes, so the scales differ"
        if setting.incomparable
        else "if the weights are the StackGAN authors', whose hash is not published"
    )
    return (
        f"{titles[kind]} on {known.name}: {numbers}; {caution}",
        [{"method": row.method, "value": row.value} for row in rows],
    )


def _obstacle(kind: str, setting: Setting, known: PublishedSet | None) -> str:
    if kind == "retrieval":
        return (
            f"{setting.incomparable}; S2IGAN's mAP and R@K ask through torchvision's ImageNet Inception-v3, with a "
            "list of real images of its own"
        )
    if kind == "s2igan":
        return (
            "S2IGAN asks with a list of real images of its own (100 among 1,000 generated ones on CUB, 40 among "
            "400 on Oxford-102), here ask all of the split or as many drawn at random"
        )
    if kind not in ("fid", "is", "r50"):
        return "no paper of this field reports it"
    if kind == "is" and not setting.classifier_classes:
        return "published scores go through an Inception fine-tuned on the set (--is_weights), this one knows ImageNet"
    if setting.incomparable and kind != "is":
        return setting.incomparable
    if not known:
        return f"no published test split has {setting.real_images} images of {setting.classes} classes"
    if kind == "is" and setting.classifier_classes != known.classes:
        return (
            f"published scores go through a network of the {known.classes} test classes, this one has "
            f"{setting.classifier_classes}"
        )
    if (setting.size, setting.generated_size) != (256, 256):
        return (
            f"papers compare images of 256 pixels, these are generated at {setting.generated_size} and compared at "
            f"{setting.size}"
        )
    if setting.generated != known.sentences:
        return f"papers take one image for each of the {known.sentences} test sentences, here are {setting.generated}"
    return ""
