"""Host memory of training the generator from disk, on a set of CUB-200-2011's size whose images are in a mapped file.

It draws some images and links them under as many names as CUB has training images, so that nothing has to be
downloaded. The peak is the sum of the proportional set sizes (PSS) of all processes: each shared page is counted
once.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import recipe, synthetic_data
from common import ROOT, cli

DRAWN = 240


def parse(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--images", type=cli.positive_int, default=recipe.TRAINING, metavar="N", help="of the training split"
    )
    parser.add_argument("--side", type=cli.positive_int, default=320, metavar="N", help="pixels of the images")
    parser.add_argument(
        "--batch_size",
        type=cli.positive_int,
        default=2,
        metavar="N",
        help="images an iteration; on a GPU, whose maps are not in host memory, give the published 24",
    )
    parser.add_argument("--steps", type=cli.positive_int, default=6, metavar="N", help="iterations")
    parser.add_argument("--cache", choices=("gpu", "ram", "disk"), default="disk", help="where the images are")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the generator's cfg")
    parser.add_argument("--json", metavar="FILE", help="write the result there too")
    return parser.parse_args(argv)


def make_set(folder: Path, images: int, side: int) -> None:
    """`folder`/train.json with `images` items of `DRAWN` drawn images, and the embeddings of their sentences."""
    from common.files import read_json, write_json
    from common.splits import load_split

    split = synthetic_data.draw_images(folder, min(images, DRAWN), side)
    content = read_json(folder / "test.json")
    items = []
    for number in range(images):
        drawn = number % len(split.items)
        image, entry = split.items[drawn].image, content["data"][drawn]
        name = Path(entry["image"]).with_stem(f"{Path(entry['image']).stem}_{number}")
        os.link(image, split.image_root / name)
        items.append({**entry, "image": str(name)})
    write_json(folder / "train.json", {**content, "data": items})
    for name in ("train", "test"):
        synthetic_data.save_embeddings(folder, load_split(folder, name))


def held(session: int) -> int:
    """Bytes (PSS) of all processes of a session."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, IndexError):  # it has just ended
            continue
    return total


def peak_of(command: list[str]) -> int:
    running, peak = subprocess.Popen(command, start_new_session=True), 0
    try:
        while running.poll() is None:
            peak = max(peak, held(running.pid))
            time.sleep(0.2)
    finally:
        if running.poll() is None:
            running.terminate()
    if running.returncode:
        raise cli.UserError(f"the training ended with status {running.returncode}; see above")
    return peak


def main(argv=None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "birds"
        data.mkdir()
        make_set(data, args.images, args.side)
        values = [f"TRAIN.BATCH_SIZE={args.batch_size}", *args.set]
        words = [
            ROOT / "StackGAN_v2/main.py",
            "--cfg",
            ROOT / "StackGAN_v2/cfg/birds_3stages.yml",
            "--data_dir",
            data,
            "--audio_switch",
            synthetic_data.SWITCH,
            "--output_dir",
            Path(folder) / "run",
            "--cache",
            args.cache,
            "--max_steps",
            args.steps,
            *(word for value in values for word in ("--set", value)),
        ]
        peak = peak_of([sys.executable, *map(str, words)])
        cache = sum(path.stat().st_size for path in (data / "train").glob("images_*.npy"))
    print(
        f"peak {peak / 2**20:,.0f} MiB of host memory: {args.images:,} images, {cache / 2**20:,.0f} MiB on disk, "
        f"batches of {args.batch_size}"
    )
    if args.json:
        from common.files import write_json

        write_json(
            Path(args.json),
            {
                "peak_bytes": peak,
                "images": args.images,
                "cache_bytes": cache,
                "batch_size": args.batch_size,
                "cache": args.cache,
                "set": args.set,
            },
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
