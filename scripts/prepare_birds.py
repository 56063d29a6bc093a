"""Prepare CUB-200-2011: the archive and Reed's captions → train.json and test.json (150 / 50 classes).

    python ./scripts/prepare_birds.py
    python ./scripts/prepare_birds.py --cub ~/CUB_200_2011 --captions ~/cvpr2016_cub

Split files that are there already are checked and kept. Toybirds' folder has the same layout: give it as --output_dir
with --any_size.
"""

from common.cli import existing_dir, exit_on_sigterm, run
from scripts.data.prepare.options import make_parser


def parse(argv=None):
    parser = make_parser(__doc__, "birds")
    parser.add_argument("--cub", type=existing_dir, help="the unpacked archive (default: CUB_200_2011 in --output_dir)")
    parser.add_argument(
        "--captions",
        type=existing_dir,
        help="Reed's unpacked archive, or its text_c10 (default: cvpr2016_cub or text_c10 in --output_dir)",
    )
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    from scripts.data.prepare import birds, reed, sources
    from scripts.data.prepare.splitfiles import prepare

    folder = options.output_dir

    def build():
        cub = options.cub or sources.find(
            [folder / "CUB_200_2011", folder / "CUB_200_2011/CUB_200_2011"], "the archive CUB_200_2011", "--cub"
        )
        if (cub / "CUB_200_2011").is_dir():  # the archive, unpacked into a folder of its name
            cub = cub / "CUB_200_2011"
        return birds.build(folder, cub, reed.text_folder(options.captions, folder, "cvpr2016_cub"))

    prepare(folder, birds.rules(options.any_size), build, options.overwrite)
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    run(main)
