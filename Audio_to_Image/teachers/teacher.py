"""What all teachers have in common: an image becomes ten views, and each view a feature that the encoder learns
from."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from Audio_to_Image.teachers.views import FLIPS, VIEWS, ten_views
from common import devices
from common.cli import UserError


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
