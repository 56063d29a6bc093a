"""Generate images of recordings or sentences, or the images on the straight line between two of them."""

import dataclasses
import functools
import sys
from pathlib import Path

from common import ROOT, cli, pretrained
from common.files import require_ours, shortened
from common.options import add_options, add_published, parse_groups
from StackGAN_v2.interpolation_settings import STEPS, ImageOptions

NAME_BYTES = 180  # of an input's name in names of images, which have at most 255


def parse() -> ImageOptions:
    parser = cli.Parser(
        __doc__,
        epilog="examples:\n"
        "  python ./StackGAN_v2/interpolation.py --type inference --wav a.wav b.ogg --seeds 0-7\n"
        "  python ./StackGAN_v2/interpolation.py --type interpolation --text 'a small red bird with a "
        "white belly' 'a large blue bird'",
    )
    add_options(parser, ImageOptions)
    # published; what they say about the networks is read from the networks' files
    add_published(parser, flags=("--out_rnn_layer", "--out_attn_layer"), valued=("--gan_cfg",))
    args = parse_groups(parser, ImageOptions)[1]
    others = [args.input_text_other] if args.type == "interpolation" else []
    return dataclasses.replace(args, text=[*args.text, *(text for text in (args.input_text, *others) if text)])


def main():
    args = parse()
    if not args.wav and not args.text:
        raise cli.UserError("there is nothing to generate: give recordings with --wav or sentences with --text")
    if args.type == "interpolation" and len(args.wav) + len(args.text) != 2:
        raise cli.UserError(
            f"--type interpolation goes between two inputs, not {len(args.wav) + len(args.text)}: give "
            "two with --wav, --text or one of each"
        )
    encoder, meta, generator = load_networks(args.encoder, args.generator, args.device)
    inputs, faults = _embed_inputs(args, encoder, meta)
    if faults and (args.type == "interpolation" or not inputs):
        raise cli.UserError(_list(faults, len(faults) + len(inputs)))
    line = functools.partial(_interpolate, steps=args.interpolation_num + 1)
    generate = line if args.type == "interpolation" else _infer
    for path in generate(args, generator, inputs):
        print(path)
    if faults:
        raise cli.UserError(_list(faults, len(faults) + len(inputs)))


def _list(faults: list[str], inputs: int) -> str:
    if len(faults) == 1 == inputs:
        return faults[0]
    return f"{len(faults)} of {inputs} inputs could not be used:\n  " + "\n  ".join(faults)


def load_networks(encoder, generator, device: str = "auto") -> tuple:
    """The networks that the options --encoder, --generator and --device mean → (encoder, its meta, generator).

    Prints which they are. UserError: there are none, or they do not belong together.
    """
    generators = _candidates(generator, "generator", "StackGAN_v2/*/Model/latest.pth")
    encoders = _candidates(encoder, "encoder", "Audio_to_Image/log/*/latest.pth", "Audio_to_Image/log/*/best.pth")
    for path in (encoders[0], generators[0]):
        if not path.is_file():
            raise cli.UserError(f"{path} does not exist; give the path of a checkpoint{_or_name()}")

    from Audio_to_Image.speech_encoder import load_encoder
    from common.devices import pick_device
    from common.features import trained_on
    from StackGAN_v2.generators import load_generator

    where = pick_device(device)
    generator_path, generator = generators[0], load_generator(generators[0], where)
    learned = trained_on(generator_path)
    encoder_path, encoder, meta = _fitting(encoders, learned, lambda path: load_encoder(path, where))
    if learned not in (None, meta["digest"]):
        print(
            f"warning: {generator_path} was trained with encoder {learned}, but {encoder_path} is {meta['digest']}: "
            "the images may not show what is said",
            file=sys.stderr,
        )
    if meta["nhidden"] != generator.text_dim:
        raise cli.UserError(
            f"{generator_path} was trained on speech features of width {generator.text_dim}, but "
            f"{encoder_path} makes {meta['nhidden']}; give an --encoder and a --generator that "
            "belong together"
        )
    print(f"encoder {encoder_path}\ngenerator {generator_path}", flush=True)
    return encoder, meta, generator


def _candidates(given, part: str, *patterns: str) -> list[Path]:
    """[the network that the user gave], or the files below output/ that match a pattern, the newest first, and behind
    them the pretrained ones."""
    if given:
        return [pretrained.find(given, part)]
    found = [path for pattern in patterns for path in (ROOT / "output").glob(pattern) if path.is_file()]
    found = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True) + pretrained.files(part)
    if not found:
        raise cli.UserError(
            f"--{part} is missing, and there is no such file of a run below {ROOT / 'output'}; "
            f"run bash scripts/demo.sh first, or give --{part} FILE"
        )
    return found


def _or_name() -> str:
    return f" or a name ({', '.join(pretrained.names())})" if pretrained.names() else ""


def _fitting(paths: list, digest: str | None, load):
    """(path, encoder, meta) of the first encoder with that digest, or of the first of all if none has it."""
    path, *others = paths
    encoder, meta = load(path)
    for other in others if digest not in (None, meta["digest"]) else ():
        try:
            found, of_it = load(other)
        except cli.UserError:  # damaged; another one may do
            continue
        if of_it["digest"] == digest:
            return other, found, of_it
    return path, encoder, meta


def _embed_inputs(args, encoder, meta):
    """→ [(name for files, embedding `[d]`)] of the inputs that can be used, one sentence for each that cannot.

    What is odd about the recordings is said on standard error.
    """
    from Audio_to_Image.audio import load_clip
    from Audio_to_Image.front_ends import front_end
    from Audio_to_Image.recording_remarks import remarks

    compute = front_end(meta["front_end"]).compute
    given = [(Path(wav).stem, wav, load_clip(wav, compute=compute)) for wav in args.wav]
    given += [(_file_name(text), text, _spoken(text, args, compute)) for text in args.text]
    inputs, faults, taken = [], [], set()
    for name, source, clip in given:
        fault = fault_of(source, clip, meta)
        if fault:
            faults.append(fault)
            continue
        name = shortened(name, NAME_BYTES)
        while name in taken:  # two files of one name in different folders
            name += "_"
        taken.add(name)
        inputs.append((name, embedding_of(clip, encoder, meta)))
    for line in remarks([(source, clip) for _, source, clip in given], meta["max_frames"]):
        print(f"warning: {line}", file=sys.stderr)
    return inputs, faults


def fault_of(source, clip, meta: dict) -> str | None:
    """Why the encoder cannot hear a clip, in a sentence that names its `source`; None if it can."""
    from Audio_to_Image.audio import is_heard
    from Audio_to_Image.sound_files import SILENT

    if clip.error or is_heard(clip.n_frames, SILENT in clip.remarks, meta["short_clips"]):
        return clip.error
    if SILENT in clip.remarks:
        return f"{source} holds no sound"
    return f"{source} lasts {clip.seconds:.2f} s; the encoder needs 0.64 s or more"


def embedding_of(clip, encoder, meta: dict):
    """The embedding `[d]` of a clip without a fault, float32 on the CPU."""
    import torch

    from Audio_to_Image.speech_encoder import embed

    return embed(encoder, meta, torch.tensor(clip.mel)[None], [clip.n_frames])[0].float().cpu()


def _spoken(text: str, args, compute):
    from Audio_to_Image.audio import RATE, Clip, clip_of
    from Audio_to_Image.sound_files import Sound
    from Audio_to_Image.tts import speak

    try:
        return clip_of(Sound(speak(text, args.engine, args.voice), RATE), compute=compute)
    except cli.UserError as error:
        return Clip(error=str(error))


def _file_name(text: str) -> str:
    return shortened("_".join("".join(c if c.isalnum() else " " for c in text.lower()).split()), 80) or "text"


def _infer(args, generator, inputs):
    """Write `<name>_seed<k>.png` for every input and seed, a few at a time; yield the paths."""
    import torch

    from StackGAN_v2 import sampler

    if args.img_filename_base:
        base = args.img_filename_base
        inputs = [(base if len(inputs) == 1 else f"{base}_{name}", one) for name, one in inputs]
    _require_free(args, generator, [f"{name}_seed{seed}" for name, _ in inputs for seed in args.seeds])
    for name, embedding in inputs:
        for first in range(0, len(args.seeds), sampler.SMALL_BATCH):
            seeds = args.seeds[first : first + sampler.SMALL_BATCH]
            noises = torch.stack([sampler.noise(generator, seed) for seed in seeds])
            images = sampler.generate(generator, embedding.expand(len(seeds), -1), noises)
            for i, seed in enumerate(seeds):
                yield from _save(args, generator, [branch[i] for branch in images], f"{name}_seed{seed}")


def _interpolate(args, generator, inputs, steps: int = STEPS):
    """Write `<a>_to_<b>_seed<k>_<step>.png` for every step and `…_strip.png`; yield the paths. A line has one noise."""
    import numpy as np
    import torch

    from StackGAN_v2 import sampler

    (first, start), (second, end) = inputs
    line = args.img_filename_base or f"{shortened(first, NAME_BYTES // 2)}_to_{shortened(second, NAME_BYTES // 2)}"
    steps_of = {seed: [f"{line}_seed{seed}_{step:02d}" for step in range(steps)] for seed in args.seeds}
    _require_free(args, generator, [name for names in steps_of.values() for name in names])
    strips = {seed: args.output_dir / f"{line}_seed{seed}_strip.png" for seed in args.seeds}
    for path in strips.values():
        require_ours(path, "--output_dir")
    weights = torch.linspace(0, 1, steps)[:, None]
    for seed, names in steps_of.items():
        noises = sampler.noise(generator, seed).expand(steps, -1)
        embeddings = (1 - weights) * start + weights * end
        parts = [sampler.generate(generator, *part) for part in zip(embeddings.split(STEPS), noises.split(STEPS))]
        images = [np.concatenate(branch) for branch in zip(*parts)]
        for step, name in enumerate(names):
            yield from _save(args, generator, [branch[step] for branch in images], name)
        sampler.save_image(strips[seed], sampler.grid(images[-1], columns=steps))
        yield strips[seed]


def _paths(args, generator, name: str) -> list[Path]:
    """Where the images of the chosen branches go; those of the last branch have no size in their name."""
    smaller = [args.output_dir / f"{name}_{size}.png" for size in generator.sizes[:-1]] if args.all_sizes else []
    return [*smaller, args.output_dir / f"{name}.png"]


def _require_free(args, generator, names: list[str]) -> None:
    for path in (path for name in names for path in _paths(args, generator, name)):
        require_ours(path, "--output_dir")


def _save(args, generator, branches, name: str):
    from StackGAN_v2.sampler import save_image

    paths = _paths(args, generator, name)
    for path, pixels in zip(paths, branches[-len(paths) :]):
        save_image(path, pixels)
        yield path


if __name__ == "__main__":
    cli.run(main)
