"""The networks that the metrics see through: each turns images into features and class logits, and has a name.

An extractor's name is part of every metric that is measured with it, since numbers from different ones do not compare.
"""

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common import checkpoint, efficientnet_lite0, efficientnet_lite2
from common.cli import UserError
from common.files import sha256

# The Inception of TensorFlow's FID (2015-12-05), as ported to torch: one file for pytorch-fid and torch-fidelity.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Extractor:
    """name: goes into metric names; identity: changes with the weights; what: one line for the protocol.

    width: length of the features; classes: of the logits; incomparable: why no published number went through this
    network, empty if some did.
    """

    name: str
    identity: str
    what: str
    incomparable: str = ""
    batch: int = 1  # the inception score counts what fills batches of so many images
    fine_tuned: bool = False  # whether its classes are those of the data set
    width: int
    classes: int

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 `[N, 3, s, s]` → (features `[N, width]`, logits `[N, classes]`), float32, on the extractor's device.

        UserError where one is not a finite number: distances and comparisons would hide it.
        """
        assert images.dtype == torch.uint8 and images.shape[1] == 3, (images.dtype, images.shape)
        features, logits = self._forward(images.to(self.device))
        assert features.shape == (len(images), self.width) and logits.shape == (len(images), self.classes)
        features, logits = features.float(), logits.float()
        if not (features.isfinite().all() and logits.isfinite().all()):
            raise UserError(f"what {self.name} makes of an image is not a finite number; are its weights damaged?")
        return features, logits

    def _forward(self, images):
        raise NotImplementedError


class Lite0Extractor(Extractor):
    """EfficientNet-lite0 on ImageNet, whose weights come in a package: for machines without the Inception's weights."""

    width, classes = efficientnet_lite0.WIDTH, 1000
    kind, trained_at = efficientnet_lite0.Lite0, 224  # the network, and the pixels of its training

    def __init__(self, device="cpu", view: int | None = None):
        """view: pixels that the network sees; those of its training if not given, others become part of the name."""
        path, own = efficientnet_lite0.weights_path(self.kind), self.kind.name
        state = checkpoint.state_dict_of(checkpoint.load(path), path)
        self.device, self.view = torch.device(device), view or self.trained_at
        self.network = efficientnet_lite0.load_lite0(device, kind=self.kind)
        self.weight, self.bias = (state[f"_fc.{part}"].to(device) for part in ("weight", "bias"))
        self.name = own if self.view == self.trained_at else f"{own}at{self.view}"
        self.identity = f"{self.name} {sha256(path)[:16]}"
        self.what = f"EfficientNet-{own}, ImageNet, 1280 features after the head; resized to {self.view} px, bicubic"
        self.incomparable = f"measured through EfficientNet-{own}, which no paper of this field uses"

    def _forward(self, images):
        views = F.interpolate(images.float(), size=(self.view, self.view), mode="bicubic", antialias=True)
        features = self.network(views.clamp_(0, 255))
        return features, features @ self.weight.T + self.bias


class Lite2Extractor(Lite0Extractor):
    """EfficientNet-lite2 on ImageNet, from a package too: independent where training knows lite0."""

    kind, trained_at = efficientnet_lite2.Lite2, efficientnet_lite2.VIEW


class InceptionExtractor(Extractor):
    """The FID Inception through torch-fidelity: pool3 (2048) and the logits without bias (1008), as in TensorFlow.

    UserError if the file is not the one of `INCEPTION_SHA256`, unless `any_weights`; then its hash goes into the name.
    """

    width, classes = 2048, 1008
    family = "inception"
    view = "resized to 299 px as TensorFlow 1 does, scaled by (x − 128) / 128, as by torch-fidelity"

    def __init__(self, path, device="cpu", any_weights: bool = False):
        digest = sha256(path)  # before anything reads the file
        if digest != INCEPTION_SHA256 and not any_weights:
            raise UserError(
                f"--inception_weights {path}: SHA-256 {digest} is not that of the FID Inception "
                f"({INCEPTION_SHA256}); get it with scripts/download.py fid_inception"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=_tensors_only(path)
            )
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"--inception_weights {path} is of another architecture ({str(error).splitlines()[0]})"
            ) from None
        self.device = torch.device(device)
        self.network = network.to(device)
        self.name = self.family if digest == INCEPTION_SHA256 else f"{self.family}_{digest[:8]}"
        self.identity = f"{self.family} {digest}"
        self.what = f"TensorFlow's FID Inception (2015-12-05) ported to torch, pool3; images {self.view}"
        if digest != INCEPTION_SHA256:
            self.what = f"Inception with weights of another file, SHA-256 {digest}, pool3; images {self.view}"
            self.incomparable = f"the weights are not the FID Inception's, but of a file with SHA-256 {digest[:8]}…"

    def _forward(self, images):
        return self.network(images)


class PytorchFidExtractor(InceptionExtractor):
    """The same network and weights, seeing images as pytorch-fid shows them; its FID differs by a few per cent."""

    family = "pytorchfid"
    view = "resized to 299 px (bilinear, not antialiased), scaled to [−1, 1], as by pytorch-fid"

    def __init__(self, path, device="cpu", any_weights: bool = False):
        super().__init__(path, device, any_weights)
        # torch-fidelity's network has its own resizing in front; what comes out of that is replaced here
        self.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda layer, inputs: (self._seen,))

    def _forward(self, images):
        self._seen = F.interpolate(images.float() / 255, size=(299, 299), mode="bilinear") * 2 - 1
        return self.network(images[:, :, :1, :1])


def _tensors_only(path) -> io.BytesIO:
    """The state dict in `path` as a file in memory, for torch-fidelity, which would unpickle `path` itself freely."""
    memory = io.BytesIO()
    torch.save(checkpoint.load(path), memory)
    memory.seek(0)
    return memory


class FinetunedInception(Extractor):
    """A torchvision Inception-v3 of any number of classes (state dict), for the inception score on a fine-grained set.

    Images are resized to 299 px (bilinear, antialiased) and scaled to [−1, 1]. UserError for another architecture.
    """

    width = 2048
    option, fine_tuned = "--is_weights", True
    incomparable = (
        "published scores on birds and flowers go through StackGAN's own TensorFlow Inception; another "
        "fine-tuned network gives another scale"
    )

    def __init__(self, path, device="cpu"):
        from torchvision.models import Inception3

        state = checkpoint.state_dict_of(checkpoint.load(path), path)
        state = {key: value for key, value in state.items() if not key.startswith("AuxLogits.")}
        if "fc.weight" not in state or state["fc.weight"].dim() != 2:
            raise UserError(f"{self.option} {path} is no torchvision Inception-v3: it lacks 'fc.weight'")
        self.classes = len(state["fc.weight"])
        network = Inception3(self.classes, aux_logits=False, transform_input=False, init_weights=False)
        checkpoint.load_into(network, state, path)
        self.head, network.fc = network.fc.to(device), nn.Identity()
        self.network = network.to(device).eval().requires_grad_(False)
        self.device, self.digest = torch.device(device), sha256(path)
        self.name = f"finetuned{self.classes}_{self.digest[:8]}"
        self.identity = self.digest
        self.what = f"torchvision Inception-v3 of {self.classes} classes from {Path(path).name}, 299 px, [-1, 1]"

    def _forward(self, images):
        features = self.network(self._view(images.float()))
        return features, self.head(features)

    def _view(self, images):
        return F.interpolate(images, size=(299, 299), mode="bilinear", antialias=True) / 127.5 - 1


class TorchvisionInception(FinetunedInception):
    """Torchvision's ImageNet Inception-v3 as S2IGAN's retrieval sees through it (its features are mean-pooled, 2048).

    Images are resized to 299 px (bilinear, not antialiased) and scaled to [0, 1], without ImageNet's mean and
    deviation.
    """

    option, fine_tuned = "--torchvision_weights", False
    incomparable = ""
    # torchvision's, and its older one
    FILES = ("inception_v3_google-0cc3c7bd.pth", "inception_v3_google-1a9a5a14.pth")

    def __init__(self, path, device="cpu"):
        super().__init__(path, device)
        published = any(self.digest.startswith(Path(name).stem.rpartition("-")[2]) for name in self.FILES)
        self.name = "torchvision" if published else f"torchvision_{self.digest[:8]}"
        self.identity = f"torchvision {self.digest}"
        self.what = f"torchvision's Inception-v3 from {Path(path).name}, mean-pooled; 299 px, [0, 1], as S2IGAN"
        if not published:
            self.incomparable = f"the weights are not torchvision's, but of a file with SHA-256 {self.digest[:8]}…"

    def _view(self, images):
        return F.interpolate(images / 255, size=(299, 299), mode="bilinear")

    @classmethod
    def cached_weights(cls) -> Path | None:
        """Where torchvision keeps its file after a download, if it is there."""
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        return next((folder / name for name in cls.FILES if (folder / name).is_file()), None)
