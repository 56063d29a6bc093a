"""How the runs learned: their statistics as curves. One run is shown in its parts, several over one another."""
from scripts.reporting import charts, found
from scripts.reporting.charts import Line
from scripts.reporting.markup import Html, h, missing, section
from scripts.reporting.names import capital, label

_FOLLOWED = ("fid_", "class_accuracy_", "retrieval_map_", "attribute_agreement_")       # drawn over the iterations


def curves(findings) -> Html:
    encoders = [column for column in findings.columns if column.encoder]
    generators = [column for column in findings.columns if column.generator]
    return section("curves", "How it learned", h("h3", "Speech encoder"),
                   _curves(encoders, "encoder", _encoder, _encoders), h("h3", "Generator"),
                   _curves(generators, "generator", _generator, _generators))


def _curves(columns, part: str, of_one, of_several):
    if not columns:
        return missing(f"No {part} run was given.")
    silent = [getattr(column, part).faults[-1] for column in columns if not getattr(column, part).stats]
    columns = [column for column in columns if getattr(column, part).stats]
    charts_ = [] if not columns else of_one(columns[0]) if len(columns) == 1 else of_several(columns)
    return [missing(fault, ".") for fault in silent], h("div.charts", charts_) if charts_ else None


def _encoder(column) -> list:
    run = column.encoder

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
    return [charts.line_chart("Loss on the training split", losses, "epoch", "weighted loss", log=True),
            charts.line_chart("Test split", tests, "epoch", "%", zero=True)]


def _encoders(columns) -> list:
    def over(title, name, unit, reference=None, **how):
        lines = [Line(column.label, column.encoder.series(name, "epoch")) for column in columns]
        chance = max((column.encoder.series(reference, "epoch") for column in columns), key=lambda p: p[-1:], default=[])
        lines += [Line("chance", chance, reference=True)] if reference else []
        return charts.line_chart(title, lines, "epoch", unit, **how)
    figures = [over("Loss on the training split, all terms", "loss", "weighted loss", log=True)]
    if any(column.encoder.series("eval_accuracy", "epoch") for column in columns):
        return figures + [over("Class accuracy on the test split", "eval_accuracy", "%", "eval_chance", zero=True),
                          over("AP@50 on the test split", "eval_ap50", "%", "eval_ap50_chance", zero=True)]
    return figures + [over("Speech → picture on the test split, R@10", "eval_speech_to_image_r10", "%", zero=True)]


def _generator(column) -> list:
    run, sizes = column.generator, column.sizes

    def by_stage(letter):
        stages = [(i, run.series(f"{letter}{i}", "step")) for i in range(3)]
        return [Line(f"{sizes[i]} px" if i < len(sizes) else f"stage {i + 1}", points) for i, points in stages]
    figures = [charts.line_chart("Discriminators", by_stage("D"), "iteration", "loss"),
               charts.line_chart("Generator, adversarial part", by_stage("G"), "iteration", "loss"),
               charts.line_chart("Generator, all terms", [Line("G", run.series("G", "step"))], "iteration", "loss")]
    kl = run.series("KL", "step")
    if any(value for _, value in kl):              # 0 throughout where the term is off
        figures.append(charts.line_chart("Generator, KL term", [Line("KL", kl)], "iteration", "weighted KL", zero=True))
    return [*figures, *_measured([column])]


def _generators(columns) -> list:
    def last_stage(run, letter):
        return next((points for i in (2, 1, 0) if (points := run.series(f"{letter}{i}", "step"))), [])
    figures = [charts.line_chart(title, [Line(column.label, last_stage(column.generator, letter)) for column in columns],
                                 "iteration", "loss")
               for letter, title in (("D", "Discriminator of the last stage"), ("G", "Generator, adversarial part, last stage"))]
    return [*figures, *_measured(columns)]


def _measured(columns) -> list:
    """Measured numbers over the iterations, where more than one snapshot of a run was measured."""
    values = {}                                    # name of a number → column's place → [(iteration, number)]
    for place, column in enumerate(columns):
        for iteration, folder in found.measured_iterations(column.generator).items():
            for number in found.generator_numbers(folder):
                if number.name.startswith(_FOLLOWED):
                    values.setdefault(number.name, {}).setdefault(place, []).append((iteration, number))
    figures = []
    for name, by_column in values.items():
        longest = max(by_column.values(), key=len)
        if len(longest) < 2:
            continue
        lines = [Line(columns[place].label, [(i, n.value) for i, n in points]) for place, points in by_column.items()]
        ends = [points[i][0] for i in (0, -1) for points in by_column.values()]
        for kind in ("chance", "ceiling"):
            points = [(i, getattr(n, kind)) for i, n in longest if getattr(n, kind) is not None]
            if len({y for _, y in points}) == 1:   # the same throughout: as wide as the runs
                points = [(min(ends), points[0][1]), (max(ends), points[0][1])]
            lines.append(Line(kind, points, reference=True))
        figures.append(charts.line_chart(capital(label(name)), lines, "iteration", longest[0][1].unit or "value"))
    return figures
