"""Every snapshot of a generator's run measured like the last one: each metric as a curve over the iterations."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

from common import checkpoint, snapshots
from common.cli import UserError
from common.devices import pick_precision
from common.features import find_features, load_features, require_same_encoder
from common.files import append_bytes, read_note
from common.parallel import default_jobs

FILE = "curve.jsonl"  # in the run's folder: one record a line, with its iteration
_IMAGES = ".curve"  # in its Model folder: the images of the snapshot that is being measured
_NO_MATTER = ("images", "run", "data_dir", "every", "output", "batch_size", "device", "jobs", "quiet")  # options


def options_of(run) -> dict:
    """The options that a generator's run was made with. UserError if `run` is no such folder."""
    options = read_note(Path(run) / "options.json").get("options")
    if not isinstance(options, dict) or not isinstance(options.get("audio_switch"), str):
        raise UserError(f"--run {run} is not a run of main.py: its options.json does not name the speech features")
    return options


def measure_run(args, split, device, measure_images) -> int:
    """Generate and measure images of every snapshot in the folder `args.run`; → the number of snapshots.

    args: settings.EvaluateOptions; measure_images(folder of images, scratch folder) → records. A snapshot whose records
    are in the curve already, from the same weights, sentences and options, is not measured again. UserError if there is
    no snapshot, or speech features that do not fit.
    """
    options, model = options_of(args.run), args.run / "Model"
    paths = [
        path for path in reversed(snapshots.before(model / f"netG_{10**15}.pth")) if _number(path) % args.every == 0
    ]
    if not paths:
        of_every = f" whose number is a multiple of {args.every}" if args.every > 1 else ""
        raise UserError(f"--run {args.run}: {model} holds no netG_<n>.pth{of_every}")
    rows = _speech(args, split, options["audio_switch"], paths[-1])
    made_with = _digest(args, split, rows)
    file, folder = args.run / FILE, model / _IMAGES
    known = {(line.get("iteration"), line.get("made_with")) for line in _lines(file)}
    for path in paths:
        key = _number(path), f"{checkpoint.digest(checkpoint.state_dict_of(checkpoint.load(path), path))} {made_with}"
        if key in known:
            print(f"iteration {key[0]:,}: measured before")
            continue
        images = _generate(args, path, split, rows, folder, options, device)
        records = [{"iteration": key[0], "made_with": key[1], **record} for record in measure_images(images, model)]
        append_bytes(file, "".join(json.dumps(record) + "\n" for record in records).encode())  # all of them or none
        values = ", ".join(f"{record['metric']} {record['value']:.4g}" for record in records)
        print(f"iteration {key[0]:,}: {values}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return len(paths)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("netG_"))


def _speech(args, split, switch: str, net_g: Path) -> list:
    """The speech embeddings of at most `args.sentences` sentences an image, one array an item."""
    features = find_features(split, "audio", switch)
    require_same_encoder(net_g, features)
    rows = load_features(features, split, "Audio_to_Image/extract_audio_feature.py", some_without=True)
    return [row[: args.sentences or None] for row in rows]


def _digest(args, split, rows: list) -> str:
    """Changes with the sentences and with every option that a number depends on."""
    import torch

    told = {key: str(value) for key, value in dataclasses.asdict(args).items() if key not in _NO_MATTER}
    speech = checkpoint.digest({str(i): torch.from_numpy(row) for i, row in enumerate(rows)})
    return hashlib.sha256(json.dumps([told, split.digest(), speech]).encode()).hexdigest()[:16]


def _generate(args, path: Path, split, rows: list, folder: Path, options: dict, device) -> Path:
    """Images of one snapshot; → their folder. Those of a measurement that was interrupted are completed."""
    import torch

    from StackGAN_v2 import sampler
    from StackGAN_v2.generators import load_generator

    generator = load_generator(path, device).to(memory_format=torch.channels_last)
    if rows[0].shape[1] != generator.text_dim:
        raise UserError(
            f"{path} was trained on speech features of width {generator.text_dim}, but those of "
            f"{options['audio_switch']} have {rows[0].shape[1]}; extract them again with the run's encoder"
        )
    seed = options.get("manualSeed", 0)
    how = sampler.Sampling(
        seed if isinstance(seed, int) else 0,
        precision=pick_precision("auto", device),
        workers=default_jobs(),
        progress=not args.quiet,
    )
    images = folder / "single_samples" / "valid"
    sampler.sample_split(generator, split, rows, images, how)
    return images


def _lines(path: Path) -> list[dict]:
    """The records that are there; a line cut short when the machine went down is none."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]
