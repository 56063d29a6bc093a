"""Settings of a run of main.py that stand in options rather than in a cfg file."""

from dataclasses import dataclass
from pathlib import Path

from common.settings import Group, setting
from common.training_settings import ComputeSettings, ResumeSettings, SeedSettings, SnapshotSettings, ValidationSettings


@dataclass(frozen=True)
class DataSettings(Group):
    """Data."""

    data_dir: Path | None = setting(
        None, "folder of the data set", none="cfg DATA_DIR, or data/<DATASET_NAME>", exists="dir"
    )
    audio_switch: str = setting("googlenet_caffe", "which speech features", more="<split>/audio_features_NAME.pickle")
    cache: str = setting(
        "auto",
        "where the prepared images live",
        choices=("auto", "gpu", "ram", "disk"),
        more="what takes more than half of what is free goes to the next place",
    )


@dataclass(frozen=True)
class NetworkExecution(ComputeSettings):
    """Machine."""

    compile: bool | None = setting(
        None,
        "compile the networks",
        no_option="--no_compile",
        more="faster after a minute or two (default: for training on a GPU)",
    )
    memory_format: str = setting(
        "channels_last",
        "order of a tensor's numbers in memory",
        choices=("channels_last", "contiguous"),
        more="the results are equal up to rounding",
    )
    rewrites: bool = setting(
        True,
        "compute convolutions step by step as the papers write them, not in cheaper ways with results equal up to rounding",
        options=(),
        no_option="--no_rewrites",
    )


@dataclass(frozen=True)
class TrainingRun(SnapshotSettings, ValidationSettings, SeedSettings, ResumeSettings):
    """Training."""

    best_by: str = setting(
        "none",
        "metric of the best snapshot, linked as best.pth",
        choices=("none", "kid_lite0", "kid_lite0at128", "kid_lite2", "kid_lite2at128"),
        more="measured on fixed sentences of the test split, or of what --val_share leaves out: KID through "
        "EfficientNet-lite0 or lite2, which see 224 and 260 pixels, or 128 (faster)",
    )
    metrics_every: int = setting(
        0,
        "iterations between two measurements of the Fréchet distance and KID",
        at_least=0,
        more="as --best_by measures (kid_lite0 where it is none), into stats.jsonl and TensorBoard; 0: none",
    )
    sync_bn: bool = setting(False, "batch norm over all processes", more="N of them then equal one")


@dataclass(frozen=True)
class SamplingSettings(Group):
    """Sampling."""

    eval_net_g: Path | None = setting(
        None, "the generator, netG_<n>.pth", none="cfg TRAIN.NET_G", exists="generator", more="or a name in pretrained/"
    )
    split: str = setting("test", "whose sentences are generated", more="train, val, …: <split>.json and its features")
    sheet: int = setting(
        0,
        "samples a class on sheets beside the samples",
        more="a row for each class, a real image first; 0: no sheets",
        at_least=0,
        at_most=100,
    )
    batch_size: int | None = setting(
        None,
        "images at a time",
        at_least=1,
        at_most=65536,
        none="auto",
        metavar="auto|N",
        more="auto: what a quarter of the free memory holds, at most 64, on a GPU 256",
    )
    format: str = setting(
        "png",
        "kind of the files",
        choices=("png", "jpg"),
        more="jpg, at quality 95, is a tenth of the work and changes the numbers a little",
    )
    all_sizes: bool = setting(False, "write the images of every branch, not only the last")
    limit: int = setting(0, "only the first N sentences", more="0: cfg TEST.SAMPLE_NUM", at_least=0)
    any_speech: bool = setting(
        False,
        "take the speech features even where they are known to be of another encoder than those that the "
        "generator was trained on",
    )


@dataclass(frozen=True)
class GeneratorOptions(Group):
    """All options of main.py, beside those of the cfg file."""

    data: DataSettings = DataSettings()
    training: TrainingRun = TrainingRun()
    sampling: SamplingSettings = SamplingSettings()
    compute: NetworkExecution = NetworkExecution()
