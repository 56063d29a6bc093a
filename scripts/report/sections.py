"""Rows of the page's tiles, tables and lists, as plain data for the templates."""

from scripts.report import published_settings
from scripts.report.words import duration, percent

# where a tile or a bar shows a number: these kinds of reference stand beside it
REFERENCES = ("chance", "ceiling")


def tiles(data) -> list[dict]:
    """The four numbers that say most. each: (label of the run, number) of those that have it; unit: '%', or '' for no
    bar."""
    if data.split.has_classes:
        chosen = [
            (
                "Right class from speech",
                "images matched to their class by how the class is spoken of",
                "speech_accuracy",
            ),
            ("AP@50", "right images among the 50 nearest to a class", "speech_ap50"),
        ]
    else:
        chosen = [
            ("Speech → image R@10", "right image among the 10 nearest to a sentence", "speech_to_image_r10"),
            ("mAP", "speech → real image", "speech_to_image_map"),
        ]
    chosen.append(
        ("Attributes as said", "attributes named in a sentence that a probe reads in its image", "attribute_agreement")
    )
    made = [_tile(data, title, meaning, "%", start) for title, meaning, start in chosen]
    distance = _tile(data, "FID", "", "", "fid_inception", "fid_")
    lite = next((lite for _, number in distance["each"] for lite in ("lite0", "lite2") if lite in number.name), "")
    distance["title"] = "Fréchet distance" if lite or not distance["each"] else "FID"
    distance["meaning"] = (
        "between generated and real images"
        + (f", by EfficientNet-{lite}, no FID" if lite else "")
        + "; lower is better"
    )
    return [*made, distance]


def _tile(data, title: str, meaning: str, unit: str, *starts: str) -> dict:
    """Of each column the first number whose name begins so, in the order of `starts`."""
    each = [
        (
            column.label,
            next((n for start in starts for name, n in column.numbers.items() if name.startswith(start)), None),
        )
        for column in data.columns
    ]
    each, references = [(label, number) for label, number in each if number], []
    own = []  # references that each run has its own value of
    for kind in REFERENCES:
        values = {percent(value) for _, number in each if (value := getattr(number, kind)) is not None}
        references += [f"{kind} {value}" for value in values if len(values) == 1]
        own += [kind] if len(values) > 1 else []
    references += [f"marks: {' and '.join(own)} of each"] if own else []
    return {"title": title, "meaning": meaning, "unit": unit, "each": each, "references": " · ".join(references)}


def number_groups(data) -> tuple[list[tuple[str, list[dict]]], list[str]]:
    """([(title of a group, a dict a number)], what the protocols of all numbers of images have in common)."""
    protocols = [n.protocol for column in data.columns for n in column.generator_numbers if n.protocol]
    shared = [clause for clause in (protocols[0] if len(protocols) > 2 else ()) if all(clause in p for p in protocols)]
    groups = []
    for title, group in (("Speech encoder", "encoder_numbers"), ("Generated images", "generator_numbers")):
        names = dict.fromkeys(n.name for column in data.columns for n in getattr(column, group))
        groups += [(title, [_number_row(name, data.columns, shared) for name in names])] if names else []
    return groups, shared


def _number_row(name: str, columns, shared: list[str]) -> dict:
    """cells: the columns' numbers or None; compared: (whose, comparable, published) a group of runs that compare alike;
    clauses: of the protocol, but for the shared ones; differing: (whose, the clauses that only theirs has)."""
    cells = [column.numbers.get(name) for column in columns]
    known = [(column.label, n) for column, n in zip(columns, cells) if n]
    compared = {}
    for label, n in known:
        if n.comparable or n.published:
            compared.setdefault((n.comparable, n.published), []).append(label)
    first = known[0][1]
    differing = [(label, [c for c in n.protocol if c not in first.protocol]) for label, n in known]
    return {
        "name": name,
        "cells": cells,
        "compared": [("" if len(who) == len(known) else ", ".join(who), *what) for what, who in compared.items()],
        "has_protocol": bool(first.protocol),
        "clauses": [clause for clause in first.protocol if clause not in shared],
        "differing": [(label, clauses) for label, clauses in differing if clauses],
        "warnings": list(dict.fromkeys(warning for _, n in known for warning in n.warnings)),
    }


def published(dataset: str) -> list[tuple[str, str, str]]:
    """(method, inception score, FID) as later authors quote them for a set; [] of other sets."""
    from StackGAN_v2.evaluation.published_results import RESULTS

    name = {"birds": "CUB-200-2011", "flowers": "Oxford-102", "flickr8k": "Flickr8k"}.get(dataset.lower())
    values: dict[str, dict] = {}  # method → metric → value
    for row in RESULTS:
        if row.set == name and row.input == "speech":
            shown = row.value if row.comparable else f"{row.value} (measured otherwise)"
            values.setdefault(row.method, {})[row.metric] = shown
    return [(method, of.get("is", "–"), of.get("fid", "–")) for method, of in values.items()]


def attributes(data) -> dict:
    """parts: attribute → [(label of the run, number)], of the number that is a mean over attributes; name: of that
    number. {} if there is none."""
    with_parts = [(column.label, n) for column in data.columns for n in column.generator_numbers if n.parts]
    parts = {}
    for label, number in with_parts:
        for part in number.parts:
            parts.setdefault(part.name, []).append((label, part))
    return {"name": with_parts[0][1].name, "parts": parts} if with_parts else {}


def method(data) -> list[tuple[str, list[list[str]]]]:
    """[(title, rows of part, setting, value of each run, published value)]: what differs from the published method."""
    here = {}  # (part, name, published, added) → column's place → its value
    for place, column in enumerate(data.columns):
        for d in published_settings.departures(column.encoder, column.generator, data.dataset):
            here.setdefault((d.part, d.name, d.published, d.added), {})[place] = d.here
    return [
        (
            title,
            [
                [
                    part,
                    name,
                    *[
                        values.get(place, usual if getattr(column, part) else "–")
                        for place, column in enumerate(data.columns)
                    ],
                    usual,
                ]
                for (part, name, usual, added), values in here.items()
                if added is kind
            ],
        )
        for title, kind in (("Additions", True), ("The same method, other settings", False))
    ]


def stage_times(data) -> dict:
    """labels of the runs that noted times; rows: (stage, texts, seconds of the first run); together: a text a run."""
    timed = [column for column in data.columns if column.stages]
    took = [
        {str(stage.get("name", stage.get("stage", ""))): stage["seconds"] for stage in column.stages}
        for column in timed
    ]
    rows = [
        (name, [duration(column[name]) if name in column else "–" for column in took], took[0].get(name, 0))
        for name in dict.fromkeys(name for column in took for name in column)
    ]
    return {
        "labels": [column.label for column in timed],
        "rows": rows,
        "together": [duration(sum(column.values())) for column in took],
    }


def origins(data) -> list[tuple[str, str]]:
    """Where the runs come from, each fact once with the runs that it holds for."""
    facts = {}
    for column in data.columns:
        for part, run in (("encoder", column.encoder), ("generator", column.generator)):
            if not run or not run.options:
                continue
            versions, date = run.environment.get("versions"), run.environment.get("date")
            trained = " ".join(str(run.options.get(key, "")) for key in ("device", "precision"))
            trained += f", {date[:10]}" if isinstance(date, str) else ""
            versions = ", ".join(f"{n} {v}" for n, v in versions.items() if v) if isinstance(versions, dict) else ""
            who = f"{column.label}, {part}" if data.several else part
            for what, which in (
                (f"{part} trained on", trained),
                ("versions", versions),
                ("revision", str(run.environment.get("revision") or "")),
            ):
                if which.strip():
                    facts.setdefault(what, {}).setdefault(which, []).append(who)
    return [
        (what, which if len(values) == 1 else f"{which} ({', '.join(who)})")
        for what, values in facts.items()
        for which, who in values.items()
    ]


def trained_files(data) -> list[tuple[str, str]]:
    """('encoder', file) and ('generator', file), of one run if one has both; what interpolation.py is given."""
    both = [column for column in data.columns if column.encoder_file and column.generator_file][:1]
    files = (
        (part, next((path for column in both or data.columns if (path := getattr(column, f"{part}_file"))), None))
        for part in ("encoder", "generator")
    )
    return [(part, path) for part, path in files if path]
