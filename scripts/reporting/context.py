"""What stands behind the numbers: departures from the published method, time and machine, and what to try next."""
import shlex

from common import ROOT
from scripts.reporting import settings
from scripts.reporting.markup import Html, h, missing, section, table
from scripts.reporting.names import duration

TITLE = "What differs from the published method"


def method(findings) -> Html:
    columns = findings.columns
    if not any(column.encoder or column.generator for column in columns):
        return section("method", TITLE, missing("No run was given, so nothing is known."))
    faults = [missing(fault) for column in columns for run in (column.encoder, column.generator) if run and not run.options
              for fault in run.faults]
    here = {}                                      # (part, name, published, added) → column's place → its value
    for place, column in enumerate(columns):
        for d in settings.departures(column.encoder, column.generator, findings.dataset):
            here.setdefault((d.part, d.name, d.published, d.added), {})[place] = d.here
    parts = []
    for title, kind in (("Additions", True), ("The same method, other settings", False)):
        rows = [[part, name, *[values.get(place, published if getattr(column, part) else "–")
                               for place, column in enumerate(columns)], published]
                for (part, name, published, added), values in here.items() if added is kind]
        header = ["part", "setting", *([column.label for column in columns] if findings.several else ["here"]), "published"]
        parts += [h("h3", title), table(header, rows, numeric=range(2, len(columns) + 3)) if rows else h("p", "None.")]
    return section("method", TITLE, faults, parts)


def times(findings) -> Html:
    timed = [column for column in findings.columns if column.stages]
    if not timed:
        listed = missing("No recipe has noted how long its stages took (stages.jsonl in a recipe's folder).")
    elif len(timed) == 1:
        listed = _bars(timed[0].stages)
    else:
        names = dict.fromkeys(_name(stage) for column in timed for stage in column.stages)
        took = [{_name(stage): stage["seconds"] for stage in column.stages} for column in timed]
        rows = [[name, *[duration(column[name]) if name in column else "–" for column in took]] for name in names]
        rows.append([h("b", "together"), *[h("b", duration(sum(column.values()))) for column in took]])
        listed = table(["stage", *[column.label for column in timed]], rows, numeric=range(1, len(timed) + 1))
    return section("time", "Time and machine", h("div.pair", h("div.times", listed), h("dl", [
        [h("dt", what), h("dd", which)] for what, which in [*findings.machine, *_origins(findings)]])))


def _name(stage: dict) -> str:
    return str(stage.get("name", stage.get("stage", "")))


def _bars(stages) -> Html:
    longest = max(stage["seconds"] for stage in stages) or 1
    rows = [[_name(stage), duration(stage["seconds"]),
             h("div.bar", style=f"width:{100 * stage['seconds'] / longest:.1f}%")] for stage in stages]
    rows.append([h("b", "together"), h("b", duration(sum(stage["seconds"] for stage in stages))), ""])
    return table(["stage", "time", ""], rows, numeric=(1,))


def _origins(findings) -> list[tuple[str, str]]:
    """Where the runs come from, each fact once with the runs that it holds for."""
    facts = {}
    for column in findings.columns:
        for part, run in (("encoder", column.encoder), ("generator", column.generator)):
            if not run or not run.options:
                continue
            versions, date = run.environment.get("versions"), run.environment.get("date")
            trained = " ".join(str(run.options.get(key, "")) for key in ("device", "precision"))
            trained += f", {date[:10]}" if isinstance(date, str) else ""
            versions = ", ".join(f"{n} {v}" for n, v in versions.items() if v) if isinstance(versions, dict) else ""
            who = f"{column.label}, {part}" if findings.several else part
            for what, which in ((f"{part} trained on", trained), ("versions", versions),
                                ("revision", str(run.environment.get("revision") or ""))):
                if which.strip():
                    facts.setdefault(what, {}).setdefault(which, []).append(who)
    return [(what, which if len(values) == 1 else f"{which} ({', '.join(who)})")
            for what, values in facts.items() for which, who in values.items()]


def next_steps(findings) -> Html:
    python = ".venv/bin/python" if (ROOT / ".venv").is_dir() else "python"
    whole = next((c for c in findings.columns if c.encoder_file and c.generator_file), None)
    named = [(option, path) for option in ("encoder", "generator")
             if (path := getattr(whole, f"{option}_file", None) or next(
                 (p for c in findings.columns if (p := getattr(c, f"{option}_file"))), None))]
    files = "".join(f" \\\n    --{option} {shlex.quote(path)}" for option, path in named)
    commands = (
        ("Paint what you say: record yourself (any rate, any format that soundfile reads), and give the file.",
         f"{python} ./StackGAN_v2/interpolation.py --type inference --wav me.wav --seeds 0-7{files}"),
        ("Or write a sentence and have it spoken.",
         f"{python} ./StackGAN_v2/interpolation.py --type inference --text 'a small red bird with a white belly'{files}"),
        ("Walk from one sentence to another.",
         f"{python} ./StackGAN_v2/interpolation.py --type interpolation --wav one.wav two.wav{files}"))
    return section("next", "What to try next", [h("div.try", h("p", text), h("pre", command)) for text, command in commands],
                   h("p", "More time paints better pictures, and the same recipes train on birds, flowers, places or a set of "
                     "your own: see ", h("code", "README.md"), "."))
