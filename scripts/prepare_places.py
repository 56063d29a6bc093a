"""Prepare the room images of Places: the audio captions' JSON files → train.json and test.json of seven classes.

    python ./scripts/prepare_places.py --audio ~/PlacesAudio_400k_distro --images ~/places205/images256

Split files that are there already are checked and kept. The release's val.json becomes the test split.
"""

from common.cli import existing_dir, existing_file, exit_on_sigterm, natural, run
from scripts.data.prepare.options import make_parser

RELEASE = ("PlacesAudio_400k_distro", "PlacesAudio", "PlacesAudio/PlacesAudio_400k_distro", "")
IMAGE_FOLDERS = ("images256", "images", "data/vision/torralba/deeplearning/images256")  # the last: the archive's own


def parse(argv=None):
    parser = make_parser(__doc__, "Places_subset")
    parser.add_argument(
        "--audio",
        type=existing_dir,
        help="the unpacked audio captions, with wavs/ and metadata/ "
        "(default: PlacesAudio_400k_distro or PlacesAudio in --output_dir)",
    )
    parser.add_argument(
        "--images",
        type=existing_dir,
        help="folder of k/kitchenette/….jpg or of kitchenette/….jpg (default: images256 or images in --output_dir)",
    )
    parser.add_argument("--train_json", type=existing_file, help="(default: metadata/train.json of --audio)")
    parser.add_argument(
        "--test_json",
        type=existing_file,
        help="(default: metadata/val.json of --audio; without it a tenth of each class is drawn from --train_json)",
    )
    parser.add_argument("--seed", type=natural, default=0, help="number that this draw starts from")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from scripts.data.prepare import places, sources
    from scripts.data.prepare.splitfiles import prepare

    folder = options.output_dir

    def build():
        audio = (
            options.audio
            or sources.find(
                [folder / place / "metadata" for place in RELEASE], "the release of audio captions", "--audio"
            ).parent
        )
        images = options.images or sources.find(
            [folder / name for name in IMAGE_FOLDERS], "the folder of Places' images", "--images"
        )
        train = options.train_json or sources.find(
            [audio / "metadata/train.json"], "the release's list", "--train_json"
        )
        beside = audio / "metadata/val.json"
        test = options.test_json or (beside if not options.train_json and beside.exists() else None)
        return places.build(folder, images, audio, train, test, options.seed)

    prepare(folder, places.rules(options.any_size), build, options.overwrite)
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    run(main)
