"""Make a folder of pretrained networks out of a run: its encoder and generator in half precision, and their card.

Commands take the folder's name in place of a file: --encoder NAME --generator NAME.
"""

import datetime
from pathlib import Path

from common import ROOT, cli, pretrained

MOST = 40 << 20  # bytes of both networks: what a clone should have to carry
SENTENCES = (
    "a small red bird with a white belly",
    "this bird is blue with black wings and a short beak",
    "a large yellow bird with a long tail",
    "the bird has a green crown and a brown breast",
)


def parse(argv=None):
    parser = cli.Parser(
        __doc__,
        epilog="example:\n  python ./scripts/export_pretrained.py --run output/StackGAN_v2/demo_speech_encoder "
        "--output pretrained/toybirds",
    )
    add = parser.add_argument
    add("--run", type=cli.existing_dir, required=True, metavar="DIR", help="the generator's run, with Model/latest.pth")
    add(
        "--encoder",
        type=cli.existing_file,
        metavar="FILE",
        help="its speech encoder (default: the one below the runs' folder that the generator learned from)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="the folder to write, pretrained/NAME")
    add("--purpose", default="says and shows birds", metavar="TEXT", help="what they are for, in --list")
    add("--licence", default="MIT, as the project", metavar="TEXT", help="terms of use, for the card")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from common import checkpoint
    from common.files import MADE_BY, checksum, claim_folder, set_aside, write_json, write_text

    written = (*pretrained.FILES.values(), "README.md")
    claim_folder(options.output, pretrained.CARD, pretrained.FILES.values(), "--output")
    encoder, about_encoder, generator, about_generator = read_run(options.run, options.encoder)
    contents = {"encoder": encoder, "generator": generator}
    size = sum(value.nbytes for content in contents.values() for value in content["state_dict"].values())
    if size > MOST:
        raise cli.UserError(
            f"--run {options.run}: its networks take {size / 2**20:.0f} MiB in half precision; {MOST >> 20} are the most"
        )
    for part, content in contents.items():
        checkpoint.save(options.output / pretrained.FILES[part], content)
    card = {
        "made_by": MADE_BY,
        "purpose": options.purpose,
        "licence": options.licence,
        "date": datetime.date.today().isoformat(),
        "files": {
            file: {"bytes": (options.output / file).stat().st_size, "sha256": checksum(options.output / file, "sha256")}
            for file in pretrained.FILES.values()
        },
        "encoder": about_encoder,
        "generator": about_generator,
        "check": check_values(*(options.output / file for file in pretrained.FILES.values())),
    }
    write_json(options.output / pretrained.CARD, card)
    moved = set_aside(options.output / "README.md")
    write_text(options.output / "README.md", model_card(options.output.name, card))
    if moved:
        print(f"the model card that was there is now {moved}; take from it what stays true")
    for name in (*written, pretrained.CARD):
        path = options.output / name
        print(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)")
    return 0


def read_run(run: Path, encoder_file: Path | None) -> tuple[dict, dict, dict, dict]:
    """→ encoder's content, what the card says about it, the same of the generator. Generators are the averages (EMA)."""
    from Audio_to_Image.speech_encoder import load_encoder
    from common import checkpoint
    from common.features import trained_on
    from common.files import portable_options, read_note
    from StackGAN_v2.generators import load_generator

    model = run / "Model"
    source = next((path for name in ("best.pth", "latest.pth") if (path := model / name).is_file()), None)
    if source is None:
        raise cli.UserError(f"--run {run} has no Model/latest.pth; give the folder of a generator's run")
    load_generator(source)  # refuses what is no generator
    learned, notes = trained_on(source), read_note(run / "options.json")
    encoder_file = encoder_file or find_encoder(run, learned)
    _, meta = load_encoder(encoder_file)
    if learned not in (None, meta["digest"]):
        raise cli.UserError(
            f"--encoder {encoder_file} is {meta['digest']}, but the generator was trained with {learned}; give that one"
        )
    state = halved(checkpoint.state_dict_of(checkpoint.load(encoder_file), encoder_file))
    exported = {**meta, "digest": checkpoint.digest(state), "exported_from": meta["digest"]}
    average = halved(checkpoint.state_dict_of(checkpoint.load(source), source))
    of_run = read_note(encoder_file.resolve().parent / "options.json")
    about_encoder = {
        "digest": exported["digest"],
        "numbers": meta.get("metrics"),
        **{
            key: exported[key]
            for key in ("encoder", "front_end", "teacher", "dataset", "max_frames", "short_clips", "exported_from")
        },
        **_origin(of_run),
    }
    number = source.resolve().stem.removeprefix("netG_")
    about_generator = {
        "digest": checkpoint.digest(average),
        "speech_encoder": exported["digest"],
        "iteration": number,
        "numbers": read_note(model / f"iteration{number}" / "metrics.json") or None,
        **_origin(notes),
    }
    encoder = {"meta": exported, "state_dict": state}
    return encoder, portable_options(about_encoder), {"state_dict": average}, portable_options(about_generator)


def _origin(notes: dict) -> dict:
    return {key: notes.get(key) for key in ("options", "revision", "versions", "command", "date")}


def find_encoder(run: Path, digest: str | None) -> Path:
    """The encoder of that digest among the runs that stand where those of the recipes do. UserError if there is none."""
    from Audio_to_Image.speech_encoder import load_encoder

    for folder in (run.resolve().parent.parent, ROOT / "output"):
        for path in sorted((folder / "Audio_to_Image/log").glob("*/*.pth")):
            if path.name in ("latest.pth", "best.pth") and load_encoder(path)[1]["digest"] == digest:
                return path
    raise cli.UserError(f"the encoder that {run} learned from was not found; give it with --encoder FILE")


def halved(state: dict) -> dict:
    """Weights in half precision. Statistics and biases stay as they are: they are few, and variances may be large."""
    import torch

    result = {}
    for key, value in state.items():
        half = value.half() if value.dtype == torch.float32 and value.dim() > 1 else value
        if half.is_floating_point() and not half.isfinite().all():
            raise cli.UserError(f"'{key}' does not fit into half precision; its network cannot be exported")
        result[key] = half.contiguous()
    return result


def check_values(encoder_file, generator_file) -> list[dict]:
    """What the networks make of SENTENCES: the embedding's first numbers, the image's mean colour. Tests compare it."""
    from Audio_to_Image.audio import RATE, clip_of
    from Audio_to_Image.front_ends import front_end
    from Audio_to_Image.sound_files import Sound
    from Audio_to_Image.speech_encoder import load_encoder
    from Audio_to_Image.tts import speak
    from StackGAN_v2 import sampler
    from StackGAN_v2.generators import load_generator
    from StackGAN_v2.interpolation import embedding_of

    encoder, meta = load_encoder(encoder_file)
    generator = load_generator(generator_file)
    values = []
    for text in SENTENCES:
        clip = clip_of(Sound(speak(text), RATE), compute=front_end(meta["front_end"]).compute)
        embedding = embedding_of(clip, encoder, meta)[None]
        images = sampler.generate(generator, embedding, sampler.noise(generator, 0)[None])
        values.append(
            {
                "text": text,
                "embedding": [round(float(value), 5) for value in embedding[0, :8]],
                "colour": [round(float(value), 3) for value in images[-1][0].mean((0, 1))],
            }
        )
    return values


def model_card(name: str, card: dict) -> str:
    """README.md of the folder: what is known from the runs' files."""
    from common.files import MADE_BY

    lines = [
        f"# {name}: {card['purpose']}",
        "",
        f"A speech encoder and a generator of this project ({MADE_BY}), in half precision. Every command takes them by "
        f"name: `--encoder {name} --generator {name}`.",
        "",
        "| file | MiB | SHA-256 |",
        "|---|---|---|",
        *(
            f"| `{file}` | {about['bytes'] / 2**20:.1f} | `{about['sha256']}` |"
            for file, about in card["files"].items()
        ),
        "",
        f"Licence: {card['licence']}. Made on {card['date']}.",
    ]
    for part in pretrained.FILES:
        about = card[part]
        options = about.get("options") or {}
        lines += ["", f"## {part.capitalize()}", ""]
        lines += [f"Trained on `{about.get('dataset') or options.get('data_dir') or 'an unknown set'}`, seed "]
        lines[-1] += f"{options.get('manualSeed', 'unknown')}, revision {about.get('revision') or 'unknown'}, with"
        lines += ["", "```", " ".join(about.get("command") or ["unknown"]), "```"]
        numbers = about.get("numbers") or {}
        numbers = {key: value for key, value in numbers.items() if isinstance(value, (int, float))}
        if numbers:
            lines += ["", "| number | value |", "|---|---|"]
            lines += [f"| {key} | {value:.5g} |" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli.run(main)
