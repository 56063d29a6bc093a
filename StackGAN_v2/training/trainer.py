"""The adversarial training loop: one step of every discriminator, one of the generator, and an average of the latter."""
import copy
import time
from pathlib import Path

import torch

from common import checkpoint
from common.cli import UserError
from common.devices import autocast
from common.distributed import ranks
from common.distributed.sync_bn import synchronize_batch_norm
from common.files import link
from StackGAN_v2 import losses
from StackGAN_v2.model import Discriminator, Generator, init_weights
from StackGAN_v2.training.adam import Adam
from StackGAN_v2.training.condition_init import init_condition
from StackGAN_v2.training.matching_network import matching_loss

_ADVICE = "resume.pth is from before: go on with lower learning rates, or with --precision fp32"
_ASK_EVERY = 16             # iterations between two questions to the other ranks of a GPU run whether to stop


class Networks:
    """Generator, its exponential moving average, one discriminator a size, and their optimizers.

    sync_bn: batch norm over all ranks, so that N ranks with B images each equal one with N·B.
    """

    def __init__(self, cfg, text_dim: int, device, sync_bn: bool = False, memory_format=torch.channels_last):
        gan, train = cfg.GAN, cfg.TRAIN
        self.generator = Generator(cfg.TREE.BRANCH_NUM, cfg.TREE.BASE_SIZE, gan.GF_DIM, gan.Z_DIM, gan.EMBEDDING_DIM,
                                   text_dim, gan.R_NUM)
        self.discriminators = [Discriminator(size, gan.DF_DIM, gan.EMBEDDING_DIM) for size in self.generator.sizes]
        # channels_last: 2 × the speed on GPUs with bf16, a little on CPUs; the mathematics is the same
        self.memory_format = memory_format
        for network in self.all():
            network.apply(init_weights).to(device, memory_format=memory_format)
            ranks.broadcast_module(network)
            if sync_bn:
                synchronize_batch_norm(network)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer_g = self._adam(self.generator, train.GENERATOR_LR, train)
        self.optimizers_d = [self._adam(d, train.DISCRIMINATOR_LR, train) for d in self.discriminators]

    @staticmethod
    def _adam(network, lr, train):
        return Adam(network.parameters(), lr, betas=tuple(train.BETAS))

    def all(self) -> list[torch.nn.Module]:
        return [self.generator, *self.discriminators]

    def parts(self) -> dict:
        """Everything with a state dict, by name: what a resume file holds."""
        named = {"generator": self.generator, "average": self.average, "optimizer_g": self.optimizer_g}
        for i, (network, optimizer) in enumerate(zip(self.discriminators, self.optimizers_d)):
            named |= {f"discriminator{i}": network, f"optimizer_d{i}": optimizer}
        return named

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        torch._foreach_copy_(list(self.average.buffers()), list(self.generator.buffers()))


class Stepper:
    """One training iteration. Losses come back as tensors, so that nothing waits for the device.

    matcher: a `matching.Matcher`, needed if TRAIN.COEFF.MATCHING is above 0.
    """

    def __init__(self, networks: Networks, cfg, device, precision: str, compile_networks: bool = False, matcher=None):
        self.networks, self.train, self.device, self.precision = networks, cfg.TRAIN, device, precision
        self.matcher = matcher
        compiled = _compiled if compile_networks else lambda part: part
        self.generator = compiled(networks.generator)
        self.encode, self.judge = ([compiled(getattr(d, name)) for d in networks.discriminators]
                                   for name in ("encode", "condition_logits"))

    def __call__(self, batch, iteration: int) -> dict[str, torch.Tensor]:
        with autocast(self.device, self.precision):
            images, mu, logvar = self.generator(batch.z, batch.speech, batch.eps)
        images = [image.float() for image in images]
        terms = {}
        for i in range(len(images)):
            terms |= self._step_discriminator(i, batch, images[i].detach(), mu.detach(), iteration)
        terms |= self._step_generator(images, mu, logvar, batch)
        self.networks.update_average(self.train.EMA)
        return terms

    def _judge(self, i, images, pairs, eager: bool = False):
        """Discriminator i on batches of images, each normalised alone, and on pairs (number of a batch, condition).

        → cond_logits `[N]` of every pair, uncond_logits `[N]` of every batch, code `[batches·N, …]`. One pass over all of
        them reads the weights once, and computes their gradients once.
        eager: not compiled, since the gradient of a gradient is asked for, which compiled parts do not have.
        """
        network = self.networks.discriminators[i]
        encode, judge = (network.encode, network.condition_logits) if eager else (self.encode[i], self.judge[i])
        with autocast(self.device, self.precision):
            images, n = torch.cat(images), len(images)
            code = encode(images.contiguous(memory_format=self.networks.memory_format), n)
            uncond = network.uncond_logits(code).flatten().float()
            places, conditions = zip(*pairs)
            whole = places == tuple(range(n))
            codes = code if whole else torch.cat([code.chunk(n)[place] for place in places])
            cond = judge(codes, torch.cat(conditions), len(pairs))
            return cond.chunk(len(pairs)), uncond.chunk(n), code.flatten(1).float()

    def _judge_all(self, i, real, wrong, fake, condition, mu, penalise: bool):
        """(cond, uncond) logits of real images with their speech, of wrong pairs and of fakes.

        wrong: images; with none (TRAIN.WRONG 'speech') a wrong pair is a real image with the speech of its neighbour in
        the batch of all ranks (DF-GAN): the image's code serves twice, a third of the discriminator's work is saved.
        """
        images, pairs = [real, fake], [(0, condition), (0, self._neighbours(mu)), (1, mu)]
        if wrong is not None:
            images, pairs = [real, wrong, fake], [(0, condition), (1, mu), (2, mu)]
        if penalise:                               # the gradient at the real images wants a graph of theirs alone
            of_real = [pair for pair in pairs if pair[0] == 0]
            parts = [self._judge(i, images[:1], of_real, eager=True),
                     self._judge(i, images[1:], [(place - 1, c) for place, c in pairs if place])]
            cond, uncond = ([logits for part in parts for logits in part[kind]] for kind in (0, 1))
        else:
            cond, uncond, _ = self._judge(i, images, pairs)
        return [(logits, uncond[place]) for logits, (place, _) in zip(cond, pairs)]

    @staticmethod
    def _neighbours(mu):
        first = ranks.rank() * len(mu)
        return ranks.gather_rows(mu).roll(1, 0)[first:first + len(mu)]

    def _step_discriminator(self, i, batch, fake, mu, iteration):
        coeff, every = self.train.COEFF, self.train.MA_PENALTY_EVERY
        penalise = coeff.MA_PENALTY > 0 and iteration % every == 0
        image = batch.real[i].requires_grad_(penalise)
        condition = mu.clone().requires_grad_(penalise)
        wrong = batch.wrong[i] if self.train.WRONG == "image" else None
        real, wrong, fake = self._judge_all(i, image, wrong, fake, condition, mu, penalise)
        loss = losses.d_loss(real, wrong, fake, self.train.ADVERSARIAL, coeff.UNCOND_LOSS)
        terms = {f"D{i}": loss.detach()}
        if penalise:
            penalty = coeff.MA_PENALTY * losses.matching_aware_penalty(real[0], image, condition)
            terms[f"D{i}_penalty"] = penalty.detach()
            loss = loss + every * penalty
        self._update(self.networks.optimizers_d[i], self.networks.discriminators[i], loss)
        return terms

    def _step_generator(self, images, mu, logvar, batch):
        coeff, networks = self.train.COEFF, self.networks
        for network in networks.discriminators:    # their weights' gradients would be thrown away
            network.requires_grad_(False)
        terms = {"KL": coeff.KL * losses.kl_loss(mu, logvar)}
        mu = mu.detach() if self.train.DETACH_CONDITION else mu
        for i, image in enumerate(images):
            (cond,), (uncond,), code = self._judge(i, [image], [(0, mu)])
            terms[f"G{i}"] = losses.g_loss((cond, uncond), self.train.ADVERSARIAL, coeff.UNCOND_LOSS)
            if coeff.CAL_LOSS > 0:
                terms[f"CAL{i}"] = losses.class_aware_loss(ranks.gather_rows(code), ranks.gather_rows(batch.labels))
            if coeff.COLOR_LOSS > 0 and i:
                terms[f"color{i}"] = coeff.COLOR_LOSS * losses.color_loss(image, images[i - 1])
        if coeff.MATCHING > 0:
            terms["match"] = coeff.MATCHING * self._matching(images[-1], batch)
        total = sum(terms.values())
        self._update(networks.optimizer_g, networks.generator, total)
        for network in networks.discriminators:
            network.requires_grad_(True)
        return {name: term.detach() for name, term in terms.items()} | {"G": total.detach()}

    def _matching(self, images, batch):
        with autocast(self.device, self.precision):
            seen = self.matcher(images)
        said = self.matcher.said(batch.speech)
        return matching_loss(*(ranks.gather_rows(rows) for rows in (seen.float(), said, batch.labels)))

    @staticmethod
    def _update(optimizer, network, loss):
        loss.backward()
        ranks.average_gradients(network)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)      # now: the next network's gradients may take this memory


def _compiled(part):
    """Compiled for the shapes that come, each of them its own: three discriminators in up to three groupings."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)       # of a line of code, not a network
    return torch.compile(part, dynamic=False)


def total_iterations(cfg, images: int) -> int:
    """MAX_EPOCH epochs, or MAX_ITERATIONS if that is fewer."""
    by_epochs = -(-cfg.TRAIN.MAX_EPOCH * images // cfg.TRAIN.BATCH_SIZE)
    return min(by_epochs, cfg.TRAIN.MAX_ITERATIONS) if cfg.TRAIN.MAX_ITERATIONS else by_epochs


def resume_content(networks: Networks, iteration: int, settings: dict, course: dict, best: dict, names) -> dict:
    """What a resume file holds, after `iteration` iterations.

    settings: must be equal for the continuation to be exact; course: may be changed on the way, which is then told;
    best: the best snapshot so far. UserError if a weight is not finite: as a bad update shows in the next loss, it is
    that of the last batch, whose files `names(iteration)` lists.
    """
    parts = {name: part.state_dict() for name, part in networks.parts().items()}
    wrong = checkpoint.first_not_finite(parts)
    if wrong:
        raise UserError(f"iteration {iteration - 1}: {wrong} is not finite, though the losses were; {_ADVICE} "
                        f"(images of the batch: {', '.join(names(iteration - 1))})")
    return {"iteration": iteration, "settings": settings, "course": course, "best": best, **parts}


def restore(content, path, networks: Networks, settings: dict) -> int:
    """Go on from the content of a resume file: → the iterations done. UserError if it belongs to other settings."""
    parts = networks.parts()
    stranger = UserError(f"--resume: {path} is no resume file of this trainer; give another one, or --resume none")
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise stranger
    content = {name.replace("optimiser", "optimizer"): value for name, value in content.items()}   # as older files spell it
    for name, value in settings.items():
        if content["settings"].get(name) != value:
            raise UserError(f"--resume: {path} was made with {name} = {content['settings'].get(name)}, now it is {value}; "
                            "use the old value, another --output_dir, or --resume none")
    held = content.keys() - {"course", "best"}
    if held != {"iteration", "settings", *parts} or type(content["iteration"]) is not int:
        raise stranger
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            checkpoint.load_into(part, checkpoint.state_dict_of(content[name], path), path)
        else:
            checkpoint.load_optimizer(part, content[name], path)
    return content["iteration"]


def save_snapshot(folder, content: dict) -> Path:
    """netG_<iteration>.pth (the average) and netD<i>.pth of a `resume_content`; `latest.pth` links to the former."""
    path = Path(folder) / f"netG_{content['iteration']}.pth"
    checkpoint.save(path, _contiguous(content["average"]))
    for i in range(sum(name.startswith("discriminator") for name in content)):
        checkpoint.save(Path(folder) / f"netD{i}.pth", _contiguous(content[f"discriminator{i}"]))
    link(path, path.with_name("latest.pth"))
    return path


def _contiguous(state: dict) -> dict:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def start_from(networks: Networks, net_g: str, net_d: str, speech=None) -> None:
    """Begin with published or earlier weights: TRAIN.NET_G, and TRAIN.NET_D as the start of the names `<NET_D><i>.pth`.

    speech: embeddings `[M, text_dim]` for the data-dependent start of a new generator, or None.
    """
    if speech is not None and not net_g:
        for network in (networks.generator, networks.average):
            init_condition(network.ca_net, speech)
    if net_g:
        state = checkpoint.state_dict_of(checkpoint.load(net_g), net_g)
        for network in (networks.generator, networks.average):
            checkpoint.load_into(network, state, net_g)
    for i, network in enumerate(networks.discriminators if net_d else ()):
        path = f"{net_d}{i}.pth"
        checkpoint.load_into(network, checkpoint.state_dict_of(checkpoint.load(path), path), path)


def fit(stepper, batches, first: int, last: int, *, tick: int, snapshot: int, run, on_snapshot, stop, names,
        watch) -> int:
    """Run iterations first … last − 1; returns the number done in all, less than `last` after a stop signal.

    tick: iterations between log lines; snapshot: between calls of `on_snapshot(iteration)`, before which every loss has
    been looked at; names(iteration) lists the batch's files for the error about a loss that is not finite; watch: a
    `balance.Watch`.
    """
    pending, began, iteration = [], time.monotonic(), first
    while iteration < last:
        pending.append(stepper(batches(iteration), iteration))
        iteration += 1
        # asking the other ranks makes the host wait for its GPU, so it is done now and then
        asked = ranks.world_size() == 1 or stepper.device.type == "cpu" or iteration % _ASK_EVERY == 0 or iteration == last
        stopping = asked and ranks.any_rank(stop.received is not None, stepper.device)
        due = iteration % snapshot == 0
        if iteration % tick == 0 or iteration == last or due or stopping:
            values = _averages(pending, iteration, names)
            seconds = time.monotonic() - began
            rate = len(pending) / seconds
            run.stats(iteration, epoch=batches.epoch(iteration), **values, iterations_per_s=rate)
            run.log(_line(iteration, last, values, rate))
            for warning in watch.update(len(pending), values):
                run.log(warning)
            pending, began = [], time.monotonic()
        if due and not stopping and iteration < last:
            on_snapshot(iteration)
            began = time.monotonic()
        if stopping:
            break
    return iteration


def _averages(pending: list[dict], iteration: int, names) -> dict[str, float]:
    """Mean of every term over the last steps: the only place where the host waits for the device."""
    values = {}
    for key in dict.fromkeys(key for terms in pending for key in terms):
        steps = [i for i, terms in enumerate(pending) if key in terms]
        column = torch.stack([pending[i][key] for i in steps])
        column = (ranks.all_reduce(column) / ranks.world_size()).cpu()      # of all ranks: each has seen its own share
        wrong = (~torch.isfinite(column)).nonzero()
        if len(wrong):
            step = iteration - len(pending) + steps[int(wrong[0])]
            raise UserError(f"iteration {step}: the loss term {key} is {column[int(wrong[0])].item()}; {_ADVICE} "
                            f"(images of the batch: {', '.join(names(step))})")
        values[key] = float(column.mean())
    return values


def _line(iteration, last, values, rate) -> str:
    d = " ".join(f"{value:.2f}" for key, value in values.items() if key[0] == "D" and key[1:].isdigit())
    left = (last - iteration) / rate
    wait = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    return (f"iteration {iteration:,} of {last:,}   D {d}   G {values['G']:.2f}   KL {values['KL']:.3f}   "
            f"{rate:.2f} it/s   {wait} left")
