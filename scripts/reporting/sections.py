"""The page's sections, top to bottom: each takes what was found and gives markup."""
import re
import shlex

from common import ROOT
from common.cli import UserError
from scripts.reporting import charts, found, media, settings
from scripts.reporting.charts import Line
from scripts.reporting.markup import Html, h, missing, table

# start of a name in the files, the longest that fits → what a reader calls it; others keep their own name
_LABELS = {
    "speech_accuracy": "class accuracy from speech", "speech_ap50": "AP@50 from speech",
    "speech_to_image_map": "speech → real picture, mAP", "image_to_speech_map": "real picture → speech, mAP",
    "fid_lite0": "Fréchet distance, EfficientNet-lite0 (no FID)", "fid": "Fréchet inception distance (FID)",
    "kid_lite0": "kernel distance, EfficientNet-lite0 (no KID)", "kid": "kernel inception distance (KID)",
    "is_lite0": "inception score by EfficientNet-lite0 (no IS)", "is": "inception score (IS)",
    "precision": "precision of the pictures", "recall": "recall of the pictures",
    "retrieval_map": "real picture → painted, mAP", **{f"retrieval_r{k}": f"real picture → painted, R@{k}" for k in (1, 5, 10)},
    "class_accuracy": "class accuracy of the painted pictures", "attribute_agreement": "attributes painted as said",
    **{f"{a}_to_{b}_r{k}": f"{start} → {end}, R@{k}" for a, b, start, end in
       (("speech", "image", "speech", "real picture"), ("image", "speech", "real picture", "speech")) for k in (1, 5, 10)},
}
_FOLLOWED = ("fid_", "class_accuracy_", "retrieval_map_", "attribute_agreement_")       # drawn over the iterations
# As quoted by later authors; what stands in the way of a comparison is named beside them.
_PUBLISHED = {
    ("birds", "fid_inception"): "18.37", ("birds", "is_finetuned"): "4.09 ± 0.04",
    ("flowers", "fid_inception"): "54.76 (unverified)", ("flowers", "is_finetuned"): "3.23 ± 0.05 (unverified)"}
_CAUTION = ("Published numbers are as quoted by later authors: FID with TF-Inception over one picture a test sentence, IS with "
            "an Inception fine-tuned on the set. Crop, resolution and number of pictures differ between papers, so gaps "
            "under about 5 of FID may be protocol.")


def pretty(class_name: str) -> str:
    """'005.Umber_bellied_Grosbeak' → 'Umber bellied Grosbeak'."""
    return re.sub(r"^\d+\.", "", class_name).replace("_", " ")


def percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def label(name: str) -> str:
    known = [start for start in _LABELS if name == start or name.startswith(f"{start}_") or
             start.endswith("lite0") and name.startswith(start)]
    return _LABELS[max(known, key=len)] if known else name


def counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


# ---- head ----

def head(findings) -> Html:
    split, sizes = findings.split, findings.sizes
    stages = ("at " + " and ".join(", ".join(map(str, sizes)).rsplit(", ", 1)) + " pixels") if sizes else "in several stages"
    if split.has_classes:
        kinds = len(set(split.labels))
        amount = counted(len(split.items), "test picture", "test pictures") + " of " + counted(kinds, "class", "classes")
        new = f"any of the {kinds} classes" if findings.unseen else "any of the pictures"
    else:
        amount, new = counted(len(split.items), "test picture", "test pictures"), "any of the pictures"
    sentence = (f"One network listens to a spoken sentence, and another paints what it heard, {stages}. No written word is used "
                f"on the way, and neither has met {new} that the sentences below describe.")
    return h("header", h("p.kicker", f"{findings.dataset} · {amount}"), h("h1", "From spoken words to pictures"),
             h("p.lede", sentence), _tiles(findings))


def _tiles(findings) -> Html:
    encoder = {number.name: number for number in findings.encoder_numbers}
    painted = {number.name: number for number in findings.generator_numbers}
    tiles = []
    if "speech_accuracy" in encoder or findings.split.has_classes:
        tiles += [_tile("Right class from speech", encoder.get("speech_accuracy"), "%", "pictures matched to their class by "
                        "how the class is spoken of"),
                  _tile("AP@50", encoder.get("speech_ap50"), "%", "right pictures among the 50 nearest to a class")]
    else:
        tiles += [_tile("Speech → picture R@10", encoder.get("speech_to_image_r10"), "%", "right picture among the 10 nearest "
                        "to a sentence"), _tile("mAP", encoder.get("speech_to_image_map"), "%", "speech → real picture")]
    agreement = next((n for name, n in painted.items() if name.startswith("attribute_agreement")), None)
    tiles.append(_tile("Attributes as said", agreement, "%", "attributes named in a sentence that a probe reads in its picture"))
    distance = next((n for start in ("fid_inception", "fid_") for name, n in painted.items() if name.startswith(start)), None)
    lite0 = distance is not None and "lite0" in distance.name
    tiles.append(_tile("FID" if distance and not lite0 else "Fréchet distance", distance, "", "between painted and real "
                       "pictures" + (", by EfficientNet-lite0, no FID" if lite0 else "") + "; lower is better"))
    return h("div.tiles", tiles)


def _tile(title: str, number, unit: str, meaning: str) -> Html:
    if number is None:
        return h("div.tile", h("h3", title), h("p.value.absent", "not measured"), h("p.note", meaning))
    shown = percent(number.value) if unit else f"{number.value:.1f}" if number.value < 1000 else f"{number.value:,.0f}"
    highest = number.ceiling if number.name == "speech_ap50" and number.ceiling else 100
    bar = charts.gauge(number.value, {"chance": number.chance, "ceiling": number.ceiling}, highest) if unit else None
    references = [f"{name} {percent(value)}" for name, value in (("chance", number.chance), ("ceiling", number.ceiling))
                  if value is not None]
    return h("div.tile", h("h3", title), h("p.value", shown), bar, h("p.reference", " · ".join(references)) if references
             else None, h("p.note", meaning))


# ---- sentences ----

def sentences(findings) -> Html:
    shown = findings.sentences
    intro = (f"{counted(len(shown), 'test sentence', 'test sentences')}, chosen by rule before any was looked at: classes "
             "evenly from first to last, picture and caption changing. All are shown as they came out.")
    notes = [missing(note) for note in findings.notes]
    cards = [_card(findings, sentence) for sentence in shown]
    return _section("heard", "What was said, what was painted", h("p.intro", intro) if shown else None, notes,
                    cards or missing("There is no sentence to show."))


def _card(findings, sentence) -> Html:
    figures = [_figure(*_real(findings, sentence), pixelated=True)]
    figures += [_figure(picture, f"{picture.shape[0]} px", pixelated=True, stage=True) for picture in sentence.stages]
    if sentence.more:
        four = [h("img", src=media.picture_uri(picture), alt="the same sentence, other noise", loading="lazy")
                for picture in sentence.more]
        figures.append(h("figure.more", h("div.four", four), h("figcaption", "other noises")))
    kind = h("p.kind", pretty(sentence.item.class_name)) if findings.split.has_classes else None
    words = h("p.words", sentence.words) if sentence.words else h("p.words.absent", "(no words are known)")
    return h("article.sentence", h("div.said", h("div", kind, words), player(sentence)), h("div.pictures", figures))


def player(sentence) -> Html:
    """An audio element, or a note that says why there is none."""
    if sentence.sound is None:
        return h("p.silent", "no sound belongs to it")
    try:
        return h("audio", controls=True, preload="metadata", src=media.sound_uri(sentence.sound))
    except UserError as error:
        return h("p.silent", "its sound is missing", title=str(error))


def _real(findings, sentence):
    """(pixels or None, caption)."""
    try:
        if findings.sizes:
            return (media.real_picture(sentence.item.image, findings.boxes.get(sentence.item.key), findings.sizes[-1]),
                    f"real picture, {findings.sizes[-1]} px")
        return media.plain_picture(sentence.item.image, 192), "real picture"
    except UserError:
        return None, "real picture: missing"


def _figure(pixels, caption: str, pixelated=False, stage=False) -> Html:
    if pixels is None:
        return h("figure", h("div.hole"), h("figcaption", caption))
    crisp = pixelated and pixels.shape[0] < 192                # enlarged: show the pixels as they are
    return h("figure.painted" if stage else "figure",
             h("img", src=media.picture_uri(pixels), alt=caption, class_="crisp" if crisp else None, loading="lazy"),
             h("figcaption", caption))


def interpolation(findings) -> Html:
    if not findings.strip:
        return _section("between", "From one sentence to another", missing(
            "There is no interpolation: it needs a generator, its speech features and two sentences."))
    first, second = findings.ends
    ends = h("div.ends", [h(f"div.end.{side}", h("p.words", sentence.words or "(no words are known)"), player(sentence))
                          for side, sentence in (("left", first), ("right", second))])
    pictures = [h("img", src=media.picture_uri(picture), alt=f"{10 * i} % of the way", title=f"{10 * i} %", loading="lazy")
                for i, picture in enumerate(findings.strip)]
    return _section("between", "From one sentence to another", h("p.intro", "Eleven pictures on the straight line between two "
                    "embeddings, one noise along it. The two are those, among the sentences above, that sound least alike to "
                    "the encoder."), ends, h("div.strip", pictures))


# ---- curves ----

def curves(findings) -> Html:
    return _section("curves", "How it learned", h("h3", "Speech encoder"), _encoder_curves(findings.encoder),
                    h("h3", "Generator"), _generator_curves(findings))


def _encoder_curves(run) -> Html:
    if run is None:
        return missing("No encoder run was given (--encoder_run).")
    if not run.stats:
        return missing(run.faults[-1], ".")

    def weighted(name, title, weight_name=None):
        weight = run.options.get(weight_name, 1) if weight_name else 1
        weight = weight if found.is_number(weight) else 1
        return Line(f"{weight:g} × {title}" if weight != 1 else title,
                    [(x, weight * y) for x, y in run.series(name, "epoch")])
    losses = [Line("total", run.series("loss", "epoch")), weighted("jel", "JEL"), weighted("l1", "L1", "lambda_l1"),
              weighted("distill", "distillation", "lambda_distill")]
    if run.series("eval_accuracy", "epoch"):
        tests = [Line("class accuracy", run.series("eval_accuracy", "epoch")), Line("AP@50", run.series("eval_ap50", "epoch")),
                 Line("chance", run.series("eval_chance", "epoch"), reference=True)]
    else:
        tests = [Line(f"R@{k}", run.series(f"eval_speech_to_image_r{k}", "epoch")) for k in (10, 5, 1)]
    return h("div.charts", charts.line_chart("Loss on the training split", losses, "epoch", "weighted loss", log=True),
             charts.line_chart("Test split", tests, "epoch", "%", zero=True))


def _generator_curves(findings) -> Html:
    run = findings.generator
    if run is None:
        return missing("No generator run was given (--generator_run).")
    if not run.stats:
        return missing(run.faults[-1], ".")
    sizes = findings.sizes

    def by_stage(letter):
        stages = [(i, run.series(f"{letter}{i}", "step")) for i in range(3)]
        return [Line(f"{sizes[i]} px" if i < len(sizes) else f"stage {i + 1}", points) for i, points in stages]
    figures = [charts.line_chart("Discriminators", by_stage("D"), "iteration", "loss"),
               charts.line_chart("Generator, adversarial part", by_stage("G"), "iteration", "loss"),
               charts.line_chart("Generator, all terms", [Line("G", run.series("G", "step"))], "iteration", "loss"),
               charts.line_chart("Generator, KL term", [Line("KL", run.series("KL", "step"))], "iteration", "weighted KL",
                                 zero=True)]
    return h("div.charts", figures, _measured_curves(run))


def _measured_curves(run) -> list:
    """Measured numbers over the iterations, where more than one snapshot was measured."""
    values = {}
    for iteration, folder in found.measured_iterations(run).items():
        for number in found.generator_numbers(folder):
            values.setdefault(number.name, []).append((iteration, number))
    figures = []
    for name, points in values.items():
        if len(points) > 1 and name.startswith(_FOLLOWED):
            lines = [Line(label(name), [(i, n.value) for i, n in points])]
            lines += [Line(kind, [(i, getattr(n, kind)) for i, n in points if getattr(n, kind) is not None], reference=True)
                      for kind in ("chance", "ceiling")]
            figures.append(charts.line_chart(_capital(label(name)), lines, "iteration", points[0][1].unit or "value"))
    return figures


# ---- numbers, settings, time ----

def numbers(findings) -> Html:
    published = {name: value for (dataset, name), value in _PUBLISHED.items() if dataset == findings.dataset}
    shared, rows = _shared_protocol(findings.generator_numbers), []
    for number in [*findings.encoder_numbers, *findings.generator_numbers]:
        beside = [h("span.beside", f"{kind} {_exact(value)}") for kind, value in
                  (("chance", number.chance), ("ceiling", number.ceiling), ("normalised", number.normalised))
                  if value is not None]
        protocol = ["; ".join(clause for clause in number.protocol if clause not in shared)
                    or ("" if number.protocol else "the file names no protocol"),
                    [h("span.warning", f"⚠ {warning}") for warning in number.warnings]]
        value = _exact(number.value) + (f" ± {_exact(number.std)}" if number.std is not None else "") + (
            f" {number.unit}" if number.unit else "")
        paper = next((text for start, text in published.items() if number.name.startswith(start)), "")
        rows.append([[_capital(label(number.name)), h("code", number.name)], value, beside,
                     *([paper] if published else []), protocol])
    notes = []
    if not findings.encoder_numbers:
        notes.append(missing("Missing: the numbers of the speech encoder. ", h("code", "python ./Audio_to_Image/evaluate.py"),
                             " makes them."))
    if not findings.generator_numbers:
        notes.append(missing("Missing: the numbers of the pictures. ", h("code", "python ./StackGAN_v2/evaluate.py"),
                             " makes them."))
    if findings.measured_note:
        notes.append(missing(findings.measured_note))
    if shared:
        notes.append(h("p.small", f"Of all numbers of painted pictures: {'; '.join(shared)}."))
    header = ["number", "value", "beside it", *(["published"] if published else []), "protocol"]
    return _section("numbers", "All numbers", notes, table(header, rows, numeric=(1,)) if rows else None,
                    h("p.small", _CAUTION) if published else None, _by_attribute(findings.generator_numbers))


def _shared_protocol(numbers_) -> list[str]:
    """What the protocols of several numbers have in common: told once."""
    protocols = [number.protocol for number in numbers_ if number.protocol]
    return [clause for clause in protocols[0] if all(clause in other for other in protocols)] if len(protocols) > 2 else []


def _by_attribute(numbers_) -> list:
    """The parts of a number, each as a bar between chance and ceiling."""
    return [[h("h3", f"{_capital(label(number.name))}, by attribute"),
             h("p.small", "The bar is the agreement, in percent; its marks are chance and ceiling."),
             h("div.parts", [h("div.part", h("span", part.name.replace("_", " ")),
                               charts.gauge(part.value, {"chance": part.chance, "ceiling": part.ceiling}),
                               h("span", f"{part.value:.0f}")) for part in number.parts])]
            for number in numbers_ if number.parts]


def _exact(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def method(findings) -> Html:
    if findings.encoder is None and findings.generator is None:
        return _section("method", "What differs from the published method", missing("No run was given, so nothing is known."))
    rows = settings.departures(findings.encoder, findings.generator, findings.dataset)
    faults = [missing(fault) for run in (findings.encoder, findings.generator) if run and not run.options
              for fault in run.faults]
    added, sized = ([d for d in rows if d.added is kind] for kind in (True, False))
    parts = []
    for title, some in (("Additions", added), ("The same method, other settings", sized)):
        parts += [h("h3", title), table(["part", "setting", "here", "published"],
                                        [[d.part, d.name, d.here, d.published] for d in some], numeric=(2, 3))
                  if some else h("p", "None.")]
    return _section("method", "What differs from the published method", faults, parts)


def times(findings) -> Html:
    stages = findings.stages
    if stages:
        longest = max(stage["seconds"] for stage in stages) or 1
        rows = [[str(stage.get("name", stage.get("stage", ""))), duration(stage["seconds"]),
                 h("div.bar", style=f"width:{100 * stage['seconds'] / longest:.1f}%")] for stage in stages]
        rows.append([h("b", "together"), h("b", duration(sum(stage["seconds"] for stage in stages))), ""])
        listed = table(["stage", "time", ""], rows, numeric=(1,))
    else:
        listed = missing("No recipe has noted how long its stages took (stages.jsonl in --recipe_dir).")
    machine = list(findings.machine)
    for name, run in (("encoder", findings.encoder), ("generator", findings.generator)):
        if run and run.options:
            machine.append((f"{name} trained on", " ".join(str(run.options.get(key, "")) for key in ("device", "precision"))
                            + (f", {run.environment['date'][:10]}" if isinstance(run.environment.get("date"), str) else "")))
    versions = next((run.environment["versions"] for run in (findings.generator, findings.encoder)
                     if run and isinstance(run.environment.get("versions"), dict)), {})
    if versions:
        machine.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)))
    revision = next((run.environment["revision"] for run in (findings.generator, findings.encoder)
                     if run and run.environment.get("revision")), None)
    if revision:
        machine.append(("revision", str(revision)))
    return _section("time", "Time and machine", h("div.pair", h("div.times", listed),
                                                  h("dl", [[h("dt", what), h("dd", which)] for what, which in machine])))


def duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def next_steps(findings) -> Html:
    python = ".venv/bin/python" if (ROOT / ".venv").is_dir() else "python"
    files = "".join(f" \\\n    --{option} {shlex.quote(path)}" for option, path in
                    (("encoder", findings.encoder_file), ("generator", findings.generator_file)) if path)
    commands = (
        ("Paint what you say: record yourself (any rate, any format that soundfile reads), and give the file.",
         f"{python} ./StackGAN_v2/interpolation.py --type inference --wav me.wav --seeds 0-7{files}"),
        ("Or write a sentence and have it spoken.",
         f"{python} ./StackGAN_v2/interpolation.py --type inference --text 'a small red bird with a white belly'{files}"),
        ("Walk from one sentence to another.",
         f"{python} ./StackGAN_v2/interpolation.py --type interpolation --wav one.wav two.wav{files}"))
    return _section("next", "What to try next", [h("div.try", h("p", text), h("pre", command)) for text, command in commands],
                    h("p", "More time paints better pictures, and the same recipes train on birds, flowers, places or a set of "
                      "your own: see ", h("code", "README.md"), "."))


def _section(name: str, title: str, *children) -> Html:
    return h("section", h("h2", title), *children, id=name)
