"""Sampling of a split, step by step: the files that main.py's options name, then an image for every sentence."""

import torch

from common.cli import UserError
from common.devices import set_up
from common.features import find_features, load_features, require_same_encoder
from common.parallel import default_jobs
from common.splits import load_split
from StackGAN_v2 import sampler
from StackGAN_v2.config import Config
from StackGAN_v2.generators import load_generator
from StackGAN_v2.networks import convolution
from StackGAN_v2.settings import GeneratorOptions
from StackGAN_v2.sheets import write_sheets

EXTRACTION = "Audio_to_Image/extract_audio_feature.py"


def sample(options: GeneratorOptions, cfg: Config) -> int:
    """One image for every sentence of the test split, or of another one."""
    sampling, data, compute = options.sampling, options.data, options.compute
    net_g = sampling.eval_net_g or cfg.TRAIN.NET_G
    if not net_g:
        raise UserError("--eval_net_g is missing: give the generator's file, netG_<iteration>.pth")
    device, precision = set_up(compute.device, compute.precision)
    convolution.rewrite(compute.rewrites)
    generator = load_generator(net_g, device)
    split = load_split(data.data_dir, sampling.split)
    if not sampling.any_speech:
        require_same_encoder(net_g, find_features(split, "audio", data.audio_switch))
    rows = speech_of(data, split)
    if rows[0].shape[1] != generator.text_dim:
        raise UserError(
            f"{net_g} was trained on speech features of width {generator.text_dim}, but --audio_switch "
            f"{data.audio_switch} has {rows[0].shape[1]}; use the features that it was trained on"
        )
    folder = sampler.samples_folder(net_g, split.name)
    how = sampler.Sampling(
        options.training.seed,
        sampling.batch_size or "auto",
        precision,
        sampling.all_sizes,
        sampling.limit or cfg.TEST.SAMPLE_NUM,
        bool(compute.compile),
        sampling.format,
        max(cfg.WORKERS, default_jobs()),
    )
    generator = generator.to(memory_format=memory_format(compute.memory_format))
    written, kept = sampler.sample_split(generator, split, rows, folder, how)
    print(f"{written:,} images written, {kept:,} were there: {folder}")
    if sampling.sheet:
        print(*write_sheets(folder, split, generator.sizes[-1], sampling.format, sampling.sheet), sep="\n")
    return 0


def speech_of(data, split) -> list:
    """The speech embeddings of a split: one array `[captions, d]` an item."""
    return load_features(find_features(split, "audio", data.audio_switch), split, EXTRACTION, some_without=True)


def memory_format(name: str) -> torch.memory_format:
    return torch.channels_last if name == "channels_last" else torch.contiguous_format
