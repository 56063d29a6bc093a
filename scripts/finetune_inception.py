"""Fine-tune an Inception-v3 on the classes of a set, for its inception score (StackGAN_v2/evaluate.py --is_weights).

Published scores on birds and flowers go through StackGAN's Inception, which tells the 50 or 20 classes of the test
split apart; so does this one by default. Classes are learnt from real images, cut as the generator's are.
"""

from pathlib import Path

from common import cli
from common.options import add_options, from_options, parse_groups
from scripts.finetuning.settings import DataSettings, LengthSettings, Settings, TuningCompute


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    for group in (DataSettings, Settings, LengthSettings, TuningCompute):
        add_options(parser, group)
    return parser


def main(argv=None) -> int:
    parser = make_parser()
    given, data = parse_groups(parser, DataSettings, argv)
    length, compute = (from_options(group, given) for group in (LengthSettings, TuningCompute))
    import torch

    from common.devices import pick_device, pick_precision
    from common.files import require_ours
    from scripts.finetuning import images, training

    device = pick_device(compute.device)
    precision = pick_precision(compute.precision, device)
    output = data.output or data.data_dir.parent / "pretrained" / f"inception_{data.data_dir.name}_{data.classes}.pth"
    for path in (output, output.with_suffix(".json"), output.with_suffix(".resume.pth")):
        require_ours(path, "--output")
    if not data.weights:
        print("warning: without --weights the network starts from scratch, for which a few thousand images are too few")
    if data.classes == "all":
        print("note: published scores go through a network of the test classes only (--classes test)")
    found = images.load(data.data_dir, data.classes, data.held_out, given.manualSeed, data.jobs or None, not data.quiet)
    every = max(1, len(found.train) // given.batch_size)
    how = from_options(Settings, given, steps=length.max_steps or length.epochs * every)
    torch.manual_seed(how.seed)  # new layers start the same in every run
    job = training.Training(
        training.inception(len(found.classes), data.weights),
        found,
        how,
        device,
        precision,
        not data.weights,
        _key(data, how, found),
    )
    return _train(job, data, output, length.resume)


def _key(data: DataSettings, how: Settings, found) -> dict:
    """What a run is made of: another one does not go on from its resume file."""
    from common.files import sha256

    origin = f"{data.weights.name} {sha256(data.weights)[:16]}" if data.weights else "scratch"
    return {
        "settings": repr(how),
        "held_out": data.held_out,
        "started_from": origin,
        "images": f"{len(found.labels)} of {len(found.classes)} classes, {data.classes} {data.data_dir.name}",
    }


def _train(job, data: DataSettings, output: Path, resume_choice: str) -> int:
    """Go on or begin, train, keep the network and its description. → exit status."""
    from common import checkpoint
    from common.files import MADE_BY, write_json

    resume, found, classes = output.with_suffix(".resume.pth"), job.images, job.images.classes
    if resume_choice == "auto" and resume.is_file():
        job.restore(resume)
        print(f"going on after step {job.step:,}")
    print(
        f"{len(found.train):,} images of {len(classes)} {data.classes} classes, {len(found.held_out):,} held out, "
        f"{job.settings.steps:,} steps of {job.settings.batch_size}, {job.device} {job.precision}"
    )
    if not job.run(resume, print, not data.quiet):
        print(f"stopped after step {job.step:,}; the same command goes on from {resume}")
        return job.exit_status()
    accuracy = job.accuracy()
    checkpoint.save(output, {name: value.cpu().contiguous() for name, value in job.network.state_dict().items()})
    write_json(
        output.with_suffix(".json"),
        {
            "made_by": MADE_BY,
            **job.key,
            "classes": classes,
            "which": data.classes,
            "set": data.data_dir.name,
            "validation_accuracy": accuracy,
        },
    )
    resume.unlink(missing_ok=True)
    print(
        f"validation accuracy {accuracy:.2f} % (chance {100 / len(classes):.2f} %); kept in {output}\n"
        f"use it: python ./StackGAN_v2/evaluate.py --is_weights {output} …"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
