"""One training iteration of the exemplar generator: reconstruction, and matching of images with other sentences."""

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
from StackGAN_v2.losses import gaussian_kl, reconstruction_loss
from StackGAN_v2.networks.exemplar import CODE_SIDE, DRAWS, perturbed, recolour
from StackGAN_v2.training.networks import Networks, average_decay

CHUNK = 64  # images that are encoded at a time for the bank


class ExemplarStepper:
    """One training iteration. Losses come back as tensors, so that nothing waits for the device.

    Every image is encoded and reconstructed with its own sentence (L1 of pixels, and from half of EXEMPLAR.MATCH_FROM on
    of the matching network's local features). With `match`, from the share EXEMPLAR.MATCH_FROM of the training on, those
    at odd places of the batch are decoded with the sentence of another one instead, and it pulls them to it; their codes
    learn nothing from that. All that is random is a function of (seed, iteration), and any number of ranks shares one
    batch.

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
        generator = networks.generator
        self.encode, self.decode = generator.encoder, generator.decode
        self.clipped = [p for name, p in generator.named_parameters() if not name.startswith("encoder.")]

    def compile(self) -> None:
        """Compile what takes the time."""
        self.encode, self.decode = (torch.compile(part, dynamic=False) for part in (self.encode, self.decode))

    def __call__(self, batch: Batch, iteration: int) -> dict[str, torch.Tensor]:
        cfg, done = self.cfg, self.progress(iteration)
        matching = self.match is not None and done >= cfg.EXEMPLAR.MATCH_FROM
        speech, labels = self._with_others(batch) if matching else (batch.speech, batch.labels)
        images, codes = self._reconstruct(batch, speech, iteration, matching)
        part = slice(None, None, 2 if matching else 1)
        rec = reconstruction_loss(images[part], batch.real[-1][part], cfg.EXEMPLAR.COARSE_LOSS)
        terms = {
            "rec": rec,
            "KL": cfg.EXEMPLAR.KL_SPATIAL * gaussian_kl(*codes[:2]),
            "KL_global": cfg.EXEMPLAR.KL_GLOBAL * gaussian_kl(*codes[2:]),
        }
        if self.match is not None and cfg.EXEMPLAR.FEATURE_LOSS and done >= cfg.EXEMPLAR.MATCH_FROM / 2:
            terms["feature"] = cfg.EXEMPLAR.FEATURE_LOSS * self.match.distance(images[part], batch.real[-1][part])
        if matching:
            terms["match"] = self.match(images[1::2], speech[1::2], labels[1::2], iteration)
        total = sum(terms.values())
        self._update(total, self._learning_rate(iteration, done))
        self.networks.update_average(average_decay(cfg.TRAIN, iteration))
        return {name: term.detach() for name, term in terms.items()} | {"G": total.detach()}

    def _with_others(self, batch: Batch):
        """speech `[N, d]` and labels `[N]` of the batch, each at an odd place replaced by those of the odd place before,
        over the batch of all ranks."""
        speech, labels = batch.speech.clone(), batch.labels.clone()
        for rows in (speech, labels):
            mine = len(rows) // 2
            first = ranks.rank() * mine
            rows[1::2] = ranks.gather_rows(rows[1::2]).roll(1, 0)[first : first + mine]
        return speech, labels

    def _reconstruct(self, batch: Batch, speech, iteration: int, matching: bool):
        """→ images `[N, 3, s, s]`, float32, and the codes' means and log-variances."""
        real, generator = batch.real[-1], self.networks.generator
        sizes, n = generator.shape, len(speech)
        widths = DRAWS, sizes.spatial_dim * CODE_SIDE**2, sizes.global_dim
        first, every = ranks.rank() * n, ranks.world_size() * n
        drawn = torch.randn(every, sum(widths), generator=generator_of(self.seed, 4, iteration))[first : first + n]
        draws, noise, noise_of_all = send(drawn, self.device).split(widths, 1)
        with autocast(self.device, self.precision):
            codes = self.encode(recolour(real, draws).to(memory_format=self.networks.memory_format), real)
            mean, logvar, mean_of_all, logvar_of_all = codes
            spatial = perturbed(mean, logvar, noise.reshape(mean.shape))
            of_all = perturbed(mean_of_all, logvar_of_all, noise_of_all)
            if matching:  # the codes are those of an image that says something else
                odd = torch.arange(n, device=self.device) % 2 == 1
                spatial = torch.where(odd[:, None, None, None], spatial.detach(), spatial)
                of_all = torch.where(odd[:, None], of_all.detach(), of_all)
            return self.decode(generator.projection(speech).float(), spatial, of_all), codes

    def _learning_rate(self, iteration: int, done: float) -> float:
        own = self.cfg.EXEMPLAR
        cosine = max(own.FINAL_LR, (1 + math.cos(math.pi * min(done, 1.0))) / 2)
        return self.cfg.TRAIN.GENERATOR_LR * min(1.0, (iteration + 1) / own.WARM_UP) * cosine

    def _update(self, loss, learning_rate: float) -> None:
        optimizer, generator = self.networks.optimizer_g, self.networks.generator
        loss.backward()
        ranks.average_gradients(generator)
        torch.nn.utils.clip_grad_norm_(self.clipped, self.cfg.EXEMPLAR.CLIP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


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
            centre, mirrored = torch.full((len(numbers), 2), 0.5), torch.zeros(len(numbers), dtype=torch.bool)
            (images,) = self.cache.batch(numbers, centre, mirrored, generator.sizes, self.device)
            recoloured = recolour(images, send(some, self.device)).to(memory_format=self.networks.memory_format)
            parts.append(generator.encoder(recoloured, images))
        generator.train()
        codes = [torch.cat(code) for code in zip(*parts)]
        generator.fill(codes)
        self.networks.average.fill(codes)


def make_bank_filler(networks: Networks, batches, most: int) -> BankFiller:
    """The filler for at most `most` of the images that have a sentence, evenly spread; the networks get room for them."""
    spoken = batches.features.spoken
    chosen = spoken[torch.linspace(0, len(spoken) - 1, min(most, len(spoken))).round().long()]
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
