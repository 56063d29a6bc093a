"""Everything that the page tells, in one object: files read, sentences chosen, pictures painted."""
import datetime
from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT, splits
from common.cli import UserError
from common.features import feature_path, load_features, require_same_encoder
from scripts.reporting import ablation, found, sample
from scripts.reporting.runs import Column


@dataclass
class Findings:
    """notes: what is missing and why, for the page; boxes: bounding boxes of the pictures, by item key; ablations: the
    lines of each table.csv, by the table's folder; ends: the two sentences of the interpolation."""
    dataset: str
    split: splits.Split
    unseen: bool                                   # no class of the test split is one of the training split
    columns: list[Column]
    machine: list[tuple[str, str]]
    date: str
    ablations: dict[str, list[dict]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    boxes: dict = field(default_factory=dict)
    sentences: list[sample.Sentence] = field(default_factory=list)
    ends: tuple | None = None

    @property
    def several(self) -> bool:
        return len(self.columns) > 1

    @property
    def size(self) -> int | None:
        """Of the largest painted pictures, in pixels; None if nothing is painted."""
        return max((column.sizes[-1] for column in self.columns if column.sizes), default=None)


def gather(args, folder: Path, columns: list[Column], ablations: list[Path]) -> Findings:
    """Read what there is; UserError only for a data set without a test split or a device that is not there.

    folder: of the data set.
    """
    from common.devices import pick_device, pick_precision
    device = pick_device(args.device)
    split = splits.load_split(folder, "test")
    findings = Findings(folder.name, split, _unseen(folder, split), columns, found.machine(),
                        datetime.date.today().isoformat(),
                        {str(path): ablation.read_table(path / "table.csv") for path in ablations})
    findings.boxes = _boxes(findings)
    generators, rows = [], []
    for column in columns:
        column.encoder_numbers = found.encoder_numbers(column.encoder, split.labels)
        if column.encoder:
            column.encoder_file = _existing(column.encoder.path, "latest.pth", "best.pth")
        generators.append(_load_generator(column, device))
        _measured(column)
        rows.append(_features(args, folder, split, column, generators[-1]))
    _say_what_is_missing(findings)
    spoken = next((row for row in rows if row), None)
    captions = [len(row) for row in spoken] if spoken else [max(len(i.texts), len(i.audio)) for i in split.items]
    findings.sentences = sample.choose(split, captions, args.sentences)
    if not any(sentence.sound and sentence.sound.is_file() for sentence in findings.sentences):
        findings.notes.append("The sound of these sentences is not there, so there is nothing to play.")
    if spoken:
        findings.ends = sample.furthest(spoken, findings.sentences)
    precision = pick_precision("auto", device)
    for column, generator, own in zip(columns, generators, rows):
        if generator is not None and own:
            column.painted = sample.paint(generator, own, findings.sentences, precision, args.manualSeed)
            if findings.ends:
                column.strip = sample.interpolate(generator, own, *findings.ends, precision, args.manualSeed)
    return findings


def _unseen(folder, split) -> bool:
    try:
        known = {item.class_name for item in splits.load_split(folder, "train").items}
    except UserError:
        return False
    return split.has_classes and known.isdisjoint(item.class_name for item in split.items)


def _existing(folder: Path, *names: str) -> str | None:
    """The first of the files that is there, as a command from the project's root would name it."""
    for name in names:
        path = (folder / name).absolute()
        if path.is_file():
            return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    return None


def _load_generator(column, device):
    if column.generator is None:
        return None
    from StackGAN_v2.model import load_generator
    path = column.generator.path / "Model" / "latest.pth"
    try:
        generator = load_generator(path, device)
    except UserError as error:
        column.notes.append(f"There are no painted pictures: {error}.")
        return None
    column.generator_file, column.sizes = _existing(path.parent, path.name), generator.sizes
    return generator


def _measured(column) -> None:
    """The numbers of the very snapshot that paints, or of the last one that was measured, and then a note."""
    measured = found.measured_iterations(column.generator)
    if not measured:
        return
    iteration, folder = list(measured.items())[-1]
    if column.generator_file:
        from StackGAN_v2.sampler import samples_folder
        own = samples_folder(column.generator.path / "Model" / "latest.pth").parent.parent
        if own in (path.resolve() for path in measured.values()):
            folder = own
        else:
            column.measured_note = (f"The numbers of the pictures are those of iteration {iteration:,}; the pictures on this "
                                    f"page are of {own.name.replace('iteration', 'iteration ')}.")
    column.generator_numbers = found.generator_numbers(folder)


def _boxes(findings) -> dict:
    from StackGAN_v2.data.image_cache import bounding_boxes
    try:
        return bounding_boxes(findings.split)
    except (UserError, OSError) as error:
        findings.notes.append(f"Real pictures are shown whole: {error}.")
        return {}


def _features(args, folder, split, column, generator):
    """The test split's speech features for a generator, or None with a note."""
    if generator is None:
        return None
    switch = args.audio_switch or column.generator.options.get("audio_switch")
    if not isinstance(switch, str):
        column.notes.append("There are no painted pictures: the run does not say which speech features it was trained on "
                            "(--audio_switch).")
        return None
    path = feature_path(folder, "test", "audio", switch)
    try:
        if not args.any_speech:
            require_same_encoder(column.generator.path / "Model" / "latest.pth", path)
        rows = load_features(path, split, "Audio_to_Image/extract_audio_feature.py")
    except UserError as error:
        column.notes.append(f"There are no painted pictures: {error}.")
        return None
    if rows[0].shape[1] != generator.text_dim:
        column.notes.append(f"There are no painted pictures: the generator expects speech features of width "
                            f"{generator.text_dim}, but those of '{switch}' have {rows[0].shape[1]}.")
        return None
    return rows


def _say_what_is_missing(findings) -> None:
    """Put the columns' notes among the page's, by name where there are several columns."""
    if not any(column.generator for column in findings.columns):
        findings.notes.append("No generator run was given, so there are no painted pictures.")
    for column in findings.columns:
        findings.notes += [f"{column.label}: {note}" if findings.several else note for note in column.notes]
