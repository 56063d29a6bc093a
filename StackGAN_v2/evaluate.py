"""How good the generated images are, and whether they show what was said: every number with its protocol in its name.

Prints a table, appends each number to metric-<name>.jsonl and keeps the latest of all in metrics.json (--output).
Without --inception_weights nothing is called FID: the same metrics are then measured through EfficientNet-lite0.
With --run all snapshots of a training are measured, one after the other.
"""

import dataclasses
from pathlib import Path

from common import cli
from common.options import add_options, parse_groups
from StackGAN_v2.evaluation.settings import LITE, METRICS, WEIGHTS_NAME, EvaluateOptions


def parse(argv=None) -> EvaluateOptions:
    parser = cli.Parser(__doc__)
    add_options(parser, EvaluateOptions)
    return parse_groups(parser, EvaluateOptions, argv)[1]


def main(argv=None) -> int:
    args = parse(argv)
    if args.run and not args.data_dir:
        args = dataclasses.replace(args, data_dir=_trained_on(args.run))
    import torch

    from common import devices, splits
    from StackGAN_v2.evaluation.evaluator import measure

    torch.backends.cudnn.allow_tf32 = False  # numbers are to compare across machines
    split = splits.load_split(args.data_dir, args.real_split)
    wanted = _wanted(args, split)
    weights = _weights(args)
    if args.run:
        return _curve(args, split, wanted, weights, devices.pick_device(args.device))
    output = args.output or _default_output(args.images)
    _make_folder(output)
    job = _job(args, split, wanted, weights, output, devices.pick_device(args.device))
    records = measure(job)
    _save(records, output)
    _print_table(records)
    for reason in job.left_out:
        print(f"without {reason}")
    if not weights and {"fid", "is", "kid", "pr"} & set(wanted):
        print(
            f"{'lite2' if args.extractor == 'lite2' else 'lite0'} stands in for the FID Inception, whose weights "
            + (
                "were not asked for"
                if args.extractor in LITE
                else "are not there (--inception_weights, or scripts/download.py fid_inception)"
            )
            + ": these numbers compare with each other, not with published ones"
        )
    print(f"kept in {output}/metrics.json and metric-<name>.jsonl")
    return 0


def _trained_on(run: Path) -> Path:
    from common import ROOT
    from StackGAN_v2.evaluation.curve import options_of

    folder = options_of(run).get("data_dir")
    if not isinstance(folder, str) or not (ROOT / folder).is_dir():
        raise cli.UserError(f"--run {run}: the set that it was trained on is not at {folder}; name it by --data_dir")
    return ROOT / folder


def _curve(args, split, wanted, weights, device) -> int:
    from StackGAN_v2.evaluation import curve
    from StackGAN_v2.evaluation.evaluator import measure

    left_out: dict[str, None] = {}

    def measure_images(images: Path, scratch: Path) -> list[dict]:
        job = _job(dataclasses.replace(args, run=None, images=images), split, list(wanted), weights, scratch, device)
        records = measure(job)
        left_out.update(dict.fromkeys(job.left_out))
        return records

    count = curve.measure_run(args, split, device, measure_images)
    for reason in left_out:
        print(f"without {reason}")
    print(f"{count} snapshots, kept in {args.run / curve.FILE}; scripts/report.py draws the curves")
    return 0


def _wanted(args, split) -> list[str]:
    """The metrics to measure. UserError for one that was asked for and that the set does not allow."""
    missing = {} if split.has_classes else {"class": f"{split.path} has no classes"}
    if not (args.data_dir / "attributes.json").is_file():
        missing["attributes"] = f"{args.data_dir} has no attributes.json"
    if not _torchvision_weights(args):
        missing["s2igan"] = "torchvision's Inception-v3 is not in its cache (name the file by --torchvision_weights)"
    for name in args.metrics or ():
        if name in missing:
            raise cli.UserError(f"--metrics {name}: {missing[name]}")
    if not args.metrics:
        for name, reason in missing.items():
            print(f"without {name}: {reason}")
    return list(args.metrics or ()) or [name for name in METRICS if name not in missing]


def _weights(args) -> Path | None:
    """The file of the FID Inception: as given, or where the download registry puts it; None for lite0 and lite2."""
    from common import ROOT

    if args.extractor in LITE:
        if args.inception_weights:
            raise cli.UserError(
                f"--extractor {args.extractor} has no use for --inception_weights; leave one of them out"
            )
        return None
    places = (args.data_dir.parent / "pretrained" / WEIGHTS_NAME, ROOT / "data" / "pretrained" / WEIGHTS_NAME)
    weights = args.inception_weights or next((path for path in places if path.is_file()), None)
    if args.extractor != "auto" and not weights:
        raise cli.UserError(
            f"--extractor {args.extractor}: its weights are not in {places[0].parent}; run "
            "scripts/download.py fid_inception, or name the file by --inception_weights"
        )
    return weights


def _torchvision_weights(args) -> Path | None:
    from StackGAN_v2.evaluation.feature_extractors import TorchvisionInception

    return args.torchvision_weights or TorchvisionInception.cached_weights()


def _job(args, split, wanted, weights, output, device):
    import os

    from common.untrusted.tf_checkpoint import is_checkpoint
    from StackGAN_v2.evaluation import stackgan_inception
    from StackGAN_v2.evaluation.evaluator import BY_CLASS, Job, feasible
    from StackGAN_v2.evaluation.image_sets import RealImages, find_generated

    found = find_generated(args.images, split, args.image_size or 0, args.max_images)
    size = args.size or found.size
    real = RealImages(split, size, args.crop)
    batch = stackgan_inception.BATCH if args.is_weights and is_checkpoint(args.is_weights) else 1
    wanted, left_out = feasible(wanted, len(found.images), len(real), batch)
    if not wanted:
        raise cli.UserError(f"--metrics {left_out[0]}")
    by_class = bool(BY_CLASS & set(wanted))
    main_extractor, class_extractor, classifier, torchvision = _extractors(args, wanted, weights, by_class, device)
    return Job(
        wanted,
        args.data_dir,
        output,
        split,
        found,
        size,
        real,
        main_extractor,
        class_extractor,
        classifier,
        torchvision,
        device,
        args.batch_size,
        args.jobs or os.cpu_count() or 1,
        not args.quiet,
        {"images": str(args.images), **_made_with(args.images)},
        left_out,
    )


def _extractors(args, wanted, weights, by_class: bool, device):
    """(main, that of the classes, classifier, torchvision): only those that some metric needs are loaded."""
    from common.untrusted.tf_checkpoint import is_checkpoint
    from StackGAN_v2.evaluation.feature_extractors import (
        FinetunedInception,
        InceptionExtractor,
        PytorchFidExtractor,
        TorchvisionInception,
    )
    from StackGAN_v2.evaluation.stackgan_inception import StackGANInception

    distances = bool({"fid", "kid", "pr"} & set(wanted)) or "is" in wanted and not args.is_weights
    kind = PytorchFidExtractor if args.extractor == "pytorch_fid" else InceptionExtractor
    main = kind(weights, device, args.any_weights) if distances and weights else None
    lite = args.extractor if args.extractor in LITE else "lite0"
    by_name = {lite: _lite(args, lite, device)} if distances and not main else {}
    main = main or by_name.get(lite)
    of_classes = lite if args.class_extractor == "auto" else args.class_extractor
    class_extractor = by_name.get(of_classes) or _lite(args, of_classes, device) if by_class else None
    classifier = main
    if args.is_weights and "is" in wanted:
        network = StackGANInception if is_checkpoint(args.is_weights) else FinetunedInception
        classifier = network(args.is_weights, device)
    torchvision = TorchvisionInception(_torchvision_weights(args), device) if "s2igan" in wanted else None
    return main, class_extractor, classifier, torchvision


def _lite(args, name: str, device):
    from StackGAN_v2.evaluation import feature_extractors

    kind = feature_extractors.Lite2Extractor if name == "lite2" else feature_extractors.Lite0Extractor
    return kind(device, args.lite2_size if name == "lite2" else args.lite0_size)


def _made_with(images: Path) -> dict:
    """What main.py wrote about the images: digests of generator and embeddings, and the seed."""
    from common.files import read_json

    note = images.parent / "samples.json"
    return {"made_with": read_json(note)} if note.is_file() else {}


def _default_output(images: Path) -> Path:
    folder = images.resolve()
    samples = (parent for parent in (folder, *folder.parents) if parent.name == "single_samples")
    return next(samples, folder).parent


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cli.UserError(f"--output: {folder} cannot be made: {error.strerror}") from None


def _save(records: list[dict], output: Path) -> None:
    from common.files import append_line, read_json, write_json

    latest = output / "metrics.json"
    known = read_json(latest) if latest.is_file() else {}
    if not isinstance(known, dict):
        raise cli.UserError(f"{latest} is not a table of metrics; move it away")
    for record in records:
        append_line(output / f"metric-{record['metric']}.jsonl", record)
        known[record["metric"]] = record
    write_json(latest, known)


def _print_table(records: list[dict]) -> None:
    def text(record, key, decimals):
        value = record.get(key)
        return "" if value is None else f"{value:.{decimals}f}"

    width = max(len(record["metric"]) for record in records)
    print(f"{'metric':{width}} {'value':>10} {'':2}{'± std':>9} {'ceiling':>8} {'chance':>7} {'normalised':>10}")
    for record in records:
        decimals = 2 if record["unit"] == "%" else 4
        print(
            f"{record['metric']:{width}} {text(record, 'value', decimals):>10} {record['unit']:2}"
            f"{text(record, 'std', decimals):>9} {text(record, 'ceiling', 2):>8} {text(record, 'chance', 2):>7} "
            f"{text(record, 'normalised', 3):>10}"
        )
        for name, row in record.get("attributes", {}).items():
            print(
                f"{'  ' + name:{width}} {text(row, 'agreement', 2):>10} {'%':2}{'':>9} {text(row, 'ceiling', 2):>8} "
                f"{text(row, 'chance', 2):>7} {text(row, 'normalised', 3):>10}"
            )
    _print_remarks("warning", [(record["metric"], said) for record in records for said in record["warnings"]])
    _print_remarks("compare with", [(record["metric"], record["comparable_with"]) for record in records])


def _print_remarks(mark: str, remarks: list[tuple[str, str]]) -> None:
    """One line a remark, with the numbers that it is about, by the part of their names before the protocol."""
    import re

    about: dict[str, list[str]] = {}
    protocol = r"_(?:lite[02]|inception|pytorchfid|finetuned|stackgan|torchvision|\d+px)"
    for metric, said in remarks:
        about.setdefault(said, []).append(re.split(protocol, metric)[0])
    for said, names in about.items():
        print(f"{mark}: {', '.join(names)}: {said}")


if __name__ == "__main__":
    cli.run(main)
