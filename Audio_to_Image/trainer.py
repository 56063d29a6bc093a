"""Training of the speech encoder: one loop, on one device or many ranks, that can be stopped and continued anywhere."""
import math
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch

from Audio_to_Image import losses
from Audio_to_Image.datasets import Batch, SpeechClips, TrainingSet, embed_clips
from Audio_to_Image.metrics import speech_metrics
from Audio_to_Image.speech_encoder import CNNRNN, positions_of
from common import checkpoint, devices, resume, snapshots
from common.cli import UserError
from common.distributed import ranks
from common.distributed.sync_bn import require_two, synchronize_batch_norm
from common.files import link
from common.runs import Run, StopSignal

_ASK_EVERY = 10             # steps between two questions to the other ranks of a GPU run whether to stop


@dataclass(frozen=True)
class Settings:
    """What decides the course of a training, beside the data and the network. Defaults as published."""
    epochs: int = 1000
    batch_size: int = 64            # of one rank
    jel: bool = True
    l1: bool = True
    distill: bool = True
    loss_diff: float = 1.0          # weight of pairs of different class within JEL
    loss_same: float = 0.1          # … of the same class
    lambda_l1: float = 5.0
    lambda_distill: float = 1000.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    lr_schedule: str = "step"       # or "cosine": half a period over all epochs
    lr_step: int = 200              # epochs between two …
    lr_gamma: float = 0.5           # … multiplications
    grad_clip: float = 0.0          # largest gradient norm; 0: any
    specaugment: bool = False
    sync_bn: bool = False           # batch norm over all ranks
    precision: str = "fp32"
    compile: bool = False
    whole_maps: bool | None = None  # convolve the padding too; None: on a GPU
    seed: int = 0
    max_steps: int = 0              # 0: by epochs alone
    eval_every: int = 10            # epochs
    save_every: int = 10            # epochs
    keep: int = 5                   # newest snapshots; 0: all
    keep_every: int = 0             # epochs: snapshots of multiples stay for ever; 0: none
    log_every: int = 20             # steps
    workers: int = 1                # threads that make batches ahead; 0: none


def loss_terms(audio, image, labels, settings: Settings) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """→ (the total to minimise, the terms that it is made of, unweighted, and the training accuracy in percent).

    audio, image: `[N, d]` of the global batch, labels: `[N]`.
    """
    terms, total = {}, audio.new_zeros(())
    jel, accuracy = losses.joint_embedding_loss(audio, image, labels, settings.loss_diff, settings.loss_same)
    if settings.jel:
        terms["jel"] = jel
        total = total + jel
    if settings.l1:
        terms["l1"] = losses.l1_loss(audio, image)
        total = total + settings.lambda_l1 * terms["l1"]
    if settings.distill:
        terms["distill"] = losses.distillation_loss(audio, image)
        total = total + settings.lambda_distill * terms["distill"]
    return total, {"loss": total, **terms, "train_accuracy": accuracy}


def evaluate(encoder: CNNRNN, meta: dict, clips: SpeechClips, image: torch.Tensor, batch_size: int,
             precision: str = "fp32", everything: bool = True, progress: bool = False) -> dict[str, float]:
    """`speech_metrics` over every usable caption of a split. image: `[images, d]`, the mean of each image's views.

    The encoder is left in the mode that it was in. Every rank gets the result.
    """
    training = encoder.training
    audio = embed_clips(encoder.eval(), meta, clips, batch_size, precision, progress)
    encoder.train(training)
    numbers = np.array(clips.split.image_numbers)              # an image that several items share counts once
    first = np.unique(numbers, return_index=True)[1]
    own = torch.from_numpy(numbers[clips.items[clips.usable]]).to(audio.device)
    labels = torch.tensor(clips.split.labels)[first].to(audio.device) if clips.split.has_classes else None
    return speech_metrics(audio, own, image[first].to(audio.device), labels, everything)


def mean_views(features: list[np.ndarray]) -> torch.Tensor:
    """One array `[views, d]` an image → `[images, d]`."""
    return torch.from_numpy(np.stack([rows.mean(0) for rows in features]))


class Trainer:
    """Trains `network` on `train`, tests it on `test` and its features `test_image` `[images, d]`, writes into `run`.

    meta: what a checkpoint says about itself, beside what is read from its tensors: dataset, teacher, max_frames.
    """

    def __init__(self, network: CNNRNN, train: TrainingSet, test: SpeechClips, test_image: torch.Tensor, meta: dict,
                 settings: Settings, run: Run):
        self.train, self.test, self.test_image = train, test, test_image
        self.meta, self.settings, self.run, self.device = meta, settings, run, train.clips.device
        self.world = ranks.world_size()
        self.rank_batch = min(settings.batch_size, len(train) // self.world)
        few = f"the training split has too few images ({len(train)}) for the number of processes ({self.world})"
        if not self.rank_batch:
            raise UserError(few)
        require_two(self.rank_batch, settings.sync_bn, "make --batch_size 2 or more" if settings.batch_size < 2 else few)
        self.batch = self.rank_batch * self.world
        self.steps_per_epoch = len(train) // self.batch
        self.rows = slice(ranks.rank() * self.rank_batch, (ranks.rank() + 1) * self.rank_batch)

        self.network = network.to(self.device)
        ranks.broadcast_module(network)
        if settings.sync_bn:
            synchronize_batch_norm(network)
        network.whole_maps = settings.whole_maps or (True if settings.compile else None)
        if settings.compile:
            network.convolve = torch.compile(network.convolve)
        self.optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate,
                                          weight_decay=settings.weight_decay, fused=True)
        devices.seed_everything(settings.seed + ranks.rank())      # for dropout, which each rank draws for itself
        self.epoch = self.position = self.step = 0                 # position: steps done in this epoch
        self.evaluated = -1                                        # the step of the last evaluation
        self.best = {"score": None, "epoch": None}
        self.metrics = {}
        losses_on = [name for name in ("jel", "l1", "distill") if getattr(settings, name)]
        self.names = ["loss", *losses_on, "train_accuracy", "gradient"]     # a step's numbers
        self.window = []            # since the last tick: (step, epoch, position) and the step's numbers, on the device
        self.last = None            # (step, epoch, position) of the last step
        self.stopping = False

    # ---- the loop ----

    def fit(self) -> int:
        """Train to the end. → exit status: 0, or 128 + the signal that ended it, after writing resume.pth."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True                  # all batches have the same shape
        if self.step == 0:
            self.save_resume(anew=True)                            # so that there is always one from before a fault
        self.network.train()
        self._start_clock()
        with StopSignal() as stop, ThreadPoolExecutor(max(1, self.settings.workers)) as threads:
            while not self._finished() and not self.stopping:
                self._train_epoch(stop, threads)
            if self.stopping:
                self._require_finite()
                self.save_resume()
                self.run.log(f"stopped at step {self.step}; the same command goes on from there")
                return 128 + (stop.received or signal.SIGTERM)
        if self.evaluated != self.step:
            self._pause(evaluate=True, save=True)
        return 0

    def _finished(self) -> bool:
        limit = self.settings.max_steps
        return self.epoch >= self.settings.epochs or bool(limit and self.step >= limit)

    def _ask_to_stop(self, stop: StopSignal) -> None:
        """Set `stopping` alike on every rank. Asking makes the host wait, so GPU ranks do it now and then."""
        if self.world == 1 or self.device.type == "cpu" or self.step % _ASK_EVERY == 0:
            self.stopping = ranks.any_rank(stop.received is not None, self.device)

    def _train_epoch(self, stop: StopSignal, threads: ThreadPoolExecutor) -> None:
        """Go on from `position` to the epoch's end, a stop signal or the last step."""
        settings, epoch = self.settings, self.epoch
        plan = self.train.plan(settings.seed, epoch, self.batch)

        def make(position):
            masks = np.random.default_rng([settings.seed, epoch, position]) if settings.specaugment else None
            return self.train.batch(plan, position, self.rows, masks)

        ahead = deque()             # batches being made: that of this step and `workers` more
        while self.position < len(plan) and not self._finished() and not self.stopping:
            for position in range(self.position + len(ahead), min(self.position + 1 + settings.workers, len(plan))):
                ahead.append(threads.submit(make, position))
            self._train_step(ahead.popleft().result())
            if self.step % settings.log_every == 0:
                self._tick()
            self._ask_to_stop(stop)
        if self.position == len(plan) and not self.stopping:       # else what is due here is done after the stop
            self.epoch, self.position = epoch + 1, 0
            if not self._finished():
                self._pause(self.epoch % settings.eval_every == 0, self.epoch % settings.save_every == 0)

    def learning_rate(self) -> float:
        """Of the next step: a pure function of where the training is."""
        settings = self.settings
        if settings.lr_schedule == "cosine":
            done = (self.epoch + self.position / self.steps_per_epoch) / settings.epochs
            return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return settings.learning_rate * settings.lr_gamma ** (self.epoch // settings.lr_step)

    def _train_step(self, batch: Batch) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with devices.autocast(self.device, self.settings.precision):
            _, sentence = self.network(batch.mels, positions_of(batch.n_frames), batch.n_frames)
        total, numbers = loss_terms(ranks.gather_rows(sentence), ranks.gather_rows(batch.image),
                                    ranks.gather_rows(batch.labels), self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        ranks.average_gradients(self.network)
        parameters = list(self.network.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if self.settings.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.grad_clip, norm)
        numbers["gradient"] = norm
        assert list(numbers) == self.names, numbers.keys()
        self.last = self.step, self.epoch, self.position
        self.window.append((self.last, torch.stack([value.detach() for value in numbers.values()])))
        if self.device.type == "cpu":                              # where looking costs no wait, look before the step
            self._check(self.window[-1:])
        self.optimizer.step()
        self.step, self.position = self.step + 1, self.position + 1

    def _check(self, window) -> torch.Tensor:
        """The window's numbers `[steps, terms]` on the CPU. UserError at the first that is not finite."""
        numbers = torch.stack([row for _, row in window]).cpu()
        for (where, _), row in zip(window, numbers):
            if not row.isfinite().all():
                self._give_up(where, next(name for name, value in zip([*self.names[1:], "loss"], [*row[1:], row[0]])
                                          if not value.isfinite()))
        return numbers

    def _require_finite(self) -> None:
        """UserError unless all numbers of the window and all weights are finite: nothing else is ever kept.

        A bad update shows in the next step's loss, so that weights that are bad without one are the last step's.
        """
        if self.window:
            self._check(self.window)
        wrong = checkpoint.first_not_finite({"weights": self.network.state_dict(),
                                             "optimizer": self.optimizer.state_dict()["state"]})
        if wrong and self.last:
            self._give_up(self.last, wrong)

    def _give_up(self, where, what: str):
        step, epoch, position = where
        files = self.train.files(self.train.plan(self.settings.seed, epoch, self.batch), position)
        self.run.log(f"files of the batch at step {step}: " + ", ".join(files))
        raise UserError(
            f"training stopped at step {step} (epoch {epoch}): {what} is not finite, in the batch of "
            f"{', '.join(files[:3])}, … (all {len(files)} are in {self.run.folder / 'log.txt'}); {resume.RESUME} is "
            f"from before: go on with a lower --learning_rate, or with --grad_clip 1")

    # ---- what is told and kept ----

    def _start_clock(self) -> None:
        self._clock, self._clock_step = time.monotonic(), self.step

    def _tick(self) -> None:
        """Statistics of the steps since the last tick: the one place where the host waits for the device."""
        mean = dict(zip(self.names, self._check(self.window).mean(0).tolist()))
        seconds, steps = time.monotonic() - self._clock, self.step - self._clock_step
        self.window.clear()
        self._start_clock()
        speed = round(steps * self.batch / seconds, 1)
        epoch = round(self.epoch + self.position / self.steps_per_epoch, 4)
        self.run.stats(self.step, epoch=epoch, **mean, lr=self.optimizer.param_groups[0]["lr"], clips_per_s=speed)
        terms = "  ".join(f"{name} {value:.4g}" for name, value in mean.items())
        self.run.log(f"epoch {epoch:8.2f}  step {self.step:6d}  {terms}  {speed:.0f} clips/s")

    def _pause(self, evaluate: bool, save: bool) -> None:
        """Between two epochs, or at the end: evaluate, keep a snapshot."""
        before, improved = time.monotonic(), False
        if evaluate or save:
            self._require_finite()
        if evaluate:
            improved = self._evaluate()
        if save or improved:
            self._save_snapshot(improved)
            self.save_resume()
        self._clock += time.monotonic() - before                   # speeds are those of training alone

    def _evaluate(self) -> bool:
        """Measure on the test split. → whether this is the best so far."""
        ranks.broadcast_module(self.network)                       # batch norm's statistics are each rank's own
        self.metrics = evaluate(self.network, self.meta, self.test, self.test_image, self.settings.batch_size,
                                self.settings.precision, everything=False)
        self.evaluated = self.step
        epoch = round(self.epoch + self.position / self.steps_per_epoch, 4)
        self.run.stats(self.step, epoch=epoch, **{f"eval_{name}": value for name, value in self.metrics.items()})
        self.run.log(f"epoch {epoch:8.2f}  test: " + "  ".join(f"{k} {v:.2f}" for k, v in self.metrics.items()))
        score = self.metrics.get("accuracy", self.metrics.get("speech_to_image_r10"))
        improved = self.best["score"] is None or score > self.best["score"]
        if improved:
            self.best = {"score": score, "epoch": self.epochs_begun()}
        return improved

    def epochs_begun(self) -> int:
        """The number in a snapshot's name: whole epochs, the last perhaps unfinished."""
        return self.epoch + (self.position > 0)

    def _save_snapshot(self, best: bool) -> None:
        if not ranks.is_main():
            return
        number, folder, network = self.epochs_begun(), self.run.folder, self.network
        state = {key: value.cpu() for key, value in network.state_dict().items()}
        meta = {**self.meta, "network": "CNNRNN", "n_filters": network.n_filters, "nhidden": network.nhidden,
                "embedding_dim": network.embedding_dim, "rnn_layers": network.rnn_layers,
                "bidirectional": network.bidirectional, "epoch": number, "step": self.step, "metrics": self.metrics,
                "settings": asdict(self.settings), "digest": checkpoint.digest(state)}
        path = folder / f"epoch_{number}.pth"
        checkpoint.save(path, {"meta": meta, "state_dict": state})
        link(path, folder / "latest.pth")
        if best:
            link(path, folder / "best.pth")
        snapshots.thin_out(path, self.settings.keep, self.settings.keep_every)

    def save_resume(self, anew: bool = False) -> None:
        """Write resume.pth: all that an exact continuation needs. Every rank takes part. anew: a run's first one."""
        random = {key: ranks.gather_rows(value.to(self.device)[None]).cpu()
                  for key, value in devices.random_state(self.device).items()}
        if not ranks.is_main():
            return
        resume.keep(self.run.folder, {
            "meta": self.meta, "settings": asdict(self.settings), "order": self._order(),
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "random": random,
            "epoch": self.epoch, "position": self.position, "step": self.step, "evaluated": self.evaluated,
            "best": self.best, "metrics": self.metrics,
            "window": [(list(where), numbers.cpu()) for where, numbers in self.window]}, anew)

    def _order(self) -> dict:
        """What the order of the data depends on."""
        return {"training items": len(self.train), "batch of all processes": self.batch, "seed": self.settings.seed,
                "teacher features of width": self.test_image.shape[1]}

    def resume(self, saved, path) -> None:
        """Go on from `saved`, the content of the resume file `path`.

        UserError if it belongs to another network, data set or order of the data.
        """
        try:
            self._restore(saved, path)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            raise UserError(f"{path} is no resume file of this program; give a {resume.RESUME}, or --resume none"
                            ) from None

    def _restore(self, saved, path) -> None:
        for saved_part, own in ((saved["meta"], self.meta), (saved["order"], self._order())):
            for name, value in own.items():
                if saved_part.get(name, value) != value:
                    raise UserError(f"{path} was made with {name} {saved_part[name]}, not {value}; "
                                    f"make them agree, or start anew with --resume none")
        checkpoint.load_into(self.network, checkpoint.state_dict_of(saved["network"], path), path)
        checkpoint.load_optimizer(self.optimizer, saved["optimizer"], path)
        devices.set_random_state({key: rows[ranks.rank() % len(rows)] for key, rows in saved["random"].items()},
                                 self.device)
        self.epoch, self.position, self.step = saved["epoch"], saved["position"], saved["step"]
        self.evaluated, self.best, self.metrics = saved["evaluated"], saved["best"], saved["metrics"]
        self.window = [(tuple(where), numbers.to(self.device)) for where, numbers in saved["window"]
                       if len(numbers) == len(self.names)]
        changed = {name: value for name, value in asdict(self.settings).items() if saved["settings"].get(name) != value}
        self.run.log(f"going on from {path}: epoch {self.epoch}, step {self.step}" + "".join(
            f", {name} now {value} (was {saved['settings'].get(name)})" for name, value in changed.items()))
