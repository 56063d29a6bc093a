"""HTML from nested calls. A plain string is text and always escaped; only what `h` and `raw` give is markup."""
import html
import re
from pathlib import Path

_VOID = {"img", "meta", "br", "wbr", "hr", "link", "line", "path", "rect", "circle", "polyline"}

# No script, no network: the browser itself sees to it that the page is only what is in the file.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Finished markup."""


def raw(text: str) -> Html:
    """Declare `text` to be markup: for this project's own style sheet, never for anything out of a file."""
    return Html(text)


def h(spec: str, *children, **attributes) -> Html:
    """One element. spec: 'tag' or 'tag.class.class'; children: text, numbers, Html, None or lists of them.

    Attributes: a trailing underscore is dropped (class_), an inner one becomes '-'; None and False leave one out, True
    gives a bare name.
    """
    tag, *classes = spec.split(".")
    if classes:
        attributes = {"class": " ".join(classes), **attributes}
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{html.escape(str(value))}"')
    words = " ".join(words)
    return Html(f"<{words}/>" if tag in _VOID else f"<{words}>{join(children)}</{tag}>")


def join(children) -> Html:
    """Text and markup of nested lists, one after the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, (list, tuple)):
        return Html("".join(join(child) for child in children))
    return Html(html.escape(str(children)))


def document(title: str, body: list) -> str:
    """The whole page, style sheet included."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    head = h("head", h("meta", charset="utf-8"), h("meta", http_equiv="Content-Security-Policy", content=_POLICY),
             h("meta", name="viewport", content="width=device-width, initial-scale=1"),
             h("meta", name="color-scheme", content="light dark"), h("title", title), h("style", raw(style)))
    return f"<!DOCTYPE html>\n{h('html', head, h('body', h('main', body)), lang='en')}\n"


def table(header: list, rows: list, numeric=()) -> Html:
    """A table; `numeric`: columns set in figures and to the right."""
    def cells(tag, row):
        return [h(f"{tag}.number" if i in numeric else tag, cell) for i, cell in enumerate(row)]
    return h("div.scroll", h("table", h("thead", h("tr", cells("th", header))),
                             h("tbody", [h("tr", cells("td", row)) for row in rows])))


def breakable(name: str) -> list:
    """A long name_of_parts, that a line may break after every part."""
    return [[part, h("wbr")] for part in re.findall(r"[^_]*_|[^_]+", name)]


def missing(*text) -> Html:
    """A note in the place of something that is not there."""
    return h("p.missing", *text)


def section(name: str, title: str, *children) -> Html:
    return h("section", h("h2", title), *children, id=name)
