"""A page of what given networks make of birds that they have not met, within a minute or so: drawn, spoken, generated.

scripts/demo.sh shows it before its own networks are trained. The pages, sets and links are made again each time.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, cli, pretrained

SET = "toybirds"
SPECIES, SEED = 12, 20200408  # a seed of its own: species that no other set has
SWITCH = "first_look"  # name of the speech features
RUN = "pretrained_speech_encoder"


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--encoder", type=pretrained.option("encoder"), default=SET, metavar="FILE|NAME", help="speech encoder")
    add("--generator", type=pretrained.option("generator"), default=SET, metavar="FILE|NAME", help="generator")
    add("--data_root", type=Path, default=ROOT / "data", metavar="DIR", help="the set goes to DIR/.first_look/toybirds")
    add("--output", type=Path, default=ROOT / "output/demo/index.html", metavar="FILE", help="the page")
    add("--device", default="auto", metavar="D", help="where to compute")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from common.files import require_ours

    began = time.monotonic()
    require_ours(options.output, "--output")
    data_root = options.data_root.absolute() / ".first_look"
    folder = data_root / SET
    runs = link_networks(options.encoder, options.generator, options.output.absolute().parent / ".first_look")
    where = ["--dataset", SET, "--data_root", str(data_root)]
    steps = [
        ["scripts/make_toybirds.py", "--classes", str(3 * SPECIES), "--test_classes", str(SPECIES), "--seed", str(SEED)]
        + ["--images_per_class", "1", "--output_dir", str(folder)],
        ["Audio_to_Image/text_to_speech.py", *where, "--engine", "hibari", "--splits", "test", "--speed", "1.2-1.4"],
        ["Audio_to_Image/extract_audio_feature.py", *where, "--splits", "test", "--audio_switch", SWITCH]
        + ["--model", str(runs[0] / "latest.pth"), "--device", options.device],
        ["scripts/report.py", *map(str, runs), *where, "--audio_switch", SWITCH, "--device", options.device]
        + ["--output", str(options.output.absolute())],
    ]
    for words in steps:
        status = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL).returncode
        if status:
            raise cli.UserError(f"{words[0]} ended with status {status}; see its message above")
    print(f"{options.output} after {time.monotonic() - began:.0f} s")
    return 0


def link_networks(encoder: Path, generator: Path, root: Path) -> tuple[Path, Path]:
    """The networks as runs, which is what the page shows: the folders of the encoder's and of the generator's."""
    from common.files import MADE_BY, read_note, write_json

    runs = root / "Audio_to_Image/log" / RUN, root / "StackGAN_v2" / RUN
    places = runs[0] / "latest.pth", runs[1] / "Model/latest.pth"
    for part, source, run, place in zip(pretrained.FILES, (encoder, generator), runs, places):
        name = pretrained.name_of(source)
        about = (
            pretrained.card(name).get(part, {})
            if name
            else read_note(source.resolve().parents[part == "generator"] / "options.json")
        )
        write_json(run / "options.json", {"made_by": MADE_BY, **about, "options": about.get("options") or {}})
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        os.symlink(os.path.abspath(source), place)
    return runs


if __name__ == "__main__":
    cli.run(main)
