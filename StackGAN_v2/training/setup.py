"""Set-up of a generator's training, step by step: data, networks, run folder, resume, what is kept; then it runs."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from common import ROOT, checkpoint, matching_network, resume, settings, validation
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
from StackGAN_v2.data.datasets import Ahead, Batches, BatchPlan, SpeechFeatures
from StackGAN_v2.networks import convolution
from StackGAN_v2.sampling import memory_format, speech_of
from StackGAN_v2.settings import DataSettings, GeneratorOptions
from StackGAN_v2.training import snapshot_metric, trainer
from StackGAN_v2.training.exemplar_step import Budget, ExemplarStepper, begin, make_bank_filler
from StackGAN_v2.training.image_losses import MatchingLoss, SentenceMatchingLoss
from StackGAN_v2.training.networks import Networks, start_from
from StackGAN_v2.training.snapshot_writer import ResumeNotes, SnapshotWriter
from StackGAN_v2.training.step import Stepper

SHOWN = 8  # samples that TensorBoard shows
SHEET_BATCH = 8  # images of a sample sheet that are generated at a time


def train(options: GeneratorOptions, cfg: Config, name: str) -> int:
    """Train as `cfg` says, into output/StackGAN_v2/<name>. → exit status, 128 + signal after a clean stop."""
    compute, data, seed = options.compute, options.data, options.training.seed
    device, precision = start_process(options, cfg)
    whole = load_split(data.data_dir, "train")
    rows = speech_of(data, whole)
    kept, held = held_out(options, whole, rows)
    split = validation.subset(whole, kept, whole.name)
    speech = SpeechFeatures([rows[i] for i in kept])
    networks = Networks(cfg, speech.width, device, options.training.sync_bn, memory_format(compute.memory_format))
    batches, where = make_batches(cfg, data, whole, kept, speech, networks.generator, seed, device)
    if cfg.MODEL == "exemplar":
        networks.bank_filler = make_bank_filler(networks, batches, cfg.EXEMPLAR)
    folder = named_folder(name, ROOT / "output" / "StackGAN_v2")
    metric = make_metric(options, held, networks.average, device)
    last = trainer.total_iterations(cfg.TRAIN, len(split.items))
    last = min(last, options.training.max_steps) if options.training.max_steps else last

    encoder = encoder_of(find_features(whole, "audio", data.audio_switch))
    facts = {"precision": precision, "processes": ranks.world_size()}
    told = {"cfg": settings.to_plain(cfg), "device": str(device), "iterations": last, "speech_encoder": encoder}
    run = Run(folder, {"output_dir": name, **by_option(options), **facts, **told}, ranks.is_main())
    notes = make_notes(options, cfg, split, speech.width, bool(held), {**facts, "speech encoder": encoder})
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
    if held or options.training.best_by != "none":
        run.log(validation.choice_note(options.training.val_share, split, held[0] if held else load_test(data)))

    stepper = make_stepper(options, cfg, networks, batches, split, run, precision)
    if (
        cfg.MODEL == "exemplar" and not cfg.TRAIN.NET_G
    ):  # whose projection may have other directions, and has its colours
        if stepper.fixed_projection:
            networks.bank_filler.matcher = stepper.match.matcher
        if not found:
            begin(networks, cfg, batches, stepper.match)

    def files(iteration: int) -> list[str]:
        return [str(split.items[i].image) for i in batches.images(iteration)[0]]

    sheet = make_sample_sheet(data, cfg.TRAIN.VIS_COUNT, seed, networks.average, run)
    chosen_by = metric if options.training.best_by != "none" else None
    writer = SnapshotWriter(run, networks, notes, sheet, files, chosen_by, options.training)
    if first:
        writer.go_on(first, found[0].get("best", {}))
    else:
        writer.begin()
    watch = snapshot_metric.Watch(metric, options.training.metrics_every, networks, run)
    job = trainer.Trainer(stepper, batches, cfg.TRAIN, run, files, writer, watch)
    status = job.fit(first, last)
    end = "stopped" if job.stopping else "finished" if job.step >= last else "ended by --max_minutes"
    run.log(f"{end} at iteration {job.step:,}: {folder / 'Model' / 'latest.pth'}")
    ranks.finish()
    return status


def held_out(options: GeneratorOptions, split, rows: list):
    """→ (the numbers of the items to train on, None or the validation split and its speech), as --val_share says."""
    share, numbers = options.training.val_share, np.arange(len(split.items))
    if not share:
        return numbers, None
    try:
        test = load_test(options.data)
    except UserError:  # no test side: there are no classes that training may not see
        test = None
    kept, chosen = validation.hold_out(split, test, share, options.training.seed)
    if not (any(len(rows[i]) for i in kept) and any(len(rows[i]) for i in chosen)):
        raise UserError(
            f"--val_share {share:g}: one of the two parts of {split.path} has no speech; give another share"
        )
    return kept, (validation.subset(split, chosen, "validation"), [rows[i] for i in chosen])


def load_test(data: DataSettings):
    return load_split(data.data_dir, "test")


def start_process(options: GeneratorOptions, cfg: Config):
    """Set up this process, and its group where there are several; → (device, precision)."""
    require_two(
        cfg.TRAIN.BATCH_SIZE // ranks.world_size(),
        options.training.sync_bn,
        f"make TRAIN.BATCH_SIZE {2 * ranks.world_size()} or more, it is {cfg.TRAIN.BATCH_SIZE}",
    )
    device, precision = set_up(options.compute.device, options.compute.precision)
    convolution.rewrite(options.compute.rewrites)
    ranks.start(device)
    seed_everything(options.training.seed)
    torch.backends.cudnn.benchmark = True  # all batches have the same shape
    return device, precision


def make_notes(options: GeneratorOptions, cfg: Config, split, text_dim: int, held: bool, facts: dict) -> ResumeNotes:
    """What a resume file says: settings that may not change, and `facts` and settings that may.

    held: whether a validation split is held out of `split`.
    """
    return ResumeNotes(
        {
            "seed": options.training.seed,
            **({"val_share": options.training.val_share} if held else {}),
            "batch size": cfg.TRAIN.BATCH_SIZE,
            "data set": split.digest(),
            "text_dim": text_dim,
            "model": cfg.MODEL,
            "base size": cfg.TREE.BASE_SIZE,
            "branches": cfg.TREE.BRANCH_NUM,
        },
        {
            **facts,
            "sync_bn": options.training.sync_bn,
            **settings.flatten(cfg.TRAIN, "TRAIN."),
            **(settings.flatten(cfg.EXEMPLAR, "EXEMPLAR.") if cfg.MODEL == "exemplar" else {}),
        },
    )


def make_stepper(options: GeneratorOptions, cfg: Config, networks: Networks, batches, split, run: Run, precision: str):
    """What does an iteration of this generator's training."""
    device, compiled = batches.device, options.compute.compile
    compiled = device.type == "cuda" if compiled is None else compiled
    path = run.folder / "Model" / "matcher.pth"
    if cfg.MODEL != "exemplar":
        further = make_image_losses(cfg, path, split, batches, precision)
        return Stepper(networks, cfg.TRAIN, device, precision, compiled, further)
    seed, weight, match = options.training.seed, cfg.TRAIN.COEFF.MATCHING, None
    if weight:
        matcher, count = make_matcher(cfg, path, split, batches), cfg.EXEMPLAR.MATCH_AGAINST
        match = SentenceMatchingLoss(matcher, weight, batches.features, batches.labels, count, seed, precision)
    budget = Budget(trainer.total_iterations(cfg.TRAIN, len(split.items)), run, device)
    stepper = ExemplarStepper(networks, cfg, device, precision, seed, budget, match)
    if compiled:
        stepper.compile()
    return stepper


def make_image_losses(cfg: Config, matcher: Path, split, batches, precision: str) -> dict:
    """The generator's further losses by name, those whose weight is above 0. matcher: file of the matching network."""
    coeff, found = cfg.TRAIN.COEFF, {}
    if coeff.MATCHING:
        network = make_matcher(cfg, matcher, split, batches)
        found["match"] = MatchingLoss(network, coeff.MATCHING, batches.device, precision)
    return found


def make_batches(cfg: Config, data: DataSettings, split, kept, speech: SpeechFeatures, generator, seed: int, device):
    """→ the batches of this rank, of the items `kept` of `split`, and where the prepared images are."""
    cache = _open_cache(split, data.data_dir, generator.sizes[-1])
    where = image_cache.place_cache(cache, data.cache, device)
    plan = BatchPlan(
        generator.sizes,
        cfg.TRAIN.BATCH_SIZE,
        generator.z_dim,
        generator.embedding_dim,
        seed,
        cfg.TRAIN.WRONG == "image" and cfg.MODEL != "exemplar",
        bool(cfg.TRAIN.augmentations),
    )
    labels = [split.labels[i] for i in kept]
    batches = Batches(cache.subset(kept), speech, labels, plan, device, ranks.rank(), ranks.world_size())
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


def make_metric(options: GeneratorOptions, held, generator, device):
    """What --best_by and --metrics_every measure with, on the rank that keeps snapshots; None if neither is asked for.

    held: None, or the validation split and its speech, which then take the place of the test split.
    """
    best_by, data = options.training.best_by, options.data
    if best_by == "none" and not options.training.metrics_every:
        return None
    name = best_by if best_by != "none" else snapshot_metric.DEFAULT
    split = held[0] if held else load_test(data)
    if len(split.items) < 2:  # an unbiased distance of one image is not a number
        option = f"--best_by {best_by}" if best_by == name else "--metrics_every"
        raise UserError(f"{option} needs 2 test images at least, but {split.path} has {len(split.items)}; leave it out")
    if not ranks.is_main():
        return None
    folder = Path(data.data_dir) / (f"train/validation_{split.digest()}" if held else split.name)
    speech = held[1] if held else speech_of(data, split)
    return snapshot_metric.Kid(name, folder, split, speech, generator, options.training.seed, device)


def make_matcher(cfg: Config, path: Path, split, batches):
    """The matching network of this set, trained at the first call; it sees the batches of another seed."""
    speech, plan, steps = batches.features.flat, batches.plan, cfg.TRAIN.MATCHER_STEPS
    key = {
        "version": 3,  # raise it when equal arguments give other weights
        "seed": plan.seed,
        "steps": steps,
        "data set": split.digest(),
        "sizes": plan.sizes,
        "speech": checkpoint.digest({"speech": speech}),
    }
    own = dataclasses.replace(
        plan, batch_size=matching_network.BATCH, seed=plan.seed + 1, wrong_images=False, augmentation=False
    )
    mine = Batches(batches.cache, batches.features, split.labels, own, batches.device)

    def draw(step: int):
        batch = mine(step)
        return batch.real[-1], batch.speech, batch.labels

    pairs = matching_network.Pairs(draw, batches.device)
    train = functools.partial(matching_network.train_matcher, pairs, speech, steps, seed=plan.seed)
    return matching_network.load_or_train(path, key, speech.shape[1], batches.device, train)


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
