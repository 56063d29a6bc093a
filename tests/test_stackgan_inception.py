"""The StackGAN authors' Inception from a TensorFlow checkpoint: the same numbers as a network with the same weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tf_checkpoint_writer import write_v1, write_v2

from common.cli import UserError
from StackGAN_v2.evaluation import metrics
from StackGAN_v2.evaluation.stackgan_inception import AVERAGE, StackGANInception, slim_name

CLASSES = 5


def test_names_of_slims_variables():
    assert slim_name("Conv2d_1a_3x3.conv.weight") == "conv0/weights"
    assert slim_name("Mixed_5b.branch1x1.bn.running_mean") == "mixed_35x35x256a/branch1x1/Conv/BatchNorm/moving_mean"
    assert slim_name("Mixed_6b.branch7x7dbl_5.conv.weight") == "mixed_17x17x768b/branch7x7dbl/Conv_4/weights"
    assert slim_name("Mixed_7a.branch7x7x3_4.bn.bias") == "mixed_17x17x1280a/branch7x7x3/Conv_3/BatchNorm/beta"
    assert slim_name("Mixed_7b.branch3x3_2b.conv.weight") == "mixed_8x8x2048a/branch3x3/Conv_2/weights"
    assert slim_name("Mixed_7c.branch3x3dbl_3a.conv.weight") == "mixed_8x8x2048b/branch3x3dbl/Conv_2/weights"
    assert (
        slim_name("Mixed_7c.branch_pool.bn.running_var") == "mixed_8x8x2048b/branch_pool/Conv/BatchNorm/moving_variance"
    )
    assert slim_name("fc.weight") == "logits/logits/weights"


@pytest.fixture(scope="module")
def network():
    """Torchvision's network with random He-scaled weights; batch norms without a scale, as slim's."""
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = (
        Inception3(CLASSES, aux_logits=False, transform_input=False, init_weights=False).eval().requires_grad_(False)
    )
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def tensors(network):
    """The averaged variables of a checkpoint, and live ones that must not be taken."""
    found = {}
    for key, value in network.state_dict().items():
        if not key.endswith(("bn.weight", "num_batches_tracked")):
            value = value.permute(2, 3, 1, 0) if value.dim() == 4 else value.T if value.dim() == 2 else value
            found[slim_name(key) + AVERAGE] = value.numpy()
    return found | {"conv0/weights": np.zeros((3, 3, 3, 32), np.float32), "global_step": np.float32(5000)}


@pytest.mark.parametrize("write, name", [(write_v1, "model.ckpt-5000"), (write_v2, "model.ckpt.index")])
def test_it_gives_what_the_network_gives(network, tensors, tmp_path, monkeypatch, write, name):
    write(tmp_path / name, tensors)
    extractor = StackGANInception(tmp_path / name)
    assert extractor.classes == CLASSES - 1 and extractor.name.startswith("stackgan4_") and not extractor.incomparable
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 256, 256), np.uint8))
    features, logits = extractor(images)
    view = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((299, 299), Image.Resampling.BILINEAR)
    view = torch.from_numpy(np.asarray(view, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    plain = F.avg_pool2d  # TensorFlow's average does not count the padding
    monkeypatch.setattr(F, "avg_pool2d", lambda x, *rest, **more: plain(x, *rest, **more, count_include_pad=False))
    expected = network(view)[:, 1:]
    assert expected.std() > 1e-3
    assert (logits - expected).abs().max() < 1e-3 * expected.abs().max()


def test_another_checkpoint_is_named(tensors, tmp_path):
    write_v1(tmp_path / "a.ckpt", {"conv0/weights": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="a.ckpt is no Inception of the StackGAN authors: it lacks logits"):
        StackGANInception(tmp_path / "a.ckpt")
    few = {name: array for name, array in tensors.items() if not name.startswith("mixed_8x8x2048b/branch1x1")}
    write_v1(tmp_path / "b.ckpt", few)
    with pytest.raises(UserError, match="b.ckpt .* it lacks mixed_8x8x2048b/branch1x1/Conv/weights"):
        StackGANInception(tmp_path / "b.ckpt")
    nan = {**tensors, "logits/logits/biases" + AVERAGE: np.full(CLASSES, np.nan, np.float32)}
    write_v1(tmp_path / "c.ckpt", nan)
    with pytest.raises(UserError, match="c.ckpt is damaged: it holds weights that are not finite"):
        StackGANInception(tmp_path / "c.ckpt")


def test_the_score_counts_full_batches_only():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (107, 4)))
    score = metrics.InceptionScore(107, 4, batch=8)
    score.update(logits)
    p = logits[np.random.RandomState(2020).permutation(107)][:104].double().softmax(1)
    values = [
        torch.exp((q * (q / q.mean(0)).log()).sum(1).mean()).item()
        for q in (p[i * 104 // 10 : (i + 1) * 104 // 10] for i in range(10))
    ]
    assert score.value() == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)
    with pytest.raises(ValueError, match="at least 64 images, not 63"):
        metrics.InceptionScore(63, 4, batch=64)
