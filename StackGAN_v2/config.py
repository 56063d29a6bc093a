"""Settings of the generator: the published cfg keys with their defaults, ours beside them, a strict reader of them.

Every key that the published code does not have defaults to what the published code does.
"""

import fnmatch
from dataclasses import dataclass
from typing import Any

from common.cli import UserError
from common.files import read_text
from common.settings import Group, SettingError, build, fields_of, groups_of, setting, shown, tell_ignored
from common.untrusted.yaml_files import parse_yaml
from StackGAN_v2.exemplar_settings import ExemplarSettings
from StackGAN_v2.generators import DEFAULT, GENERATORS

# Keys of published cfg files that mean nothing here; * stands for anything.
IGNORED = (
    "CONFIG_NAME",
    "EMBEDDING_TYPE",
    "PROJECT_ROOT",
    "BIRDS_*",
    "INCEPTION_CUB",
    "B_VALIDATION",
    "TEST.TRUNC",
    "TRAIN.B_VALIDATION",
    "TRAIN.PRETRAINED_MODEL",
    "TRAIN.PRETRAINED_EPOCH",
    "GAN.NETWORK_TYPE",
)
AUGMENTATIONS = ("color", "translation", "cutout")  # that TRAIN.DIFFAUGMENT may name


@dataclass(frozen=True)
class TreeSettings(Group):
    """Branches, each of which doubles the images of the one before."""

    BRANCH_NUM: int = setting(
        3,
        "branches",
        choices=(1, 2, 3),
        options=("--branch_num",),
        more="images of TREE.BASE_SIZE, of twice and of four times that",
    )
    BASE_SIZE: int = setting(64, "images of the first branch", unit="pixels", choices=(16, 32, 64))

    @property
    def image_size(self) -> int:
        """Side of the last branch's images, in pixels."""
        return self.BASE_SIZE << (self.BRANCH_NUM - 1)


@dataclass(frozen=True)
class CoefficientSettings(Group):
    """Weights of the losses."""

    KL: float = setting(2.0, "weight of the KL term", at_least=0)
    CAL_LOSS: float = setting(0.0, "class-aware loss (on above 0)", more="its weight is 1, as published", at_least=0)
    UNCOND_LOSS: float = setting(0.0, "weight of the unconditional loss", at_least=0)
    COLOR_LOSS: float = setting(0.0, "weight of the colour loss", at_least=0)
    MA_PENALTY: float = setting(
        0.0, "matching-aware gradient penalty (DF-GAN), weight", more="DF-GAN: 2", at_least=0, published=False
    )
    MATCHING: float = setting(
        0.0,
        "contrastive loss of a matching network, weight",
        at_least=0,
        published=False,
        more="the network is trained beforehand",
    )


@dataclass(frozen=True)
class TrainSettings(Group):
    """Training of the generator."""

    FLAG: bool = setting(True, "train", more="False: generate the test set with NET_G", compared=False)
    NET_G: str = setting(
        "", "generator to start from, or to generate with", more="or a name in pretrained/", compared=False
    )
    NET_D: str = setting("", "start of the discriminators' file names: <NET_D>0.pth, …", compared=False)
    BATCH_SIZE: int = setting(
        64,
        "batch size",
        unit="images an iteration, over all processes",
        at_least=2,
        more="the paper's is 24; batch normalisation needs 2",
    )
    VIS_COUNT: int = setting(64, "images on a sample sheet", at_least=1, at_most=4096, compared=False)
    MAX_EPOCH: int = setting(600, "epochs", at_least=1, compared=False)
    MAX_ITERATIONS: int = setting(0, "iterations", more="0: MAX_EPOCH decides alone", at_least=0, compared=False)
    SNAPSHOT_INTERVAL: int = setting(2000, "iterations between snapshots", at_least=1, compared=False)
    LOG_INTERVAL: int = setting(50, "iterations between log lines", options=("--tick",), at_least=1, compared=False)
    DISCRIMINATOR_LR: float = setting(2e-4, "learning rate of the discriminators", above=0)
    GENERATOR_LR: float = setting(2e-4, "learning rate of the generator", above=0)
    BETAS: tuple[float, float] = setting((0.5, 0.999), "Adam β₁, β₂", at_least=0, below=1)
    EMA: float = setting(0.999, "decay of the generator's average, per iteration", at_least=0, below=1)
    EMA_RAMP: float = setting(
        0.0,
        "the average's half-life is at most this share of the training so far",
        more="Projected GAN: 0.05; 0: no limit",
        at_least=0,
        published=False,
    )
    DIFFAUGMENT: str = setting(
        "",
        "augmentation of what discriminators see",
        more="some of translation, cutout, color, with commas between",
        published=False,
    )
    ADVERSARIAL: str = setting("bce", "adversarial loss", choices=("bce", "hinge"), published=False)
    WRONG: str = setting(
        "image",
        "wrong pairs have another …",
        choices=("image", "speech"),
        published=False,
        more="image: of another class; speech: that of the next in the batch",
    )
    DETACH_CONDITION: bool = setting(
        False,
        "condition hidden from the adversarial gradient",
        published=False,
        more="the generator cannot change mu to suit the discriminators",
    )
    COEFF: CoefficientSettings = CoefficientSettings()
    CONDITION_INIT: bool = setting(
        False,
        "data-dependent start of the conditioning",
        published=False,
        more="conditions have unit spread on this set's embeddings; affine: with GAN.CONDITION_DIM",
    )
    MA_PENALTY_EVERY: int = setting(
        4,
        "iterations between two penalties",
        more="each counts this many times",
        at_least=1,
        published=False,
        only_with="TRAIN.COEFF.MA_PENALTY",
    )
    MATCHER_STEPS: int = setting(
        600, "steps that train the matching network", at_least=1, published=False, only_with="TRAIN.COEFF.MATCHING"
    )

    def check(self) -> None:
        if not set(self.augmentations) <= set(AUGMENTATIONS):
            raise SettingError("DIFFAUGMENT", self.DIFFAUGMENT, f"known are {', '.join(AUGMENTATIONS)}")

    @property
    def augmentations(self) -> list[str]:
        """The kinds that DIFFAUGMENT names."""
        return [kind.strip() for kind in self.DIFFAUGMENT.split(",")] if self.DIFFAUGMENT else []


@dataclass(frozen=True)
class GanSettings(Group):
    """Widths and depth of the networks."""

    EMBEDDING_DIM: int = setting(128, "width of the condition", at_least=1, at_most=65536)
    DF_DIM: int = setting(64, "width of the discriminators", at_least=1, at_most=4096)
    GF_DIM: int = setting(64, "width of the generator", at_least=1, at_most=4096)
    Z_DIM: int = setting(100, "width of the noise", at_least=1, at_most=65536)
    R_NUM: int = setting(2, "residual blocks a branch", at_least=0, at_most=64)
    MAX_FACTOR: int = setting(
        8, "affine: channels of the smallest maps at most, in widths", at_least=1, at_most=64, published=False
    )
    CONDITION_DIM: int = setting(
        0,
        "affine: width of the condition, a linear layer of the speech embedding",
        more="0: the embedding itself",
        at_least=0,
        at_most=65536,
        published=False,
    )
    MASK: int = setting(
        0,
        "affine: channels of the networks that predict where the condition acts (SSA-GAN: 100)",
        more="0: everywhere",
        at_least=0,
        at_most=4096,
        published=False,
    )
    B_CONDITION: bool = setting(True, "conditional")

    def check(self) -> None:
        if not self.B_CONDITION:
            raise SettingError("B_CONDITION", False, "an unconditional generator is not part of this method")


@dataclass(frozen=True)
class TextSettings(Group):
    """Speech features."""

    DIMENSION: int = setting(
        1024,
        "width of the speech features",
        at_least=1,
        compared=False,
        more="kept for published files; it is read from the speech features",
    )


@dataclass(frozen=True)
class TestSettings(Group):
    """Sampling."""

    B_EXAMPLE: bool = setting(True, "kept for published files", compared=False)
    SAMPLE_NUM: int = setting(30000, "images at the most", more="0: one for every sentence", at_least=0, compared=False)


@dataclass(frozen=True)
class Config(Group):
    """All keys of a cfg file."""

    DATASET_NAME: str = setting(
        "birds", "folder below data/", more="if --data_dir does not say otherwise", compared=False
    )
    DATA_DIR: str = setting("", "folder of the data set", compared=False)
    GPU_ID: str = setting("0", "kept for published files; --device chooses", compared=False)
    CUDA: bool = setting(
        True, "a GPU may be used", more="False: the CPU, where --device does not say otherwise", compared=False
    )
    WORKERS: int = setting(
        4, "threads that write images, if the cores are fewer", at_least=0, at_most=4096, compared=False
    )
    MODEL: str = setting(
        DEFAULT,
        "generator and discriminators",
        choices=tuple(GENERATORS),
        published=False,
        more="affine: one image, of the last branch's size, by conditional affine modulation (DF-GAN); exemplar: one "
        "image, a training image with the colours that are said, for small budgets",
    )
    TREE: TreeSettings = TreeSettings()
    TRAIN: TrainSettings = TrainSettings()
    GAN: GanSettings = GanSettings()
    EXEMPLAR: ExemplarSettings = ExemplarSettings()
    TEXT: TextSettings = TextSettings()
    TEST: TestSettings = TestSettings()

    def check(self) -> None:
        halvings = 2 ** (self.TREE.BRANCH_NUM - 1)  # every branch after the first has half the channels
        if self.MODEL == "stackgan_v2" and self.GAN.GF_DIM % halvings:
            raise SettingError(
                "GAN.GF_DIM",
                self.GAN.GF_DIM,
                f"it must be a multiple of {halvings}",
                {"TREE.BRANCH_NUM": self.TREE.BRANCH_NUM},
            )
        if self.MODEL == "affine" and self.TRAIN.COEFF.UNCOND_LOSS:
            raise SettingError(
                "TRAIN.COEFF.UNCOND_LOSS",
                self.TRAIN.COEFF.UNCOND_LOSS,
                "it must be 0, since the discriminator has no unconditional logit",
                {"MODEL": self.MODEL},
            )
        if self.MODEL == "exemplar":
            self._check_exemplar()

    def _check_exemplar(self) -> None:
        because = {"MODEL": self.MODEL}
        if self.GAN.Z_DIM < 8:
            reason = "it must be 8 at least: 7 numbers move an exemplar, the others choose it"
            raise SettingError("GAN.Z_DIM", self.GAN.Z_DIM, reason, because)
        if self.TREE.image_size not in (32, 64, 128, 256):
            raise SettingError(
                "TREE.BASE_SIZE",
                self.TREE.BASE_SIZE,
                "images of the last branch must have 32, 64, 128 or 256 pixels",
                {**because, "TREE.BRANCH_NUM": self.TREE.BRANCH_NUM},
            )
        if self.TRAIN.BATCH_SIZE % 2:
            reason = "it must be even, since half of a batch takes other sentences"
            raise SettingError("TRAIN.BATCH_SIZE", self.TRAIN.BATCH_SIZE, reason, because)


def load_config(
    path=None, settings=(), overrides: dict[str, Any] | None = None, sources: dict[str, str] | None = None
) -> Config:
    """Defaults, the cfg file at `path`, `settings` such as 'TRAIN.BATCH_SIZE=8', `overrides` by key, in this order.

    sources: the option that each override comes from. UserError for an unknown key, a value of another type or out of
    range; the sentence names file or option, and key. Published keys that mean nothing here are told in one line.
    """
    values: dict[str, Any] = {}
    came_from: dict[str, str] = {}
    if path is not None:
        ignored: list[str] = []
        _read_keys(Config, _read(path), str(path), values, ignored)
        came_from |= dict.fromkeys(values, str(path))
        tell_ignored(str(path), ignored)
    for one in settings:
        key, value = _parse_setting(one)
        given: dict[str, Any] = {}
        _read_keys(Config, value, "--set", given, [])
        values, came_from = values | given, came_from | dict.fromkeys(given, "--set")
    return build(Config, values | (overrides or {}), came_from | (sources or {}))


def _parse_setting(text: str):
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: write KEY=value, for example TRAIN.BATCH_SIZE=8")
    try:
        tree = parse_yaml(value, "it")
    except UserError:
        raise UserError(f"--set {text[:80]}: '{value[:80]}' is not a value") from None
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return key, tree


def _read(path) -> dict:
    try:
        content = parse_yaml(read_text(path), f"--cfg {path}")
    except UserError as error:
        raise UserError(f"--cfg: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"--cfg {path} holds no settings; expected lines such as 'WORKERS: 4'")
    return content


def _read_keys(group, tree: dict, source: str, values: dict, ignored: list[str], prefix: str = "") -> None:
    """Add what a tree of keys says to `values`, by dotted key, and published keys without a meaning to `ignored`."""
    fields, groups = fields_of(group), groups_of(group)
    for key, value in tree.items():
        name = f"{prefix}{key}" if isinstance(key, str) else shown(key)
        if key in groups:
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} is a group of keys, not a value")
            _read_keys(groups[key], value, source, values, ignored, name + ".")
        elif key in fields:
            values[name] = _converted(fields[key].kind, value)
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED):
            ignored.append(name)
        else:
            near = ", ".join(f"{prefix}{known}" for known in (*fields, *groups))
            raise UserError(f"{source}: unknown key {' '.join(name.split())[:80]}; known here: {near}")


def _converted(kind: type, value):
    """What YAML and published files write in another way: numbers such as 2e-4 as text, texts such as 0 as numbers."""
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if kind is str and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if kind is tuple and isinstance(value, list):
        return [_converted(float, one) for one in value]
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return shown(value)
    return value
