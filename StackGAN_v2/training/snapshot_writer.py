"""What a training run leaves at a snapshot: networks and links to them, a resume file, sample sheets, a metric."""

from dataclasses import dataclass
from pathlib import Path

from common import checkpoint, resume, snapshots
from common.distributed import ranks
from common.runs import Run
from common.training_loop import is_better
from common.training_settings import SnapshotSettings
from StackGAN_v2.training import trainer
from StackGAN_v2.training.background import Background
from StackGAN_v2.training.networks import Networks


@dataclass(frozen=True)
class ResumeNotes:
    """What a resume file says beside weights: see `trainer.resume_content`."""

    settings: dict
    course: dict


class SnapshotWriter:
    """Keeps the state of `networks` in the folder of `run`; every rank calls it with the number of iterations done.

    sheet(iteration) generates samples; files(iteration): a batch's images. metric: None, or an object with `name` whose
    call with a generator gives a number, better the lower it is: `best.pth` links to the best snapshot. A GPU goes on
    training while a copy of its state is written; a CPU would have to do both.
    """

    def __init__(self, run: Run, networks: Networks, notes: ResumeNotes, sheet, files, metric, keep: SnapshotSettings):
        self.run, self.networks, self.notes, self.sheet, self.files = run, networks, notes, sheet, files
        self.metric, self.keep, self.best = metric, keep, {}
        self.beside = next(networks.average.parameters()).is_cuda
        self.writer = Background(self.beside)

    def begin(self) -> None:
        """Before the first iteration: a resume file, so that there is always one from before a fault, and samples."""
        ranks.barrier()  # no other process is still looking for a resume file
        if ranks.is_main():
            resume.keep(self.run.folder, self._content(0), first=True)
            self.sheet(0)
        ranks.barrier()

    def go_on(self, iteration: int, best: dict) -> None:
        """After `iteration`, from a resume file: samples that a killed run was still to make are made now."""
        self.best = best
        made = list((self.run.folder / "Image").glob(f"*_{iteration:06d}.png"))
        if ranks.is_main() and len(made) < len(self.networks.generator.sizes):
            self.sheet(iteration)
        ranks.barrier()

    def __call__(self, iteration: int) -> None:
        """Everything is written before samples and the metric, whose faults then cost nothing."""
        if ranks.is_main():
            content = self._content(iteration)  # it refuses weights that are not finite
            content = checkpoint.copy_to_cpu(content) if self.beside else content
            self.writer.run(self._write, content)
            self.sheet(iteration)
            if self.metric:
                improved = self._measure(iteration)
                self.writer.run(self._conclude, {**content, "best": self.best}, improved)
        ranks.barrier()

    def finish(self) -> None:
        """Wait until all is written."""
        self.writer.wait()

    def _write(self, content: dict) -> None:
        path = save_snapshot(self.run.folder / "Model", content)
        if not self.metric:  # else the best one is not known yet
            snapshots.thin_out(path, self.keep.keep, self.keep.keep_every)
        resume.keep(self.run.folder, content)  # last: what is left undone before it is done again

    def _conclude(self, content: dict, improved: bool) -> None:
        path = _snapshot_path(self.run.folder / "Model", content)
        if improved:
            snapshots.set_links(path, best=True)
            resume.keep(self.run.folder, content, replace=True)
        snapshots.thin_out(path, self.keep.keep, self.keep.keep_every)

    def _content(self, iteration: int) -> dict:
        self.networks.refresh()
        content = trainer.resume_content(
            self.networks, iteration, self.notes.settings, self.notes.course, self.best, self.files
        )
        return content | self.run.time_taken()

    def _measure(self, iteration: int) -> bool:
        """Measure the average. → whether it is the best so far."""
        name, value = self.metric.name, self.metric(self.networks.average)
        self.run.stats(iteration, **{f"eval_{name}": value})
        self.run.log(f"iteration {iteration:,}   {name} {value:.5f}")
        before = self.best.get("value") if self.best.get("by") == name else None
        improved = is_better(value, before, lower=True)
        if improved:
            self.best = {"by": name, "value": value, "iteration": iteration}
        return improved


def save_snapshot(folder, content: dict) -> Path:
    """netG_<iteration>.pth (the average) and netD<i>.pth of a `resume_content`; `latest.pth` links to the former."""
    path = _snapshot_path(folder, content)
    checkpoint.save(path, _contiguous(content["average"]))
    for i in range(sum(name.startswith("discriminator") for name in content)):
        checkpoint.save(path.with_name(f"netD{i}.pth"), _contiguous(content[f"discriminator{i}"]))
    snapshots.set_links(path, best=False)
    return path


def _snapshot_path(folder, content: dict) -> Path:
    return Path(folder) / f"netG_{content['iteration']}.pth"


def _contiguous(state: dict) -> dict:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
