"""Embed every spoken caption of a data set with a trained encoder: the generator's input.

Writes <split>/audio_features_<switch>.pickle, the embeddings [images, captions, width], and
<split>/audio_features_lens_<switch>.pickle, the captions' lengths in frames [images, captions]; lists of arrays where
the images have different numbers of captions. A caption that cannot be used (no sound, under 0.64 s) is reported and
gets the mean of its image's others. The encoder's kind, width and map length are read from its file.
"""
import sys

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, type=cli.existing_file, metavar="FILE",
        help="the encoder: an epoch_<n>.pth, latest.pth, …")
    add("--dataset", required=True, metavar="NAME", help="the folder under --data_root with the split files")
    add("--data_root", metavar="DIR", help="folder of the data sets (default: data/ of the project)")
    add("--audio_switch", default="googlenet_caffe", metavar="NAME",
        help="name of the features; the generator asks for it")
    add("--splits", nargs="+", default=["train", "test"], metavar="NAME", help="the splits to embed")
    add("--bidirectional", action="store_true",
        help="published option, no longer needed: an error if the encoder is not so")
    add("--rnn_layers", type=cli.positive_int, metavar="N",
        help="published option, no longer needed: an error if the encoder has another number of LSTM layers")
    add("--batch_size", type=cli.positive_int, default=64, metavar="N", help="clips at a time")
    add("--jobs", type=cli.positive_int, metavar="N",
        help="threads that compute missing log-mels (default: all cores)")
    add("--device", default="auto", metavar="D",
        help="auto, cpu, cuda or cuda:<number>; auto takes a GPU if there is one")
    add("--precision", choices=("auto", "fp32", "tf32", "bf16"), default="fp32",
        help="auto: bf16 where the device multiplies it")
    return parser.parse_args(argv)


def check_claims(options, meta: dict) -> None:
    """UserError if --bidirectional or --rnn_layers contradict the checkpoint."""
    if options.bidirectional and not meta["bidirectional"]:
        raise cli.UserError(f"--bidirectional contradicts {options.model}, whose LSTM runs one way; leave it away")
    if options.rnn_layers and options.rnn_layers != meta["rnn_layers"]:
        raise cli.UserError(f"--rnn_layers {options.rnn_layers} contradicts {options.model}, which has "
                            f"{meta['rnn_layers']} LSTM layers; leave it away")


def per_image(clips, embeddings):
    """→ (embeddings, lengths): for each item `[captions, d]` float32 and `[captions]` frames, unusable ones filled in.

    clips: a SpeechClips whose every item has a usable caption; embeddings: `[usable clips, d]`.
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
        own[missing] = own[~missing].mean(0)
        features.append(own)
        lens.append(frames[of_item])
    return features, lens


def main() -> int:
    options = parse()
    from Audio_to_Image.datasets import embed_clips, open_clips
    from Audio_to_Image.speech_encoder import load_encoder
    from common import devices, features, splits
    folder = splits.data_dir(options.dataset, options.data_root)
    loaded = [splits.load_split(folder, name) for name in options.splits]
    device = devices.pick_device(options.device)
    precision = devices.pick_precision(options.precision, device)
    devices.set_up_arithmetic(device, precision)
    encoder, meta = load_encoder(options.model, device)
    check_claims(options, meta)
    for split in loaded:
        clips = open_clips(split, meta["max_frames"], device, jobs=options.jobs)
        clips.require_every_item()
        embeddings = embed_clips(encoder, meta, clips, options.batch_size, precision, progress=True).cpu().numpy()
        rows, lens = per_image(clips, embeddings)
        path = features.feature_path(folder, split.name, "audio", options.audio_switch)
        source = dict(encoder=meta["digest"], model=str(options.model), teacher=meta["teacher"],
                      max_frames=meta["max_frames"], precision=precision)
        features.save_features(path, rows, split, **source)
        features.save_features(features.feature_path(folder, split.name, "audio", f"lens_{options.audio_switch}"),
                               lens, split, unit="frames of 10 ms", **source)
        print(f"{path}: {len(rows)} images, {len(clips.items)} captions, {rows[0].shape[1]} numbers each")
        report(clips.unusable())
    return 0


def report(unusable: list[str]) -> None:
    if unusable:
        print(f"{len(unusable)} captions could not be used and have the mean of their image's others:", file=sys.stderr)
        print(*(f"  {line}" for line in unusable[:20]), sep="\n", file=sys.stderr)
        if len(unusable) > 20:
            print(f"  … and {len(unusable) - 20} more", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
