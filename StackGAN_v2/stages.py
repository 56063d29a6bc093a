"""The two things that main.py does, step by step: train a generator, and generate the test set with one."""
import signal
from pathlib import Path

import numpy as np
import torch

from common import ROOT, checkpoint, resume
from common.cli import UserError
from common.devices import pick_device, pick_precision, seed_everything, set_up_arithmetic
from common.distributed import ranks
from common.distributed.sync_bn import require_two
from common.features import encoder_of, feature_path, load_features, require_same_encoder
from common.files import named_folder
from common.parallel import default_jobs
from common.runs import Run, StopSignal
from common.splits import load_split
from StackGAN_v2 import sampler
from StackGAN_v2.data import image_cache
from StackGAN_v2.data.datasets import Ahead, Batches, SpeechFeatures
from StackGAN_v2.model import load_generator
from StackGAN_v2.networks import convolution
from StackGAN_v2.training import discriminator_monitor, matching_network, trainer
from StackGAN_v2.training.snapshot_writer import Keeper

GRID_SENTENCES = 64                                # images on a sample sheet
SHEET_BATCH = 8                                    # of them generated at a time
EXTRACTION = "Audio_to_Image/extract_audio_feature.py"


def train(args, cfg, data_dir) -> int:
    """Train as `cfg` says; returns the exit status (128 + signal after a clean stop)."""
    require_two(cfg.TRAIN.BATCH_SIZE // ranks.world_size(), args.sync_bn,
                f"make TRAIN.BATCH_SIZE {2 * ranks.world_size()} or more, it is {cfg.TRAIN.BATCH_SIZE}")
    device, precision = _arithmetic(args)
    ranks.start(device)
    seed_everything(args.manualSeed)
    torch.backends.cudnn.benchmark = True          # all batches have the same shape
    split = load_split(data_dir, "train")
    speech = SpeechFeatures(_speech(data_dir, split, args.audio_switch))
    encoder = encoder_of(feature_path(data_dir, split.name, "audio", args.audio_switch))
    networks = trainer.Networks(cfg, speech.width, device, args.sync_bn, _memory_format(args))
    folder = named_folder(args.output_dir or Path(args.cfg).stem, ROOT / "output" / "StackGAN_v2")
    sizes = networks.generator.sizes
    cache = _cache(split, data_dir, sizes[-1])
    place = image_cache.place_cache(cache, args.cache, device)
    batches = Batches(cache, speech, split.labels, sizes, cfg.TRAIN.BATCH_SIZE, cfg.GAN.Z_DIM,
                      cfg.GAN.EMBEDDING_DIM, args.manualSeed, device, ranks.rank(), ranks.world_size(),
                      wrong_images=cfg.TRAIN.WRONG == "image")
    if device.type == "cuda" and cache.pixels.device.type == "cpu":
        batches = Ahead(batches)
    last = trainer.total_iterations(cfg, len(split.items))
    last = min(last, args.max_steps) if args.max_steps else last
    # what a resumed run must share with the first one for the continuation to be exact
    settings = {"seed": args.manualSeed, "batch size": cfg.TRAIN.BATCH_SIZE, "data set": split.digest(),
                "text_dim": speech.width, "base size": cfg.TREE.BASE_SIZE, "stages": cfg.TREE.BRANCH_NUM}
    run = Run(folder, {**_plain(vars(args)), "cfg": _plain(cfg), "precision": precision, "device": str(device),
                       "processes": ranks.world_size(), "iterations": last, "speech_encoder": encoder}, ranks.is_main())
    course = {"precision": precision, "processes": ranks.world_size(), "sync_bn": args.sync_bn,
              "speech encoder": encoder, **_flat(cfg.TRAIN, "TRAIN.")}
    found = resume.find(args.resume, folder)
    first = trainer.restore(*found, networks, settings) if found else 0
    if not found:
        trainer.start_from(networks, cfg.TRAIN.NET_G, cfg.TRAIN.NET_D,
                           batches.features.flat if cfg.TRAIN.CONDITION_INIT else None)
    if len(speech.spoken) < len(split.items):
        run.log(f"{len(split.items) - len(speech.spoken)} of {len(split.items)} images have no recording that can be used "
                "and are left out")
    run.rewind(first)                              # lines of steps that a killed run did after its last resume file
    count = sum(p.numel() for p in networks.generator.parameters())
    run.log(f"{len(split.items):,} images of {split.name}, speech features of width {speech.width}, images of "
            f"{', '.join(map(str, sizes))} pixels, {count / 1e6:.1f} M parameters in the generator, {device} "
            f"{precision}, images in {place}" + (_going_on(*found, course) if found else ""))
    sheet = _sample_sheet(data_dir, args, cfg, networks.average, folder)
    matcher = _matcher(cfg, folder / "Model" / "matcher.pth", split, batches) if cfg.TRAIN.COEFF.MATCHING else None
    compiled = device.type == "cuda" if args.compile is None else args.compile
    stepper = trainer.Stepper(networks, cfg, device, precision, compiled, matcher)

    def names(iteration):
        return [str(split.items[i].image) for i in batches.images(iteration)[0]]

    judge = _judge(args, data_dir, networks.average, device)
    keeper = Keeper(run, networks, settings, course, sheet, names, judge, args.keep, args.keep_every)
    if first:
        keeper.best = found[0].get("best", {})
    else:
        keeper.begin()
    with StopSignal() as stop:
        done = trainer.fit(stepper, batches, first, last, tick=args.tick, snapshot=cfg.TRAIN.SNAPSHOT_INTERVAL, run=run,
                           on_snapshot=keeper, stop=stop, names=names,
                           watch=discriminator_monitor.Watch(cfg.TRAIN.ADVERSARIAL, cfg.TRAIN.COEFF.UNCOND_LOSS))
        if done > first or not first:
            keeper(done)
        keeper.finish()
    run.log(f"{'stopped' if done < last else 'finished'} at iteration {done:,}: {folder / 'Model' / 'latest.pth'}")
    ranks.finish()
    return 128 + (stop.received or signal.SIGTERM) if done < last else 0


def generate(args, cfg, data_dir) -> int:
    """One image for every sentence of the test split."""
    net_g = args.eval_net_g or cfg.TRAIN.NET_G
    if not net_g:
        raise UserError("--eval_net_g is missing: give the generator's file, netG_<iteration>.pth")
    device, precision = _arithmetic(args)
    generator = load_generator(net_g, device)
    split = load_split(data_dir, "test")
    if not args.any_speech:
        require_same_encoder(net_g, feature_path(data_dir, split.name, "audio", args.audio_switch))
    rows = _speech(data_dir, split, args.audio_switch)
    if rows[0].shape[1] != generator.text_dim:
        raise UserError(f"{net_g} was trained on speech features of width {generator.text_dim}, but --audio_switch "
                        f"{args.audio_switch} has {rows[0].shape[1]}; use the features that it was trained on")
    folder = sampler.samples_folder(net_g)
    how = sampler.Sampling(args.manualSeed, args.batch_size, precision, args.all_sizes, args.limit or cfg.TEST.SAMPLE_NUM,
                           bool(args.compile), args.format, max(cfg.WORKERS, default_jobs()))
    written, kept = sampler.sample_split(generator.to(memory_format=_memory_format(args)), split, rows, folder, how)
    print(f"{written:,} images written, {kept:,} were there: {folder}")
    return 0


def _arithmetic(args):
    """Set this process up as the options say; → device, precision."""
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    set_up_arithmetic(device, precision)
    convolution.rewrite(args.rewrites)
    return device, precision


def _memory_format(args):
    return torch.channels_last if args.memory_format == "channels_last" else torch.contiguous_format


def _speech(data_dir, split, switch) -> list[np.ndarray]:
    return load_features(feature_path(data_dir, split.name, "audio", switch), split, EXTRACTION, some_without=True)


def _cache(split, data_dir, size):
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
        f", {name} now {value} (was {was.get(name)})" for name, value in course.items() if was.get(name) != value)


def _judge(args, data_dir, generator, device):
    """What says which snapshot is the best, on the rank that keeps them; None if it was not asked for."""
    if args.best_by == "none" or not ranks.is_main():
        return None
    from StackGAN_v2.training.snapshot_metric import Kid
    split = load_split(data_dir, "test")
    return Kid(args.best_by, Path(data_dir), split, _speech(data_dir, split, args.audio_switch), generator,
               args.manualSeed, device)


def _matcher(cfg, path, split, batches):
    """The matching network of this set, trained at the first call; it sees the batches of another seed."""
    speech, seed, steps = batches.features.flat, batches.seed, cfg.TRAIN.MATCHER_STEPS
    key = {"seed": seed, "steps": steps, "data set": split.digest(), "sizes": batches.sizes,
           "speech": checkpoint.digest({"speech": speech})}
    mine = Batches(batches.cache, batches.features, split.labels, batches.sizes, matching_network.BATCH, batches.z_dim,
                   batches.embedding_dim, seed + 1, batches.device, wrong_images=False)
    return matching_network.load_or_train(path, key, mine, speech, steps, seed)


def _sample_sheet(data_dir, args, cfg, generator, folder):
    """A function that generates the same test sentences with the same noise at every snapshot: Image/<iteration>.png."""
    try:
        split = load_split(data_dir, "test")
        rows = _speech(data_dir, split, args.audio_switch)
    except UserError:                              # no test side: the training side serves as well to watch progress
        split = load_split(data_dir, "train")
        rows = _speech(data_dir, split, args.audio_switch)
    speech, noises = sampler.fixed_sentences(generator, rows, GRID_SENTENCES, args.manualSeed)

    def sample_sheet(iteration: int) -> None:
        if ranks.is_main():                        # a few at a time: all at once would take more than training does
            parts = [sampler.generate(generator, *part) for part in zip(speech.split(SHEET_BATCH), noises.split(SHEET_BATCH))]
            for size, images in zip(generator.sizes, map(np.concatenate, zip(*parts))):
                sampler.save_image(folder / "Image" / f"{size}_{iteration:06d}.png", sampler.grid(images, columns=8))
    return sample_sheet


def _plain(values: dict) -> dict:
    return {key: _plain(value) if isinstance(value, dict) else value if isinstance(value, (int, float, str, list, bool))
            or value is None else str(value) for key, value in values.items()}


def _flat(values: dict, prefix: str) -> dict:
    """Nested groups as one dict of dotted names."""
    flat = {}
    for key, value in _plain(values).items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
