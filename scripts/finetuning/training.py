"""The loop that turns a torchvision Inception-v3 into one of other classes, and what a run of it keeps.

Everything random is a function of seed and step: a resumed run draws what an uninterrupted one would have drawn.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError
from common.devices import autocast
from common.progress import tqdm
from common.training_loop import TrainingLoop
from scripts.finetuning.settings import Settings
from StackGAN_v2.data.datasets import Order


def inception(classes: int, weights=None) -> nn.Module:
    """torchvision's Inception-v3 with `classes` outputs, for images in [−1, 1].

    weights: a state dict file of torchvision's Inception-v3; its heads are taken too if they fit, else initialised.
    Without one everything is He-initialised. UserError for another architecture.
    """
    from torchvision.models import Inception3

    network = Inception3(classes, aux_logits=True, transform_input=False, init_weights=False)
    if weights is None:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):  # torchvision's own start of this network takes half a minute
                nn.init.kaiming_normal_(layer.weight)
        return network
    own = network.state_dict()
    state = checkpoint.state_dict_of(checkpoint.load(weights), weights)
    heads = [key for key in own if key.startswith(("fc.", "AuxLogits.fc."))]
    for key in heads:
        if key not in state or state[key].shape != own[key].shape:
            state[key] = own[key]
    if not any(key.startswith("AuxLogits.conv") for key in state):  # a file without the auxiliary head
        state |= {key: value for key, value in own.items() if key.startswith("AuxLogits.")}
    checkpoint.load_into(network, state, weights)
    return network


def rate(step: int, settings: Settings) -> float:
    """The learning rate of a step, of the new heads."""
    rise = max(1, round(settings.warm_up * settings.steps))
    if step < rise:
        return settings.learning_rate * (step + 1) / rise
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, settings.steps - rise)))


def optimizer_of(network, settings: Settings, fresh: bool) -> torch.optim.SGD:
    """fresh: all layers are new, so all learn at the full rate."""
    heads = [p for name, p in network.named_parameters() if name.startswith(("fc.", "AuxLogits."))]
    body = [p for name, p in network.named_parameters() if not name.startswith(("fc.", "AuxLogits."))]
    return torch.optim.SGD(
        [{"params": heads, "factor": 1.0}, {"params": body, "factor": 1.0 if fresh else 0.1}],
        lr=settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )


class Training(TrainingLoop):
    """One run: `network` and its optimizer on `device`, over `images`. fresh: all layers are new; key: what a resume
    file must agree with."""

    def __init__(self, network, images, settings: Settings, device, precision: str, fresh: bool, key: dict):
        super().__init__(device, log_every=max(1, len(images.train) // settings.batch_size))  # an epoch
        self.network = network.to(device, memory_format=torch.channels_last)
        self.images, self.settings, self.precision, self.key = images, settings, precision, key
        self.optimizer = optimizer_of(self.network, settings, fresh)
        self.order = Order(len(images.train), settings.seed)

    def run(self, resume, say, progress: bool = True) -> bool:
        """Train to the end, or until a signal; False if stopped before the end.

        Every epoch and at a stop the file `resume` is written, and `say` gets a sentence.
        """
        self.resume, self.say = resume, say
        with tqdm(total=self.settings.steps, initial=self.step, unit="step", disable=not progress) as self.bar:
            self.run_steps(self.settings.steps)
        if self.stopping:
            self.save(resume)
        return self.step == self.settings.steps

    def log_is_due(self, last: int) -> bool:
        return super().log_is_due(last) or self.step == last

    def log(self, means: dict[str, float], rate: float) -> None:
        self.save(self.resume)  # first, so that a fault in the validation costs nothing
        self.say(
            f"step {self.step:,} of {self.settings.steps:,}   loss {means['loss']:.4f}   "
            f"validation accuracy {self.accuracy():.2f} %"
        )

    def not_finite(self, step: int, name: str, value: float):
        raise UserError(
            f"the loss is not finite at step {step + 1}; go on with a smaller --learning_rate and --resume none"
        )

    def train_step(self) -> dict[str, torch.Tensor]:
        step, settings, size = self.step, self.settings, self.settings.batch_size
        torch.manual_seed(int(np.random.SeedSequence((settings.seed, step)).generate_state(1)[0]))
        rows = self.images.train[self.order.indices(step * size, size)]
        images = self.images.cut(rows, torch.rand(size, 2), torch.rand(size) < 0.5).to(self.device)
        images = _recoloured(images).contiguous(memory_format=torch.channels_last)
        labels = self.images.labels[rows].to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * rate(step, settings)
        self.network.train()
        with autocast(self.device, self.precision):
            outputs = self.network(images)
        loss = sum(
            weight * F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
            for weight, logits in ((1, outputs.logits), (settings.aux_weight, outputs.aux_logits))
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.bar.update()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of held-out images that are told right, in percent: the square in the middle, not mirrored."""
        self.network.eval()
        right = 0
        for rows in self.images.held_out.split(self.settings.batch_size):
            images = self.images.cut(rows, torch.full((len(rows), 2), 0.5), torch.zeros(len(rows), dtype=torch.bool))
            with autocast(self.device, self.precision):
                logits = self.network(images.to(self.device, memory_format=torch.channels_last))
            right += int((logits.argmax(1).cpu() == self.images.labels[rows]).sum())
        return 100 * right / len(self.images.held_out)

    def save(self, path) -> None:
        checkpoint.save(
            path,
            {
                "step": self.step,
                "key": self.key,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def restore(self, path) -> None:
        """Go on from a resume file. UserError if it is of another run."""
        content = checkpoint.load(path)
        if not isinstance(content, dict) or content.get("key") != self.key:
            raise UserError(
                f"{path} is of a run with other options or images; give the same ones, or --resume none "
                "to start from scratch"
            )
        checkpoint.load_into(self.network, content["network"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]


def _recoloured(images: torch.Tensor, most: float = 0.2) -> torch.Tensor:
    """Images `[N, 3, H, W]` in [−1, 1] with brightness and contrast changed by up to `most`."""
    brightness, contrast = ((torch.rand(2, len(images), 1, 1, 1) * 2 - 1) * most).to(images.device)
    return (images * (1 + contrast) + brightness).clamp_(-1, 1)
