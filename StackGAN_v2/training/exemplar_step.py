"""One training iteration of the exemplar generator: the colours of regions, and images of other sentences."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from common.cli import UserError
from common.devices import autocast, send
from common.distributed import ranks
from common.matching_network import CANONICAL, Matcher
from common.runs import Run
from common.training_loop import ASK_EVERY
from StackGAN_v2.config import Config
from StackGAN_v2.data.datasets import Batch, SpeechFeatures, generator_of
from StackGAN_v2.data.image_cache import ImageCache
from StackGAN_v2.exemplar_settings import ExemplarSettings
from StackGAN_v2.losses import colour_loss
from StackGAN_v2.networks.condition_init import set_projection
from StackGAN_v2.networks.exemplar import (
    DRAWS,
    MOVES,
    common_colours,
    compose,
    cut,
    details,
    masks_of,
    mean_colours,
    softened,
)
from StackGAN_v2.training.networks import Networks, average_decay

CHUNK = 64  # images that are cut into regions at a time for the bank
MARGIN = 3  # pixels that images are moved by, at the most, before they are matched
SAMPLED, PIXELS = 512, 40_000  # images, and pixels of them, that the colours are chosen from


def shifted(images: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Images `[N, 3, s, s]`, their borders repeated, cut out so many pixels from the corner: a matching network that is
    not trained further is fooled less by images that move."""
    size, padded = images.shape[2], F.pad(images, (MARGIN,) * 4, mode="replicate")
    return padded[:, :, down : down + size, across : across + size]


class ExemplarStepper:
    """One training iteration. Losses come back as tensors, so that nothing waits for the device.

    Every image is cut into regions, and the network says each region's colour from the image's sentence, of which a
    share, EXEMPLAR.UNSAID, is not heard: then it learns what colours such a region has before anything is said
    (classifier-free guidance, Ho & Salimans, arXiv 2207.12598). With `match`, from the share EXEMPLAR.MATCH_FROM of the
    training on, the images at odd places of the batch are composed with the sentence of another one, too, and it pulls
    them to it. All that is random is a function of (seed, iteration), and any number of ranks shares one batch.

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
        self.describe = networks.generator.describe

    def compile(self) -> None:
        """Compile what takes the time."""
        self.describe = torch.compile(self.describe, dynamic=False)

    def __call__(self, batch: Batch, iteration: int) -> dict[str, torch.Tensor]:
        cfg, done, real = self.cfg, self.progress(iteration), batch.real[-1]
        generator, count = self.networks.generator, cfg.EXEMPLAR.REGIONS
        masks = masks_of(cut(real, count), count)
        true = mean_colours(masks, real)
        draws, heard = self._drawn(len(real), iteration)
        with autocast(self.device, self.precision):
            slots, areas = self.describe(real, masks, draws)
        logits = generator.colour_logits(self._condition(batch.speech) * heard, slots)
        terms = {"colour": colour_loss(logits, true, generator.colours, areas.detach())}
        if self.match is not None and done >= cfg.EXEMPLAR.MATCH_FROM:
            soft = softened(masks[1::2])
            shading = details(real[1::2], soft, true[1::2])
            terms["match"] = self._match(batch, soft, slots[1::2], shading, iteration)
        total = sum(terms.values())
        self._update(total, self._learning_rate(iteration, done))
        self.networks.update_average(average_decay(cfg.TRAIN, iteration))
        return {name: term.detach() for name, term in terms.items()} | {"G": total.detach()}

    def _match(self, batch: Batch, soft, slots, shading, iteration: int) -> torch.Tensor:
        """soft masks, slots and details of the images at odd places, which take other sentences."""
        generator = self.networks.generator
        speech, labels = (rows[1::2] for rows in self._with_others(batch))
        palette = generator.shown(generator.colour_logits(self._condition(speech), slots))
        images = (compose(soft, palette) + shading[:, None]).clamp(-1, 1)
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

    def _drawn(self, n: int, iteration: int):
        """→ the maps of colours, `[n, 12]`, and whether each sentence is heard, `[n, 1]`: 1 or 0."""
        first, every = ranks.rank() * n, ranks.world_size() * n
        generator = generator_of(self.seed, 4, iteration)
        draws = torch.randn(every, DRAWS, generator=generator)
        heard = torch.rand(every, 1, generator=generator) >= self.cfg.EXEMPLAR.UNSAID
        return tuple(send(rows[first : first + n].float(), self.device) for rows in (draws, heard))

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
    """Sets the bank of the generator and of its average to training images, described by the average of now.

    images: their numbers in `cache`, of which the centre is taken; their colours are turned, and the noise prefers them,
    as `seed` says: equal networks give equal banks. features: the sentences, which say what an image goes with; with a
    `matcher` whose directions the projection has, the image itself says it, too.
    """

    networks: Networks
    settings: ExemplarSettings
    cache: ImageCache
    features: SpeechFeatures
    images: torch.Tensor
    seed: int
    device: torch.device
    matcher: Matcher | None = None
    _fixed: tuple | None = None  # what does not depend on the networks: regions, details, own colours, what is seen

    @torch.no_grad()
    def __call__(self) -> None:
        average, random = self.networks.average, generator_of(self.seed, 5)
        draws = torch.randn(len(self.images), DRAWS, generator=random)
        spread = F.normalize(torch.randn(average.z_dim - MOVES, len(self.images), generator=random), dim=0)
        if self._fixed is None:
            self._fixed = self._joined(self._cut(numbers) for numbers in self.images.split(CHUNK))
        regions, shading, colours, seen = self._fixed
        (slots,) = self._joined(
            (self._described(numbers, some, send(turn, self.device)),)
            for numbers, some, turn in zip(*(rows.split(CHUNK) for rows in (self.images, regions, draws)))
        )
        keys = self._keys(seen)
        for network in (average, self.networks.generator):
            network.fill(regions, shading, colours, slots, keys, send(spread, self.device))
            network.keep.fill_(self.settings.KEEP)
            network.choice.fill_(self.settings.CHOICE)

    @staticmethod
    def _joined(parts) -> tuple:
        return tuple(torch.cat(part) for part in zip(*parts))

    def _cut(self, numbers):
        """→ regions, details, own colours of these images and, in the matcher's directions, what is seen in them."""
        average = self.networks.average
        images, count = centred(self.cache, numbers, average.sizes, self.device), average.shape.regions
        regions = cut(images, count)
        masks = masks_of(regions, count)
        colours = mean_colours(masks, images)
        seen = torch.zeros(len(images), 0, device=self.device)
        if self.matcher is not None:
            seen = (self.matcher(images) + self.matcher(images.flip(3))).float()
        return regions, details(images, softened(masks), colours), colours, seen

    def _described(self, numbers, regions, draws):
        average = self.networks.average
        images = centred(self.cache, numbers, average.sizes, self.device)
        return average.describe(images, masks_of(regions, average.shape.regions), draws)[0]

    def _keys(self, seen):
        start, count = self.features.start[self.images], self.features.count[self.images]
        own = [self.features.flat[i : i + n] for i, n in zip(start.tolist(), count.tolist())]
        conditions = F.normalize(self.networks.average.projection(torch.cat(own).to(self.device)))
        keys = F.normalize(torch.stack([rows.mean(0) for rows in conditions.split(count.tolist())]))
        if self.matcher is None:
            return keys
        width = min(keys.shape[1], seen.shape[1])
        return (keys + F.pad(F.normalize(seen[:, :width]), (0, keys.shape[1] - width))) / 2


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


def make_bank_filler(networks: Networks, batches, settings: ExemplarSettings) -> BankFiller:
    """The filler for at most BANK of the images that have a sentence, evenly spread; the networks get room for them."""
    chosen = evenly(batches.features.spoken, settings.BANK)
    for network in (networks.generator, networks.average):
        network.hold(len(chosen))
    return BankFiller(networks, settings, batches.cache, batches.features, chosen, batches.plan.seed, batches.device)


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
