"""Embed every spoken caption of a data set with a trained encoder: the generator's input.

Writes <split>/audio_features_<switch>.pickle, the embeddings [images, captions, width], and
<split>/audio_features_lens_<switch>.pickle, the captions' lengths in frames [images, captions]; lists of arrays where
the images have different numbers of captions. A caption that cannot be used (no sound, or under 0.64 s if
the encoder was trained without such) is reported and gets the mean of its image's others. An image without any caption
that can be used is reported and gets no embedding, [0, width]: the generator leaves it out; with --strict it is an
error. The encoder's kind, front end, width, map length and what it does with short clips are read from its file.
"""

import argparse
import sys

from Audio_to_Image.command_settings import EmbeddingOptions
from common import cli
from common.options import add_options, add_published, parse_groups


def parse(argv=None) -> EmbeddingOptions:
    parser = cli.Parser(__doc__)
    add_options(parser, EmbeddingOptions)
    parser.add_argument(
        "--no_cuda",
        dest="device",
        action="store_const",
        const="cpu",
        default=argparse.SUPPRESS,
        help="the same as --device cpu",
    )
    add_published(parser, valued=("--dropout",))  # published; nothing is dropped when embedding
    options = parse_groups(parser, EmbeddingOptions, argv)[1]
    if not (options.dataset or options.train_json and options.val_json):
        parser.error("the following arguments are required: --dataset")
    return options


def load_splits(options) -> list:
    """The splits to embed: those of the set, or split files given one by one in place of them."""
    from common import splits

    given = {"train": options.train_json, "test": options.val_json}
    folder = splits.data_dir(options.dataset, options.data_root) if options.dataset else None
    return [
        splits.load_split_file(given[name]) if given.get(name) else splits.load_split(folder, name)
        for name in options.splits
        if folder or given.get(name)
    ]


def check_claims(options, meta: dict) -> None:
    """UserError if --bidirectional, --rnn_layers or --feature_len contradict the checkpoint."""
    if options.feature_len and options.feature_len != meta["nhidden"]:
        raise cli.UserError(
            f"--feature_len {options.feature_len} contradicts {options.model}, whose embeddings have "
            f"{meta['nhidden']} numbers; leave it away"
        )
    if options.bidirectional and not meta["bidirectional"]:
        raise cli.UserError(f"--bidirectional contradicts {options.model}, whose LSTM runs one way; leave it away")
    if options.rnn_layers and options.rnn_layers != meta["rnn_layers"]:
        raise cli.UserError(
            f"--rnn_layers {options.rnn_layers} contradicts {options.model}, which has "
            f"{meta['rnn_layers']} LSTM layers; leave it away"
        )


def per_image(clips, embeddings):
    """→ (embeddings, lengths): for each item `[captions, d]` float32 and `[captions]` frames, unusable ones filled in.

    clips: a SpeechClips; embeddings: `[usable clips, d]`. An item without a usable caption has 0 rows.
    """
    import numpy as np

    rows = np.full((len(clips.items), embeddings.shape[1]), np.nan, np.float32)
    rows[clips.usable] = embeddings
    frames = np.minimum(clips.n_frames, clips.max_frames).astype(np.float32)
    features, lens = [], []
    for item in range(len(clips.split.items)):
        of_item = np.flatnonzero(clips.items == item)
        own = rows[of_item]
        missing = np.isnan(own).all(1)
        if missing.all():
            own, of_item, missing = own[:0], of_item[:0], missing[:0]
        if missing.any():
            own[missing] = own[~missing].mean(0)
        features.append(own)
        lens.append(frames[of_item])
    return features, lens


def main() -> int:
    options = parse()
    from Audio_to_Image.datasets import embed_clips, open_clips_for
    from Audio_to_Image.recording_remarks import first
    from Audio_to_Image.speech_encoder import load_encoder
    from common import devices, features

    loaded = load_splits(options)
    for split in loaded:
        for switch in (options.audio_switch, f"lens_{options.audio_switch}"):
            features.require_replaceable(features.feature_path(split.folder, split.name, "audio", switch))
    device, precision = devices.set_up(options.device, options.precision)
    encoder, meta = load_encoder(options.model, device)
    check_claims(options, meta)
    meta["short_clips"] = options.short_clips or meta["short_clips"]
    opened = [open_clips_for(meta, split, device, options.jobs) for split in loaded]
    for split, clips in zip(loaded, opened):
        if options.strict and clips.without_speech():
            raise cli.UserError(
                f"{split.path}: {len(clips.without_speech())} images have no recording that can be used: "
                f"{first(clips.without_speech())}"
            )
    for split, clips in zip(loaded, opened):
        embeddings = embed_clips(encoder, meta, clips, options.batch_size, precision, progress=True).cpu().numpy()
        rows, lens = per_image(clips, embeddings)
        path = features.feature_path(split.folder, split.name, "audio", options.audio_switch)
        source = dict(
            encoder=meta["digest"],
            model=str(options.model),
            teacher=meta["teacher"],
            front_end=meta["front_end"],
            max_frames=meta["max_frames"],
            short_clips=meta["short_clips"],
            precision=precision,
        )
        features.save_features(path, rows, split, **source)
        features.save_features(
            features.feature_path(split.folder, split.name, "audio", f"lens_{options.audio_switch}"),
            lens,
            split,
            unit="frames of 10 ms",
            **source,
        )
        print(f"{path}: {len(rows)} images, {len(clips.items)} captions, {rows[0].shape[1]} numbers each")
        report(clips)
    return 0


def report(clips) -> None:
    for heading, lines in (
        ("captions could not be used and have the mean of their image's others", clips.unusable()),
        (
            "images have no recording that can be used and no embedding; the generator leaves them out",
            clips.without_speech(),
        ),
    ):
        if lines:
            print(
                f"{len(lines)} {heading}:", *(f"  {line}" for line in cli.first_few(lines)), sep="\n", file=sys.stderr
            )
    for line in clips.remarks():
        print(line, file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
