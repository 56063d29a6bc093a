"""Everything that the page tells, as plain data: files read, sentences chosen, images generated."""

import contextlib
import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT, splits
from common.cli import UserError
from common.features import find_features, load_features, require_same_encoder
from scripts.report import ablation, media, run_records, runs, sentences
from scripts.report.sentences import Sentence


@dataclass
class PageData:
    """novelty: what is known of whether training has met the test images, a sentence; notes: what is missing and why;
    ablations: the lines of each table.csv, by the table's folder; ends: the two sentences of the interpolation."""

    dataset: str
    split: splits.Split
    columns: list[runs.Column]
    novelty: str
    machine: list[tuple[str, str]]
    date: str
    ablations: dict[str, list[dict]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)
    ends: tuple | None = None

    @property
    def several(self) -> bool:
        return len(self.columns) > 1


def gather(args, folder: Path, columns: list[runs.Column], ablations: list[Path]) -> PageData:
    """Read what there is; UserError only for a data set without a test split or a device that is not there.

    folder: of the data set.
    """
    from common.devices import pick_device, pick_precision

    device = pick_device(args.device)
    precision = pick_precision("auto", device)
    split = splits.load_split(folder, "test")
    data = PageData(
        folder.name,
        split,
        columns,
        novelty(split, folder, columns),
        run_records.machine(),
        datetime.date.today().isoformat(),
        {str(path): ablation.read_table(path / "table.csv") for path in ablations},
    )
    loaded = []  # (column, generator, its speech features), where there are both
    for column in columns:
        column.encoder_numbers = run_records.encoder_numbers(column.encoder, split.labels)
        column.encoder_file = _existing(column.encoder.path, "latest.pth", "best.pth") if column.encoder else None
        try:
            generator, rows = _load(args, folder, split, column, device)
            loaded += [(column, generator, rows)] if rows else []
        except UserError as error:
            data.notes.append(f"{column.label}: " * data.several + f"There are no generated images: {error}.")
        _take_measured(column)
    if not any(column.generator for column in columns):
        data.notes.append("No generator run was given, so there are no generated images.")
    captions = [len(row) for row in loaded[0][2]] if loaded else [item.sentences for item in split.items]
    data.sentences = sentences.choose(split, captions, args.sentences)
    _show_and_play(data)
    data.ends = sentences.furthest(loaded[0][2], data.sentences) if loaded else None
    for column, generator, rows in loaded:
        column.remark = generator.remark
        column.generated = sentences.generate(generator, rows, data.sentences, precision, args.manualSeed)
        if data.ends:
            column.strip = sentences.interpolate(generator, rows, *data.ends, precision, args.manualSeed)
    return data


def novelty(split, folder: Path, columns: list[runs.Column]) -> str:
    """Whether the runs have met the test images in training, as a sentence; '' if there is no run.

    Compared are the test split's image files with those of the training split that each run names. A run that was
    trained elsewhere, on a set of the same name, is taken to have been trained on this one.
    """
    networks = [
        (part, run)
        for column in columns
        for part, run in (("speech encoder", column.encoder), ("generator", column.generator))
        if run
    ]
    if not networks:
        return ""
    unknown = "Whether training has met the test images is not known"
    trained = {}  # folder of a training set → its training split
    for _, run in networks:
        own = runs.training_set(run)
        if own is None:
            return f"{unknown}: {run.path.name} does not name its training set."
        own = folder if own.name == folder.name and not (own / "train.json").is_file() else own
        try:
            trained[own] = trained.get(own) or splits.load_split(own, "train")
        except UserError as error:
            return f"{unknown}: {error}."
    images = set().union(*map(_image_files, trained.values()))
    classes = {item.class_name for training in trained.values() for item in training.items}
    who = (
        f"The {networks[0][0]} has not"
        if len(networks) == 1
        else "Neither has"
        if len(networks) == 2
        else "None of the networks has"
    )
    known, kinds = len(_image_files(split) & images), {item.class_name for item in split.items}
    if known:
        return (
            f"{known:,} of the {len(_image_files(split)):,} test images were in the training split, too: what is "
            "shown and measured on these says nothing about new images."
        )
    if all(one.has_classes for one in (split, *trained.values())) and classes.isdisjoint(kinds):
        return f"{who} met any of the {len(kinds)} classes that the sentences below describe."
    return f"{who} met any of the images that the sentences below describe."


def _image_files(split) -> set[str]:
    """Paths that are equal for equal files, whichever way the split file names its image folder."""
    named, real = str(split.image_root), os.path.realpath(split.image_root)
    return {real + str(item.image).removeprefix(named) for item in split.items}


def _existing(folder: Path, *names: str) -> str | None:
    """The first of the files that is there, as a command from the project's root would name it."""
    path = next((path for name in names if (path := (folder / name).absolute()).is_file()), None)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path) if path else None


def _load(args, folder, split, column, device):
    """A column's generator and its speech features of the test split, (None, None) if there is none. UserError says why
    they cannot be used."""
    if column.generator is None:
        return None, None
    from StackGAN_v2.generators import load_generator

    path, options = column.generator.path / "Model" / "latest.pth", column.generator.options
    generator = load_generator(path, device)
    column.generator_file, column.sizes = _existing(path.parent, path.name), generator.sizes
    switch = args.audio_switch or options.get("audio_switch")
    if not isinstance(switch, str):
        raise UserError("the run does not say which speech features it was trained on (--audio_switch)")
    features = find_features(split, "audio", switch)
    if not args.any_speech:
        require_same_encoder(path, features)
    rows = load_features(features, split, "Audio_to_Image/extract_audio_feature.py", some_without=True)
    if rows[0].shape[1] != generator.text_dim:
        raise UserError(
            f"the generator expects speech features of width {generator.text_dim}, but those of '{switch}' "
            f"have {rows[0].shape[1]}"
        )
    return generator, rows


def _take_measured(column) -> None:
    """The numbers of the very snapshot that generates, or of the last one that was measured, and then a note."""
    measured = run_records.measured_iterations(column.generator)
    if not measured:
        return
    iteration, folder = list(measured.items())[-1]
    if column.generator_file:
        from StackGAN_v2.sampler import samples_folder

        own = samples_folder(column.generator.path / "Model" / "latest.pth").parent.parent
        if own in (path.resolve() for path in measured.values()):
            folder = own
        else:
            column.measured_note = (
                f"The numbers of the images are those of iteration {iteration:,}; the images on "
                f"this page are of {own.name.replace('iteration', 'iteration ')}."
            )
    column.generator_numbers = run_records.generator_numbers(folder)


def _show_and_play(data: PageData) -> None:
    """Each sentence's real image and sound."""
    from common.bounding_boxes import bounding_boxes

    boxes = {}
    try:
        boxes = bounding_boxes(data.split)
    except (UserError, OSError) as error:
        data.notes.append(f"Real images are shown without their bounding boxes: {error}.")
    size = max((column.sizes[-1] for column in data.columns if column.sizes), default=192)
    for sentence in data.sentences:
        with contextlib.suppress(UserError):  # the page says which image or sound is missing
            sentence.real = media.training_crop(sentence.item.image, boxes.get(sentence.item.key), size)
        with contextlib.suppress(UserError):
            sentence.audio = media.sound_uri(sentence.sound) if sentence.sound else ""
    if not any(sentence.audio for sentence in data.sentences):
        data.notes.append("No sound of these sentences is there to be read, so there is nothing to play.")
