"""All numbers: one table with a column a run, the published ones, the attributes one by one, and the ablations."""
from scripts.reporting import charts
from scripts.reporting.ablation import CLASSED, CLASSLESS, LOSSES, mean_and_deviation
from scripts.reporting.markup import Html, breakable, h, missing, section, table
from scripts.reporting.names import capital, exact, label

# As quoted by later authors: (method, inception score, FID)
_PUBLISHED = {
    "birds": (("Li et al. 2020, this method", "4.09 ± 0.04", "18.37"), ("S2IGAN", "4.29", "14.50"),
              ("Fusion-S2iGan", "5.06", "13.09"), ("Speak-the-Art", "not comparable", "9.76")),
    "flowers": (("Li et al. 2020, this method", "3.23 ± 0.05 (unverified)", "54.76 (unverified)"),)}
_CAUTION = ("As quoted by later authors. FID: TF-Inception, one picture a test sentence (about 29,330 on CUB-200) against the "
            "real test pictures. The field mixes three families that do not compare (TTUR in TensorFlow, torchvision's Inception, "
            "TTUR's weights in torch), and papers differ in crop, resolution and number of pictures, so gaps under about 5 "
            "may be protocol. IS: an Inception fine-tuned on the set. What each number above may be compared with is said "
            "beside it.")


def numbers(findings) -> Html:
    columns, rows = findings.columns, []
    shared = _shared_protocol([n for column in columns for n in column.generator_numbers])
    for title, group in (("Speech encoder", "encoder_numbers"), ("Painted pictures", "generator_numbers")):
        names = dict.fromkeys(n.name for column in columns for n in getattr(column, group))
        if names:
            rows.append([h("b.group", title), *[""] * (len(columns) + 1)])
        for name in names:
            rows.append(_row(name, [column.numbers.get(name) for column in columns], columns, shared))
    notes = _absent(findings)
    if shared:
        notes.append(h("p.small", f"Of all numbers of painted pictures: {'; '.join(shared)}."))
    header = ["number", *([column.label for column in columns] if findings.several else ["value"]),
              "how, and what it compares with"]
    return section("numbers", "All numbers", notes,
                   table(header, rows, numeric=range(1, len(columns) + 1)) if rows else None,
                   _published(findings), _by_attribute(columns), _ablations(findings))


def _row(name: str, of_columns: list, columns, shared: list[str]) -> list:
    first, told = next(n for n in of_columns if n), []
    compared = {}                                  # what it compares with → the runs of which that is so
    for column, n in zip(columns, of_columns):
        if n and (n.comparable or n.published):
            compared.setdefault((n.comparable, n.published), []).append(column.label)
    for (comparable, published), who in compared.items():
        who = f"{', '.join(who)}: " if len(compared) > 1 or len(who) < sum(map(bool, of_columns)) else ""
        text = ("compares with no published number" + comparable.removeprefix("none") if comparable.startswith("none")
                else f"compares with {comparable}")
        told.append(h("span.compares", who + (text if who else capital(text))) if comparable else None)
        told += [h("span.beside", f"{method}: {value}") for method, value in published]
    clauses = [clause for clause in first.protocol if clause not in shared]
    differing = [f"{column.label}: {'; '.join(c for c in n.protocol if c not in first.protocol)}"
                 for column, n in zip(columns, of_columns) if n and set(n.protocol) - set(first.protocol)]
    if first.protocol:
        told.append(h("details", h("summary", "protocol"), "; ".join(clauses), [h("p.differs", d) for d in differing],
                      open=len(columns) == 1) if clauses or differing else None)
    else:
        told.append("the file names no protocol")
    warnings = dict.fromkeys(warning for n in of_columns if n for warning in n.warnings)
    told += [h("span.warning", f"⚠ {warning}") for warning in warnings]
    return [[capital(label(name)), h("code", breakable(name))], *[_cell(n) if n else "–" for n in of_columns], told]


def _cell(number) -> list:
    value = exact(number.value) + (f" ± {exact(number.std)}" if number.std is not None else "") + (
        f" {number.unit}" if number.unit else "")
    return [value, [h("span.beside", f"{kind} {exact(value)}") for kind, value in
                    (("chance", number.chance), ("ceiling", number.ceiling), ("normalised", number.normalised))
                    if value is not None]]


def _absent(findings) -> list:
    """What is not measured, by run."""
    notes = []
    for column in findings.columns:
        who = f"{column.label}: " if findings.several else ""
        # of several runs, one that has no generator lacks no numbers of pictures
        if not column.encoder_numbers and (column.encoder or not findings.several):
            notes.append(missing(f"{who}Missing: the numbers of the speech encoder. ",
                                 h("code", "python ./Audio_to_Image/evaluate.py"), " makes them."))
        if not column.generator_numbers and (column.generator or not findings.several):
            notes.append(missing(f"{who}Missing: the numbers of the pictures. ",
                                 h("code", "python ./StackGAN_v2/evaluate.py"), " makes them."))
        if column.measured_note:
            notes.append(missing(who + column.measured_note))
    return notes


def _shared_protocol(numbers_) -> list[str]:
    """What the protocols of several numbers have in common: told once."""
    protocols = [number.protocol for number in numbers_ if number.protocol]
    return [clause for clause in protocols[0] if all(clause in other for other in protocols)] if len(protocols) > 2 else []


def _published(findings) -> list:
    name = findings.dataset.lower()
    if name not in _PUBLISHED:
        return [h("p.small", "No published number is of this set.")] if any(c.numbers for c in findings.columns) else []
    return [h("h3", "Published numbers"), table(["method", "IS ↑", "FID ↓"], [list(row) for row in _PUBLISHED[name]],
                                                numeric=(1, 2)), h("p.small", _CAUTION)]


def _by_attribute(columns) -> list:
    """The parts of a number, each as a bar between chance and ceiling, one bar a run."""
    with_parts = [(column, number) for column in columns for number in column.generator_numbers if number.parts]
    if not with_parts:
        return []
    names = dict.fromkeys(part.name for _, number in with_parts for part in number.parts)
    rows = []
    for name in names:
        bars = []
        for column, number in with_parts:
            part = next((part for part in number.parts if part.name == name), None)
            if part is not None:
                bars.append(_bar(column.label if len(columns) > 1 else "", part))
        rows.append(h("div.part", h("h4", name.replace("_", " ")), bars))
    title = capital(label(with_parts[0][1].name))
    return [h("h3", f"{title}, by attribute"),
            h("p.small", "The bar is the agreement, in percent, with marks at chance (sentences shuffled) and at the ceiling "
              "(real pictures). Normalised: 0 at chance, 1 at the ceiling."),
            h("div.parts", rows)]


def _bar(who: str, part) -> Html:
    normalised = part.normalised
    if normalised is None and part.chance is not None and part.ceiling is not None and part.ceiling > part.chance:
        normalised = (part.value - part.chance) / (part.ceiling - part.chance)
    beside = " · ".join(f"{kind} {value:.0f}" for kind, value in (("chance", part.chance), ("ceiling", part.ceiling))
                        if value is not None)
    if normalised is not None:
        beside += f" · normalised {normalised:.2f}".replace("-", "−")
    return h("div.run", h("span.who", who) if who else None,
             charts.gauge(part.value, {"chance": part.chance, "ceiling": part.ceiling}),
             h("span.what", h("b", f"{part.value:.0f} %"), f" {beside}"))


def _ablations(findings) -> list:
    """The table that scripts/ablate.sh leaves, a line for each choice of losses."""
    parts = []
    for folder, rows in findings.ablations.items():
        parts.append(h("h3", "What each loss of the encoder is worth"))
        if not rows:
            parts.append(missing(f"{folder}/table.csv holds no rows; scripts/ablate.sh makes it."))
            continue
        names = CLASSED if any(row.get("accuracy") for row in rows) else CLASSLESS
        names = {name: title for name, title in names.items() if any(row.get(name) for row in rows)}
        groups = {}
        for row in rows:
            groups.setdefault(tuple(row[loss] for loss in LOSSES.values()), []).append(row)
        lines = [[*("✓" if on == "1" else "" for on in losses), *(_mean(row.get(name) for row in group) for name in names),
                  *(", ".join(dict.fromkeys(row.get(name, "") for row in group)) for name in ("epochs", "seed"))]
                 for losses, group in groups.items()]
        parts += [h("p.small", "Percent on the test split, with the last snapshot of each training; ± is the deviation over "
                    "seeds. Scores are dot products; only JEL trains these, so rows without it are judged better by the "
                    "columns with cosines. More in ", h("code", f"{folder}/table.md"), "."),
                  table([*LOSSES.values(), *names.values(), "epochs", "seed"], lines,
                        numeric=range(len(LOSSES), len(LOSSES) + len(names) + 2))]
    return parts


def _mean(texts) -> str:
    values = []
    for text in texts:
        try:
            values.append(float(text))
        except (TypeError, ValueError):            # an empty cell
            continue
    if not values:
        return "–"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")
