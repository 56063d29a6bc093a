"""Train the generator on drawn birds of 256 pixels for some minutes, and keep its grid of images and its numbers.

Needs a GPU to be worth looking at, and no network, sound or weights: a sentence's embedding is made from its words (a
random direction a word, added up), which stands for the speech encoder's.
"""
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT, cli

SWITCH, WIDTH = "words", 1024


def parse(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--minutes", type=cli.positive_float, default=8, metavar="N", help="of training")
    parser.add_argument("--work", default="data/toybirds_256", metavar="DIR", help="folder of the drawn set")
    parser.add_argument("--results", metavar="DIR", help="folder of the results (default: the device's in "
                                                         "benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a few small images and no numbers: whether it runs")
    return parser.parse_args(argv)


def embeddings(split) -> list:
    """float32 `[sentences, 1024]` an item: the mean of its words' directions, of length 1."""
    import zlib

    import numpy as np
    known = {}

    def direction(word):
        if word not in known:
            known[word] = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(WIDTH)
        return known[word]

    def embed(text):
        total = sum(direction(word) for word in text.lower().split())
        return total / np.linalg.norm(total)
    return [np.stack([embed(text) for text in item.texts]).astype(np.float32) for item in split.items]


def make_data(folder: Path, quick: bool) -> None:
    from common.features import feature_path, save_features
    from common.parallel import default_jobs
    from common.splits import load_split
    from scripts.data.toybirds.dataset import Settings, make_set
    settings = Settings(4, 2, 2, 96, 0) if quick else Settings(240, 40, 10, 320, 0)
    make_set(settings, folder, 1 if quick else default_jobs(), lambda todo, total: todo)
    for name in ("train", "test"):
        split = load_split(folder, name)
        save_features(feature_path(folder, name, "audio", SWITCH), embeddings(split), split,
                      made_by="benchmarks/toybirds_256.py: words, not speech")


def command(script: str, *options) -> list[str]:
    return [sys.executable, str(ROOT / "StackGAN_v2" / script), *map(str, options)]


def train(settings: list[str], common: list, minutes: float, quick: bool) -> None:
    """Stop the trainer as a user would, after `minutes`; it then writes its snapshot."""
    running = subprocess.Popen(command("main.py", *common, *settings, *(["--max_steps", 2] if quick else [])))
    try:
        status = running.wait(None if quick else 60 * minutes)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGTERM)
        status = running.wait()
    finally:
        if running.poll() is None:
            running.terminate()
    if status not in (0, 128 + signal.SIGTERM):
        raise cli.UserError(f"the training ended with status {status}; see above")


def main(argv=None) -> int:
    args = parse(argv)
    from benchmarks.recipe import results_folder
    from common.devices import pick_device
    data = (ROOT / args.work).resolve()
    results = Path(args.results) if args.results else results_folder(pick_device()) / "toybirds_256"
    run = f"toybirds_256_{time.strftime('%Y%m%d_%H%M%S')}"
    make_data(data, args.quick)
    sizes = ["TREE.BASE_SIZE=16", "GAN.GF_DIM=4", "GAN.DF_DIM=4", "TRAIN.BATCH_SIZE=2", "TRAIN.COEFF.MATCHING=0"] \
        if args.quick else ["TREE.BASE_SIZE=64", "GAN.GF_DIM=64", "GAN.DF_DIM=64", "TRAIN.BATCH_SIZE=24"]
    settings = [part for value in ["TRAIN.MAX_ITERATIONS=0", *sizes] for part in ("--set", value)]
    common = ["--cfg", ROOT / "StackGAN_v2/cfg/toybirds_3stages.yml", "--audio_switch", SWITCH, "--data_dir", data]
    folder = ROOT / "output/StackGAN_v2" / run
    train(settings, [*common, "--output_dir", run], args.minutes, args.quick)
    net_g = (folder / "Model/latest.pth").resolve()
    sampling = ["--set", "TRAIN.FLAG=False", "--eval_net_g", net_g]
    subprocess.run(command("main.py", *common, *settings, *sampling), check=True)
    samples = next((folder / "Model").glob("iteration*/single_samples"))
    status = 0 if args.quick else subprocess.run(command(
        "evaluate.py", "--images", samples / "valid", "--data_dir", data, "--metrics", "attributes", "--output",
        results, "--quiet")).returncode
    from PIL import Image
    results.mkdir(parents=True, exist_ok=True)
    largest = max((folder / "Image").glob("*.png"), key=lambda path: tuple(map(int, path.stem.split("_"))))
    Image.open(largest).convert("RGB").save(results / "grid.jpg", quality=85)
    shutil.copy(folder / "stats.jsonl", results / "stats.jsonl")
    print(f"{results}: grid.jpg of {largest.stem.split('_')[-1]} iterations, stats.jsonl"
          + ("" if args.quick else " and the numbers"))
    return status


if __name__ == "__main__":
    cli.run(main)
