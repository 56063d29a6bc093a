"""Train the speech encoder so that a spoken caption's embedding is like the teacher's features of its image.

Usually started by run_audio_encoder.sh, which runs as many processes as wanted. Writes into --output_dir:
epoch_<n>.pth, the links latest.pth and best.pth, resume.pth and the one before it, options.json, log.txt, stats.jsonl
and TensorBoard events.
"""

import argparse
import dataclasses
import functools

from Audio_to_Image.encoders import ENCODERS, class_of_state, encoder_class
from Audio_to_Image.settings import EncoderOptions
from common import cli
from common.options import add_options, add_published, by_option, parse_groups


def parse(argv=None) -> EncoderOptions:
    parser = cli.Parser(__doc__)
    add_options(parser, EncoderOptions)
    parser.add_argument(
        "--no_cuda",
        dest="device",
        action="store_const",
        const="cpu",
        default=argparse.SUPPRESS,
        help="the same as --device cpu",
    )
    # published: the split files say where recordings are, and torchrun's variables which process this is
    add_published(parser, flags=("--distributed",), valued=("--data_path", "--local_rank", "--local-rank"))
    parser.set_defaults(**defaults_of_encoder(argv))
    return parse_groups(parser, EncoderOptions, argv)[1]


def defaults_of_encoder(argv) -> dict:
    """The defaults that the encoder named on the command line has instead of Li et al.'s."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # without a name: the parser of all options says so
    first.add_argument("--encoder", nargs="?", default="cnn_rnn", help="the encoder, read before the other options")
    name = first.parse_known_args(argv)[0].encoder
    return encoder_class(name).defaults if name in ENCODERS and name != "cnn_rnn" else {}


def main() -> int:
    options = parse()
    from Audio_to_Image import datasets
    from Audio_to_Image.voice_augmentation import VoiceVariant
    from common import devices, runs, validation
    from common.distributed import ranks

    device, precision = devices.set_up(options.compute.device, options.compute.precision)
    data = options.data
    data = dataclasses.replace(data, short_clips=data.short_clips or datasets.default_short_clips(data.dataset))
    training = dataclasses.replace(options.training, precision=precision)
    options = dataclasses.replace(options, data=data, training=training)
    resolved = {**by_option(options), "device": str(device), "precision": precision, "processes": ranks.world_size()}
    split, chosen = load_splits(data), None
    if training.val_share:
        chosen = validation.hold_out(split["train"], split.pop("test"), training.val_share, training.seed)
    if options.start.dry_run:
        if ranks.is_main():
            print(*(f"{name}: {value}" for name, value in resolved.items()), sep="\n")
        return 0
    image = load_teacher_features(options, split)
    ranks.start(device)
    try:
        opened = functools.partial(
            datasets.open_clips,
            max_frames=data.max_frames,
            device=device,
            where=data.cache,
            jobs=data.jobs,
            short_clips=data.short_clips,
            front=options.network.front_end,
        )
        clips = {role: opened(one) for role, one in split.items()}
        numbers = range(1, data.voice_variants + 1 if data.augment_voice else 1)
        voices = tuple(opened(split["train"], variant=VoiceVariant(number, training.seed)) for number in numbers)
        if chosen:
            voices = tuple(hold_out(voice, image["train"], chosen)[0]["train"] for voice in voices)
            clips, image = hold_out(clips["train"], image["train"], chosen)
        run = runs.Run(data.output_dir, resolved, ranks.is_main())
        return train(options, clips, voices, image, device, run)
    finally:
        ranks.finish()


def load_splits(data) -> dict:
    """The splits named train and test, of the set or of split files given one by one."""
    from common import splits

    given = {"train": data.train_json, "test": data.val_json}
    folder = splits.data_dir(data.dataset, data.data_root) if None in given.values() else None
    return {
        role: splits.load_split_file(path) if path else splits.load_split(folder, role) for role, path in given.items()
    }


def hold_out(clips, image: list, chosen) -> tuple[dict, dict]:
    """Clips and teacher's features of the training split → those of its two parts, "train" and "validation".

    chosen: the numbers of the items of either.
    """
    from common import validation

    roles = dict(zip(("train", "validation"), chosen))
    return (
        {role: clips.subset(validation.subset(clips.split, part, role), part) for role, part in roles.items()},
        {role: [image[number] for number in part] for role, part in roles.items()},
    )


def load_teacher_features(options, split: dict) -> dict:
    """The teacher's features of all splits, as lists of arrays `[views, d]`. UserError if their widths do not fit.

    An encoder that needs no teacher gets a view of a single 0 for each image.
    """
    import numpy as np

    from Audio_to_Image.objectives import objective_class
    from common import features

    if not objective_class(encoder_class(options.network.encoder)).needs_teacher:
        return {role: [np.zeros((1, 1), np.float32)] * len(one.items) for role, one in split.items()}
    teacher = options.data.teacher
    made_by = f"prepare_image_feature.py --dataset {options.data.dataset} --teacher {teacher}"
    path = {role: features.find_features(one, "image", teacher) for role, one in split.items()}
    image = {role: features.load_features(path[role], one, made_by) for role, one in split.items()}
    widths = {role: rows[0].shape[1] for role, rows in image.items()}
    if widths["train"] != widths.get("test", widths["train"]):
        raise cli.UserError(
            f"the features of teacher {teacher} are {widths['train']} wide for train and "
            f"{widths['test']} for test; run prepare_image_feature.py again for both"
        )
    network = options.network
    if network.encoder == "cnn_rnn" and network.bidirectional and widths["train"] % 2:
        raise cli.UserError(
            f"--bidirectional needs features of even width; those of {teacher} are {widths['train']} wide"
        )
    return image


def train(options: EncoderOptions, clips: dict, voices: tuple, image: dict, device, run) -> int:
    """Build the network, go on from a resume file if there is one, train. → exit status.

    voices: variants of the training clips (--augment_voice).
    """
    from Audio_to_Image import datasets, trainer
    from Audio_to_Image.encoder_metrics import mean_views
    from Audio_to_Image.objectives import objective_class
    from common import devices, validation

    data, training = options.data, options.training
    tested = "validation" if training.val_share else "test"
    tell_unusable(clips, run)
    devices.seed_everything(training.seed)
    network = encoder_class(options.network.encoder).from_settings(options.network, image["train"][0].shape[1])
    kind = objective_class(network)
    meta = {
        "dataset": data.dataset,
        "teacher": data.teacher if kind.needs_teacher else None,
        "front_end": options.network.front_end,
        "max_frames": data.max_frames,
        "short_clips": data.short_clips,
    }
    train_set = datasets.TrainingSet(clips["train"], image["train"], voices)
    run.limit(training.max_minutes)
    job = trainer.Trainer(
        network,
        train_set,
        clips[tested],
        mean_views(image[tested]),
        meta,
        training,
        run,
        kind.from_data(options, network, train_set),
    )
    start(job, options.start)
    run.log(
        f"{len(train_set)} training images with {len(clips['train'].usable)} captions, "
        f"{len(clips[tested].split.items)} {tested} images with {len(clips[tested].usable)}; {job.steps_per_epoch} "
        f"steps of {job.batch} an epoch; {device}, {training.precision}, {options.network.front_end} on "
        f"{clips['train'].where}" + (f", {len(voices)} variants of each recording" if voices else "")
    )
    run.log(validation.choice_note(training.val_share, train_set.clips.split, clips[tested].split))
    status = job.fit()
    left_out = clips["train"].without_speech()
    if left_out:
        run.log(
            f"{len(left_out)} images were left out of training, since they have no recording that can be used: "
            f"{', '.join(line.split(': ')[0] for line in left_out[:20])}{', …' if len(left_out) > 20 else ''}"
        )
    return status


def tell_unusable(clips: dict, run) -> None:
    """What is left out of both splits, and what is odd about the recordings, goes into the log."""
    from Audio_to_Image.recording_remarks import first

    for role, of_split in clips.items():
        unusable, items = of_split.unusable(), of_split.without_speech()
        if unusable:
            run.log(
                f"{len(unusable)} of {len(of_split.items)} clips of {role} cannot be used and are left out; "
                f"the first: {unusable[0]}"
            )
        for line in of_split.remarks():
            run.log(f"{role}: {line}")
        if items:
            run.log(
                f"{len(items)} of {len(of_split.split.items)} images of {role} have no recording that can be used "
                f"and are left out: {first(items)}"
            )


def start(job, start) -> None:
    """Go on from a resume file, or begin with weights (--init_weights, or --resume as published), or from scratch."""
    from common import checkpoint, resume

    found = resume.find(start.resume, job.run.folder)
    weights = start.init_weights
    if found and is_weights(found[0]):  # published: --resume takes an encoder's file
        found, weights = None, found[1]
    if found:
        job.resume(*found)
    elif weights:
        checkpoint.load_into(job.network, checkpoint.state_dict_of(checkpoint.load(weights), weights), weights)
        job.run.log(f"starting with the weights of {weights}")
    job.run.rewind(job.step, job.due)


def is_weights(content) -> bool:
    """Whether a checkpoint holds an encoder rather than the state of a training."""
    if not isinstance(content, dict) or "order" in content:
        return False
    keys = {key.removeprefix("module."): None for key in content if isinstance(key, str)}
    return "state_dict" in keys or any(key.startswith("Conv.") for key in keys) or class_of_state(keys) is not None


if __name__ == "__main__":
    cli.run(main)
