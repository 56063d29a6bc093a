"""Teacher networks: what turns an image into ten views and each view into the feature that the encoder learns from.

A teacher is a class with the interface of `teacher.Teacher` in a file of its own, and a line in `TEACHERS`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from common.cli import UserError

if TYPE_CHECKING:
    from Audio_to_Image.teachers.teacher import Teacher

# name of the teacher, and of the files of its features → module and class; the first is the published one
TEACHERS = {
    "googlenet_caffe": ("googlenet", "GoogLeNetTeacher"),
    "efficientnet_lite0": ("efficientnet_lite0", "Lite0Teacher"),
}


def teacher_class(name: str) -> "type[Teacher]":
    """The class of the teacher `name`. UserError for an unknown name."""
    if name not in TEACHERS:
        raise UserError(f"--teacher {name}: choose one of {', '.join(TEACHERS)}")
    module, kind = TEACHERS[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)


def make_teacher(
    name: str, weights=None, flip: str = "mirror", device="cpu", precision: str = "fp32", view_size: int = 224
):
    """The teacher `name`, loaded, on `device`. weights: None for its default file.

    UserError for an unknown name, a missing or damaged weight file, or views that it does not take.
    """
    import torch

    kind = teacher_class(name)
    return kind(kind.weights_file(weights), flip, torch.device(device), precision, view_size)
