"""Train the speech encoder so that a spoken caption's embedding is like the teacher's features of its image.

Usually started by run_audio_encoder.sh, which runs as many processes as wanted. Writes into --output_dir:
epoch_<n>.pth, the links latest.pth and best.pth, resume.pth and the one before it, options.json, log.txt, stats.jsonl
and TensorBoard events.
"""
from pathlib import Path

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    _data_options(parser.add_argument_group("data").add_argument)
    _network_options(parser)
    _training_options(parser.add_argument_group("training").add_argument)
    _snapshot_options(parser.add_argument_group("evaluation and snapshots").add_argument)
    _machine_options(parser.add_argument_group("machine").add_argument)
    options = parser.parse_args(argv)
    if not (options.jel_flag or options.l1_flag or options.distill_flag):
        parser.error("no loss is on: give at least one of --jel_flag, --l1_flag, --distill_flag")
    if options.max_frames % 64 or options.max_frames > 2048:
        parser.error(f"argument --max_frames: {options.max_frames} is not a multiple of 64 up to 2048")
    if options.resume not in ("auto", "none") and not Path(options.resume).is_file():
        parser.error(f"argument --resume: {options.resume} does not exist; give a resume file, auto or none")
    return options


def _data_options(add) -> None:
    add("--dataset", required=True, metavar="NAME", help="the folder under --data_root with train.json and test.json")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: data/ of the project)")
    add("--teacher", default="googlenet_caffe", metavar="NAME",
        help="the teacher whose <split>/image_features_<NAME>.pickle are learned from")
    add("--max_frames", type=cli.positive_int, default=2048, metavar="N",
        help="frames (10 ms) of a map, a multiple of 64: longer clips are cut, shorter ones padded. The embedding is a "
             "mean over N/64 positions, so for short clips a smaller N is faster; the published encoder has 2048")
    add("--short_clips", choices=("pad", "skip"),
        help="what becomes of recordings under 0.64 s, one time step of the encoder. skip: they are left out; pad: they "
             "are heard by padding (default: skip for birds, flowers and Places, as published; pad for every other "
             "set, whose recordings may be of one word)")
    add("--cache", choices=("gpu", "ram", "disk"),
        help="where log-mels are held; what does not fit goes to the next (default: the first with room)")
    add("--jobs", type=cli.positive_int, metavar="N",
        help="threads that compute missing log-mels (default: all cores)")
    add("--workers", type=cli.natural, default=1, metavar="N", help="threads that make batches ahead; 0: none")
    add("--output_dir", required=True, metavar="DIR", help="the run's folder")


def _network_options(parser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("--bidirectional", action="store_true", help="an LSTM in both directions, each of half the width")
    add("--rnn_layers", type=cli.positive_int, default=1, metavar="N", help="LSTM layers")
    add = parser.add_argument_group("losses (one at least)").add_argument
    add("--jel_flag", action="store_true", help="train with the joint embedding loss")
    add("--loss_diff", type=cli.nonnegative_float, default=1.0, metavar="X",
        help="its weight for pairs of other classes")
    add("--loss_same", type=cli.nonnegative_float, default=0.1, metavar="X",
        help="its weight for pairs of the same class")
    add("--l1_flag", action="store_true", help="train with the L1 loss")
    add("--lambda_l1", type=cli.nonnegative_float, default=5.0, metavar="X", help="weight of the L1 loss")
    add("--distill_flag", action="store_true", help="train with the distillation loss")
    add("--lambda_distill", type=cli.nonnegative_float, default=1000.0, metavar="X",
        help="weight of the distillation loss")


def _training_options(add) -> None:
    add("--epoch", type=cli.positive_int, default=1000, metavar="N", help="epochs: passes over the training images")
    add("--batch_size", type=cli.positive_int, default=64, metavar="N",
        help="images a step and process (the published number is not known)")
    add("--learning_rate", type=cli.positive_float, default=1e-3, metavar="X", help="of Adam, weight decay 1e-5")
    add("--lr_schedule", choices=("step", "cosine"), default="step",
        help="step: published, as the next two options say; cosine: down to 0 over all epochs")
    add("--lr_scheduler_step_size", type=cli.positive_int, default=200, metavar="N",
        help="epochs between two reductions")
    add("--lr_scheduler_gamma", type=cli.positive_float, default=0.5, metavar="X", help="factor of a reduction")
    add("--grad_clip", type=cli.nonnegative_float, default=0.0, metavar="X",
        help="largest gradient norm; 0: any, published")
    add("--specaugment", action="store_true", help="mask two random bands of time and of frequency of every clip")
    add("--sync_bn", action="store_true",
        help="batch norm over all processes: N processes with batch B then equal one with N·B exactly")
    add("--manualSeed", type=cli.natural, default=0, metavar="N", help="seed of everything random")
    add("--max_steps", type=cli.natural, default=0, metavar="N", help="stop after N steps in all; 0: by epochs alone")


def _snapshot_options(add) -> None:
    add("--eval_every", type=cli.positive_int, default=10, metavar="N",
        help="epochs between two evaluations on the test split")
    add("--save_every", type=cli.positive_int, default=10, metavar="N",
        help="epochs between two snapshots; a best one is kept too")
    add("--keep", type=cli.natural, default=5, metavar="N", help="newest snapshots kept, beside the best; 0: all")
    add("--keep_every", type=cli.natural, default=0, metavar="N",
        help="epochs: snapshots of multiples of N are kept too; 0: none for that")
    add("--log_every", type=cli.positive_int, default=20, metavar="N", help="steps between two lines of statistics")
    add("--resume", default="auto", metavar="auto|none|FILE",
        help="auto: go on from resume.pth in --output_dir if it is there, or the one before if it is damaged; "
             "none: start anew; FILE: that resume file")


def _machine_options(add) -> None:
    add("--device", default="auto", metavar="D",
        help="auto, cpu, cuda or cuda:<number>; auto takes a GPU if there is one")
    add("--precision", choices=("auto", "fp32", "tf32", "bf16"), default="auto",
        help="auto: bf16 where the device multiplies it")
    add("--compile", action="store_true", help="compile the convolutions with torch.compile")
    add("--no_compile", dest="compile", action="store_false", help="do not (the default)")
    add("--whole_maps", action="store_true",
        help="convolve the padding of short clips too, as on a GPU, instead of counting its equal columns: the same results")
    add("--dry_run", action="store_true", help="print the resolved options and stop, before anything is written")


def settings_of(options, precision: str):
    """The trainer's settings that the options mean."""
    from Audio_to_Image.trainer import Settings
    o = options
    return Settings(
        epochs=o.epoch, batch_size=o.batch_size, jel=o.jel_flag, l1=o.l1_flag, distill=o.distill_flag,
        loss_diff=o.loss_diff, loss_same=o.loss_same, lambda_l1=o.lambda_l1, lambda_distill=o.lambda_distill,
        learning_rate=o.learning_rate, lr_schedule=o.lr_schedule, lr_step=o.lr_scheduler_step_size,
        lr_gamma=o.lr_scheduler_gamma, grad_clip=o.grad_clip, specaugment=o.specaugment, sync_bn=o.sync_bn,
        precision=precision, compile=o.compile, whole_maps=o.whole_maps or None, seed=o.manualSeed,
        max_steps=o.max_steps, eval_every=o.eval_every, save_every=o.save_every, keep=o.keep, keep_every=o.keep_every,
        log_every=o.log_every, workers=o.workers)


def main() -> int:
    options = parse()
    from Audio_to_Image import datasets
    from common import devices, features, runs, splits
    from common.distributed import ranks
    folder = splits.data_dir(options.dataset, options.data_root)
    split = {name: splits.load_split(folder, name) for name in ("train", "test")}
    device = devices.pick_device(options.device)
    precision = devices.pick_precision(options.precision, device)
    devices.set_up_arithmetic(device, precision)
    options.short_clips = options.short_clips or datasets.default_short_clips(options.dataset)
    resolved = {**vars(options), "device": str(device), "precision": precision, "processes": ranks.world_size()}
    if options.dry_run:
        if ranks.is_main():
            print(*(f"{name}: {value}" for name, value in resolved.items()), sep="\n")
        return 0
    image = {name: features.load_features(features.feature_path(folder, name, "image", options.teacher), split[name],
                                          f"prepare_image_feature.py --dataset {options.dataset} --teacher "
                                          f"{options.teacher}") for name in split}
    widths = {name: rows[0].shape[1] for name, rows in image.items()}
    if widths["train"] != widths["test"]:
        raise cli.UserError(f"the features of teacher {options.teacher} are {widths['train']} wide for train and "
                            f"{widths['test']} for test; run prepare_image_feature.py again for both")
    if options.bidirectional and widths["train"] % 2:
        raise cli.UserError(f"--bidirectional needs features of even width; those of {options.teacher} are "
                            f"{widths['train']} wide")
    ranks.start(device)
    try:
        clips = {name: datasets.open_clips(split[name], options.max_frames, device, options.cache, options.jobs,
                                           short_clips=options.short_clips) for name in split}
        run = runs.Run(options.output_dir, resolved, ranks.is_main())
        return train(options, clips, image, device, precision, run)
    finally:
        ranks.finish()


def tell_unusable(clips, run) -> None:
    """What is left out of both splits, and what is odd about the recordings, goes into the log."""
    from Audio_to_Image.recording_remarks import first
    for name, of_split in clips.items():
        unusable, items = of_split.unusable(), of_split.without_speech()
        if unusable:
            run.log(f"{len(unusable)} of {len(of_split.items)} clips of {name} cannot be used and are left out; "
                    f"the first: {unusable[0]}")
        for line in of_split.remarks():
            run.log(f"{name}: {line}")
        if items:
            run.log(f"{len(items)} of {len(of_split.split.items)} images of {name} have no recording that can be used "
                    f"and are left out: {first(items)}")


def train(options, clips, image, device, precision, run) -> int:
    """Build the network, go on from a resume file if there is one, train. → exit status."""
    from Audio_to_Image import datasets, trainer
    from Audio_to_Image.speech_encoder import CNNRNN
    from common import devices, resume
    tell_unusable(clips, run)
    settings = settings_of(options, precision)
    devices.seed_everything(options.manualSeed)
    network = CNNRNN(nhidden=image["train"][0].shape[1], rnn_layers=options.rnn_layers,
                     bidirectional=options.bidirectional)
    meta = {"dataset": options.dataset, "teacher": options.teacher, "max_frames": options.max_frames,
            "short_clips": options.short_clips}
    train_set = datasets.TrainingSet(clips["train"], image["train"])
    job = trainer.Trainer(network, train_set, clips["test"], trainer.mean_views(image["test"]), meta, settings, run)
    found = resume.find(options.resume, run.folder)
    if found:
        job.resume(*found)
    run.rewind(job.step)
    run.log(f"{len(train_set)} training images with {len(clips['train'].usable)} captions, "
            f"{len(clips['test'].split.items)} test images with {len(clips['test'].usable)}; {job.steps_per_epoch} "
            f"steps of {job.batch} an epoch; {device}, {precision}, log-mels on {clips['train'].where}")
    status = job.fit()
    left_out = clips["train"].without_speech()
    if left_out:
        run.log(f"{len(left_out)} images were left out of training, since they have no recording that can be used: "
                f"{', '.join(line.split(': ')[0] for line in left_out[:20])}{', …' if len(left_out) > 20 else ''}")
    return status


if __name__ == "__main__":
    cli.run(main)
