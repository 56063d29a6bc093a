"""One training iteration: a step of every discriminator, one of the generator, and an average of the latter."""

import torch

from common.devices import autocast
from common.distributed import ranks
from StackGAN_v2 import losses
from StackGAN_v2.config import TrainSettings
from StackGAN_v2.data.augmentation import augmented
from StackGAN_v2.training.networks import Networks, average_decay


class Stepper:
    """One training iteration. Losses come back as tensors, so that nothing waits for the device.

    image_losses: further losses of the generator by name, such as those in `image_losses`.
    """

    def __init__(
        self,
        networks: Networks,
        train: TrainSettings,
        device,
        precision: str,
        compile_networks: bool = False,
        image_losses=None,
    ):
        self.networks, self.train, self.device, self.precision = networks, train, device, precision
        self.image_losses = image_losses or {}
        compiled = _compiled if compile_networks else lambda part: part
        self.generator = compiled(networks.generator)
        self.encode, self.condition_logits = (
            [compiled(getattr(d, name)) for d in networks.discriminators] for name in ("encode", "condition_logits")
        )

    def __call__(self, batch, iteration: int) -> dict[str, torch.Tensor]:
        with autocast(self.device, self.precision):
            images, mu, logvar = self.generator(batch.z, batch.speech, batch.eps)
        images = [image.float() for image in images]
        terms = {}
        for i in range(len(images)):
            terms |= self._step_discriminator(i, batch, images[i].detach(), mu.detach(), iteration)
        terms |= self._step_generator(images, mu, logvar, batch)
        self.networks.update_average(average_decay(self.train, iteration))
        return terms

    def _discriminate(self, i, images, pairs, eager: bool = False):
        """Discriminator i on batches of images, each normalised alone, and on pairs (number of a batch, condition).

        → cond_logits `[N]` of every pair, uncond_logits `[N]` of every batch, code `[batches·N, …]`. One pass over all
        of them reads the weights once, and computes their gradients once.
        eager: not compiled, since the gradient of a gradient is asked for, which compiled parts do not have.
        """
        network = self.networks.discriminators[i]
        encode, condition_logits = (
            (network.encode, network.condition_logits) if eager else (self.encode[i], self.condition_logits[i])
        )
        with autocast(self.device, self.precision):
            images, n = torch.cat(images), len(images)
            code = encode(images.contiguous(memory_format=self.networks.memory_format), n)
            # 0 where there is no unconditional logit, whose loss then has the weight 0
            uncond = network.uncond_logits(code).flatten().float() if network.uncond_logits else code.new_zeros(n)
            numbers, conditions = zip(*pairs)
            codes = code if numbers == tuple(range(n)) else torch.cat([code.chunk(n)[number] for number in numbers])
            cond = condition_logits(codes, torch.cat(conditions), len(pairs))
            return cond.chunk(len(pairs)), uncond.chunk(n), code.flatten(1).float()

    def _discriminate_all(self, i, real, wrong, fake, condition, mu, penalise: bool):
        """(cond, uncond) logits of real images with their speech, of wrong pairs and of fakes.

        wrong: images; with none (TRAIN.WRONG 'speech') a wrong pair is a real image with the speech of its neighbour in
        the batch of all ranks (DF-GAN): the image's code serves twice, a third of the discriminator's work is saved.
        """
        images, pairs = [real, fake], [(0, condition), (0, self._neighbours(mu)), (1, mu)]
        if wrong is not None:
            images, pairs = [real, wrong, fake], [(0, condition), (1, mu), (2, mu)]
        if penalise:  # the gradient at the real images wants a graph of theirs alone
            of_real = [pair for pair in pairs if pair[0] == 0]
            parts = [
                self._discriminate(i, images[:1], of_real, eager=True),
                self._discriminate(i, images[1:], [(number - 1, c) for number, c in pairs if number]),
            ]
            cond, uncond = ([logits for part in parts for logits in part[kind]] for kind in (0, 1))
        else:
            cond, uncond, _ = self._discriminate(i, images, pairs)
        return [(logits, uncond[number]) for logits, (number, _) in zip(cond, pairs)]

    @staticmethod
    def _neighbours(mu):
        first = ranks.rank() * len(mu)
        return ranks.gather_rows(mu).roll(1, 0)[first : first + len(mu)]

    def _step_discriminator(self, i, batch, fake, mu, iteration):
        coeff, every = self.train.COEFF, self.train.MA_PENALTY_EVERY
        penalise = coeff.MA_PENALTY > 0 and iteration % every == 0
        image = self._augmented(batch.real[i], batch, "real").requires_grad_(penalise)
        condition = mu.clone().requires_grad_(penalise)
        wrong = self._augmented(batch.wrong[i], batch, "wrong") if self.train.WRONG == "image" else None
        fake = self._augmented(fake, batch, "fake")
        real, wrong, fake = self._discriminate_all(i, image, wrong, fake, condition, mu, penalise)
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
        for network in networks.discriminators:  # their weights' gradients would be thrown away
            network.requires_grad_(False)
        terms = {} if logvar is None else {"KL": coeff.KL * losses.kl_loss(mu, logvar)}
        mu = mu.detach() if self.train.DETACH_CONDITION else mu
        for i, image in enumerate(images):
            seen = self._augmented(image, batch, "generated")
            (cond,), (uncond,), code = self._discriminate(i, [seen], [(0, mu)])
            terms[f"G{i}"] = losses.g_loss((cond, uncond), self.train.ADVERSARIAL, coeff.UNCOND_LOSS)
            if coeff.CAL_LOSS > 0:
                terms[f"CAL{i}"] = losses.class_aware_loss(ranks.gather_rows(code), ranks.gather_rows(batch.labels))
            if coeff.COLOR_LOSS > 0 and i:
                terms[f"color{i}"] = coeff.COLOR_LOSS * losses.color_loss(image, images[i - 1])
        for name, loss in self.image_losses.items():
            terms[name] = loss(images[-1], batch)
        total = sum(terms.values())
        self._update(networks.optimizer_g, networks.generator, total)
        for network in networks.discriminators:
            network.requires_grad_(True)
        return {name: term.detach() for name, term in terms.items()} | {"G": total.detach()}

    def _augmented(self, images, batch, role: str):
        """The images as discriminators see them; role: see `datasets.ROLES`."""
        if not self.train.augmentations:
            return images
        return augmented(images, batch.augmentation[role], self.train.augmentations)

    @staticmethod
    def _update(optimizer, network, loss):
        loss.backward()
        ranks.average_gradients(network)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # now: the next network's gradients may take this memory


def _compiled(part):
    """Compiled for the shapes that come, each of them its own: three discriminators in up to three groupings."""
    limit = torch._dynamo.config.recompile_limit  # of a line of code, not a network
    torch._dynamo.config.recompile_limit = max(limit, 32)
    return torch.compile(part, dynamic=False)
