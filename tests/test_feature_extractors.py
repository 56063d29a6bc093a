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
