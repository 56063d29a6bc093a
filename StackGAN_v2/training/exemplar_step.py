"""One training iteration of the exemplar generator: segments, their colours, and images of other sentences."""

import math
from dataclasses import dataclass

import torch

from common.cli import UserError
from common.devices import autocast, send
from common.distributed import ranks
from common.runs import Run
from common.training_loop import ASK_EVERY
from StackGAN_v2.config import Config
from StackGAN_v2.data.datasets import Batch, generator_of
from StackGAN_v2.data.image_cache import ImageCache
from StackGAN_v2.losses import colour_loss, gaussian_kl, reconstruction_loss
from StackGAN_v2.networks.condition_init import set_projection
from StackGAN_v2.networks.exemplar import CODE_SIDE, DRAWS, common_colours, compose, mean_colours, perturbed, recolour
from StackGAN_v2.training.matching_network import CANONICAL
from StackGAN_v2.training.networks import Networks, average_decay

CHUNK = 64  # images that are encoded at a time for the bank
MARGIN = 3  # pixels that images are moved by, at the most, before they are matched
SAMPLED, PIXELS = 512, 40_000  # images, and pixels of them, that the colours are chosen from


def shifted(images: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Images `[N, 3, s, s]`, their borders repeated, cut out so many pixels from the corner: a matching network that is
    not trained further is fooled less by images that move."""
    size, padded = images.shape[2], torch.nn.functional.pad(images, (MARGIN,) * 4, mode="replicate")
    return padded[:, :, down : down + size, across : across + size]


class ExemplarStepper:
    """One training iteration. Losses come back as tensors, so that nothing waits for the device.

    Every image is encoded and reconstructed twice (L1 of pixels): with the true mean colour under each mask, so that
    the masks become its segments, and with the colours that its sentence says, so that they become segments that
    sentences speak of. With `match`, from the share EXEMPLAR.MATCH_FROM of the training on, those at odd places of the
    batch are composed with the sentence of another one, too, and it pulls them to it; residual and global code learn
    nothing from that. All that is random is a function of (seed, iteration), and any number of ranks shares one batch.

    progress(iteration): the share of the training that is done, equal on all ranks.
    """

    def __init__(self, networks: Networks, cfg: Config, device, precision: str, seed: int, progress, match=None):
        if cfg.TRAIN.BATCH_SIZE // ranks.world_size() % 2:
            raise UserError(
                f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}; MODEL: exemplar needs an even number of images for each of "
                f"the {ranks.world_size()} processes"
            )
        self.networks, self.cfg, self.device, self.precision = networks, cfg, device, precision
        self.seed, self.progress, self.match = seed, progress, match
        # the projection stays as `begin`, or the file of TRAIN.NET_G, has set it
        self.fixed_projection = match is not None and cfg.TRAIN.CONDITION_INIT
        generator = networks.generator
        self.encode, self.segment = generator.encoder, generator.segment

    def compile(self) -> None:
        """Compile what takes the time."""
        self.encode, self.segment = (torch.compile(part, dynamic=False) for part in (self.encode, self.segment))

    def __call__(self, batch: Batch, iteration: int) -> dict[str, torch.Tensor]:
        cfg, done, real = self.cfg, self.progress(iteration), batch.real[-1]
        own, generator = cfg.EXEMPLAR, self.networks.generator
        codes, segments, of_all = self._segments(real, iteration)
        masks, residual, slots, areas = segments
        true = mean_colours(masks, real)
        logits = generator.colour_logits(self._condition(batch.speech), slots, of_all)
        with_true, with_said = (compose(masks, colours) + residual for colours in (true, generator.shown(logits)))
        terms = {
            "rec": reconstruction_loss(with_true, real, own.COARSE_LOSS),
            "said": own.SAID_LOSS * reconstruction_loss(with_said, real, own.COARSE_LOSS),
            "colour": own.COLOUR_LOSS * colour_loss(logits, true.detach(), generator.colours, areas.detach()),
            "KL": own.KL_SPATIAL * gaussian_kl(*codes[:2]),
            "KL_global": own.KL_GLOBAL * gaussian_kl(*codes[2:]),
        }
        if self.match is not None and done >= own.MATCH_FROM:
            others = (value[1::2] for value in (masks, residual.detach(), slots, of_all.detach()))
            terms["match"] = self._match(batch, others, iteration)
        total = sum(terms.values())
        self._update(total, self._learning_rate(iteration, done))
        self.networks.update_average(average_decay(cfg.TRAIN, iteration))
        return {name: term.detach() for name, term in terms.items()} | {"G": total.detach()}

    def _match(self, batch: Batch, others, iteration: int) -> torch.Tensor:
        """others: masks, residual, slots and global code of the images at odd places, which take other sentences."""
        generator, (masks, residual, slots, of_all) = self.networks.generator, others
        speech, labels = (rows[1::2] for rows in self._with_others(batch))
        logits = generator.colour_logits(self._condition(speech), slots, of_all)
        images = compose(masks, generator.shown(logits)) + residual
        moves = torch.randint(2 * MARGIN + 1, (2,), generator=generator_of(self.seed, 7, iteration)).tolist()
        return self.match(shifted(images, *moves), speech, labels, iteration)

    def _condition(self, speech):
        """Speech `[N, d]` → conditions `[N, E]`. The directions that the matching network found are not trained further:
        trained with all of the embedding's numbers, they followed the few training sentences."""
        with torch.set_grad_enabled(not self.fixed_projection):
            return self.networks.generator.projection(speech)

    def _with_others(self, batch: Batch):
        """speech `[N, d]` and labels `[N]` of the batch, each at an odd place replaced by those of the odd place before,
        over the batch of all ranks."""
        speech, labels = batch.speech.clone(), batch.labels.clone()
        for rows in (speech, labels):
            mine = len(rows) // 2
            first = ranks.rank() * mine
            rows[1::2] = ranks.gather_rows(rows[1::2]).roll(1, 0)[first : first + mine]
        return speech, labels

    def _segments(self, real, iteration: int):
        """→ the codes' means and log-variances, what `segment` gives of a draw of them, and that of the global code."""
        sizes, n = self.networks.generator.shape, len(real)
        widths = DRAWS, sizes.spatial_dim * CODE_SIDE**2, sizes.global_dim
        first, every = ranks.rank() * n, ranks.world_size() * n
        drawn = torch.randn(every, sum(widths), generator=generator_of(self.seed, 4, iteration))[first : first + n]
        draws, noise, noise_of_all = send(drawn, self.device).split(widths, 1)
        with autocast(self.device, self.precision):
            codes = self.encode(recolour(real, draws).to(memory_format=self.networks.memory_format), real)
            mean, logvar, mean_of_all, logvar_of_all = codes
            segments = self.segment(perturbed(mean, logvar, noise.reshape(mean.shape)))
        return codes, segments, perturbed(mean_of_all, logvar_of_all, noise_of_all)

    def _learning_rate(self, iteration: int, done: float) -> float:
        own = self.cfg.EXEMPLAR
        cosine = max(own.FINAL_LR, (1 + math.cos(math.pi * min(done, 1.0))) / 2)
        return self.cfg.TRAIN.GENERATOR_LR * min(1.0, (iteration + 1) / own.WARM_UP) * cosine

    def _update(self, loss, learning_rate: float) -> None:
        optimizer, generator = self.networks.optimizer_g, self.networks.generator
        loss.backward()
        ranks.average_gradients(generator)
        torch.nn.utils.clip_grad_norm_(generator.parameters(), self.cfg.EXEMPLAR.CLIP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def evenly(numbers: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the numbers, evenly from first to last."""
    return numbers[torch.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().long()]


def centred(cache: ImageCache, numbers: torch.Tensor, sizes: list[int], device=None) -> torch.Tensor:
    """The centres of the images of these numbers, `[N, 3, s, s]`."""
    centre, mirrored = torch.full((len(numbers), 2), 0.5), torch.zeros(len(numbers), dtype=torch.bool)
    (images,) = cache.batch(numbers, centre, mirrored, sizes, device)
    return images


@dataclass
class BankFiller:
    """Sets the bank of the generator and of its average to the codes of training images, by the encoder of now.

    images: their numbers in `cache`; their centre is cut out, and their colours are turned as `seed` says: equal
    encoders give equal banks.
    """

    networks: Networks
    cache: ImageCache
    images: torch.Tensor
    seed: int
    device: torch.device

    @torch.no_grad()
    def __call__(self) -> None:
        generator, parts = self.networks.generator, []
        draws = torch.randn(len(self.images), DRAWS, generator=generator_of(self.seed, 5))
        generator.eval()
        for numbers, some in zip(self.images.split(CHUNK), draws.split(CHUNK)):
            images = centred(self.cache, numbers, generator.sizes, self.device)
            recoloured = recolour(images, send(some, self.device)).to(memory_format=self.networks.memory_format)
            parts.append(generator.encoder(recoloured, images))
        generator.train()
        codes = [torch.cat(code) for code in zip(*parts)]
        generator.fill(codes)
        self.networks.average.fill(codes)


def begin(networks: Networks, cfg: Config, batches, match) -> None:
    """What a new generator starts from, beside random weights: the colours of the training images and, with
    TRAIN.CONDITION_INIT, the directions of the embeddings that the matching network has found in images."""
    choose_colours(networks, batches)
    if match is not None and cfg.TRAIN.CONDITION_INIT:
        matcher, speech = match.matcher, batches.features.flat
        for network in (networks.generator, networks.average):
            set_projection(network.projection, matcher.mean, matcher.directions[:, :CANONICAL], speech)
    for network in (networks.generator, networks.average):
        ranks.broadcast_module(network)  # images that lie on other devices may be rounded otherwise


def choose_colours(networks: Networks, batches) -> None:
    """Set the colours of the generator and of its average to the most common ones of the training images."""
    generator = networks.generator
    images = centred(batches.cache, evenly(batches.features.spoken, SAMPLED), generator.sizes)
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)
    drawn = torch.randint(len(pixels), (PIXELS,), generator=generator_of(batches.plan.seed, 8)).to(pixels.device)
    colours = common_colours(pixels[drawn].cpu(), len(generator.colours))  # a GPU would sum in any order
    for network in (generator, networks.average):
        network.colours.copy_(colours)


def make_bank_filler(networks: Networks, batches, most: int) -> BankFiller:
    """The filler for at most `most` of the images that have a sentence, evenly spread; the networks get room for them."""
    chosen = evenly(batches.features.spoken, most)
    for network in (networks.generator, networks.average):
        network.hold(len(chosen))
    return BankFiller(networks, batches.cache, chosen, batches.plan.seed, batches.device)


class Budget:
    """`budget(step)` → the share of a training that is done, 0 to 1, equal on all ranks: of `iterations`, or of the wall
    time that `run` may take if that is more."""

    def __init__(self, iterations: int, run: Run, device: torch.device):
        self.iterations, self.run, self.device = iterations, run, device
        self.of_time: float | None = None

    def __call__(self, step: int) -> float:
        rarely = ranks.world_size() > 1 and self.device.type != "cpu"  # asking makes the host wait for a GPU
        if self.of_time is None or not rarely or step % ASK_EVERY == 0:
            self.of_time = self._time()
        return min(1.0, max(step / self.iterations, self.of_time))

    def _time(self) -> float:
        share = self.run.share_taken()
        if ranks.world_size() == 1 or math.isinf(self.run.seconds_left()):
            return share
        return float(ranks.all_reduce(torch.tensor(share, device=self.device), torch.distributed.ReduceOp.MAX))
