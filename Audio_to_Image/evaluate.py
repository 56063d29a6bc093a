"""How well a trained speech encoder finds the right class and the right image, on all captions of a split.

Prints the numbers, with the protocol, and appends them to metric-speech.jsonl in the encoder's folder.
"""

from Audio_to_Image.command_settings import EncoderEvaluation
from common import cli
from common.options import add_options, parse_groups

PROTOCOL = {
    "similarity": "dot product, as published; names that end in _cosine: cosine, for encoders trained without JEL, whose "
    "embeddings may have any length",
    "speech": "every usable caption of the split",
    "image feature": "mean of the image's views (published: a random view)",
    "accuracy": "images whose best class centre (mean speech embedding of the class) is their own class, %",
    "ap50": "own images among the 50 of highest score for a class centre, mean over classes, %",
    "ap50_highest": "AP@50 of a perfect ranking: a class may have fewer than 50 images, %",
    "probe": "of the attributes that sentences name, those that a linear probe reads in the embedding, %; it is trained on "
    "training sentences and read on those of the split, 8,000 at most of each; sets with attributes.json",
    "matchmap": "davenet alone: the first usable caption of each of at most 1,000 images, compared by matchmap; R@k, %",
    "retrieval": "an image and its own captions are right, others wrong; R@k: a right one among the best k, %; mAP, %",
}


def parse(argv=None) -> EncoderEvaluation:
    parser = cli.Parser(__doc__)
    add_options(parser, EncoderEvaluation)
    options = parse_groups(parser, EncoderEvaluation, argv)[1]
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
    from Audio_to_Image import datasets, encoder_metrics
    from Audio_to_Image.objectives import load_objective
    from Audio_to_Image.recording_remarks import first
    from Audio_to_Image.speech_encoder import load_encoder
    from common import devices, splits
    from common.files import append_line

    folder = splits.data_dir(options.dataset, options.data_root)
    split = splits.load_split(folder, options.split)
    device, precision = devices.set_up(options.device, options.precision)
    encoder, meta = load_encoder(options.model, device)
    objective = load_objective(options.model, encoder, options.image_model)
    teacher, image = (
        teacher_features(options, encoder, meta, objective, folder, split) if objective.needs_teacher else (None, None)
    )
    clips = datasets.open_clips_for(meta, split, device, options.jobs)
    values = encoder_metrics.evaluate(
        encoder,
        meta,
        clips,
        objective.embed_images(image, split, precision),
        options.batch_size,
        precision,
        progress=True,
        project=objective.project,
    )
    values |= objective.more_metrics(encoder, meta, clips, options.batch_size, precision)
    values |= read_attributes(options, folder, encoder, meta, clips, precision)
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
            **({"captions_used": used} if (used := split.captions_used()) else {}),
            "epoch": meta.get("epoch"),
            "precision": precision,
            **values,
            "protocol": PROTOCOL,
        },
    )
    return 0


def read_attributes(options, folder, encoder, meta: dict, clips, precision: str) -> dict[str, float]:
    """The linear probe (attribute_reading.py) of a split other than train, in sets that have attributes.json."""
    import numpy as np

    from Audio_to_Image import attribute_reading, datasets
    from common import attributes, splits

    path = folder / "attributes.json"
    if not path.is_file() or clips.split.name == "train" or "train" not in splits.splits_in(folder):
        return {}
    known = attributes.load_attributes(path)
    train = datasets.open_clips_for(meta, splits.load_split(folder, "train"), clips.device, options.jobs)
    embedded, named, chosen = [], [], {}
    for role, one in (("train", train), ("test", clips)):
        chosen[role] = attribute_reading.chosen_sentences(one)
        named.append(attribute_reading.named_values(known, one, chosen[role]))
        embedded.append(
            datasets.embed_clips(encoder, meta, one, options.batch_size, precision, progress=True, chosen=chosen[role])
        )
    classes = np.array(train.split.labels)[train.items[chosen["train"]]]
    return attribute_reading.probe_scores(embedded[0], named[0], classes, embedded[1], named[1], known.names)


def show(values: dict[str, float]) -> None:
    for name, value in values.items():
        print(f"{name:24} {value:7.2f} %")
    print(*(f"{name}: {text}" for name, text in PROTOCOL.items()), sep="\n")


def measure_features(options) -> int:
    """The same metrics of two feature files, whoever made them; the line goes beside the speech features."""
    import numpy as np
    import torch

    from Audio_to_Image.encoder_metrics import mean_views
    from Audio_to_Image.metrics import speech_metrics
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
    from Audio_to_Image.encoder_metrics import mean_views
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
    return teacher, mean_views(image)


if __name__ == "__main__":
    cli.run(main)
