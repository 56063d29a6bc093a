"""Teacher features: ten views of every image of a data set through a teacher network.

Reads   data/<set>/<split>.json and the images that it names
Writes  data/<set>/<split>/image_features_<teacher>.pickle   array [images, 10, width], and its note .json
"""

from pathlib import Path

from Audio_to_Image.command_settings import IN_CAFFE, MEAN_IN_CAFFE, TeacherOptions
from common.cli import Parser, UserError, run
from common.options import add_options, add_published, parse_groups


def parse(argv=None) -> TeacherOptions:
    parser = Parser(__doc__)
    add_options(parser, TeacherOptions)
    add_published(parser, valued=("--task",))  # published, but read by nothing
    return parse_groups(parser, TeacherOptions, argv)[1]


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

    device, precision = devices.set_up(options.device, options.precision)
    folder = data_dir(options.dataset, options.data_root)
    splits = [load_split(folder, name) for name in options.splits]
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
