"""Teacher networks: what turns an image into ten views and each view into the feature that the encoder learns from.

The ten views are the published ones: an image resized to 227 × 227 (aspect ignored), five 224 × 224 crops, and the
same five of the mirrored image. A teacher is made by `make_teacher`; all teachers have the interface of `Teacher`.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from Audio_to_Image.teachers import googlenet
from common import ROOT, devices, efficientnet_lite0
from common.cli import UserError

VIEWS = 10
MARGIN = 3                                         # the resized image is larger than a view by this many pixels
CORNERS = ((0, 0), (3, 0), (1, 1), (0, 3), (3, 3))             # (x, y) of a crop's upper left pixel
FLIPS = {"mirror": -1, "vertical": -2}             # axis of [.., y, x]; the published code turned images upside down
DEFAULT_WEIGHTS = ROOT / "data" / "pretrained" / "bvlc_googlenet.caffemodel"


def ten_views(images: torch.Tensor, flip: str = "mirror") -> torch.Tensor:
    """`[N, C, S + 3, S + 3]` → `[N, 10, C, S, S]`: the crops at `CORNERS`, then those of the flipped image."""
    assert images.dim() == 4 and images.shape[2] == images.shape[3], f"not square: {tuple(images.shape)}"
    size = images.shape[-1] - MARGIN
    return torch.stack([side[..., y:y + size, x:x + size]
                        for side in (images, images.flip(FLIPS[flip])) for x, y in CORNERS], dim=1)


def caffe_resize(image: np.ndarray, size: int) -> np.ndarray:
    """`[H, W, C]` uint8 → `[size, size, C]` float32 as `caffe.io.resize_image` does, aspect ignored.

    That is bilinear interpolation at pixel centres without antialiasing (skimage's `resize(order=1, mode="constant")`),
    in floating point and not rounded. Outside the image lies its smallest value, since Caffe scales to [0, 1] and
    skimage fills with 0: seen only at the border of images smaller than `size`.
    """
    assert image.ndim == 3 and image.dtype == np.uint8
    floor = image.min()
    result = image - floor
    for axis in (0, 1):
        length = result.shape[axis]
        at = (np.arange(size) + 0.5) * (length / size) - 0.5
        low = np.floor(at).astype(int)
        shape = [-1 if a == axis else 1 for a in range(3)]
        upper = (at - low).astype(np.float32)
        lower = (1 - upper) * (low >= 0)
        upper = upper * (low + 1 < length)
        result = (np.take(result, low.clip(0), axis) * lower.reshape(shape)
                  + np.take(result, (low + 1).clip(max=length - 1), axis) * upper.reshape(shape))
    return result + np.float32(floor)


class Teacher:
    """A frozen network with its own preparation of images; `width` is the length of its features."""
    name: str
    width: int

    def __init__(self, weights: Path, flip: str, device: torch.device, precision: str, view_size: int = 224):
        if flip not in FLIPS:
            raise UserError(f"--flip {flip}: choose mirror or vertical")
        self.weights, self.flip, self.device, self.precision = Path(weights), flip, device, precision
        self.view_size = view_size

    @classmethod
    def weights_file(cls, weights=None) -> Path:
        """The weight file that would be used; UserError if it is not there."""
        raise NotImplementedError

    def prepare(self, image: Image.Image) -> np.ndarray:
        """PIL RGB image → `[3, S + 3, S + 3]`, RGB, 0..255, uint8 or float32. Safe to call from several threads."""
        raise NotImplementedError

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Views `[N, 3, S, S]`, RGB, 0..255, on the device → features `[N, width]`."""
        raise NotImplementedError

    def views(self, image: Image.Image) -> np.ndarray:
        """PIL RGB image → its ten views `[10, 3, S, S]`, RGB, 0..255, in the type of `prepare`."""
        return ten_views(torch.from_numpy(self.prepare(image))[None], self.flip)[0].numpy()

    @torch.inference_mode()
    def features(self, batch) -> np.ndarray:
        """Views `[N, 3, S, S]`, RGB, 0..255 (array or tensor) → `[N, width]` float32."""
        views = torch.as_tensor(batch).to(self.device, non_blocking=True)
        assert views.shape[1:] == (3, self.view_size, self.view_size), f"views of shape {tuple(views.shape)}"
        with devices.autocast(self.device, self.precision):
            features = self.forward(views)
        assert features.shape == (len(views), self.width)
        return features.float().cpu().numpy()

    @torch.inference_mode()
    def image_features(self, prepared: list[np.ndarray]) -> np.ndarray:
        """Results of `prepare` for N images → `[N, 10, width]`. Views are cut on the device: less to transfer."""
        images = torch.from_numpy(np.stack(prepared))
        if self.device.type == "cuda":
            images = images.pin_memory().to(self.device, non_blocking=True)
        return self.features(ten_views(images, self.flip).flatten(0, 1)).reshape(len(prepared), VIEWS, self.width)


class GoogLeNetTeacher(Teacher):
    """The published teacher: BVLC GoogLeNet, `pool5/7x7_s1`, images resized as Caffe does."""
    name, width = "googlenet_caffe", googlenet.WIDTH

    def __init__(self, weights, flip, device, precision, view_size=224):
        super().__init__(weights, flip, device, precision, view_size)
        if view_size != 224:
            raise UserError("--view_size: googlenet_caffe takes views of 224 pixels")
        self._load()

    def _load(self):
        warn = lambda line: print(line, file=sys.stderr)
        self.network = googlenet.load_googlenet(self.weights, warn).to(self.device)
        self.mean = torch.tensor(googlenet.MEAN_BGR, device=self.device).reshape(3, 1, 1)

    @classmethod
    def weights_file(cls, weights=None):
        path = Path(weights) if weights else DEFAULT_WEIGHTS
        if not path.is_file():
            raise UserError(f"{path} does not exist; get it with scripts/download.py googlenet, name your copy of "
                            f"bvlc_googlenet.caffemodel with --weights, or use --teacher efficientnet_lite0")
        return path

    def prepare(self, image):
        return caffe_resize(np.asarray(image), self.view_size + MARGIN).transpose(2, 0, 1)

    def forward(self, views):
        return self.network(views.float().flip(1) - self.mean)         # RGB → BGR, as MEAN_BGR


class CaffeGoogLeNetTeacher(GoogLeNetTeacher):
    """The same through pycaffe, for those who have it. Caffe's network is not thread-safe."""

    def _load(self):
        try:
            import caffe
        except ImportError as error:
            raise UserError(f"--backend caffe: pycaffe cannot be imported ({error}); use --backend torch") from None
        if self.device.type == "cuda":
            caffe.set_mode_gpu()
            caffe.set_device(self.device.index or 0)
        else:
            caffe.set_mode_cpu()
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as description:
            description.write(googlenet.deploy_prototxt())
            description.flush()
            self.network = caffe.Net(description.name, str(self.weights), caffe.TEST)
        self.resize_image = caffe.io.resize_image
        self.mean = torch.tensor(googlenet.MEAN_BGR, device=self.device).reshape(3, 1, 1)

    def prepare(self, image):
        side = self.view_size + MARGIN
        return self.resize_image(np.asarray(image, np.float32), (side, side)).transpose(2, 0, 1)

    def forward(self, views):
        data = (views.float().flip(1) - self.mean).cpu().numpy()
        self.network.blobs["data"].reshape(*data.shape)
        self.network.blobs["data"].data[...] = data
        self.network.forward()
        pooled = self.network.blobs["pool5/7x7_s1"].data
        return torch.from_numpy(np.array(pooled, np.float32).reshape(len(data), self.width))


class Lite0Teacher(Teacher):
    """EfficientNet-lite0 on ImageNet, whose weights come in a package: bicubic, antialiased resizing, 1280 features."""
    name, width = "efficientnet_lite0", efficientnet_lite0.WIDTH

    def __init__(self, weights, flip, device, precision, view_size=224):
        super().__init__(weights, flip, device, precision, view_size)
        self.network = efficientnet_lite0.load_lite0(device, self.weights)

    @classmethod
    def weights_file(cls, weights=None):
        path = Path(weights) if weights else efficientnet_lite0.weights_path()
        if not path.is_file():
            raise UserError(f"--weights {path}: the file does not exist")
        return path

    def prepare(self, image):
        side = self.view_size + MARGIN
        resized = image.resize((side, side), Image.Resampling.BICUBIC)         # Pillow antialiases when it shrinks
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))

    def forward(self, views):
        return self.network(views)


TEACHERS = {teacher.name: teacher for teacher in (GoogLeNetTeacher, Lite0Teacher)}


def make_teacher(name: str, weights=None, flip: str = "mirror", device="cpu", precision: str = "fp32",
                 backend: str = "torch", view_size: int = 224) -> Teacher:
    """The teacher `name` of `TEACHERS`, loaded. `weights` None is its default file; `backend` caffe is for GoogLeNet.

    UserError for an unknown name, a missing or damaged weight file, or pycaffe asked for and not there.
    """
    if name not in TEACHERS:
        raise UserError(f"--teacher {name}: choose one of {', '.join(TEACHERS)}")
    kind = TEACHERS[name]
    if backend == "caffe":
        if kind is not GoogLeNetTeacher:
            raise UserError(f"--backend caffe: only googlenet_caffe runs in Caffe, not {name}")
        kind = CaffeGoogLeNetTeacher
    return kind(kind.weights_file(weights), flip, torch.device(device), precision, view_size)
