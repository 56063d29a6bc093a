"""What a run does otherwise than the published method: additions to it, and settings of another size."""

from dataclasses import dataclass
from pathlib import Path

from common import settings
from common.cli import UserError
from common.options import describe_options
from scripts.report.run_records import RunFolder

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
    found = [
        *(_of_encoder(encoder.options) if encoder else ()),
        *(_of_generator(generator, dataset) if generator else ()),
    ]
    return sorted(found, key=lambda departure: not departure.added)


def _of_generator(run: RunFolder, dataset: str):
    """A key that is not declared is of a later version, and told as an addition by its own name."""
    from StackGAN_v2 import config

    options, cfg = run.options, run.options.get("cfg")
    if not isinstance(cfg, dict):
        return
    folder = Path(config.__file__).parent / "cfg"
    path = folder / f"{dataset}_3stages.yml"
    try:
        published = config.load_config(
            path if dataset in ("birds", "flowers", "places") and path.is_file() else folder / "birds_3stages.yml"
        )
    except UserError:
        published = config.load_config()
    here, published, declared = _flat(cfg), settings.flatten(published), settings.describe(config.Config)
    for key, value in here.items():
        about, usual = declared.get(key), published.get(key)
        if about and not (about.compared and (not about.only_with or here.get(about.only_with))) or _same(value, usual):
            continue
        added = not (about and about.published)
        yield Departure(
            "generator",
            _name(about) if about else key,
            _say(value),
            "none" if added and usual in (0, None) and usual is not False else _say(usual),
            added,
        )
    usual, done = published["TRAIN.MAX_ITERATIONS"], max((step for step, _ in run.series("step", "step")), default=None)
    iterations = done or options.get("iterations")  # a run may have been stopped early, or still go on
    if iterations is not None and iterations != usual:
        yield Departure(
            "generator",
            "iterations",
            _say(iterations),
            _say(usual) if usual else f"{published['TRAIN.MAX_EPOCH']} epochs",
            False,
        )


def _of_encoder(options: dict):
    """Against the defaults of the training command, with the three losses and both directions as published."""
    from Audio_to_Image.settings import EncoderOptions

    cosine = options.get("lr_schedule") == "cosine"
    for key, about in describe_options(EncoderOptions).items():
        if key not in options or not about.compared or _same(options[key], about.default):
            continue
        if cosine and key in _STEP_ONLY:
            continue
        added = not about.published
        yield Departure(
            "encoder",
            _name(about),
            _say(options[key]),
            _say(about.default) if about.default or not added else "none",
            added,
        )


def _name(about: settings.Described) -> str:
    return f"{about.meaning} ({about.unit})" if about.unit else about.meaning


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
    names = {
        "bce": "cross-entropy",
        "hinge": "hinge",
        "googlenet_caffe": "GoogLeNet (Caffe)",
        "efficientnet_lite0": "EfficientNet-lite0",
    }
    return "–" if value is None else names.get(str(value), str(value))
