"""Line charts as SVG, without a library: axes with round numbers, a legend, colours and dashes that the colour-blind tell
apart. The colours themselves are in page.css, so that they follow the reader's light or dark setting."""
import math

from scripts.reporting.markup import Html, h

_WIDTH, _HEIGHT = 500, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 12, 44
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POINTS = 160                                      # a line's points at the most: more would be noise and bytes


class Line:
    """One line: a name for the legend, points [(x, y)], and whether it is a reference such as chance (grey, dashed)."""

    def __init__(self, name: str, points: list[tuple[float, float]], reference: bool = False):
        self.name, self.reference = name, reference
        self.points = thin([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)], _POINTS)


def thin(points, most: int):
    """Means of equal runs of points, `most` at the most."""
    if len(points) <= most:
        return points
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    runs = [points[a:b] for a, b in zip(edges, edges[1:])]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def line_chart(title: str, lines: list[Line], x_label: str, y_label: str, log: bool = False, zero: bool = False) -> Html:
    """A figure with its title and legend. log: decades on the y axis (values of 0 or less are left out); zero: the y axis
    begins there. A chart without points says so."""
    if log:
        for line in lines:
            line.points = [(x, math.log10(y)) for x, y in line.points if y > 0]
    lines = [line for line in lines if line.points]
    if not lines:
        return h("figure.chart", h("figcaption", title), h("p.missing", "No values yet."))
    xs, ys = ([point[i] for line in lines for point in line.points] for i in (0, 1))
    x_ticks = ticks(min(0, *xs), max(xs), 6)               # training begins at 0
    y_ticks = _decades(min(ys), max(ys)) if log else ticks(min(0.0, *ys) if zero else min(ys), max(ys), 5)
    x_range = (x_ticks[0], max(xs)) if max(xs) > x_ticks[0] else (x_ticks[0], x_ticks[0] + 1)
    power = 0 if log else _power_of_ticks(y_ticks)
    y_range = (min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])) if log else (y_ticks[0], y_ticks[-1])

    def place(x, y):
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))

    parts = []
    for tick in y_ticks:
        _, y = place(x_range[0], tick)
        parts += [h("line.rule", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_n(y), y2=_n(y)),
                  h("text.tick", _power(tick) if log else number(round(tick / 10.0 ** power, 9)), x=_LEFT - 8,
                    y=_n(y + 4), text_anchor="end")]
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            x, _ = place(tick, y_range[0])
            parts += [h("line.notch", x1=_n(x), x2=_n(x), y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 4),
                      h("text.tick", number(tick), x=_n(x), y=_HEIGHT - _BOTTOM + 18, text_anchor="middle")]
    parts += [h("line.axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM),
              h("text.label", x_label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, text_anchor="middle"),
              h("text.label", y_label + (f", × 10{str(power).translate(_RAISED)}" if power else ""), x=0, y=0,
                text_anchor="middle", transform=f"translate(11 {(_HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)")]
    for line, style in zip(lines, _styles(lines)):
        corners = [place(x, y) for x, y in line.points]
        if len(corners) == 1:
            parts.append(h("circle", class_=f"dot {style}", cx=_n(corners[0][0]), cy=_n(corners[0][1]), r=3.5))
        else:
            if line.reference:                                     # named where it ends: two of them look alike
                parts.append(h("text.label", line.name, x=_n(corners[-1][0]), y=_n(corners[-1][1] - 6), text_anchor="end"))
            path = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in corners)
            parts.append(h("path", class_=f"line {style}", d=path))
    drawing = h("svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title}: {y_label} by {x_label}")
    named = [line for line in lines if not line.reference]
    return h("figure.chart", h("figcaption", title), _legend(named) if len(named) > 1 else None, drawing)


def _styles(lines):
    series = 0
    for line in lines:
        series += not line.reference
        yield "reference" if line.reference else f"series{(series - 1) % 6 + 1}"


def _legend(lines):
    return h("ul.legend", [h("li", h("svg", h("line", class_=f"line {style}", x1=1, x2=25, y1=6, y2=6), viewBox="0 0 26 12",
                                     width=26, height=12, aria_hidden="true"), line.name)
                           for line, style in zip(lines, _styles(lines))])


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, `about` of them, from at or below `low` to at or above `high`."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    decimals = 3 - math.floor(math.log10(step))
    return [round(i * step, decimals) for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Logarithms of 1, 10, 100, … within a range of logarithms; of 1, 2, 5, 10, … where it is narrow."""
    for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [d + math.log10(m) for d in range(math.floor(low), math.ceil(high) + 1) for m in marks]
        inside = [tick for tick in found if low - 0.05 <= tick <= high + 0.05]
        if len(inside) >= 3:
            return inside
    return inside if len(inside) >= 2 and inside[0] != inside[-1] else [low - 0.1, high + 0.1]


def _power_of_ticks(y_ticks) -> int:
    """The power of ten to take out of very small values, so that their ticks stay short."""
    largest = max(map(abs, y_ticks))
    return 3 * math.floor(math.log10(largest) / 3) if 0 < largest < 0.02 else 0


def _power(tick: float) -> str:
    return number(float(f"{10 ** tick:.2g}"))


def number(value: float) -> str:
    """Short and exact enough for an axis: 0.05, 12, 1,500, 20k, 3M."""
    for limit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1000 if letter == 'k' else 1e6):g}{letter}".replace("-", "−")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return text.replace("-", "−")


def _n(value: float) -> str:
    return f"{value:.1f}"


def gauge(value: float, marks: dict[str, float | None], top: float = 100) -> Html:
    """A bar from 0 to `top` filled to `value`, with a mark for each number in `marks`."""
    def at(x):
        return f"{100 * min(max(x / top, 0), 1):.2f}%"
    marks = [h("i.mark", style=f"left:{at(x)}", title=f"{name} {x:.1f}") for name, x in marks.items() if x is not None]
    return h("div.gauge", h("b", style=f"width:{at(value)}"), marks)
