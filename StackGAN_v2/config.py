"""Settings of the generator: the published cfg keys with their defaults, ours behind them, and a strict reader of cfg files.

Every key that the published code does not have defaults to what the published code does.
"""
import copy
import math

from common.cli import UserError
from common.files import read_text
from common.untrusted.yaml_files import parse_yaml

DEFAULTS = {
    "DATASET_NAME": "birds",            # folder below data/, if --data_dir does not say otherwise
    "DATA_DIR": "",                     # folder of the data set
    "GPU_ID": "0",                      # kept for published files; --device chooses
    "WORKERS": 4,                       # threads that write images, if the cores are fewer
    "TREE": {"BRANCH_NUM": 3,           # stages
             "BASE_SIZE": 64},          # side of the first stage's images, pixels
    "TRAIN": {
        "FLAG": True,                   # True: train; False: generate the test set with NET_G
        "NET_G": "",                    # generator to start from, or to generate with
        "NET_D": "",                    # start of the discriminators' file names: <NET_D>0.pth, …
        "BATCH_SIZE": 64,               # images an iteration, over all processes
        "MAX_EPOCH": 600,
        "MAX_ITERATIONS": 0,            # 0: MAX_EPOCH decides alone
        "SNAPSHOT_INTERVAL": 2000,      # iterations between snapshots
        "DISCRIMINATOR_LR": 2e-4,
        "GENERATOR_LR": 2e-4,
        "BETAS": [0.5, 0.999],          # Adam
        "EMA": 0.999,                   # decay of the generator's average, per iteration
        "ADVERSARIAL": "bce",           # or hinge
        "WRONG": "image",               # wrong pairs: another class's image; or speech: that of the next in the batch
        "DETACH_CONDITION": False,      # True: the generator cannot change mu to suit the discriminators
        "COEFF": {"KL": 2.0,
                  "CAL_LOSS": 0.0,      # above 0: class-aware loss on (weight 1, as published)
                  "UNCOND_LOSS": 0.0,
                  "COLOR_LOSS": 0.0,
                  "MA_PENALTY": 0.0,    # matching-aware gradient penalty (DF-GAN: 2)
                  "MATCHING": 0.0},     # contrastive loss of a matching network that is trained beforehand
        "CONDITION_INIT": False,        # start ca_net so that its conditions have unit spread on this set's embeddings
        "MA_PENALTY_EVERY": 4,          # iterations between penalties; each counts this many times
        "MATCHER_STEPS": 600,           # steps that train the matching network, if MATCHING is above 0
    },
    "GAN": {"EMBEDDING_DIM": 128, "DF_DIM": 64, "GF_DIM": 64, "Z_DIM": 100, "R_NUM": 2,
            "B_CONDITION": True},       # False: unconditional; not part of this method
    "TEXT": {"DIMENSION": 1024},        # kept for published files; the width is read from the speech features
    "TEST": {"B_EXAMPLE": True,         # kept for published files
             "SAMPLE_NUM": 30000},      # at most this many images
}

_CHOICES = {"TRAIN.ADVERSARIAL": ("bce", "hinge"), "TRAIN.WRONG": ("image", "speech"),
            "TREE.BRANCH_NUM": (1, 2, 3), "TREE.BASE_SIZE": (16, 32, 64)}


class Config(dict):
    """A dict whose keys are attributes too: cfg.TRAIN.BATCH_SIZE."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def load_config(path=None, settings: list[str] = ()) -> Config:
    """Defaults, then the cfg file at `path`, then `settings` such as 'TRAIN.BATCH_SIZE=8'.

    UserError for an unknown key, a value of another type or out of range; the sentence names file and key.
    """
    values = copy.deepcopy(DEFAULTS)
    if path is not None:
        _merge(values, _read(path), str(path))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write KEY=value, for example TRAIN.BATCH_SIZE=8")
        try:
            value = parse_yaml(text, "it")
        except UserError:
            raise UserError(f"--set {setting[:80]}: '{text[:80]}' is not a value") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(values, value, "--set")
    cfg = _freeze(values)
    _check(cfg, path or "--set")
    return cfg


def _read(path):
    try:
        content = parse_yaml(read_text(path), f"--cfg {path}")
    except UserError as error:
        raise UserError(f"--cfg: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"--cfg {path} holds no settings; expected lines such as 'WORKERS: 4'")
    return content


def _merge(values: dict, new: dict, source: str, prefix: str = "") -> None:
    for key, value in new.items():
        name = f"{prefix}{key}" if isinstance(key, str) else _shown(key)
        if key not in values:
            near = ", ".join(f"{prefix}{known}" for known in values)
            raise UserError(f"{source}: unknown key {' '.join(name.split())[:80]}; known here: {near}")
        old = values[key]
        if isinstance(old, dict):
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} is a group of keys, not a value")
            _merge(old, value, source, name + ".")
        else:
            values[key] = _typed(old, value, name, source)


def _typed(default, value, name: str, source: str):
    kind = type(default)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            value = float(value)                   # YAML reads 2e-4 as a string
        except (ValueError, OverflowError):
            pass
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _shown(value)
    if kind is list and isinstance(value, (list, tuple)) and len(value) == len(default):
        return [_typed(d, v, name, source) for d, v in zip(default, value)]
    if type(value) is not kind or kind is float and not math.isfinite(value) or kind is int and abs(value) > 1 << 31:
        raise UserError(f"{source}: {name} is {_shown(value)}; expected {_TYPE_NAMES[kind]} such as {default!r}")
    return value


def _shown(value) -> str:
    try:
        return repr(value)[:80]
    except ValueError:                             # Python refuses to write out numbers of thousands of digits
        return "a number of thousands of digits"


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", list: "a list"}


def _freeze(values: dict) -> Config:
    return Config({key: _freeze(value) if isinstance(value, dict) else value for key, value in values.items()})


def _check(cfg: Config, source) -> None:
    for name, known in _CHOICES.items():
        value = cfg
        for part in name.split("."):
            value = value[part]
        if value not in known:
            raise UserError(f"{source}: {name} is {value}; known are {', '.join(map(str, known))}")
    positive = {"TRAIN.BATCH_SIZE": cfg.TRAIN.BATCH_SIZE, "TRAIN.MAX_EPOCH": cfg.TRAIN.MAX_EPOCH,
                "TRAIN.SNAPSHOT_INTERVAL": cfg.TRAIN.SNAPSHOT_INTERVAL, "GAN.GF_DIM": cfg.GAN.GF_DIM,
                "GAN.DF_DIM": cfg.GAN.DF_DIM, "GAN.Z_DIM": cfg.GAN.Z_DIM, "GAN.EMBEDDING_DIM": cfg.GAN.EMBEDDING_DIM,
                "TRAIN.DISCRIMINATOR_LR": cfg.TRAIN.DISCRIMINATOR_LR, "TRAIN.GENERATOR_LR": cfg.TRAIN.GENERATOR_LR,
                "TRAIN.MA_PENALTY_EVERY": cfg.TRAIN.MA_PENALTY_EVERY}
    for name, value in positive.items():
        if not value > 0:
            raise UserError(f"{source}: {name} is {value}; it must be above 0")
    for name, value in {"WORKERS": cfg.WORKERS, "TRAIN.MAX_ITERATIONS": cfg.TRAIN.MAX_ITERATIONS,
                        "TEST.SAMPLE_NUM": cfg.TEST.SAMPLE_NUM, "GAN.R_NUM": cfg.GAN.R_NUM}.items():
        if value < 0:
            raise UserError(f"{source}: {name} is {value}; it must not be below 0")
    if not all(0 <= beta < 1 for beta in cfg.TRAIN.BETAS):
        raise UserError(f"{source}: TRAIN.BETAS is {cfg.TRAIN.BETAS}; both must be from 0 to below 1")
    if cfg.TRAIN.BATCH_SIZE < 2:
        raise UserError(f"{source}: TRAIN.BATCH_SIZE is 1; batch normalisation needs 2 at the least")
    if not 0 <= cfg.TRAIN.EMA < 1:
        raise UserError(f"{source}: TRAIN.EMA is {cfg.TRAIN.EMA}; it must be from 0 to below 1")
    if cfg.GAN.GF_DIM % 2 ** (cfg.TREE.BRANCH_NUM - 1):
        raise UserError(f"{source}: GAN.GF_DIM is {cfg.GAN.GF_DIM}; it must divide by {2 ** (cfg.TREE.BRANCH_NUM - 1)}")
    if not cfg.GAN.B_CONDITION:
        raise UserError(f"{source}: GAN.B_CONDITION is False; an unconditional generator is not part of this method")
