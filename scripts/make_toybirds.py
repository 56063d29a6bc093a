"""Draw toybirds, the embedded data set: made-up birds with captions, laid out as CUB-200-2011 with Reed's captions."""

import time
from pathlib import Path

from common import ROOT
from common.cli import Parser, UserError, exit_on_sigterm, natural, positive_int, run
from common.parallel import default_jobs

SMALLEST_IMAGE, LARGEST_IMAGE = 48, 2048  # pixels; a bird of fewer has no parts, of more no detail


def parse(argv=None):
    parser = Parser(__doc__)
    # Many species with few images each teach how attributes combine; few species with many teach those species.
    parser.add_argument("--classes", type=positive_int, default=240, help="species in all, training and test")
    parser.add_argument(
        "--test_classes",
        type=positive_int,
        help="species among them that only the test split shows (default: a sixth of --classes)",
    )
    parser.add_argument("--images_per_class", type=positive_int, default=6, help="images of each species")
    parser.add_argument(
        "--test_images_per_class",
        type=positive_int,
        help="images of each test species, if not as many (class accuracy needs two)",
    )
    parser.add_argument(
        "--image_size",
        type=positive_int,
        default=128,
        help="side of the square images in pixels; 128 suits training at 64, 500 is CUB's size",
    )
    parser.add_argument("--seed", type=natural, default=0, help="equal seeds and sizes give equal files, byte for byte")
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=ROOT / "data/toybirds",
        help="folder of the set, made if need be; an interrupted set there is finished",
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=default_jobs(), help="processes to draw with; no influence on the result"
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    test_classes = options.test_classes or max(1, round(options.classes / 6))
    if test_classes >= options.classes:
        raise UserError(f"--test_classes {test_classes} leaves no training species of --classes {options.classes}")
    if not SMALLEST_IMAGE <= options.image_size <= LARGEST_IMAGE:
        raise UserError(f"--image_size {options.image_size} is not between {SMALLEST_IMAGE} and {LARGEST_IMAGE} pixels")

    from common.progress import tqdm
    from scripts.data.toybirds.dataset import Settings, make_set

    exit_on_sigterm()
    settings = Settings(
        options.classes,
        test_classes,
        options.images_per_class,
        options.image_size,
        options.seed,
        options.test_images_per_class,
    )
    start = time.monotonic()
    made = make_set(
        settings,
        options.output_dir,
        options.jobs,
        lambda images, total: tqdm(images, total=total, desc="toybirds", unit="image"),
    )
    each = options.test_images_per_class or options.images_per_class
    count = (options.classes - test_classes) * options.images_per_class + test_classes * each
    if made:
        print(
            f"toybirds: {count} images of {options.classes} species ({test_classes} for testing) in "
            f"{options.output_dir} after {time.monotonic() - start:.1f} s"
        )
    else:
        print(f"toybirds: {options.output_dir} is complete already ({count} images); nothing to do")
    return 0


if __name__ == "__main__":
    run(main)
