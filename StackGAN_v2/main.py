"""Train the generator on speech embeddings, or generate the test set with it."""
from pathlib import Path

from common import cli


def batch_size(text: str):
    return text if text == "auto" else cli.positive_int(text)


def parse():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--cfg", required=True, type=cli.existing_file, metavar="FILE",
        help="settings, for example ./StackGAN_v2/cfg/birds_3stages.yml; TRAIN.FLAG in it chooses training or sampling")
    add("--output_dir", metavar="NAME",
        help="training: name of the run's folder in output/StackGAN_v2/ (or a path; default: that of the cfg file)")
    add("--data_dir", type=cli.existing_dir, metavar="DIR", help="folder of the data set (default: cfg DATA_DIR, or "
        "data/<DATASET_NAME>)")
    add("--audio_switch", default="googlenet_caffe", metavar="NAME", help="which speech features: "
        "<split>/audio_features_NAME.pickle")
    add("--branch_num", type=int, choices=(1, 2, 3), help="stages (default: cfg TREE.BRANCH_NUM)")
    add("--eval_net_g", type=cli.existing_file, metavar="FILE", help="sampling: the generator netG_<n>.pth "
        "(default: cfg TRAIN.NET_G)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="change one cfg key, for example TRAIN.BATCH_SIZE=8; may be given several times")
    add("--manualSeed", type=cli.natural, default=0, metavar="N", help="seed of everything random")
    add("--max_steps", type=cli.natural, default=0, metavar="N", help="stop training after N iterations in all; 0: as the "
        "cfg says")
    add("--resume", default="auto", metavar="auto|none|FILE", help="go on from the run's resume.pth if it is there, or the "
        "one before if it is damaged; start anew; or go on from FILE")
    add("--tick", type=cli.positive_int, default=50, metavar="N", help="iterations between log lines")
    add("--keep", type=cli.natural, default=0, metavar="N", help="keep the last N snapshots, beside the best; 0: all")
    add("--keep_every", type=cli.natural, default=0, metavar="N", help="iterations: snapshots of multiples of N are "
        "kept too; 0: none for that")
    add("--best_by", default="none", choices=("none", "kid_lite0", "kid_lite0at128"), help="measure every snapshot on "
        "fixed test sentences and link the best as best.pth: KID through EfficientNet-lite0, which sees 224 pixels, or "
        "128 (faster)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="where to compute")
    add("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"), help="arithmetic of matrix products; "
        "auto: bf16 where the device has it; fp32: all of float32; tf32: float32 with short products (GPUs)")
    add("--compile", action="store_true", default=None, help="compile the networks: faster after a minute or two "
        "(default: for training on a GPU)")
    add("--no_compile", dest="compile", action="store_false", help="do not")
    add("--memory_format", default="channels_last", choices=("channels_last", "contiguous"), help="order of a tensor's "
        "numbers in memory: the results are the same")
    add("--no_rewrites", dest="rewrites", action="store_false", help="compute convolutions step by step as the papers "
        "write them, not in cheaper ways with equal results")
    add("--sync_bn", action="store_true", help="training: batch norm over all processes, so that N of them equal one")
    add("--cache", default="auto", choices=("auto", "gpu", "ram", "disk"), help="where the prepared images live; what "
        "takes more than half of what is free goes to the next place")
    add("--batch_size", type=batch_size, default="auto", metavar="auto|N", help="sampling: images at a time; auto: what "
        "a quarter of the free memory holds, at most 64, on a GPU 256")
    add("--format", default="png", choices=("png", "jpg"), help="sampling: kind of the files; jpg, at quality 95, is "
        "a tenth of the work and changes the numbers a little")
    add("--all_sizes", action="store_true", help="sampling: write the images of every stage, not only the last")
    add("--limit", type=cli.natural, default=0, metavar="N", help="sampling: only the first N sentences; 0: cfg "
        "TEST.SAMPLE_NUM")
    add("--any_speech", action="store_true", help="sampling: take the speech features even where they are known to be "
        "of another encoder than those that the generator was trained on")
    add("--dry_run", action="store_true", help="print the resolved settings and exit")
    return parser.parse_args()


def main():
    args = parse()
    from StackGAN_v2.config import load_config
    cfg = load_config(args.cfg, args.settings)
    if args.branch_num:
        cfg.TREE["BRANCH_NUM"] = args.branch_num
    data_dir = _data_dir(args, cfg)
    if args.dry_run:
        _print_settings(args, cfg, data_dir)
        return 0
    from StackGAN_v2 import stages
    return stages.train(args, cfg, data_dir) if cfg.TRAIN.FLAG else stages.generate(args, cfg, data_dir)


def _data_dir(args, cfg) -> Path:
    if args.data_dir:
        return args.data_dir
    from common import splits
    if cfg.DATA_DIR:
        if not Path(cfg.DATA_DIR).is_dir():
            raise cli.UserError(f"{args.cfg}: DATA_DIR {cfg.DATA_DIR} does not exist; mend it or give --data_dir")
        return Path(cfg.DATA_DIR)
    return splits.data_dir(cfg.DATASET_NAME)


def _print_settings(args, cfg, data_dir) -> None:
    import yaml
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    print(yaml.safe_dump({"options": plain, "data_dir": str(data_dir), "cfg": to_plain(cfg)}, sort_keys=False), end="")


def to_plain(cfg) -> dict:
    return {key: to_plain(value) if isinstance(value, dict) else value for key, value in cfg.items()}


if __name__ == "__main__":
    cli.run(main)
