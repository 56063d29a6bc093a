"""How numbers and names are written for readers."""

import re

# start of a name in the files, the longest that fits → what a reader calls it; others keep their own name
_LABELS = {
    "speech_accuracy": "class accuracy from speech",
    "speech_ap50": "AP@50 from speech",
    **{
        f"{a}_to_{b}_{name}": f"{start} → {end}, {title}"
        for a, b, start, end in (
            ("speech", "image", "speech", "real image"),
            ("image", "speech", "real image", "speech"),
        )
        for name, title in (("map", "mAP"), ("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"))
    },
    **{f"fid_{lite}": f"Fréchet distance, EfficientNet-{lite} (no FID)" for lite in ("lite0", "lite2")},
    "fid": "Fréchet inception distance (FID)",
    **{f"kid_{lite}": f"kernel distance, EfficientNet-{lite} (no KID)" for lite in ("lite0", "lite2")},
    "kid": "kernel inception distance (KID)",
    **{f"is_{lite}": f"inception score by EfficientNet-{lite} (no IS)" for lite in ("lite0", "lite2")},
    "is": "inception score (IS)",
    "precision": "precision of the images",
    "recall": "recall of the images",
    "retrieval_map": "real image → generated of its class, mAP",
    **{f"retrieval_r{k}": f"real image → generated of its class, R@{k}" for k in (1, 5, 10)},
    **{f"retrieval_image_r{k}": f"real image → generated for it, R@{k}" for k in (1, 5, 10, 50)},
    "class_accuracy": "class accuracy of the generated images",
    "attribute_agreement": "attributes generated as said",
}


def label(name: str) -> str:
    """'speech_ap50_cosine' → 'AP@50 from speech, by cosine'."""
    if name.endswith("_cosine"):
        return f"{label(name.removesuffix('_cosine'))}, by cosine"
    known = [
        start
        for start in _LABELS
        if name == start
        or name.startswith(f"{start}_")
        or start.endswith(("lite0", "lite2"))
        and name.startswith(start)
    ]
    return _LABELS[max(known, key=len)] if known else name


def class_words(class_name: str) -> str:
    """'005.Umber_bellied_Grosbeak' → 'Umber bellied Grosbeak'."""
    return re.sub(r"^\d+\.", "", class_name).replace("_", " ")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"


def exact(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
