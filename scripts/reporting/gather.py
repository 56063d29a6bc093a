"""Everything that the page tells, in one object: files read, sentences chosen, pictures painted."""
import datetime
from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT, splits
from common.cli import UserError
from common.features import feature_path, load_features
from scripts.reporting import found, sample


@dataclass
class Findings:
    """notes: what is missing and why, for the page; boxes: bounding boxes of the pictures, by item key."""
    dataset: str
    split: splits.Split
    unseen: bool                                   # no class of the test split is one of the training split
    encoder: found.RunFolder | None
    generator: found.RunFolder | None
    stages: list[dict]
    machine: list[tuple[str, str]]
    date: str
    notes: list[str] = field(default_factory=list)
    encoder_numbers: list[found.Number] = field(default_factory=list)
    generator_numbers: list[found.Number] = field(default_factory=list)
    measured_note: str = ""
    encoder_file: str | None = None
    generator_file: str | None = None
    sizes: list[int] = field(default_factory=list)
    boxes: dict = field(default_factory=dict)
    sentences: list[sample.Sentence] = field(default_factory=list)
    ends: tuple | None = None
    strip: list = field(default_factory=list)


def gather(args, encoder_run, generator_run, recipe_dir) -> Findings:
    """Read what there is; UserError only for a data set without a test split or a device that is not there."""
    from common.devices import pick_device, pick_precision
    device = pick_device(args.device)
    folder = splits.data_dir(args.dataset, args.data_root)
    split = splits.load_split(folder, "test")
    findings = Findings(args.dataset, split, _unseen(folder, split), found.run_folder(encoder_run),
                        found.run_folder(generator_run), found.stages(recipe_dir), found.machine(),
                        datetime.date.today().isoformat())
    findings.encoder_numbers = found.encoder_numbers(findings.encoder, split.labels)
    if findings.encoder:
        findings.encoder_file = _existing(findings.encoder.path, "latest.pth", "best.pth")
    generator = _load_generator(findings, device)
    _measured(findings)
    findings.boxes = _boxes(findings)
    rows = _features(args, folder, findings, generator)
    captions = [len(row) for row in rows] if rows else [max(len(i.texts), len(i.audio)) for i in split.items]
    findings.sentences = sample.choose(split, captions, args.sentences)
    if not any(sentence.sound and sentence.sound.is_file() for sentence in findings.sentences):
        findings.notes.append("The sound of these sentences is not there, so there is nothing to play.")
    if generator is not None and rows:
        precision = pick_precision("auto", device)
        sample.paint(generator, rows, findings.sentences, precision, args.manualSeed)
        findings.ends = sample.furthest(rows, findings.sentences)
        if findings.ends:
            findings.strip = sample.interpolate(generator, rows, *findings.ends, precision, args.manualSeed)
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


def _load_generator(findings, device):
    if findings.generator is None:
        findings.notes.append("No generator run was given or found (--generator_run), so there are no painted pictures.")
        return None
    from StackGAN_v2.model import load_generator
    path = findings.generator.path / "Model" / "latest.pth"
    try:
        generator = load_generator(path, device)
    except UserError as error:
        findings.notes.append(f"There are no painted pictures: {error}.")
        return None
    findings.generator_file, findings.sizes = _existing(path.parent, path.name), generator.sizes
    return generator


def _measured(findings) -> None:
    """The numbers of the very snapshot that paints, or of the last one that was measured, and then a note."""
    measured = found.measured_iterations(findings.generator)
    if not measured:
        return
    iteration, folder = list(measured.items())[-1]
    if findings.generator_file:
        from StackGAN_v2.sampler import samples_folder
        own = samples_folder(findings.generator.path / "Model" / "latest.pth").parent.parent
        if own in (path.resolve() for path in measured.values()):
            folder = own
        else:
            findings.measured_note = (f"The numbers of the pictures are those of iteration {iteration:,}; the pictures on this "
                                      f"page are of {own.name.replace('iteration', 'iteration ')}.")
    findings.generator_numbers = found.generator_numbers(folder)


def _boxes(findings) -> dict:
    from StackGAN_v2.image_cache import bounding_boxes
    try:
        return bounding_boxes(findings.split)
    except (UserError, OSError) as error:
        findings.notes.append(f"Real pictures are shown whole: {error}.")
        return {}


def _features(args, folder, findings, generator):
    """The test split's speech features, or None with a note."""
    if generator is None:
        return None
    switch = args.audio_switch or findings.generator.options.get("audio_switch")
    if not isinstance(switch, str):
        findings.notes.append("There are no painted pictures: the run does not say which speech features it was trained on "
                              "(--audio_switch).")
        return None
    try:
        rows = load_features(feature_path(folder, "test", "audio", switch), findings.split,
                             "Audio_to_Image/extract_audio_feature.py")
    except UserError as error:
        findings.notes.append(f"There are no painted pictures: {error}.")
        return None
    if rows[0].shape[1] != generator.text_dim:
        findings.notes.append(f"There are no painted pictures: the generator expects speech features of width "
                              f"{generator.text_dim}, but those of '{switch}' have {rows[0].shape[1]}.")
        return None
    return rows
