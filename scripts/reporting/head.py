"""The top of the page: what it is about, and the four numbers that say most."""
from scripts.reporting import charts
from scripts.reporting.markup import Html, h
from scripts.reporting.names import counted, percent


def head(findings) -> Html:
    split = findings.split
    sizes = next((column.sizes for column in findings.columns if column.sizes), [])
    stages = ("at " + " and ".join(", ".join(map(str, sizes)).rsplit(", ", 1)) + " pixels") if sizes else "in several stages"
    amount, new = counted(len(split.items), "test picture", "test pictures"), "any of the pictures"
    if split.has_classes:
        kinds = len(set(split.labels))
        amount += " of " + counted(kinds, "class", "classes")
        new = f"any of the {kinds} classes" if findings.unseen else new
    sentence = (f"One network listens to a spoken sentence, and another paints what it heard, {stages}. No written word is used "
                f"on the way, and neither has met {new} that the sentences below describe.")
    if findings.several:
        sentence += f" Here {len(findings.columns)} runs stand side by side: {', '.join(c.label for c in findings.columns)}."
    return h("header", h("p.kicker", f"{findings.dataset} · {amount}"), h("h1", "From spoken words to pictures"),
             h("p.lede", sentence), h("div.tiles", _tiles(findings)))


def _tiles(findings) -> list:
    columns = findings.columns

    def named(*starts):
        """Each column's first number whose name begins so, in the order of `starts`."""
        return [next((n for start in starts for name, n in column.numbers.items() if name.startswith(start)), None)
                for column in columns]
    if findings.split.has_classes:
        tiles = [_tile(columns, "Right class from speech", named("speech_accuracy"), "%", "pictures matched to their class by "
                       "how the class is spoken of"),
                 _tile(columns, "AP@50", named("speech_ap50"), "%", "right pictures among the 50 nearest to a class")]
    else:
        tiles = [_tile(columns, "Speech → picture R@10", named("speech_to_image_r10"), "%", "right picture among the 10 nearest "
                       "to a sentence"), _tile(columns, "mAP", named("speech_to_image_map"), "%", "speech → real picture")]
    tiles.append(_tile(columns, "Attributes as said", named("attribute_agreement"), "%", "attributes named in a sentence that a "
                       "probe reads in its picture"))
    distances = named("fid_inception", "fid_")
    lite0 = any(n and "lite0" in n.name for n in distances)
    real = any(n and "lite0" not in n.name for n in distances)
    return [*tiles, _tile(columns, "FID" if real and not lite0 else "Fréchet distance", distances, "", "between painted and real "
                          "pictures" + (", by EfficientNet-lite0, no FID" if lite0 else "") + "; lower is better")]


def _tile(columns, title: str, numbers: list, unit: str, meaning: str) -> Html:
    """One number of all columns; a single column's is set large, several are listed."""
    known = [number for number in numbers if number]
    if not known:
        return h("div.tile", h("h3", title), h("p.value.absent", "not measured"), h("p.note", meaning))
    references, own = [], []                       # one value for all, or each run its own
    for name in ("chance", "ceiling"):
        values = {percent(value) for number in known if (value := getattr(number, name)) is not None}
        if len(values) == 1:
            references.append(f"{name} {values.pop()}")
        elif values:
            own.append(name)
    references += [f"marks: {' and '.join(own)} of each"] if own else []
    if len(columns) == 1:
        body = [h("p.value", _shown(known[0], unit)), _gauge(known[0]) if unit else None]
    else:
        body = [h("div.each", h("span", column.label), h("b", _shown(number, unit)), _gauge(number) if unit else None)
                for column, number in zip(columns, numbers) if number]
    return h("div.tile", h("h3", title), body, h("p.reference", " · ".join(references)) if references else None,
             h("p.note", meaning))


def _shown(number, unit: str) -> str:
    return percent(number.value) if unit else f"{number.value:.1f}" if number.value < 1000 else f"{number.value:,.0f}"


def _gauge(number) -> Html:
    highest = number.ceiling if number.name.startswith("speech_ap50") and number.ceiling else 100
    return charts.gauge(number.value, {"chance": number.chance, "ceiling": number.ceiling}, highest)
