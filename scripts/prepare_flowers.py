"""Prepare Oxford-102 flowers: images, their labels and Reed's captions → train.json and test.json (82 / 20 classes).

    python ./scripts/prepare_flowers.py
    python ./scripts/prepare_flowers.py --images ~/jpg --labels ~/imagelabels.mat --captions ~/cvpr2016_flowers

Split files that are there already are checked and kept.
"""

from common.cli import existing_dir, existing_file, exit_on_sigterm, run
from scripts.data.prepare.options import make_parser


def parse(argv=None):
    parser = make_parser(__doc__, "flowers")
    parser.add_argument(
        "--images", type=existing_dir, help="folder of image_00001.jpg … (default: jpg in --output_dir)"
    )
    parser.add_argument("--labels", type=existing_file, help="(default: imagelabels.mat in --output_dir)")
    parser.add_argument(
        "--captions",
        type=existing_dir,
        help="Reed's unpacked archive, or its text_c10 (default: cvpr2016_flowers or text_c10 in --output_dir)",
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from scripts.data.prepare import flowers, reed, sources
    from scripts.data.prepare.splitfiles import prepare

    folder = options.output_dir

    def build():
        images = options.images or sources.find(
            [folder / "jpg", folder / "102flowers/jpg"], "the folder jpg of 102flowers.tgz", "--images"
        )
        labels = options.labels or sources.find(
            [folder / "imagelabels.mat", folder / "102flowers/imagelabels.mat"], "Oxford's list of classes", "--labels"
        )
        return flowers.build(folder, images, labels, reed.text_folder(options.captions, folder, "cvpr2016_flowers"))

    prepare(folder, flowers.rules(options.any_size), build, options.overwrite)
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    run(main)
