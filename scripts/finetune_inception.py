"""Fine-tune an Inception-v3 on the classes of a set, for its inception score (StackGAN_v2/evaluate.py --is_weights).

Published scores on birds and flowers go through StackGAN's Inception, which tells the 50 or 20 classes of the test
split apart; so does this one by default. Classes are learnt from real images, cut as the generator's are.
"""
import signal
from pathlib import Path

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", required=True, type=cli.existing_dir, metavar="DIR",
        help="folder of the data set, such as ./data/birds")
    add("--weights", type=cli.existing_file, metavar="FILE", help="torchvision's Inception-v3 trained on ImageNet "
        "(inception_v3_google-0cc3c7bd.pth), a state dict (default: from scratch, for which few images are too few)")
    add("--classes", default="test", choices=("test", "train", "all"),
        help="whose classes: test as StackGAN's, train, or all of the set")
    add("--output", type=Path, metavar="FILE", help="the network, a state dict (default: "
        "pretrained/inception_<set>_<classes>.pth beside the set)")
    add("--epochs", type=cli.positive_int, default=40, metavar="N", help="times that every image is seen")
    add("--batch_size", type=cli.positive_int, default=32, metavar="N", help="images a step, at least 2")
    add("--learning_rate", type=cli.positive_float, default=0.01, metavar="X",
        help="of the new layers; the old ones have a tenth of it")
    add("--label_smoothing", type=cli.nonnegative_float, default=0.1, metavar="X",
        help="share of the target spread over all classes")
    add("--aux_weight", type=cli.nonnegative_float, default=0.4, metavar="X", help="weight of the side head's loss")
    add("--weight_decay", type=cli.nonnegative_float, default=4e-5, metavar="X", help="of SGD")
    add("--held_out", type=cli.positive_float, default=0.1, metavar="X", help="share of each class's images that "
        "validates, at least one")
    add("--max_steps", type=cli.natural, default=0, metavar="N", help="end after N steps; 0: after --epochs")
    add("--resume", default="auto", choices=("auto", "none"), help="auto: go on where an interrupted run stopped")
    add("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of matrix products; auto: bf16 where the device multiplies it")
    add("--manualSeed", type=cli.natural, default=0, metavar="N", help="of everything random")
    add("--jobs", type=cli.natural, default=0, metavar="N", help="processes that decode images; 0: one a core")
    add("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.batch_size < 2:
        parser.error("argument --batch_size: batch normalisation needs at least 2 images")
    if args.held_out >= 1 or args.label_smoothing >= 1:
        parser.error("--held_out and --label_smoothing are shares below 1")
    return args


def main(argv=None) -> int:
    args = parse(argv)
    import torch

    from common import checkpoint
    from common.devices import pick_device, pick_precision
    from common.files import MADE_BY, require_ours, sha256, write_json
    from scripts.finetuning import images, training
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    output = args.output or args.data_dir.parent / "pretrained" / f"inception_{args.data_dir.name}_{args.classes}.pth"
    resume = output.with_suffix(".resume.pth")
    for path in (output, output.with_suffix(".json"), resume):
        require_ours(path, "--output")
    if not args.weights:
        print("warning: without --weights the network starts from scratch; a few thousand images make no good judge")
    if args.classes == "all":
        print("note: published scores go through a network of the test classes only (--classes test)")
    found = images.load(args.data_dir, args.classes, args.held_out, args.manualSeed, args.jobs or None,
                          not args.quiet)
    every = max(1, len(found.train) // args.batch_size)
    settings = training.Settings(args.max_steps or args.epochs * every, args.batch_size, args.learning_rate,
                                 args.weight_decay, args.label_smoothing, args.aux_weight, seed=args.manualSeed)
    origin = f"{args.weights.name} {sha256(args.weights)[:16]}" if args.weights else "scratch"
    key = {"settings": repr(settings), "held_out": args.held_out, "started_from": origin,
           "images": f"{len(found.labels)} of {len(found.classes)} classes, {args.classes} {args.data_dir.name}"}
    torch.manual_seed(args.manualSeed)             # new layers start the same in every run
    run = training.Training(training.inception(len(found.classes), args.weights), found, settings, device, precision,
                            not args.weights, key)
    if args.resume == "auto" and resume.is_file():
        run.restore(resume)
        print(f"going on after step {run.first:,}")
    print(f"{len(found.train):,} images of {len(found.classes)} {args.classes} classes, {len(found.held_out):,} held "
          f"out, {settings.steps:,} steps of {args.batch_size}, {device} {precision}")
    if not run.run(resume, every, print, not args.quiet):
        print(f"stopped after step {run.first:,}; the same command goes on from {resume}")
        return 128 + (run.stopped_by or signal.SIGINT)
    accuracy = run.accuracy()
    checkpoint.save(output, {name: value.cpu().contiguous() for name, value in run.network.state_dict().items()})
    write_json(output.with_suffix(".json"), {"made_by": MADE_BY, **key, "classes": found.classes, "which": args.classes,
                                             "set": args.data_dir.name, "validation_accuracy": accuracy})
    resume.unlink(missing_ok=True)
    print(f"validation accuracy {accuracy:.2f} % (chance {100 / len(found.classes):.2f} %); kept in {output}\n"
          f"use it: python ./StackGAN_v2/evaluate.py --is_weights {output} …")
    return 0


if __name__ == "__main__":
    cli.run(main)
