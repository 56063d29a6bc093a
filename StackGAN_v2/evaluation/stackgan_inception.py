"""The StackGAN authors' Inception-v3, fine-tuned on birds or flowers, from their TensorFlow checkpoints without
TensorFlow.

Published inception scores on CUB-200 and Oxford-102 go through these networks (`birds_valid299`, `flowers_valid299` of
github.com/hanzhanggit/StackGAN-inception-model). They are slim's Inception-v3 of 2016 with the averaged variables.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint
from common.cli import UserError
from common.files import sha256
from common.untrusted.tf_checkpoint import read_floats
from StackGAN_v2.evaluation.feature_extractors import Extractor

AVERAGE = "/ExponentialMovingAverage"
CLASSES = {51: "birds", 21: "flowers"}  # logits of the published networks; number 0 is an unused background
BATCH = 64  # images at a time; what does not fill a batch is left out
# torchvision's names → slim's; the scope of 7a was never renamed, so that older checkpoints fit
SCOPES = {
    "Conv2d_1a_3x3": "conv0",
    "Conv2d_2a_3x3": "conv1",
    "Conv2d_2b_3x3": "conv2",
    "Conv2d_3b_1x1": "conv3",
    "Conv2d_4a_3x3": "conv4",
    "Mixed_5b": "mixed_35x35x256a",
    "Mixed_5c": "mixed_35x35x288a",
    "Mixed_5d": "mixed_35x35x288b",
    "Mixed_6a": "mixed_17x17x768a",
    "Mixed_6b": "mixed_17x17x768b",
    "Mixed_6c": "mixed_17x17x768c",
    "Mixed_6d": "mixed_17x17x768d",
    "Mixed_6e": "mixed_17x17x768e",
    "Mixed_7a": "mixed_17x17x1280a",
    "Mixed_7b": "mixed_8x8x2048a",
    "Mixed_7c": "mixed_8x8x2048b",
}
_BRANCH = re.compile(r"(branch_pool|branch[0-9x]+(?:dbl)?)(?:_(\d)([ab]?))?")


def slim_name(key: str) -> str:
    """A key of torchvision's state dict → the variable of slim's network: `Mixed_7b.branch3x3_2b.bn.bias` →
    `mixed_8x8x2048a/branch3x3/Conv_2/BatchNorm/beta`.
    """
    if key.startswith("fc."):
        return {"fc.weight": "logits/logits/weights", "fc.bias": "logits/logits/biases"}[key]
    scope, *branch, layer, part = key.split(".")
    path = [SCOPES[scope]]
    if branch:
        name, step, side = _BRANCH.fullmatch(branch[0]).groups()
        number = int(step or 1) - 1 + (side == "b")  # in the order in which they were made
        path += [name, f"Conv_{number}" if number else "Conv"]
    end = (
        {"weight": "weights"}
        if layer == "conv"
        else {
            "bias": "BatchNorm/beta",
            "running_mean": "BatchNorm/moving_mean",
            "running_var": "BatchNorm/moving_variance",
        }
    )
    return "/".join([*path, end[part]])


def load_network(path) -> tuple[nn.Module, int]:
    """(torchvision's Inception-v3 with the weights of a checkpoint, the number of its logits), frozen, in eval mode.

    UserError if `path` is damaged or of another network.
    """
    from torchvision.models import Inception3

    logits = read_floats(path, ["logits/logits/biases" + AVERAGE, "logits/logits/biases"])
    if not logits:
        raise UserError(f"{path} is no Inception of the StackGAN authors: it lacks logits/logits/biases")
    classes = len(next(iter(logits.values())).reshape(-1))
    if not 2 <= classes <= 10_000:
        raise UserError(f"{path} is no Inception of the StackGAN authors: it has {classes} logits")
    network = Inception3(classes, aux_logits=False, transform_input=False, init_weights=False)
    state = dict(network.state_dict())
    # slim's batch norms have no scale: torch's stays 1
    names = {key: slim_name(key) for key in state if not key.endswith(("bn.weight", "num_batches_tracked"))}
    found = read_floats(path, [name + end for name in names.values() for end in (AVERAGE, "")])
    for key, name in names.items():
        array = found.get(name + AVERAGE, found.get(name))
        if array is None:
            raise UserError(f"{path} is no Inception of the StackGAN authors: it lacks {name}")
        value = torch.from_numpy(array)
        state[key] = value.permute(3, 2, 0, 1) if value.dim() == 4 else value.T if value.dim() == 2 else value
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"{path} is damaged: it holds weights that are not finite; download it again")
    checkpoint.load_into(network, state, path)
    for name, module in network.named_modules():
        if name.endswith(".branch_pool"):
            module.register_forward_pre_hook(_without_padding)
    return network.eval().requires_grad_(False), classes


def _without_padding(module, inputs):
    """TensorFlow's average leaves the padding out, which torchvision's 3 × 3 pooling counts."""
    (pooled,) = inputs
    ones = pooled.new_ones(1, 1, *pooled.shape[2:])
    return pooled / F.avg_pool2d(ones, 3, 1, padding=1)


class StackGANInception(Extractor):
    """For the inception score as the StackGAN authors' script measures it: softmax over all logits but number 0.

    Images are resized to 299 px as Pillow does (bilinear, in bytes) and scaled by x / 127.5 − 1.
    """

    width, batch, fine_tuned = 2048, BATCH, True

    def __init__(self, path, device="cpu"):
        network, logits = load_network(path)
        self.classes, self.device = logits - 1, torch.device(device)
        self.head, network.fc = network.fc.to(device), nn.Identity()
        self.network, digest = network.to(device), sha256(path)
        self.name = f"stackgan{self.classes}_{digest[:8]}"
        self.identity = digest
        self.what = (
            f"the StackGAN authors' Inception-v3 of {self.classes} classes "
            f"({CLASSES.get(logits, 'another set')}) from {Path(path).name}, 299 px, x / 127.5 − 1"
        )

    def _forward(self, images):
        views = F.interpolate(images.float(), size=(299, 299), mode="bilinear", antialias=True).round_()
        features = self.network(views / 127.5 - 1)
        return features, self.head(features)[:, 1:]
