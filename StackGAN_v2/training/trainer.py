"""Training of the generator: iterations, log lines, and snapshots from which it goes on exactly."""

import torch

from common import checkpoint
from common.cli import UserError
from common.runs import Run
from common.training_loop import TrainingLoop
from StackGAN_v2.config import TrainSettings
from StackGAN_v2.generators import DEFAULT
from StackGAN_v2.training.discriminator_monitor import DiscriminatorMonitor
from StackGAN_v2.training.networks import Networks
from StackGAN_v2.training.step import Stepper

_ADVICE = "resume.pth is from before: go on with lower learning rates, or with --precision fp32"
# what older resume files call it
_OLD_NAMES = {"stages": "branches"}


class Trainer(TrainingLoop):
    """Does iterations of `stepper` on `batches` and writes into `run`; a snapshot every TRAIN.SNAPSHOT_INTERVAL.

    writer: a `snapshot_writer.SnapshotWriter`. files(iteration): the names of the batch's images. watch(iteration):
    called after every iteration and snapshot.
    """

    def __init__(self, stepper: Stepper, batches, train: TrainSettings, run: Run, files, writer, watch):
        super().__init__(stepper.device, train.LOG_INTERVAL, of_rank=True)
        self.stepper, self.batches, self.train, self.run, self.writer = stepper, batches, train, run, writer
        self.files, self.watch, self.last = files, watch, 0
        self.monitor = DiscriminatorMonitor(train.ADVERSARIAL, train.COEFF.UNCOND_LOSS)

    def fit(self, first: int, last: int) -> int:
        """Iterations first … last − 1. → exit status: 0, or 128 + the signal that ended it, after a snapshot."""
        self.step, self.last = first, last
        self.run_steps(last)
        if self.step > first or not first:
            self.writer(self.step)
            self.watch(self.step)
        self.writer.finish()
        return self.exit_status()

    def train_step(self) -> dict[str, torch.Tensor]:
        return self.stepper(self.batches(self.step), self.step)

    def between(self) -> None:
        if self.step % self.train.SNAPSHOT_INTERVAL == 0:
            self.writer(self.step)
        self.watch(self.step)

    def seconds_left(self) -> float:
        return self.run.seconds_left()

    def log_is_due(self, last: int) -> bool:
        """Also before a snapshot and at the end: every loss has been looked at before anything is kept."""
        return (
            super().log_is_due(last)
            or self.step == last
            or self.stopping
            or self.step % self.train.SNAPSHOT_INTERVAL == 0
        )

    def log(self, means: dict[str, float], rate: float) -> None:
        steps = len(self.window)
        self.run.stats(self.step, epoch=self.batches.epoch(self.step), **means, iterations_per_s=rate)
        self.run.log(_line(self.step, self.last, means, rate, min((self.last - self.step) / rate, self.seconds_left())))
        for warning in self.monitor.update(steps, means):
            self.run.log(warning)

    def not_finite(self, step: int, name: str, value: float):
        raise UserError(
            f"iteration {step}: the loss term {name} is {value}; {_ADVICE} "
            f"(images of the batch: {', '.join(self.files(step))})"
        )


def _line(iteration: int, last: int, values: dict[str, float], rate: float, left: float) -> str:
    d = " ".join(f"{value:.2f}" for key, value in values.items() if key[0] == "D" and key[1:].isdigit())
    d = f"D {d}   " if d else ""
    kl = f"KL {values['KL']:.3f}   " if "KL" in values else ""
    wait = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    return f"iteration {iteration:,} of {last:,}   {d}G {values['G']:.2f}   {kl}{rate:.2f} it/s   {wait} left"


def total_iterations(train: TrainSettings, images: int) -> int:
    """MAX_EPOCH epochs, or MAX_ITERATIONS if that is fewer."""
    by_epochs = -(-train.MAX_EPOCH * images // train.BATCH_SIZE)
    return min(by_epochs, train.MAX_ITERATIONS) if train.MAX_ITERATIONS else by_epochs


def resume_content(networks: Networks, iteration: int, settings: dict, course: dict, best: dict, files) -> dict:
    """What a resume file holds, after `iteration` iterations.

    settings: must be equal for the continuation to be exact; course: may be changed on the way, which is then told;
    best: the best snapshot so far. UserError if a weight is not finite: as a bad update shows in the next loss, it is
    that of the last batch, whose images `files(iteration)` lists.
    """
    parts = {name: part.state_dict() for name, part in networks.parts().items()}
    wrong = checkpoint.first_not_finite(parts)
    if wrong:
        raise UserError(
            f"iteration {iteration - 1}: {wrong} is not finite, though the losses were; {_ADVICE} "
            f"(images of the batch: {', '.join(files(iteration - 1))})"
        )
    return {"iteration": iteration, "settings": settings, "course": course, "best": best, **parts}


def restore(content, path, networks: Networks, settings: dict) -> int:
    """Go on from the content of a resume file: → the iterations done. UserError if it belongs to other settings."""
    parts = networks.parts()
    unknown = UserError(f"--resume: {path} is no resume file of this trainer; give another one, or --resume none")
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise unknown
    content = {name.replace("optimiser", "optimizer"): value for name, value in content.items()}  # of older files
    was = {"model": DEFAULT} | {_OLD_NAMES.get(name, name): value for name, value in content["settings"].items()}
    for name, value in settings.items():
        if was.get(name) != value:
            raise UserError(
                f"--resume: {path} was made with {name} = {was.get(name)}, now it is {value}; "
                "use the old value, another --output_dir, or --resume none"
            )
    held = content.keys() - {"course", "best", "seconds"}
    if held != {"iteration", "settings", *parts} or type(content["iteration"]) is not int:
        raise unknown
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            checkpoint.load_into(part, checkpoint.state_dict_of(content[name], path), path)
        else:
            checkpoint.load_optimizer(part, content[name], path)
    return content["iteration"]
