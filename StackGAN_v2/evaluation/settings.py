"""Settings of StackGAN_v2/evaluate.py."""

from dataclasses import dataclass
from pathlib import Path

from common.cli import name_list
from common.settings import Group, SettingError, setting, with_default
from common.training_settings import ComputeSettings

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
LITE = ("lite0", "lite2")  # extractors whose weights come in packages
METRICS = ("fid", "is", "kid", "pr", "retrieval", "s2igan", "class", "attributes")


@dataclass(frozen=True)
class ImageSettings(Group):
    """Images."""

    images: Path | None = setting(
        None,
        "the generated images, as main.py makes them: …/iteration<n>/single_samples/valid",
        exists="dir",
        metavar="FOLDER",
    )
    data_dir: Path | None = setting(
        None,
        "folder of the data set, such as ./data/birds",
        none="with --run the one that the run was trained on",
        exists="dir",
    )
    metrics: tuple[str, ...] | None = setting(
        None,
        f"which of {','.join(METRICS)}",
        choices=METRICS,
        parse=name_list,
        metavar="A,B,…",
        none="all that the set allows",
        more="class needs classes, attributes needs attributes.json, s2igan needs torchvision's weights; pr: precision "
        "and recall; s2igan: retrieval by S2IGAN's protocol",
    )
    real_split: str = setting(
        "test", "the split that the images were made for and are compared with", more="all its images"
    )
    crop: str = setting(
        "box",
        "real images: cut as for training the generator, around the bounding box where there is one, or whole",
        choices=("box", "whole"),
        more="always the square in the middle",
    )
    image_size: int | None = setting(
        None,
        "which of the generated sizes, in pixels, by the name of the files",
        options=("--image_size", "--picture_size"),
        none="the largest",
        at_least=1,
    )
    size: int | None = setting(
        None,
        "pixels at which both sides are compared",
        none="that of the generated images",
        at_least=1,
        more="papers: 256",
    )
    max_images: int = setting(
        0,
        "at most N generated images, drawn at random",
        options=("--max_images", "--max_pictures"),
        at_least=0,
        more="0: all",
    )
    output: Path | None = setting(None, "where the numbers go", none="the folder of single_samples", metavar="FOLDER")


@dataclass(frozen=True)
class ExtractorSettings(Group):
    """Networks."""

    extractor: str = setting(
        "auto",
        "network of FID, KID, precision and recall",
        choices=("auto", "inception", "pytorch_fid", "lite0", "lite2"),
        more="inception shows it images as torch-fidelity does, pytorch_fid as pytorch-fid; auto: inception if its "
        "weights are there, else lite0; lite2: EfficientNet-lite2, where the generator's training knows lite0",
    )
    class_extractor: str = setting(
        "auto",
        "network of class accuracy and retrieval",
        choices=("auto", "lite0", "lite2"),
        more="auto: lite2 with --extractor lite2, else lite0",
    )
    inception_weights: Path | None = setting(
        None,
        f"the FID Inception, {WEIGHTS_NAME}, checked by SHA-256",
        none="what scripts/download.py fid_inception puts into the folder pretrained beside the set",
        exists="file",
    )
    any_weights: bool = setting(False, "accept --inception_weights of another hash", more="the name then says so")
    is_weights: Path | None = setting(
        None,
        "for the inception score, an Inception-v3 fine-tuned on the set's classes",
        exists="file",
        more="the StackGAN authors' TensorFlow checkpoint (model.ckpt-<n>, or its .index), as papers use it, or a state "
        "dict of torchvision's network",
    )
    torchvision_weights: Path | None = setting(
        None,
        "torchvision's ImageNet Inception-v3, for s2igan",
        none="the file that torchvision keeps after its own download",
        exists="file",
    )
    lite0_size: int = setting(
        224, "pixels that lite0 sees", at_least=1, more="fewer are faster and change the metrics' names"
    )
    lite2_size: int = setting(260, "pixels that lite2 sees", at_least=1, more="as --lite0_size")


@dataclass(frozen=True)
class CurveSettings(Group):
    """All snapshots of a run."""

    run: Path | None = setting(
        None,
        "folder of a run of main.py, instead of --images",
        exists="dir",
        more="images of each of its snapshots are generated, measured and deleted; the numbers go to curve.jsonl in "
        "it, what is measured already stays, and the report draws them",
    )
    sentences: int = setting(1, "sentences of an image, with --run", at_least=0, more="0: all")
    every: int = setting(1, "only snapshots whose number is a multiple of N, with --run", at_least=1)


@dataclass(frozen=True)
class MachineSettings(Group):
    """Machine."""

    batch_size: int = setting(64, "images at a time", at_least=1)
    device: str = with_default(ComputeSettings, "device", "auto")
    jobs: int = setting(0, "threads that decode images", at_least=0, more="0: one a core")
    quiet: bool = setting(False, "no progress bars")


@dataclass(frozen=True)
class EvaluateOptions(MachineSettings, CurveSettings, ExtractorSettings, ImageSettings):
    """All options of evaluate.py."""

    def check(self) -> None:
        if (self.images is None) == (self.run is None):
            raise SettingError("--images", self.images, "give either --images FOLDER, or --run DIR for all snapshots")
        if self.images and not self.data_dir:
            raise SettingError("--data_dir", None, "name the folder of the data set that the images are of")
        if self.run and self.output:
            raise SettingError("--output", self.output, "leave it out: the numbers of --run go into the run's folder")
