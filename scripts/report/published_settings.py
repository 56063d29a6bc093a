"""What a run does otherwise than the published method: additions to it, and settings of another size."""
from dataclasses import dataclass
from pathlib import Path

from common.cli import UserError
from scripts.report.run_records import RunFolder

# Keys that the published code lacks. One that is in none of these tables is new: an addition, told by its own name.
_ADDED = {
    "TRAIN.ADVERSARIAL": "adversarial loss",
    "TRAIN.WRONG": "wrong pairs have another …",
    "TRAIN.DETACH_CONDITION": "condition hidden from the adversarial gradient",
    "TRAIN.COEFF.MA_PENALTY": "matching-aware gradient penalty (DF-GAN), weight",
    "TRAIN.MA_PENALTY_EVERY": "iterations between two penalties",
    "TRAIN.COEFF.MATCHING": "contrastive loss of a matching network, weight",
    "TRAIN.MATCHER_STEPS": "iterations that train the matching network",
    "TRAIN.CONDITION_INIT": "data-dependent initialisation of the conditioning",
}
# settings of an addition, told only where its weight is above 0
_OF_WEIGHT = {"TRAIN.MA_PENALTY_EVERY": "TRAIN.COEFF.MA_PENALTY", "TRAIN.MATCHER_STEPS": "TRAIN.COEFF.MATCHING"}
_NAMES = {
    "TREE.BRANCH_NUM": "branches", "TREE.BASE_SIZE": "images of the first branch, pixels",
    "TRAIN.BATCH_SIZE": "batch size", "TRAIN.DISCRIMINATOR_LR": "learning rate of the discriminators",
    "TRAIN.GENERATOR_LR": "learning rate of the generator",
    "TRAIN.BETAS": "Adam β₁, β₂", "TRAIN.EMA": "decay of the generator's average, per iteration",
    "TRAIN.COEFF.KL": "weight of the KL term", "TRAIN.COEFF.CAL_LOSS": "class-aware loss (on above 0)",
    "TRAIN.COEFF.UNCOND_LOSS": "weight of the unconditional loss",
    "TRAIN.COEFF.COLOR_LOSS": "weight of the colour loss",
    "GAN.EMBEDDING_DIM": "width of the condition", "GAN.DF_DIM": "width of the discriminators",
    "GAN.GF_DIM": "width of the generator", "GAN.Z_DIM": "width of the noise", "GAN.R_NUM": "residual blocks a branch",
    "GAN.B_CONDITION": "conditional",
}
_UNTOLD = ("DATASET_NAME", "DATA_DIR", "GPU_ID", "WORKERS", "TRAIN.FLAG", "TRAIN.NET_G", "TRAIN.NET_D",
           "TRAIN.MAX_EPOCH", "TRAIN.MAX_ITERATIONS", "TRAIN.SNAPSHOT_INTERVAL",
           "TEXT.DIMENSION", "TEST.B_EXAMPLE", "TEST.SAMPLE_NUM")

_ENCODER_ADDED = {"grad_clip": "largest gradient norm", "specaugment": "masks in time and frequency (SpecAugment)",
                  "sync_bn": "batch norm over all processes"}
_ENCODER_NAMES = {
    "teacher": "teacher network", "max_frames": "frames of a clip (10 ms each)",
    "lr_schedule": "learning-rate schedule", "bidirectional": "LSTM in both directions",
    "rnn_layers": "LSTM layers", "jel_flag": "joint embedding loss",
    "l1_flag": "L1 loss", "distill_flag": "distillation loss", "loss_diff": "JEL weight, other class",
    "loss_same": "JEL weight, same class", "lambda_l1": "weight of the L1 loss",
    "lambda_distill": "weight of the distillation loss", "epoch": "epochs", "batch_size": "batch size",
    "learning_rate": "learning rate", "lr_scheduler_step_size": "epochs between two reductions of the rate",
    "lr_scheduler_gamma": "factor of a reduction"}
_STEP_ONLY = ("lr_scheduler_step_size", "lr_scheduler_gamma")


@dataclass(frozen=True)
class Departure:
    """One setting that is not the published one; `added`: the published method has nothing of the kind."""
    part: str
    name: str
    here: str
    published: str
    added: bool


def departures(encoder: RunFolder | None, generator: RunFolder | None, dataset: str) -> list[Departure]:
    """Additions first; encoder before generator."""
    found = [*(_of_encoder(encoder.options) if encoder else ()), *(_of_generator(generator, dataset) if generator
                                                                    else ())]
    return sorted(found, key=lambda departure: not departure.added)


def _of_generator(run: RunFolder, dataset: str):
    from StackGAN_v2 import config
    options, cfg = run.options, run.options.get("cfg")
    if not isinstance(cfg, dict):
        return
    folder = Path(config.__file__).parent / "cfg"
    path = folder / f"{dataset}_3stages.yml"
    try:
        published = config.load_config(path if dataset in ("birds", "flowers", "places") and path.is_file()
                                       else folder / "birds_3stages.yml")
    except UserError:
        published = config.load_config()
    here, published = _flat(cfg), _flat(published)
    for key, value in here.items():
        if key in _UNTOLD or _same(value, published.get(key)):
            continue
        if key in _OF_WEIGHT and not here.get(_OF_WEIGHT[key]):
            continue
        usual, added = published.get(key), key not in _NAMES
        yield Departure("generator", _ADDED.get(key) or _NAMES.get(key, key), _say(value),
                        "none" if added and usual in (0, None) and usual is not False else _say(usual), added)
    usual, done = published["TRAIN.MAX_ITERATIONS"], max((step for step, _ in run.series("step", "step")), default=None)
    iterations = done or options.get("iterations")             # a run may have been stopped early, or still go on
    if iterations is not None and iterations != usual:
        yield Departure("generator", "iterations", _say(iterations),
                        _say(usual) if usual else f"{published['TRAIN.MAX_EPOCH']} epochs", False)


def _of_encoder(options: dict):
    """Against the defaults of the training command, with the three losses and both directions as published."""
    from Audio_to_Image.train_audio_encoder import parse
    published = vars(parse(["--dataset", "birds", "--output_dir", ".", "--jel_flag", "--l1_flag", "--distill_flag",
                            "--bidirectional"]))
    cosine = options.get("lr_schedule") == "cosine"
    for key in (*_ENCODER_NAMES, *_ENCODER_ADDED):
        if key not in options or key not in published or _same(options[key], published[key]):
            continue
        if cosine and key in _STEP_ONLY:
            continue
        added = key in _ENCODER_ADDED
        yield Departure("encoder", _ENCODER_ADDED.get(key) or _ENCODER_NAMES[key], _say(options[key]),
                        "none" if added else _say(published[key]), added or key == "lr_schedule")


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _same(a, b) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _say(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_say, value))
    names = {"bce": "cross-entropy", "hinge": "hinge", "googlenet_caffe": "GoogLeNet (Caffe)",
             "efficientnet_lite0": "EfficientNet-lite0"}
    return "–" if value is None else names.get(str(value), str(value))
