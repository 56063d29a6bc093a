"""The charts of how the runs learned: matplotlib figures as SVG, in colours and dashes that the colour-blind can tell.

One run is shown in its parts, several over one another. No text out of a file goes into a figure: titles, units and
legends are set by the templates."""

import io
import re
from dataclasses import dataclass

import numpy as np

from scripts.report import run_records
from scripts.report.words import capital, label

_DASHES = ((), (7, 4), (2, 4), (9, 4, 2, 4), (12, 5), (5, 2))  # of --s1 … --s6 of page.css, pixels on and off
_POINTS = 160  # a line's points at the most: more would be noise and bytes
# drawn in colours that stand for those of page.css, so that they follow the reader's light or dark setting
_STAND_INS = {f"#5e1e{i:02d}": f"var(--s{i})" for i in range(1, 7)} | {
    "#5e1e10": "var(--soft)",
    "#5e1e11": "var(--rule)",
    "#5e1e12": "var(--reference)",
}
_SOFT, _RULE, _REFERENCE = list(_STAND_INS)[6:]
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "text.color": _SOFT,
    "axes.labelcolor": _SOFT,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "axes.edgecolor": _REFERENCE,
    "xtick.color": _REFERENCE,
    "grid.color": _RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.scale_dashes": False,
}
# drawn over the iterations
_FOLLOWED = ("fid_", "kid_", "precision_", "recall_", "class_accuracy_", "retrieval_map_", "attribute_agreement_")


@dataclass
class Line:
    """A name for the legend, points [(x, y)], and whether it is a reference such as chance (grey, dashed)."""

    name: str
    points: list[tuple[float, float]]
    reference: bool = False


@dataclass(frozen=True)
class Chart:
    """svg: '' if there are no values yet; legend: (name, number of the colour, dashes) a line, if there are several."""

    title: str
    x_label: str
    y_label: str
    svg: str = ""
    legend: tuple[tuple[str, int, tuple], ...] = ()


def thin(points, most: int) -> np.ndarray:
    """`[N, 2]`, N at most `most`: means of equal runs of the points whose coordinates are finite."""
    points = np.array(points, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(1)]
    edges = np.linspace(0, len(points), most + 1).astype(int)[1:-1]
    return np.stack([run.mean(0) for run in np.split(points, edges)]) if len(points) > most else points


def line_chart(
    title: str, lines: list[Line], x_label: str, y_label: str, log: bool = False, zero: bool = False
) -> Chart:
    """log: decades on the y axis (values of 0 or less are left out); zero: the y axis begins there."""
    import matplotlib
    from matplotlib.figure import Figure

    kept = [(line, thin(line.points, _POINTS)) for line in lines]
    kept = [(line, points[points[:, 1] > 0] if log else points) for line, points in kept]
    kept = [(line, points) for line, points in kept if len(points)]
    if not kept:
        return Chart(title, x_label, y_label)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the page is not to depend on a user's matplotlibrc
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label)
        legend = []
        for line, points in kept:
            x, y = points.T
            if line.reference:
                axes.plot(x, y, color=_REFERENCE, dashes=(4, 4), clip_on=False)
                axes.annotate(line.name, (x[-1], y[-1]), (0, 4), textcoords="offset points", ha="right")
                continue
            number = len(legend) % len(_DASHES)
            axes.plot(
                x,
                y,
                color=list(_STAND_INS)[number],
                marker="o" if len(x) == 1 else "",
                linewidth=1.8,
                clip_on=False,
                **({"dashes": _DASHES[number]} if _DASHES[number] else {}),
            )
            legend.append((line.name, number + 1, _DASHES[number]))
        _set_axes(axes, *np.concatenate([points for _, points in kept]).T, log, zero)
        return Chart(title, x_label, y_label, _svg(figure), tuple(legend) if len(legend) > 1 else ())


def _set_axes(axes, x, y, log: bool, zero: bool) -> None:
    from matplotlib import ticker

    low, high = (np.log10(y) if log else y).min(), (np.log10(y) if log else y).max()
    low = min(low, 0) if zero else low
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # one value: room around it
        room = 0.5 if log else (abs(low) or 1) / 2
    else:
        room = 0.05 * (high - low)
    low, high = low if zero and low == 0 else low - room, high + room
    if log:
        axes.set_yscale("log")
    if log and high - low > 0.5:
        subs = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=9))
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(*((10.0**low, 10.0**high) if log else (low, high)))
    left = min(0, x.min())  # training begins at 0
    axes.set_xlim(left, x.max() if x.max() > left else left + 1)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tick(value)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: tick(value)))


def tick(value: float) -> str:
    """Short and exact enough for an axis: 0.05, 12, 1500, 20k, 3M."""
    for limit, factor, letter in ((1e10, 1, ""), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0, 1, "")):
        if abs(value) >= limit:
            return f"{value / factor:g}{letter}".replace("-", "−")


def _svg(figure) -> str:
    """The figure in page.css's colours and the page's font; without dates, so that equal figures give equal text."""
    buffer, no_metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
    view, body = re.search(r'<svg[^>]*viewBox="([^"]+)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL).groups()
    body = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # numbered in every figure from 1: not unique on the page
    body = re.sub(r" font-family: [^;]*;| transform=\"rotate\(-0 [^\"]*\"", "", body)
    for stand_in, colour in _STAND_INS.items():
        body = body.replace(stand_in, colour)
    return f'<svg viewBox="{view}" aria-hidden="true">{body}</svg>'


# ---- which charts ----


def encoder_charts(columns) -> list[Chart]:
    """columns: with statistics of their encoders."""
    several, run = len(columns) > 1, columns[0].encoder
    losses = [Line(column.label if several else "total", column.encoder.series("loss", "epoch")) for column in columns]
    for name, title, key in (
        ("jel", "JEL", ""),
        ("l1", "L1", "lambda_l1"),
        ("distill", "distillation", "lambda_distill"),
    ):
        weight = run.options.get(key, 1) if run_records.is_number(run.options.get(key, 1)) else 1
        losses += (
            []
            if several
            else [
                Line(
                    f"{weight:g} × {title}" if weight != 1 else title,
                    [(x, weight * y) for x, y in run.series(name, "epoch")],
                )
            ]
        )
    title = "Loss on the training split" + ", all terms" * several
    charts = [line_chart(title, losses, "epoch", "weighted loss", log=True)]
    if any(column.encoder.series("eval_accuracy", "epoch") for column in columns):
        tests = [("class accuracy", "eval_accuracy", "eval_chance"), ("AP@50", "eval_ap50", "eval_ap50_chance")]
    else:
        tests = [(f"speech → image, R@{k}", f"eval_speech_to_image_r{k}", "") for k in (10, 5, 1)]
    if not several:
        lines = [Line(title, run.series(name, "epoch")) for title, name, _ in tests]
        lines.append(Line("chance", run.series("eval_chance", "epoch"), reference=True))
        return [*charts, line_chart("Test split", lines, "epoch", "%", zero=True)]
    for title, name, chance in tests:
        lines = [Line(column.label, column.encoder.series(name, "epoch")) for column in columns]
        longest = max((column.encoder.series(chance, "epoch") for column in columns), key=lambda points: points[-1:])
        lines.append(Line("chance", longest, reference=True))
        charts.append(line_chart(capital(f"{title}, on the test split"), lines, "epoch", "%", zero=True))
    return charts


# Terms of a training without discriminators.
_TERMS = {"colour": "colours", "match": "matching"}


def generator_charts(columns) -> list[Chart]:
    """columns: with statistics of their generators."""
    run, sizes, charts = columns[0].generator, columns[0].sizes, []
    adversarial = not any(column.generator.series("colour", "step") for column in columns)
    for letter, title in (("D", "Discriminator"), ("G", "Generator, adversarial part")):
        if len(columns) > 1:
            title += f"{' of' if letter == 'D' else ','} the last branch"
            lines = [
                Line(
                    column.label,
                    next(
                        (points for i in (2, 1, 0) if (points := column.generator.series(f"{letter}{i}", "step"))), []
                    ),
                )
                for column in columns
            ]
        else:
            title += "s" * (letter == "D")
            lines = [
                Line(f"{sizes[i]} px" if i < len(sizes) else f"branch {i + 1}", run.series(f"{letter}{i}", "step"))
                for i in range(3)
            ]
        if adversarial or any(line.points for line in lines):
            charts.append(line_chart(title, lines, "iteration", "loss"))
    if len(columns) == 1:
        terms = [Line(told, run.series(name, "step")) for name, told in _TERMS.items()]
        if terms[0].points:
            charts.append(line_chart("Generator, colours and matching", terms, "iteration", "loss"))
        charts.append(line_chart("Generator, all terms", [Line("G", run.series("G", "step"))], "iteration", "loss"))
        kl = run.series("KL", "step")
        if any(value for _, value in kl):  # 0 throughout where the term is off
            charts.append(line_chart("Generator, KL term", [Line("KL", kl)], "iteration", "weighted KL", zero=True))
    return charts + _watched(columns) + _measured(columns)


def _watched(columns) -> list[Chart]:
    """What main.py's --metrics_every and --best_by measured in training."""
    stats = [line for column in columns for line in column.generator.stats]
    names = sorted({key for line in stats for key in line if key.startswith(("eval_fid_", "eval_kid_"))})
    return [
        line_chart(
            f"{capital(label(name.removeprefix('eval_')))}, in training",
            [Line(column.label, column.generator.series(name, "step")) for column in columns],
            "iteration",
            "value",
        )
        for name in names
    ]


def _measured(columns) -> list[Chart]:
    """Measured numbers over the iterations, where more than one snapshot of a run was measured."""
    values = {}  # name of a number → column's place → [(iteration, number)]
    for place, column in enumerate(columns):
        for iteration, number in run_records.numbers_by_iteration(column.generator):
            if number.name.startswith(_FOLLOWED):
                values.setdefault(number.name, {}).setdefault(place, []).append((iteration, number))
    charts = []
    for name, by_column in values.items():
        longest = max(by_column.values(), key=len)
        if len(longest) < 2:
            continue
        lines = [Line(columns[place].label, [(i, n.value) for i, n in points]) for place, points in by_column.items()]
        ends = [points[i][0] for i in (0, -1) for points in by_column.values()]
        for kind in ("chance", "ceiling"):
            points = [(i, getattr(n, kind)) for i, n in longest if getattr(n, kind) is not None]
            if len({y for _, y in points}) == 1:  # the same throughout: as wide as the runs
                points = [(min(ends), points[0][1]), (max(ends), points[0][1])]
            lines.append(Line(kind, points, reference=True))
        charts.append(line_chart(capital(label(name)), lines, "iteration", longest[0][1].unit or "value"))
    return charts
