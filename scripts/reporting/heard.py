"""What was said and what was painted: the sentences, and the way from one to another."""
from common.cli import UserError
from scripts.reporting import media
from scripts.reporting.markup import Html, h, missing, section
from scripts.reporting.names import counted, pretty


def sentences(findings) -> Html:
    shown = findings.sentences
    intro = (f"{counted(len(shown), 'test sentence', 'test sentences')}, chosen by rule before any was looked at: classes "
             "evenly from first to last, picture and caption changing. All are shown as they came out.")
    if findings.several:
        intro += (" Beside the real picture stands what each run paints of the same sentence with the same noise, and below "
                  "it four other noises.")
    notes = [missing(note) for note in findings.notes]
    cards = [_card(findings, i, sentence) for i, sentence in enumerate(shown)]
    return section("heard", "What was said, what was painted", h("p.intro", intro) if shown else None, notes,
                   cards or missing("There is no sentence to show."))


def _card(findings, place: int, sentence) -> Html:
    figures = [_figure(*_real(findings, sentence))]
    painting = [column for column in findings.columns if column.painted]
    for column in painting:
        painted = column.painted[place]
        if findings.several:
            figures.append(_figure(painted.stages[-1], column.label, _four(painted)))
        else:
            figures += [_figure(picture, f"{picture.shape[0]} px") for picture in painted.stages]
            figures.append(h("figure", _four(painted), h("figcaption", "other noises")))
    kind = h("p.kind", pretty(sentence.item.class_name)) if findings.split.has_classes else None
    words = h("p.words", sentence.words) if sentence.words else h("p.words.absent", "(no words are known)")
    across = f"--across:{min(max(len(figures), 4), 7)}"
    return h("article.sentence", h("div.said", h("div", kind, words), player(sentence)),
             h("div.pictures", figures, style=across))


def _four(painted) -> Html:
    return h("div.four", [h("img", src=media.picture_uri(picture), alt="the same sentence, other noise", loading="lazy")
                          for picture in painted.more])


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
        if findings.size:
            return (media.real_picture(sentence.item.image, findings.boxes.get(sentence.item.key), findings.size),
                    f"real picture, {findings.size} px")
        return media.plain_picture(sentence.item.image, 192), "real picture"
    except UserError:
        return None, "real picture: missing"


def _figure(pixels, caption: str, below=None) -> Html:
    if pixels is None:
        return h("figure", h("div.hole"), h("figcaption", caption))
    crisp = "crisp" if pixels.shape[0] < 192 else None                 # enlarged: show the pixels as they are
    return h("figure", h("img", src=media.picture_uri(pixels), alt=caption, class_=crisp, loading="lazy"),
             h("figcaption", caption), below)


def interpolation(findings) -> Html:
    strips = [column for column in findings.columns if column.strip]
    if not strips:
        return section("between", "From one sentence to another", missing(
            "There is no interpolation: it needs a generator, its speech features and two sentences."))
    first, second = findings.ends
    ends = h("div.ends", [h(f"div.end.{side}", h("p.words", sentence.words or "(no words are known)"), player(sentence))
                          for side, sentence in (("left", first), ("right", second))])
    rows = [[h("h3", column.label) if findings.several else None,
             h("div.strip", [h("img", src=media.picture_uri(picture), alt=f"{10 * i} % of the way", title=f"{10 * i} %",
                               loading="lazy") for i, picture in enumerate(column.strip)])] for column in strips]
    return section("between", "From one sentence to another", h("p.intro", "Eleven pictures on the straight line between two "
                   "embeddings, one noise along it. The two are those, among the sentences above, that sound least alike to "
                   "the encoder."), ends, rows)
