"""Features on disk, and images decoded ahead in order."""

import numpy as np
import pytest
import torch

from common.cli import UserError
from StackGAN_v2.evaluation import image_sets
from StackGAN_v2.evaluation.image_sets import FeatureFile


def test_feature_file(tmp_path):
    values = torch.arange(12.0).view(6, 2)
    (tmp_path / "a").write_bytes(values.numpy().tobytes())
    file = FeatureFile(tmp_path / "a", 2)
    assert len(file) == 6 and torch.equal(file[1:3], values[1:3]) and torch.equal(file[:], values)
    assert torch.equal(file[np.array([4, 0])], values[[4, 0]])


def test_batches_keep_the_order_and_stop_at_a_fault():
    def load(i):
        if i == 7:
            raise UserError("seven")
        return np.full((2, 2, 3), i, np.uint8)

    found = [batch[:, 0, 0, 0].tolist() for batch in image_sets.batches(load, 7, 3, 2)]
    assert found == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(UserError, match="seven"):
        list(image_sets.batches(load, 9, 3, 2))
