"""EfficientNet-lite0 on ImageNet as a teacher: its weights come in a package, so nothing has to be downloaded."""

from pathlib import Path

import numpy as np
from PIL import Image

from Audio_to_Image.teachers.teacher import Teacher
from Audio_to_Image.teachers.views import MARGIN
from common import efficientnet_lite0
from common.cli import UserError
from common.untrusted.images import resize


class Lite0Teacher(Teacher):
    """Bicubic, antialiased resizing; 1280 features a view."""

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
        resized = resize(image, (side, side), Image.Resampling.BICUBIC)  # Pillow antialiases when it shrinks
        return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))

    def forward(self, views):
        return self.network(views)
