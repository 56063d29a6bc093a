"""Settings of scripts/finetune_inception.py."""

from dataclasses import dataclass
from pathlib import Path

from common.settings import REQUIRED, Group, setting, with_default
from common.training_settings import ComputeSettings, SeedSettings


@dataclass(frozen=True)
class DataSettings(Group):
    """Data."""

    data_dir: Path = setting(REQUIRED, "folder of the data set", more="such as ./data/birds", exists="dir")
    weights: Path | None = setting(
        None,
        "torchvision's Inception-v3 trained on ImageNet (inception_v3_google-0cc3c7bd.pth), a state dict",
        exists="file",
        none="from scratch, for which few images are too few",
    )
    classes: str = setting(
        "test", "whose classes", choices=("test", "train", "all"), more="test as StackGAN's, train, or all of the set"
    )
    output: Path | None = setting(
        None,
        "the network, a state dict",
        metavar="FILE",
        none="pretrained/inception_<set>_<classes>.pth beside the set",
    )
    held_out: float = setting(0.1, "share of each class's images that validates", more="at least one", above=0, below=1)
    jobs: int = setting(0, "processes that decode images", more="0: one a core", at_least=0, at_most=4096)
    quiet: bool = setting(False, "no progress bars")


@dataclass(frozen=True)
class Settings(Group):
    """Training. Those of torchvision's and TensorFlow's recipes for Inception-v3, for few images of few classes."""

    steps: int = setting(REQUIRED, "steps", options=(), at_least=1)
    batch_size: int = setting(32, "images a step", at_least=2)
    learning_rate: float = setting(
        0.01,
        "learning rate of the new layers",
        above=0,
        more="of SGD with Nesterov momentum 0.9; the old layers have a tenth of it",
    )
    weight_decay: float = setting(4e-5, "weight decay of SGD", at_least=0)
    label_smoothing: float = setting(
        0.1,
        "share of the target spread over all classes",
        at_least=0,
        below=1,
        more="Szegedy et al., CVPR 2016, sec. 7",
    )
    aux_weight: float = setting(0.4, "weight of the auxiliary head's loss", at_least=0)
    warm_up: float = setting(
        0.05,
        "share of the steps in which the rate rises",
        options=(),
        at_least=0,
        at_most=1,
        more="then it falls as half a cosine",
    )
    seed: int = with_default(SeedSettings, "seed", 0)


@dataclass(frozen=True)
class LengthSettings(Group):
    """Start and end."""

    epochs: int = setting(40, "times that every image is seen", at_least=1)
    max_steps: int = with_default(SeedSettings, "max_steps", 0)
    resume: str = setting("auto", "auto: go on where an interrupted run stopped", choices=("auto", "none"))


@dataclass(frozen=True)
class TuningCompute(ComputeSettings):
    """Machine."""

    precision: str = setting(
        "auto",
        "arithmetic of matrix products",
        choices=("auto", "fp32", "bf16"),
        more="auto: bf16 where the device multiplies it",
    )
