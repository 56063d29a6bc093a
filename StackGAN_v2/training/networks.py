"""The networks of a training and their optimizers, and the weights that they start from."""

import copy

import torch

from common import checkpoint
from common.distributed import ranks
from common.distributed.sync_bn import synchronize_batch_norm
from StackGAN_v2.config import Config, TrainSettings
from StackGAN_v2.generators import generator_class
from StackGAN_v2.networks.exemplar import bank_of
from StackGAN_v2.training.adam import Adam


class Networks:
    """Generator, its exponential moving average, one discriminator a size, and their optimizers.

    sync_bn: batch norm over all ranks, so that N ranks with B images each equal one with N·B.
    """

    def __init__(self, cfg: Config, text_dim: int, device, sync_bn: bool = False, memory_format=torch.channels_last):
        train = cfg.TRAIN
        self.generator = generator_class(cfg.MODEL).from_settings(cfg, text_dim)
        self.discriminators = self.generator.discriminators(cfg)
        # channels_last: 2 × the speed on GPUs with bf16, a little on CPUs; the mathematics is the same
        self.memory_format = memory_format
        for network in self.all():
            network.initialise()
            network.to(device, memory_format=memory_format)
            ranks.broadcast_module(network)
            if sync_bn:
                synchronize_batch_norm(network)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer_g = self._optimizer_g(cfg)
        self.optimizers_d = [self._adam(d, train.DISCRIMINATOR_LR, train) for d in self.discriminators]

        self.bank_filler = None  # an exemplar_step.BankFiller, for a generator that has a bank

    def _optimizer_g(self, cfg: Config) -> torch.optim.Optimizer:
        train = cfg.TRAIN
        if self.discriminators:
            return self._adam(self.generator, train.GENERATOR_LR, train)
        return torch.optim.AdamW(
            self.generator.parameters(),
            train.GENERATOR_LR,
            betas=tuple(train.BETAS),
            weight_decay=cfg.EXEMPLAR.WEIGHT_DECAY,
            fused=True,
        )

    @staticmethod
    def _adam(network, lr: float, train: TrainSettings) -> Adam:
        return Adam(network.parameters(), lr, betas=tuple(train.BETAS))

    def all(self) -> list[torch.nn.Module]:
        return [self.generator, *self.discriminators]

    def parts(self) -> dict:
        """Everything with a state dict, by name: what a resume file holds."""
        named = {"generator": self.generator, "average": self.average, "optimizer_g": self.optimizer_g}
        for i, (network, optimizer) in enumerate(zip(self.discriminators, self.optimizers_d)):
            named |= {f"discriminator{i}": network, f"optimizer_d{i}": optimizer}
        return named

    def refresh(self) -> None:
        """Bring what follows from the weights up to date, before the average generates or is kept."""
        if self.bank_filler:
            self.bank_filler()

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        bank = bank_of(self.generator)  # `refresh` sets both networks'
        average, ours = (
            [buffer for name, buffer in network.named_buffers() if name not in bank]
            for network in (self.average, self.generator)
        )
        if ours:
            torch._foreach_copy_(average, ours)


def average_decay(train: TrainSettings, iteration: int) -> float:
    """The decay of the average after `iteration`, counted from 0: TRAIN.EMA, or less with a ramp (Karras et al. 2020)."""
    if not train.EMA_RAMP or not train.EMA:
        return train.EMA
    return min(train.EMA, 0.5 ** (1 / (train.EMA_RAMP * iteration))) if iteration else 0.0


def start_from(networks: Networks, net_g: str, net_d: str, speech=None) -> None:
    """Begin with published or earlier weights: TRAIN.NET_G, and TRAIN.NET_D as the start of the names `<NET_D><i>.pth`.

    speech: embeddings `[M, text_dim]` for the data-dependent start of a new generator, or None.
    """
    if speech is not None and not net_g:
        for network in (networks.generator, networks.average):
            network.init_condition(speech)
    if net_g:
        state = checkpoint.state_dict_of(checkpoint.load(net_g), net_g)
        for network in (networks.generator, networks.average):
            checkpoint.load_into(network, {**state, **bank_of(network)}, net_g)
    for i, network in enumerate(networks.discriminators if net_d else ()):
        path = f"{net_d}{i}.pth"
        checkpoint.load_into(network, checkpoint.state_dict_of(checkpoint.load(path), path), path)
