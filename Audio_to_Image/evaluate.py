"""How well a trained speech encoder finds the right class and the right image, on all captions of a split.

Prints the numbers, with the protocol, and appends them to metric-speech.jsonl in the encoder's folder.
"""

from common import cli, pretrained

PROTOCOL = {
    "similarity": "dot product, as published; names that end in _cosine: cosine, for encoders trained without JEL, whose "
    "embeddings may have any length",
    "speech": "every usable caption of the split",
    "image feature": "mean of the image's views (published: a random view)",
    "accuracy": "images whose best class centre (mean speech embedding of the class) is their own class, %",
    "ap50": "own images among the 50 of highest score for a class centre, mean over classes, %",
    "ap50_highest": "AP@50 of a perfect ranking: a class may have fewer than 50 images, %",
    "matchmap": "davenet alone: the first usable caption of each of at most 1,000 images, compared by matchmap; R@k, %",
    "retrieval": "an image and its own captions are right, others wrong; R@k: a right one among the best k, %; mAP, %",
}


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add(
        "--model",
        type=pretrained.option("encoder"),
        metavar="FILE|NAME",
        help="the encoder: an epoch_<n>.pth, best.pth, …, or a name in pretrained/",
    )
    add(
        "--speech_features",
        type=cli.existing_file,
        metavar="FILE",
        help="measure embeddings of the split's captions in a pickle, with --image_features, instead of a model's",
    )
    add(
        "--image_features",
        type=cli.existing_file,
        metavar="FILE",
        help="pickle of the split's images that --speech_features are compared with",
    )
    add("--dataset", required=True, metavar="NAME", help="the folder under --data_root with the split files")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: data/ of the project)")
    add("--split", default="test", metavar="NAME", help="the split to measure on")
    add("--teacher", metavar="NAME", help="whose image features to compare with (default: the encoder's own teacher)")
    add(
        "--image_model",
        type=cli.existing_file,
        metavar="FILE",
        help="image network that belongs to the encoder, as its authors keep it (best_image_model.pth); for encoders "
        "other than cnn_rnn whose file does not hold it",
    )
    add("--batch_size", type=cli.positive_int, default=64, metavar="N", help="clips at a time")
    add(
        "--jobs",
        type=cli.positive_int,
        metavar="N",
        help="processes that compute missing log-mels (default: all cores)",
    )
    add(
        "--device",
        default="auto",
        metavar="D",
        help="auto, cpu, cuda or cuda:<number>; auto takes a GPU if there is one",
    )
    add(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16"),
        default="fp32",
        help="auto: bf16 where the device multiplies it",
    )
    options = parser.parse_args(argv)
    pair = (options.speech_features, options.image_features)
    if any(pair) and not all(pair):
        parser.error("--speech_features and --image_features belong together; give both")
    if bool(options.model) == any(pair):
        parser.error("give either --model, or --speech_features and --image_features")
    return options


def main() -> int:
    options = parse()
    return measure_model(options) if options.model else measure_features(options)


def measure_model(options) -> int:
    from Audio_to_Image import datasets, trainer
    from Audio_to_Image.objectives import load_objective
    from Audio_to_Image.recording_remarks import first
    from Audio_to_Image.speech_encoder import load_encoder
    from common import devices, splits
    from common.files import append_line

    folder = splits.data_dir(options.dataset, options.data_root)
    split = splits.load_split(folder, options.split)
    device = devices.pick_device(options.device)
    precision = devices.pick_precision(options.precision, device)
    devices.set_up_arithmetic(device, precision)
    encoder, meta = load_encoder(options.model, device)
    objective = load_objective(options.model, encoder, options.image_model)
    teacher, image = (
        teacher_features(options, encoder, meta, objective, folder, split) if objective.needs_teacher else (None, None)
    )
    clips = datasets.open_clips(split, meta["max_frames"], device, jobs=options.jobs, short_clips=meta["short_clips"])
    values = trainer.evaluate(
        encoder,
        meta,
        clips,
        objective.embed_images(image, split, precision),
        options.batch_size,
        precision,
        progress=True,
    )
    values |= objective.more_metrics(encoder, meta, clips, options.batch_size, precision)
    show(values)
    if clips.unusable():
        print(f"{len(clips.unusable())} captions could not be used and are left out: {first(clips.unusable())}")
    append_line(
        options.model.parent / "metric-speech.jsonl",
        {
            "model": options.model.resolve().name,
            "digest": meta["digest"],
            "dataset": options.dataset,
            "split": split.name,
            "encoder": encoder.name,
            "teacher": teacher,
            "images": len(split.items),
            "captions": len(clips.usable),
            "unusable": len(clips.unusable()),
            "epoch": meta.get("epoch"),
            "precision": precision,
            **values,
            "protocol": PROTOCOL,
        },
    )
    return 0


def show(values: dict[str, float]) -> None:
    for name, value in values.items():
        print(f"{name:24} {value:7.2f} %")
    print(*(f"{name}: {text}" for name, text in PROTOCOL.items()), sep="\n")


def measure_features(options) -> int:
    """The same metrics of two feature files, whoever made them; the line goes beside the speech features."""
    import numpy as np
    import torch

    from Audio_to_Image.metrics import speech_metrics
    from Audio_to_Image.trainer import mean_views
    from common import features, splits
    from common.files import append_line

    split = splits.load_split(splits.data_dir(options.dataset, options.data_root), options.split)
    made_by = "what made it, for this split,"
    speech = features.load_features(options.speech_features, split, made_by, some_without=True)
    image = mean_views(features.load_features(options.image_features, split, made_by))
    if speech[0].shape[1] != image.shape[1]:
        raise cli.UserError(
            f"{options.speech_features} is {speech[0].shape[1]} numbers wide and "
            f"{options.image_features} {image.shape[1]}; give two files of one space"
        )
    items = torch.from_numpy(np.repeat(np.arange(len(speech)), [len(rows) for rows in speech]))
    labels = torch.tensor(split.labels) if split.has_classes else None
    values = speech_metrics(torch.from_numpy(np.concatenate(speech)), items, image, labels)
    show(values)
    append_line(
        options.speech_features.parent / "metric-speech.jsonl",
        {
            "speech_features": options.speech_features.name,
            "image_features": str(options.image_features),
            "dataset": options.dataset,
            "split": split.name,
            "images": len(image),
            "captions": len(items),
            **values,
            "protocol": PROTOCOL,
        },
    )
    return 0


def teacher_features(options, encoder, meta, objective, folder, split):
    """→ (the teacher's name, the mean of each image's views `[images, width]`). UserError if they do not fit."""
    from Audio_to_Image import trainer
    from common import features

    teacher = options.teacher or meta["teacher"]
    if not teacher:
        raise cli.UserError(f"{options.model} does not say which teacher it was trained with; give --teacher")
    image = features.load_features(
        features.find_features(split, "image", teacher),
        split,
        f"prepare_image_feature.py --dataset {options.dataset} --teacher {teacher}",
    )
    if image[0].shape[1] != objective.feature_width:
        gives = "gives" if objective.feature_width == encoder.nhidden else "wants features of"
        raise cli.UserError(
            f"{options.model} {gives} {objective.feature_width} numbers, but the features of teacher "
            f"{teacher} have {image[0].shape[1]}; name the teacher that it was trained with by "
            "--teacher"
        )
    return teacher, trainer.mean_views(image)


if __name__ == "__main__":
    cli.run(main)
