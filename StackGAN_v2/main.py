"""Train the generator on speech embeddings, or generate a split with it."""

import dataclasses
from pathlib import Path

from common import cli, pretrained
from common.options import add_key_options, add_options, add_published, by_option, key_overrides, parse_groups
from common.settings import to_plain
from StackGAN_v2.config import Config, load_config
from StackGAN_v2.settings import GeneratorOptions

REFUSED = {
    "--my_dataset": "no longer needed: --data_dir names any data set that has train.json and test.json",
    "--asr_flag": "there are no text embeddings here: --audio_switch NAME takes any <split>/audio_features_NAME.pickle",
}


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--cfg",
        required=True,
        type=cli.existing_file,
        metavar="FILE",
        help="settings, for example ./StackGAN_v2/cfg/birds_3stages.yml; TRAIN.FLAG in it chooses training or sampling",
    )
    parser.add_argument(
        "--output_dir",
        metavar="NAME",
        help="training: name of the run's folder in output/StackGAN_v2/ (or a path; default: that of the cfg file)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change one cfg key, for example TRAIN.BATCH_SIZE=8; may be given several times",
    )
    add_key_options(parser, Config)
    add_options(parser, GeneratorOptions)
    # published: torchrun's variables say which process this is
    add_published(parser, flags=("--distributed",), valued=("--local_rank", "--local-rank"), refused=REFUSED)
    return parser


def main():
    parser = make_parser()
    given, options = parse_groups(parser, GeneratorOptions)
    cfg = load_config(given.cfg, given.settings, *key_overrides(Config, given))
    net_g = pretrained.find(cfg.TRAIN.NET_G, "generator")
    if pretrained.name_of(net_g):
        cfg = dataclasses.replace(cfg, TRAIN=dataclasses.replace(cfg.TRAIN, NET_G=str(net_g)))
    options = _resolved(options, given.cfg, cfg)
    name = given.output_dir or given.cfg.stem
    if options.training.dry_run:
        _print_settings({"cfg": str(given.cfg), "output_dir": name}, options, cfg)
        return 0
    if not cfg.TRAIN.FLAG:
        from StackGAN_v2.sampling import sample

        return sample(options, cfg)
    from StackGAN_v2.training.setup import train

    return train(options, cfg, name)


def _resolved(options: GeneratorOptions, path: Path, cfg: Config) -> GeneratorOptions:
    """The options, with what only the cfg file says."""
    compute = options.compute
    if compute.device == "auto" and not cfg.CUDA:
        compute = dataclasses.replace(compute, device="cpu")
    data = dataclasses.replace(options.data, data_dir=options.data.data_dir or _data_dir(path, cfg))
    return dataclasses.replace(options, compute=compute, data=data)


def _data_dir(path: Path, cfg: Config) -> Path:
    from common import splits

    if not cfg.DATA_DIR:
        return splits.data_dir(cfg.DATASET_NAME)
    if not Path(cfg.DATA_DIR).is_dir():
        raise cli.UserError(f"{path}: DATA_DIR {cfg.DATA_DIR} does not exist; correct it or give --data_dir")
    return Path(cfg.DATA_DIR)


def _print_settings(names: dict, options: GeneratorOptions, cfg: Config) -> None:
    import yaml

    given = {name: str(value) if isinstance(value, Path) else value for name, value in by_option(options).items()}
    told = {"options": names | given, "cfg": to_plain(cfg)}
    print(yaml.safe_dump(told, sort_keys=False), end="")


if __name__ == "__main__":
    cli.run(main)
