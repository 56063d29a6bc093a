"""Generate what a recording or a sentence says, or the images on the straight line between two of them."""
import sys
from pathlib import Path

from common import ROOT, cli

STEPS = 11                                         # images on the line, both ends included


def parse():
    parser = cli.Parser(__doc__, epilog="examples:\n"
                        "  python ./StackGAN_v2/interpolation.py --type inference --wav a.wav b.ogg --seeds 0-7\n"
                        "  python ./StackGAN_v2/interpolation.py --type interpolation --text 'a small red bird with a "
                        "white belly' 'a large blue bird'")
    add = parser.add_argument
    add("--type", required=True, choices=("inference", "interpolation"),
        help="inference: images of every input; interpolation: 11 images between two inputs, and a strip of them")
    add("--wav", nargs="+", default=[], metavar="FILE", help="recordings, of any rate, channels and format that soundfile "
        "reads (wav, flac, ogg, mp3, …)")
    add("--text", nargs="+", default=[], metavar="SENTENCE", help="sentences, spoken by --engine")
    add("--engine", choices=("hibari", "espeak"), default="hibari", help="speech synthesis for --text")
    add("--voice", metavar="NAME", help="voice of --engine (default: its first)")
    add("--encoder", metavar="FILE", help="speech encoder .pth (default: the newest latest.pth or best.pth below "
        "output/Audio_to_Image/log that the generator was trained with)")
    add("--generator", metavar="FILE", help="generator netG_<n>.pth (default: the newest latest.pth below "
        "output/StackGAN_v2)")
    add("--seeds", type=cli.number_list, default="0", metavar="LIST", help="noises: 0-7 generates each input eight times; "
        "interpolation uses each for one line")
    add("--output_dir", type=Path, default=Path("output/interpolation"), metavar="DIR", help="folder of the images")
    add("--all_sizes", action="store_true", help="also write the images of the earlier, smaller stages")
    add("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute")
    return parser.parse_args()


def main():
    args = parse()
    if not args.wav and not args.text:
        raise cli.UserError("nothing to generate: give recordings with --wav or sentences with --text")
    if args.type == "interpolation" and len(args.wav) + len(args.text) != 2:
        raise cli.UserError(f"--type interpolation goes between two inputs, not {len(args.wav) + len(args.text)}: give two "
                            "with --wav, --text or one of each")
    generators = _newest(args.generator, "--generator", "StackGAN_v2/*/Model/latest.pth")
    encoders = _newest(args.encoder, "--encoder", "Audio_to_Image/log/*/latest.pth", "Audio_to_Image/log/*/best.pth")
    for path in (encoders[0], generators[0]):
        if not Path(path).is_file():
            raise cli.UserError(f"{path} does not exist; give the path of a checkpoint")

    from Audio_to_Image.speech_encoder import load_encoder
    from common.devices import pick_device
    from common.features import trained_on
    from StackGAN_v2.model import load_generator
    device = pick_device(args.device)
    generator_path, generator = generators[0], load_generator(generators[0], device)
    learned = trained_on(generator_path)
    encoder_path, encoder, meta = _fitting(encoders, learned, lambda path: load_encoder(path, device))
    if learned not in (None, meta["digest"]):
        print(f"warning: {generator_path} was trained with encoder {learned}, but {encoder_path} is {meta['digest']}: the "
              "images need not show what is said", file=sys.stderr)
    if meta["nhidden"] != generator.text_dim:
        raise cli.UserError(f"{generator_path} was trained on speech features of width {generator.text_dim}, but "
                            f"{encoder_path} makes {meta['nhidden']}; name two that belong together")
    print(f"encoder {encoder_path}\ngenerator {generator_path}")
    spoken, faults = _listen(args, encoder, meta)
    if faults and (args.type == "interpolation" or not spoken):
        raise cli.UserError(_list(faults, len(faults) + len(spoken)))
    generate = _interpolate if args.type == "interpolation" else _infer
    for path in generate(args, generator, spoken):
        print(path)
    if faults:
        raise cli.UserError(_list(faults, len(faults) + len(spoken)))


def _list(faults: list[str], inputs: int) -> str:
    if len(faults) == 1 == inputs:
        return faults[0]
    return f"{len(faults)} of {inputs} inputs could not be used:\n  " + "\n  ".join(faults)


def _newest(given, option: str, *patterns: str) -> list:
    """The file that was named, or those that match a pattern, the newest first."""
    if given:
        return [given]
    found = [path for pattern in patterns for path in (ROOT / "output").glob(pattern) if path.is_file()]
    if not found:
        raise cli.UserError(f"{option} is missing, and no run has left one below {ROOT / 'output'}; "
                            "run bash scripts/demo.sh first, or name a file")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _fitting(paths: list, digest: str | None, load):
    """(path, encoder, meta) of the first encoder with that digest, or of the very first where none has it."""
    path, *others = paths
    encoder, meta = load(path)
    for other in others if digest not in (None, meta["digest"]) else ():
        try:
            found, of_it = load(other)
        except cli.UserError:                      # damaged, and not asked for
            continue
        if of_it["digest"] == digest:
            return other, found, of_it
    return path, encoder, meta


def _listen(args, encoder, meta):
    """Every input → (name for files, embedding `[d]`); inputs that are no use → one sentence each. What is odd about the
    recordings is said on standard error."""
    import torch

    from Audio_to_Image.audio import is_heard, load_clip
    from Audio_to_Image.recording_remarks import remarks
    from Audio_to_Image.sound_files import SILENT
    from Audio_to_Image.speech_encoder import embed
    inputs = [(Path(wav).stem, wav, load_clip(wav)) for wav in args.wav]
    inputs += [(_file_name(text), text, _spoken(text, args)) for text in args.text]
    spoken, faults, taken = [], [], set()
    for name, source, clip in inputs:
        n_frames = 0 if clip.error else clip.mel.shape[1]
        if clip.error or not is_heard(n_frames, SILENT in clip.remarks, meta["short_clips"]):
            faults.append(clip.error or (f"{source} holds no sound" if SILENT in clip.remarks else
                                         f"{source} lasts {clip.seconds:.2f} s; the encoder needs 0.64 s of speech or more"))
            continue
        while name in taken:                       # two files of one name in different folders
            name += "_"
        taken.add(name)
        spoken.append((name, embed(encoder, meta, torch.from_numpy(clip.mel)[None], [n_frames])[0].float().cpu()))
    for line in remarks([(source, clip) for _, source, clip in inputs], meta["max_frames"]):
        print(f"warning: {line}", file=sys.stderr)
    return spoken, faults


def _spoken(text: str, args):
    from Audio_to_Image.audio import RATE, Clip, clip_of
    from Audio_to_Image.sound_files import Sound
    from Audio_to_Image.tts import speak
    try:
        return clip_of(Sound(speak(text, args.engine, args.voice), RATE))
    except cli.UserError as error:
        return Clip(error=str(error))


def _file_name(text: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())[:80] or "text"


def _infer(args, generator, spoken):
    """`<name>_seed<k>.png` for every input and seed."""
    import torch

    from StackGAN_v2 import sampler
    noises = torch.stack([sampler.noise(generator, seed) for seed in args.seeds])
    for name, embedding in spoken:
        images = sampler.generate(generator, embedding.expand(len(noises), -1), noises)
        for i, seed in enumerate(args.seeds):
            yield from _save(args, generator, [branch[i] for branch in images], f"{name}_seed{seed}")


def _interpolate(args, generator, spoken):
    """`<a>_to_<b>_seed<k>_<step>.png` for 11 steps, and `…_strip.png`; one noise along the line."""
    import torch

    from StackGAN_v2 import sampler
    (first, start), (second, end) = spoken
    weights = torch.linspace(0, 1, STEPS)[:, None]
    for seed in args.seeds:
        noises = sampler.noise(generator, seed).expand(STEPS, -1)
        images = sampler.generate(generator, (1 - weights) * start + weights * end, noises)
        name = f"{first[:60]}_to_{second[:60]}_seed{seed}"
        for step in range(STEPS):
            yield from _save(args, generator, [branch[step] for branch in images], f"{name}_{step:02d}")
        strip = args.output_dir / f"{name}_strip.png"
        sampler.save_image(strip, sampler.grid(images[-1], columns=STEPS))
        yield strip


def _save(args, generator, branches, name: str):
    from StackGAN_v2.sampler import save_image
    for size, pixels in list(zip(generator.sizes, branches))[0 if args.all_sizes else -1:]:
        suffix = "" if size == generator.sizes[-1] else f"_{size}"
        path = args.output_dir / f"{name}{suffix}.png"
        save_image(path, pixels)
        yield path


if __name__ == "__main__":
    cli.run(main)
