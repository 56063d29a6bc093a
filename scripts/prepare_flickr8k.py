"""Prepare Flickr8k with its spoken captions → train.json, val.json and test.json (6,000 / 1,000 / 1,000, no classes).

    python ./scripts/prepare_flickr8k.py
    python ./scripts/prepare_flickr8k.py --audio ~/flickr_audio --images ~/Flicker8k_Dataset --text ~/Flickr8k_text

Split files that are there already are checked and kept.
"""

from common.cli import existing_dir, exit_on_sigterm, natural, run
from scripts.data.prepare.options import make_parser

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images")


def parse(argv=None):
    parser = make_parser(__doc__, "flickr8k")
    parser.add_argument(
        "--audio",
        type=existing_dir,
        help="folder of wav2capt.txt and wavs/ (default: flickr_audio in --output_dir, or that itself)",
    )
    parser.add_argument(
        "--images",
        type=existing_dir,
        help="folder of the images (default: Flicker8k_Dataset, as the archive spells it, in --output_dir)",
    )
    parser.add_argument(
        "--text",
        type=existing_dir,
        help="folder of Flickr8k.token.txt and Flickr_8k.trainImages.txt "
        "… (default: Flickr8k_text in --output_dir, or that itself, if they are there)",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="number that the draw of splits starts from, if the usual lists are not there",
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from scripts.data.prepare import flickr8k, sources
    from scripts.data.prepare.splitfiles import prepare

    folder = options.output_dir

    def build():
        listed = sources.find(
            [(options.audio or folder / "flickr_audio") / "wav2capt.txt", folder / "wav2capt.txt"],
            "the list of recordings",
            "--audio",
        )
        images = options.images or sources.find(
            [folder / name for name in IMAGE_FOLDERS], "the folder of images", "--images"
        )
        if (images / IMAGE_FOLDERS[0]).is_dir():  # the archive, unpacked into a folder of its name
            images = images / IMAGE_FOLDERS[0]
        names = ("Flickr8k.token.txt", *flickr8k.LISTS.values())
        text = options.text or next(
            (
                place
                for place in (folder / "Flickr8k_text", folder, listed.parent)
                if any((place / name).exists() for name in names)
            ),
            None,
        )
        return flickr8k.build(folder, images, listed.parent, text, options.any_size, options.seed)

    prepare(folder, flickr8k.rules(options.any_size), build, options.overwrite)
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    run(main)
