"""Which runs a page is about: folders as the user names them → columns, one for every run that is compared."""

from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT
from common.cli import UserError
from scripts.report import run_records

_SUFFIX = "_speech_encoder"  # of the runs of a recipe, whose name is what stands before it


@dataclass
class Column:
    """One run: an encoder, a generator, or the two of one recipe. What `page_data` fills in comes after `stages`.

    sizes: of the generator's images in pixels; generated: its images of each sentence of the page (sentences.Generated,
    empty where it cannot generate); strip: the images of the interpolation;
    remark: what somebody who looks at its images should know.
    """

    label: str
    encoder: run_records.RunFolder | None = None
    generator: run_records.RunFolder | None = None
    recipe: Path | None = None
    stages: list[dict] = field(default_factory=list)
    encoder_numbers: list[run_records.Number] = field(default_factory=list)
    generator_numbers: list[run_records.Number] = field(default_factory=list)
    measured_note: str = ""
    encoder_file: str | None = None
    generator_file: str | None = None
    sizes: list[int] = field(default_factory=list)
    generated: list = field(default_factory=list)
    strip: list = field(default_factory=list)
    remark: str = ""

    @property
    def numbers(self) -> dict[str, run_records.Number]:
        return {number.name: number for number in (*self.encoder_numbers, *self.generator_numbers)}


def kind(path: Path) -> str:
    """'generator', 'encoder', 'ablation' or 'recipe'. UserError if a folder is none of these."""
    if (path / "Model").is_dir():
        return "generator"
    if any((path / name).is_file() for name in ("options.json", "stats.jsonl", "metric-speech.jsonl", "latest.pth")):
        return "encoder"
    if (path / "table.csv").is_file():
        return "ablation"
    if (path / "stages.jsonl").is_file() or any(path.glob(".begun_*")) or any(path.glob(".done_*")):
        return "recipe"
    raise UserError(
        f"RUN {path} is no run: it holds neither a Model folder (generator), an options.json (encoder), a "
        "stages.jsonl (recipe) nor a table.csv (ablation)"
    )


def columns(paths) -> tuple[list[Column], list[Path]]:
    """(the columns, the folders of ablations) that the user's folders mean.

    A recipe's folder `output/<tag>` brings its encoder, its generator and its ablation along. An encoder and a
    generator of one name, or the only ones, are one column. A run that is named twice is shown once.
    """
    made, ablations = {}, []  # resolved folder → (folder, its runs by part, is it a recipe)
    for path in map(Path, paths):
        of = kind(path)
        parts = {of: path}
        if of == "ablation":
            ablations.append(path)
            continue
        if of == "recipe":
            root, name = path.absolute().parent, path.absolute().name
            parts = {
                "encoder": root / "Audio_to_Image" / "log" / f"{name}{_SUFFIX}",
                "generator": root / "StackGAN_v2" / f"{name}{_SUFFIX}",
            }
            parts = {part: run for part, run in parts.items() if run.is_dir()}
            ablations += [root / f"{name}_ablation"] * (root / f"{name}_ablation" / "table.csv").is_file()
        made.setdefault(path.resolve(), (path, parts, of == "recipe"))
    # runs of a recipe may be named by themselves, too
    owned = {run.resolve() for _, parts, recipe in made.values() if recipe for run in parts.values()}
    made = _paired([entry for folder, entry in made.items() if folder not in owned])
    return (
        [
            Column(
                label,
                run_records.run_folder(parts.get("encoder")),
                run_records.run_folder(parts.get("generator")),
                path if recipe else None,
                run_records.stages(path) if recipe else [],
            )
            for label, (path, parts, recipe) in zip(_labels([path for path, _, _ in made]), made)
        ],
        list(dict.fromkeys(ablations)),
    )


def _paired(made: list[tuple]) -> list[tuple]:
    """A lone encoder's run goes into the entry of the generator of its name, or of the only one."""
    alone = {of: [entry for entry in made if not entry[2] and of in entry[1]] for of in ("encoder", "generator")}
    only = len(made) == 2 and all(len(entries) == 1 for entries in alone.values())
    result = []
    for path, parts, recipe in made:
        other = "generator" if "encoder" in parts else "encoder"
        partner = (
            None
            if recipe
            else next(
                (entry for entry in alone[other] if only or entry[0].absolute().name == path.absolute().name), None
            )
        )
        if not (partner and "encoder" in parts):
            result.append((path, {**parts, **(partner[1] if partner else {})}, recipe))
    return result


def _labels(paths: list[Path]) -> list[str]:
    """Folder names, with as many of the folders above as make them differ."""
    parts = [[*path.absolute().parts[:-1], path.absolute().name.removesuffix(_SUFFIX)] for path in paths]
    depth = 1
    while len({tuple(p[-depth:]) for p in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(p[-depth:]) for p in parts]


def training_set(run: run_records.RunFolder | None) -> Path | None:
    """The folder of the data set that a run says it was trained on; None if it does not say."""
    options = run.options if run else {}
    if isinstance(options.get("data_dir"), str):
        return ROOT / options["data_dir"]
    if isinstance(options.get("dataset"), str):
        root = options.get("data_root")
        return ROOT / (root if isinstance(root, str) else "data") / options["dataset"]
    return None


def dataset(columns_: list[Column]) -> Path:
    """The folder of the data set that the runs say they were trained on. UserError if they do not say, or differ."""
    said = {
        column.label: folder
        for column in columns_
        if (folder := training_set(column.generator) or training_set(column.encoder))
    }
    if not said:
        raise UserError("--dataset is missing, and no RUN says what it was trained on; name the folder of the set")
    if len({folder.resolve() for folder in said.values()}) > 1:
        told = ", ".join(f"{label} on {folder}" for label, folder in said.items())
        raise UserError(
            f"the runs were trained on different sets ({told}); give runs of one set, or choose by "
            "--dataset the set whose sentences to show"
        )
    return next(iter(said.values()))
