"""Page data → the HTML page."""

import shlex
from pathlib import Path

from common import ROOT
from scripts.report import ablation, figures, media, sections, words


def make_environment():
    """The templates' environment, with the filters that they use; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        words.label,
        words.class_words,
        words.capital,
        words.counted,
        words.percent,
        words.exact,
        media.image_uri,
    )
    environment.filters |= {filter_.__name__: filter_ for filter_ in filters} | {
        "quoted": shlex.quote,
        "share": share,
        "breakable": breakable,
        "drawing": Markup,
    }
    return environment


def render(data) -> str:
    """The page, one file that needs no other. Every text is escaped by the templates, which hold all markup."""
    groups, shared = sections.number_groups(data)
    part_charts = []
    for part, title, charts in (
        ("encoder", "Speech encoder", figures.encoder_charts),
        ("generator", "Generator", figures.generator_charts),
    ):
        given = [column for column in data.columns if getattr(column, part)]
        told = [column for column in given if getattr(column, part).stats]
        faults = [getattr(column, part).faults[-1] for column in given if column not in told]
        part_charts.append((part, title, bool(given), faults, charts(told) if told else []))
    page = (
        make_environment()
        .get_template("page.html")
        .render(
            data=data,
            tiles=sections.tiles(data),
            part_charts=part_charts,
            number_groups=groups,
            shared=shared,
            published=sections.published(data.dataset),
            attributes=sections.attributes(data),
            ablations={folder: ablation.summary(rows, 1) for folder, rows in data.ablations.items()},
            method=sections.method(data),
            times=sections.stage_times(data),
            origins=sections.origins(data),
            files=sections.trained_files(data),
            python=".venv/bin/python" if (ROOT / ".venv").is_dir() else "python",
        )
    )
    return page.encode("utf-8", "replace").decode()  # halves of characters, which JSON can hold and a file cannot


def share(value: float, top: float = 100) -> str:
    """A number as the width of a bar from 0 to `top`: '42.00%'."""
    return f"{100 * min(max(value / top, 0), 1):.2f}%"


def breakable(name: str):
    """A long name_of_parts, that a line may break after every part."""
    from markupsafe import Markup, escape

    return Markup("_<wbr/>").join(escape(part) for part in name.split("_"))
