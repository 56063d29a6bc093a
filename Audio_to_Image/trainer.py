"""Training of the speech encoder, on one device or many ranks, that can be stopped and continued anywhere."""

import functools
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from Audio_to_Image.datasets import Batch, SpeechClips, TrainingSet
from Audio_to_Image.encoder_metrics import evaluate
from Audio_to_Image.encoders import SpeechEncoder
from Audio_to_Image.objectives import Objective, TeacherLosses
from Audio_to_Image.optimization import learning_rate, make_optimizer
from Audio_to_Image.settings import Settings
from Audio_to_Image.speech_encoder import CNNRNN
from common import checkpoint, devices, resume, snapshots
from common.cli import UserError
from common.distributed import ranks
from common.distributed.sync_bn import require_two, synchronize_batch_norm
from common.runs import Run
from common.training_loop import TrainingLoop, is_better


class Trainer(TrainingLoop):
    """Trains `network` on `train`, tests it on `test` and its features `test_image` `[images, d]`, writes into `run`.

    test: clips of the test split, or of what settings.val_share holds out of the training split. meta: what
    a checkpoint says about itself, beside what is read from its tensors: dataset, teacher, max_frames.
    objective: what is learned from; None: the paper's losses.
    """

    def __init__(
        self,
        network: SpeechEncoder,
        train: TrainingSet,
        test: SpeechClips,
        test_image: torch.Tensor,
        meta: dict,
        settings: Settings,
        run: Run,
        objective: Objective | None = None,
    ):
        super().__init__(train.clips.device, settings.log_every)
        self.train, self.test, self.test_image = train, test, test_image
        self.meta, self.settings, self.run = {**meta, "encoder": network.name}, settings, run
        self.objective = objective or TeacherLosses(settings, network.nhidden)
        self._divide_batches()
        self._prepare(network)
        devices.seed_everything(settings.seed + ranks.rank())  # for dropout, which each rank draws for itself
        self.evaluated = -1  # the step of the last evaluation
        self.resume_step = None  # that of the run's resume.pth
        self.due = False  # what an epoch's end asks for is still to be done
        self.best = {"score": None, "epoch": None}
        self.metrics: dict[str, float] = {}
        self.names = ["loss", *self.objective.terms, "gradient"]  # a step's numbers
        self._plan = functools.lru_cache(2)(lambda epoch: train.plan(settings.seed, epoch, self.batch))
        self._ahead: deque = deque()  # batches being made: that of this step and `workers` more

    def _divide_batches(self) -> None:
        world = ranks.world_size()
        self.rank_batch = min(self.settings.batch_size, len(self.train) // world)
        few = (
            f"{self.train.clips.split.path} has too few images ({len(self.train)}) for the number of processes "
            f"({world})"
        )
        if not self.rank_batch:
            raise UserError(few)
        alone = self.settings.batch_size < 2
        require_two(self.rank_batch, self.settings.sync_bn, "make --batch_size 2 or more" if alone else few)
        self.batch = self.rank_batch * world
        self.steps_per_epoch = len(self.train) // self.batch
        self.rows = slice(ranks.rank() * self.rank_batch, (ranks.rank() + 1) * self.rank_batch)

    def _prepare(self, network: SpeechEncoder) -> None:
        settings = self.settings
        self.network = network.to(self.device)
        self.trained = torch.nn.ModuleList([network, self.objective.to(self.device)])
        ranks.broadcast_module(self.trained)
        if settings.sync_bn:
            synchronize_batch_norm(self.trained)
        if isinstance(network, CNNRNN):  # the encoder with rewritten convolutions
            network.whole_maps = settings.whole_maps or (True if settings.compile else None)
            if settings.compile:
                network.convolve = torch.compile(network.convolve)
        self.optimizer = make_optimizer(self._parameters(), settings)

    def _parameters(self) -> list:
        """Those that are trained: parts of an objective may be fixed."""
        return [parameter for parameter in self.trained.parameters() if parameter.requires_grad]

    def fit(self) -> int:
        """Train to the end. → exit status: 0, or 128 + the signal that ended it, after writing resume.pth."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have the same shape
        if self.step == 0:
            self.save_resume(first=True)  # so that there is always one from before a fault
        self.trained.train()
        last = self.last_step()
        if self.due and self.step < last:
            self.between()
        with ThreadPoolExecutor(max(1, self.settings.workers)) as self._threads:
            self.run_steps(last)
        if self.stopping:
            self.due = self.step % self.steps_per_epoch == 0
            self._require_finite()
            self.save_resume()
            self.run.log(f"stopped at step {self.step}; the same command goes on from there")
        elif self.evaluated != self.step:
            self._keep(evaluate=True, save=True)
        return self.exit_status()

    def seconds_left(self) -> float:
        return self.run.seconds_left()

    def last_step(self) -> int:
        by_epochs = self.settings.epochs * self.steps_per_epoch
        return min(by_epochs, self.settings.max_steps) if self.settings.max_steps else by_epochs

    # ---- where the training is ----

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def position(self) -> int:
        """Steps done in this epoch."""
        return self.step % self.steps_per_epoch

    def epochs_begun(self) -> int:
        """The number in a snapshot's name: epochs, the last perhaps unfinished."""
        return -(-self.step // self.steps_per_epoch)

    def learning_rate(self) -> float:
        """Of the next step: a pure function of where the training is."""
        return learning_rate(self.settings, self.epoch, self.position / self.steps_per_epoch)

    # ---- a step ----

    def train_step(self) -> dict[str, torch.Tensor]:
        return self.train_on(self._next_batch())

    def _next_batch(self) -> Batch:
        first = self.step + len(self._ahead)
        for step in range(first, min(self.step + 1 + self.settings.workers, self.last_step())):
            self._ahead.append(self._threads.submit(self._make_batch, step))
        return self._ahead.popleft().result()

    def _make_batch(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        masks = np.random.default_rng([self.settings.seed, epoch, position]) if self.settings.specaugment else None
        batch = self.train.batch(self._plan(epoch), position, self.rows, masks)
        return self.objective.prepare(batch, self._seed(epoch))

    def _seed(self, *where: int) -> tuple[int, ...]:
        """Of what an objective draws at random: a pure function of where the training is."""
        return self.settings.seed, *where

    def train_on(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Losses, gradients and update of one batch. → the step's numbers by `names`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with devices.autocast(self.device, self.settings.precision):
            lens = self.network.positions(batch.n_frames)
            words, sentence = self.network(batch.mels, lens, batch.n_frames)
        total, numbers = self.objective(words, lens, sentence, batch, self._seed(self.epoch, self.position))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        ranks.average_gradients(self.trained)
        parameters = self._parameters()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if self.settings.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.grad_clip, norm)
        numbers["gradient"] = norm
        assert list(numbers) == self.names, numbers.keys()
        if self.device.type == "cpu":  # where looking costs no wait, look before the update
            self.window.check(self.step, numbers)
        self.optimizer.step()
        return {name: value.detach() for name, value in numbers.items()}

    # ---- numbers that are not finite ----

    def _require_finite(self) -> None:
        """UserError unless all numbers of the window and all weights are finite: nothing else is ever kept.

        A bad update shows in the next step's loss, so that weights that are bad without one are the last step's.
        """
        if self.window.rows:
            self.window.means()
        wrong = checkpoint.first_not_finite(
            {
                "weights": self.network.state_dict(),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict()["state"],
            }
        )
        if wrong and self.step:
            self.not_finite(self.step - 1, wrong, math.nan)

    def not_finite(self, step: int, name: str, value: float):
        epoch, position = divmod(step, self.steps_per_epoch)
        files = self.train.files(self._plan(epoch), position)
        self.run.log(f"files of the batch at step {step}: " + ", ".join(files))
        raise UserError(
            f"training stopped at step {step} (epoch {epoch}): {name} is not finite, in the batch of "
            f"{', '.join(files[:3])}, … (all {len(files)} are in {self.run.folder / 'log.txt'}); {resume.RESUME} is "
            f"from before: go on with a lower --learning_rate, or with --grad_clip 1"
        )

    # ---- what is told and kept ----

    def log(self, means: dict[str, float], rate: float) -> None:
        speed = round(rate * self.batch, 1)
        epoch = round(self.epoch + self.position / self.steps_per_epoch, 4)
        self.run.stats(self.step, epoch=epoch, **means, lr=self.optimizer.param_groups[0]["lr"], clips_per_s=speed)
        terms = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        self.run.log(f"epoch {epoch:8.2f}  step {self.step:6d}  {terms}  {speed:.0f} clips/s")

    def between(self) -> None:
        if self.position == 0:
            self._keep(self.epoch % self.settings.eval_every == 0, self.epoch % self.settings.save_every == 0)

    def _keep(self, evaluate: bool, save: bool) -> None:
        """Evaluate, keep a snapshot. The resume file comes first, so that a fault in the evaluation costs nothing."""
        improved, self.due = False, True
        if evaluate or save:
            self._require_finite()
        if evaluate:
            self.save_resume()
            improved = self._evaluate()
        self.due = False
        if save or improved:
            self._save_snapshot(improved)
        if evaluate or save:
            self.save_resume()

    def _evaluate(self) -> bool:
        """Measure on the test or validation split. → whether this is the best so far."""
        ranks.broadcast_module(self.trained)  # batch norm's statistics are each rank's own
        size, precision = self.settings.batch_size, self.settings.precision
        self.objective.eval()
        image = self.objective.embed_images(self.test_image, self.test.split, precision)
        project = self.objective.project
        self.metrics = evaluate(
            self.network, self.meta, self.test, image, size, precision, everything=False, project=project
        )
        self.metrics |= self.objective.more_metrics(self.network, self.meta, self.test, size, precision)
        self.objective.train()
        self.evaluated = self.step
        epoch = round(self.epoch + self.position / self.steps_per_epoch, 4)
        self.run.stats(self.step, epoch=epoch, **{f"eval_{name}": value for name, value in self.metrics.items()})
        on = "validation" if self.settings.val_share else "test"
        self.run.log(f"epoch {epoch:8.2f}  {on}: " + "  ".join(f"{k} {v:.2f}" for k, v in self.metrics.items()))
        score = self.metrics.get("accuracy", self.metrics.get("speech_to_image_r10"))
        improved = is_better(score, self.best["score"])
        if improved:
            self.best = {"score": score, "epoch": self.epochs_begun()}
        return improved

    def _save_snapshot(self, best: bool) -> None:
        if not ranks.is_main():
            return
        number, network = self.epochs_begun(), self.network
        state = {key: value.cpu() for key, value in network.state_dict().items()}
        meta = {
            **self.meta,
            "network": type(network).__name__,
            "n_filters": network.n_filters,
            "nhidden": network.nhidden,
            **network.describe(),
            "epoch": number,
            "step": self.step,
            "metrics": self.metrics,
            "settings": asdict(self.settings),
            "digest": checkpoint.digest(state),
        }
        path = self.run.folder / f"epoch_{number}.pth"
        own = {key: value.cpu() for key, value in self.objective.state_dict().items()}
        checkpoint.save(path, {"meta": meta, "state_dict": state, **({"objective": own} if own else {})})
        snapshots.set_links(path, best)
        snapshots.thin_out(path, self.settings.keep, self.settings.keep_every)

    # ---- exact continuation ----

    def save_resume(self, first: bool = False) -> None:
        """Write resume.pth: all that an exact continuation needs. Every rank takes part. first: as in `resume.keep`.

        One of the same step is replaced, so that the one before stays of an earlier step.
        """
        replace, self.resume_step = self.step == self.resume_step, self.step
        random = {
            key: ranks.gather_rows(value.to(self.device)[None]).cpu()
            for key, value in devices.random_state(self.device).items()
        }
        if not ranks.is_main():
            return
        # an epoch whose evaluation and snapshot are still to come counts as the one before, at its end
        done = self.due and self.step > 0 and self.position == 0
        epoch, position = (self.epoch - 1, self.steps_per_epoch) if done else (self.epoch, self.position)
        resume.keep(
            self.run.folder,
            {
                "meta": self.meta,
                "settings": asdict(self.settings),
                "order": self._order(),
                "network": self.network.state_dict(),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": random,
                "epoch": epoch,
                "position": position,
                "step": self.step,
                "evaluated": self.evaluated,
                "best": self.best,
                "metrics": self.metrics,
                "window": self._saved_window(),
                **self.run.time_taken(),
            },
            first,
            replace,
        )

    def _saved_window(self) -> list:
        return [
            ([step, *divmod(step, self.steps_per_epoch)], torch.stack([terms[name] for name in self.names]).cpu())
            for step, terms in self.window.rows
        ]

    def _order(self) -> dict:
        """What the order of the data depends on."""
        return {
            "training items": len(self.train),
            "batch of all processes": self.batch,
            "seed": self.settings.seed,
            "val_share": self.settings.val_share,
            "teacher features of width": self.test_image.shape[1],
        }

    def resume(self, saved, path) -> None:
        """Go on from `saved`, the content of the resume file `path`.

        UserError if it belongs to another network, data set or order of the data.
        """
        try:
            self._restore(saved, path)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            raise UserError(
                f"{path} is no resume file of this program; give a {resume.RESUME}, or --resume none"
            ) from None

    def _restore(self, saved, path) -> None:
        for saved_part, own in ((saved["meta"], self.meta), (saved["order"], self._order())):
            for name, value in own.items():
                if saved_part.get(name, value) != value:
                    raise UserError(
                        f"{path} was made with {name} {saved_part[name]}, not {value}; "
                        f"make them agree, or start from scratch with --resume none"
                    )
        checkpoint.load_into(self.network, checkpoint.state_dict_of(saved["network"], path), path)
        checkpoint.load_into(self.objective, saved.get("objective", {}), path)
        checkpoint.load_optimizer(self.optimizer, saved["optimizer"], path)
        devices.set_random_state(
            {key: rows[ranks.rank() % len(rows)] for key, rows in saved["random"].items()}, self.device
        )
        self.step, self.due = saved["step"], saved["position"] == self.steps_per_epoch
        self.resume_step = self.step if Path(path) == self.run.folder / resume.RESUME else None
        self.evaluated, self.best, self.metrics = saved["evaluated"], saved["best"], saved["metrics"]
        self.run.limit(self.settings.max_minutes, resume.seconds((saved, path)))
        self.window.rows = [
            (where[0], dict(zip(self.names, numbers.to(self.device))))
            for where, numbers in saved["window"]
            if len(numbers) == len(self.names)
        ]
        was = saved["settings"]
        changed = {name: value for name, value in asdict(self.settings).items() if was.get(name, value) != value}
        self.run.log(
            f"going on from {path}: epoch {saved['epoch']}, step {self.step}"
            + "".join(f", {name} now {value} (was {was[name]})" for name, value in changed.items())
        )
