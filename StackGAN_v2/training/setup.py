"""Set-up of a generator's training, step by step: data, networks, run folder, resume, what is kept; then it runs."""

from pathlib import Path

import numpy as np
import torch

from common import ROOT, checkpoint, resume, settings
from common.cli import UserError
from common.devices import seed_everything, set_up
from common.distributed import ranks
from common.distributed.sync_bn import require_two
from common.features import encoder_of, find_features
from common.files import named_folder
from common.options import by_option
from common.runs import Run
from common.splits import load_split
from StackGAN_v2 import sampler, sheets
from StackGAN_v2.config import Config
from StackGAN_v2.data import image_cache
from StackGAN_v2.data.datasets import Ahead, Batches, SpeechFeatures
from StackGAN_v2.networks import convolution
from StackGAN_v2.sampling import memory_format, speech_of
from StackGAN_v2.settings import DataSettings, GeneratorOptions
from StackGAN_v2.training import matching_network, snapshot_metric, trainer
from StackGAN_v2.training.networks import Networks, start_from
from StackGAN_v2.training.snapshot_writer import ResumeNotes, SnapshotWriter
from StackGAN_v2.training.step import Stepper

SHOWN = 8  # samples that TensorBoard shows
SHEET_BATCH = 8  # images of a sample sheet that are generated at a time


def train(options: GeneratorOptions, cfg: Config, name: str) -> int:
    """Train as `cfg` says, into output/StackGAN_v2/<name>. → exit status, 128 + signal after a clean stop."""
    compute, data, seed = options.compute, options.data, options.training.seed
    require_two(
        cfg.TRAIN.BATCH_SIZE // ranks.world_size(),
        options.training.sync_bn,
        f"make TRAIN.BATCH_SIZE {2 * ranks.world_size()} or more, it is {cfg.TRAIN.BATCH_SIZE}",
    )
    device, precision = set_up(compute.device, compute.precision)
    convolution.rewrite(compute.rewrites)
    ranks.start(device)
    seed_everything(seed)
    torch.backends.cudnn.benchmark = True  # all batches have the same shape

    split = load_split(data.data_dir, "train")
    speech = SpeechFeatures(speech_of(data, split))
    networks = Networks(cfg, speech.width, device, options.training.sync_bn, memory_format(compute.memory_format))
    batches, where = make_batches(cfg, data, split, speech, networks.generator.sizes, seed, device)
    folder = named_folder(name, ROOT / "output" / "StackGAN_v2")
    metric = make_metric(options, networks.average, device)
    last = trainer.total_iterations(cfg.TRAIN, len(split.items))
    last = min(last, options.training.max_steps) if options.training.max_steps else last

    encoder = encoder_of(find_features(split, "audio", data.audio_switch))
    facts = {"precision": precision, "processes": ranks.world_size()}
    run = Run(
        folder,
        {
            "output_dir": name,
            **by_option(options),
            **facts,
            "cfg": settings.to_plain(cfg),
            "device": str(device),
            "iterations": last,
            "speech_encoder": encoder,
        },
        ranks.is_main(),
    )
    notes = ResumeNotes(
        {
            "seed": seed,
            "batch size": cfg.TRAIN.BATCH_SIZE,
            "data set": split.digest(),
            "text_dim": speech.width,
            "base size": cfg.TREE.BASE_SIZE,
            "branches": cfg.TREE.BRANCH_NUM,
        },
        {
            **facts,
            "sync_bn": options.training.sync_bn,
            "speech encoder": encoder,
            **settings.flatten(cfg.TRAIN, "TRAIN."),
        },
    )
    found = resume.find(options.training.resume, folder)
    first = trainer.restore(*found, networks, notes.settings) if found else 0
    run.limit(options.training.max_minutes, resume.seconds(found))
    if not found:
        start_from(networks, cfg.TRAIN.NET_G, cfg.TRAIN.NET_D, speech.flat if cfg.TRAIN.CONDITION_INIT else None)
    if len(speech.spoken) < len(split.items):
        run.log(
            f"{len(split.items) - len(speech.spoken)} of {len(split.items)} images have no recording that can be "
            "used and are left out"
        )
    run.rewind(first)  # lines of steps that a killed run did after its last resume file
    count = sum(p.numel() for p in networks.generator.parameters())
    run.log(
        f"{len(split.items):,} images of {split.name}, speech features of width {speech.width}, images of "
        f"{', '.join(map(str, networks.generator.sizes))} pixels, {count / 1e6:.1f} M parameters in the generator, "
        f"{device} {precision}, images in {where}" + (_going_on(*found, notes.course) if found else "")
    )

    matcher = make_matcher(cfg, folder / "Model" / "matcher.pth", split, batches) if cfg.TRAIN.COEFF.MATCHING else None
    compiled = device.type == "cuda" if compute.compile is None else compute.compile
    stepper = Stepper(networks, cfg.TRAIN, device, precision, compiled, matcher)

    def files(iteration: int) -> list[str]:
        return [str(split.items[i].image) for i in batches.images(iteration)[0]]

    sheet = make_sample_sheet(data, cfg.TRAIN.VIS_COUNT, seed, networks.average, run)
    writer = SnapshotWriter(run, networks, notes, sheet, files, metric, options.training)
    if first:
        writer.go_on(first, found[0].get("best", {}))
    else:
        writer.begin()
    job = trainer.Trainer(stepper, batches, cfg.TRAIN, run, files, writer)
    status = job.fit(first, last)
    end = "stopped" if job.stopping else "finished" if job.step >= last else "ended by --max_minutes"
    run.log(f"{end} at iteration {job.step:,}: {folder / 'Model' / 'latest.pth'}")
    ranks.finish()
    return status


def make_batches(cfg: Config, data: DataSettings, split, speech: SpeechFeatures, sizes, seed: int, device):
    """→ the batches of this rank, and where the prepared images are."""
    cache = _open_cache(split, data.data_dir, sizes[-1])
    where = image_cache.place_cache(cache, data.cache, device)
    batches = Batches(
        cache,
        speech,
        split.labels,
        sizes,
        cfg.TRAIN.BATCH_SIZE,
        cfg.GAN.Z_DIM,
        cfg.GAN.EMBEDDING_DIM,
        seed,
        device,
        ranks.rank(),
        ranks.world_size(),
        wrong_images=cfg.TRAIN.WRONG == "image",
    )
    ahead = device.type == "cuda" and cache.pixels.device.type == "cpu"
    return Ahead(batches) if ahead else batches, where


def _open_cache(split, data_dir, size: int):
    """Rank 0 makes the cache while the others wait, then one rank of each machine that does not see it; all open it."""
    for mine in (ranks.is_main(), ranks.local_rank() == 0):
        if mine:
            image_cache.build(split, Path(data_dir) / split.name, size)
        ranks.barrier()
    return image_cache.build(split, Path(data_dir) / split.name, size, progress=False)


def _going_on(content, path, course: dict) -> str:
    """Where the run goes on, and what is not as it was: allowed, but no longer the same training."""
    was = content.get("course", course)
    return f", going on from iteration {content['iteration']:,} of {path}" + "".join(
        f", {name} now {value} (was {was[name]})" for name, value in course.items() if was.get(name, value) != value
    )


def make_metric(options: GeneratorOptions, generator, device):
    """What says which snapshot is the best, on the rank that keeps them; None if it was not asked for."""
    best_by, data = options.training.best_by, options.data
    if best_by == "none":
        return None
    split = load_split(data.data_dir, "test")
    if len(split.items) < 2:  # an unbiased distance of one image is not a number
        raise UserError(
            f"--best_by {best_by} needs 2 test images at least, but {split.path} has {len(split.items)}; leave it out"
        )
    if not ranks.is_main():
        return None
    return snapshot_metric.Kid(
        best_by, Path(data.data_dir), split, speech_of(data, split), generator, options.training.seed, device
    )


def make_matcher(cfg: Config, path: Path, split, batches):
    """The matching network of this set, trained at the first call; it sees the batches of another seed."""
    speech, seed, steps = batches.features.flat, batches.seed, cfg.TRAIN.MATCHER_STEPS
    key = {
        "seed": seed,
        "steps": steps,
        "data set": split.digest(),
        "sizes": batches.sizes,
        "speech": checkpoint.digest({"speech": speech}),
    }
    mine = Batches(
        batches.cache,
        batches.features,
        split.labels,
        batches.sizes,
        matching_network.BATCH,
        batches.z_dim,
        batches.embedding_dim,
        seed + 1,
        batches.device,
        wrong_images=False,
    )
    return matching_network.load_or_train(path, key, mine, speech, steps, seed)


def make_sample_sheet(data: DataSettings, count: int, seed: int, generator, run: Run):
    """A function that generates the same test sentences with the same noise each time: Image/<size>_<iteration>.png.

    The first of them, below the real images, are for TensorBoard.
    """
    try:
        split = load_split(data.data_dir, "test")
        rows = speech_of(data, split)
    except UserError:  # no test side: the training side serves as well to watch progress
        split = load_split(data.data_dir, "train")
        rows = speech_of(data, split)
    speech, noises = sampler.fixed_sentences(generator, rows, count, seed)
    shown = [split.items[i] for i in sampler.spread(rows, count)[:SHOWN]]

    def sample_sheet(iteration: int) -> None:
        if ranks.is_main():  # a few at a time: all at once would take more than training does
            parts = [
                sampler.generate(generator, *part) for part in zip(speech.split(SHEET_BATCH), noises.split(SHEET_BATCH))
            ]
            for size, images in zip(generator.sizes, map(np.concatenate, zip(*parts))):
                sampler.save_image(
                    run.folder / "Image" / f"{size}_{iteration:06d}.png", sampler.grid(images, columns=8)
                )
            pixels = sheets.beside_real(shown, images[:SHOWN])
            run.image(
                iteration, "samples below real images", sampler.image_bytes(pixels), pixels.shape[1], pixels.shape[0]
            )

    return sample_sheet
