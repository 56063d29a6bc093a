"""What a training run leaves at a snapshot: sample sheets, networks and the links to them, and its resume file."""
from common import checkpoint, resume, snapshots
from common.distributed import ranks
from common.files import link
from StackGAN_v2.training import trainer
from StackGAN_v2.training.background import Background


class Keeper:
    """Keeps the state of `networks` in the folder of `run`; every rank calls it with the number of iterations done.

    settings, course: as in `trainer.resume_content`. sheet(iteration) generates samples; names(iteration): a batch's
    files. judge: None, or an object with `name` whose call with a generator gives a number, better the lower it is:
    `best.pth` links to the best snapshot. keep, keep_every: as in `snapshots.thin_out`. A GPU goes on training while a
    copy of its state is written; a CPU would have to do both.
    """

    def __init__(self, run, networks, settings: dict, course: dict, sheet, names, judge, keep: int, keep_every: int):
        self.run, self.networks, self.settings, self.course = run, networks, settings, course
        self.sheet, self.names, self.judge, self.keep, self.keep_every = sheet, names, judge, keep, keep_every
        self.best = {}
        self.beside = next(networks.average.parameters()).is_cuda
        self.writer = Background(self.beside)

    def begin(self) -> None:
        """Before the first iteration: samples, and a resume file, so that there is always one from before a fault."""
        ranks.barrier()                            # no other process is still looking for a resume file
        if ranks.is_main():
            self.sheet(0)
            resume.keep(self.run.folder, self._content(0), anew=True)
        ranks.barrier()

    def __call__(self, iteration: int) -> None:
        if ranks.is_main():
            content = self._content(iteration)     # first: it refuses weights that are not finite
            self.sheet(iteration)
            improved = self._judge(iteration) if self.judge else False
            content["best"] = self.best
            self.writer.run(self._write, checkpoint.copy_to_cpu(content) if self.beside else content, improved)
        ranks.barrier()

    def finish(self) -> None:
        """Wait until all is written."""
        self.writer.wait()

    def _write(self, content: dict, improved: bool) -> None:
        path = trainer.save_snapshot(self.run.folder / "Model", content)
        if improved:
            link(path, path.with_name("best.pth"))
        snapshots.thin_out(path, self.keep, self.keep_every)
        resume.keep(self.run.folder, content, anew=False)

    def _content(self, iteration: int) -> dict:
        return trainer.resume_content(self.networks, iteration, self.settings, self.course, self.best, self.names)

    def _judge(self, iteration: int) -> bool:
        name, value = self.judge.name, self.judge(self.networks.average)
        self.run.stats(iteration, **{f"eval_{name}": value})
        self.run.log(f"iteration {iteration:,}   {name} {value:.5f}")
        improved = self.best.get("by") != name or value < self.best["value"]
        if improved:
            self.best = {"by": name, "value": value, "iteration": iteration}
        return improved
