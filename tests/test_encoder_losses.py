"""Losses against the published implementation's numbers and worked by hand; metrics worked by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import array

from Audio_to_Image.losses import distillation_loss, joint_embedding_loss, l1_loss
from Audio_to_Image.metrics import both_ways, class_chance, class_retrieval, highest_ap, speech_metrics

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7])


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parent / "golden" / "encoder.npz")


@pytest.fixture
def batch():
    audio = torch.from_numpy(array("loss_audio", (16, 1024), 0.5)).requires_grad_()
    return audio, torch.from_numpy(np.abs(array("loss_image", (16, 1024), 0.5)))


def test_golden_losses_and_gradients(golden, batch):
    audio, image = batch
    jel, accuracy = joint_embedding_loss(audio, image, LABELS, 1.0, 0.1)
    l1, distill = l1_loss(audio, image), distillation_loss(audio, image)
    values = {
        "jel": [jel.item(), accuracy.item()],
        "l1": l1.item(),
        "distill": distill.item(),
        "total": (jel + 5 * l1 + 1000 * distill).item(),
        "jel_grad": torch.autograd.grad(jel, audio)[0],
        "distill_grad": torch.autograd.grad(distill, audio)[0],
    }
    for name, value in values.items():
        np.testing.assert_allclose(
            value, golden[name].squeeze(), rtol=1e-4, atol=1e-6 * abs(golden[name]).max(), err_msg=name
        )


def test_joint_embedding_by_hand():
    # scores S[image, speech]: image = identity picks speech's coordinates
    audio = torch.tensor([[2.0, 1.5, 0.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]])
    image, labels = torch.eye(3), torch.tensor([0, 0, 1])
    # S = [[2, 0, 0], [1.5, 1, 0], [0, 3, 1]]; R = S - diagonal = [[0, -1, -1], [-.5, 0, -1], [-2, 2, 0]]
    # other class (0,2) (1,2) (2,0) (2,1): max(0, R+1) = 0, 0, 0, 3; same class (0,1) (1,0): max(0, R) = 0, 0
    loss, accuracy = joint_embedding_loss(audio, image, labels, 2.0, 10.0)
    assert loss.item() == pytest.approx(2 * 3 / 9) and accuracy.item() == pytest.approx(100 / 3)
    loss, _ = joint_embedding_loss(audio, image, torch.zeros(3), 2.0, 10.0)  # now max(0, R) = 2 of one class
    assert loss.item() == pytest.approx(10 * 2 / 9)


def test_l1_and_distillation_by_hand():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert l1_loss(a, b).item() == pytest.approx((0.6 + 1 + 0 + 0.8) / 4)
    image, audio = torch.tensor([[2 * math.log(3.0), 0.0]]), torch.zeros(1, 2)  # teacher 3/4 and 1/4, student 1/2 each
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert distillation_loss(audio, image).item() == pytest.approx(expected)
    assert distillation_loss(audio, image / 2, temperature=1.0).item() == pytest.approx(expected)


def test_class_retrieval_by_hand():
    audio = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # centres (1, 0) of class 5, (0, 1) of class 7
    labels = torch.tensor([5, 5, 7])
    image = torch.tensor([[3.0, 1.0], [1.0, 2.0], [0.0, 5.0]])  # scores are the coordinates themselves
    accuracy, ap = class_retrieval(audio, image, labels, topk=1)
    assert accuracy == pytest.approx(200 / 3) and ap == 100  # the second image goes to class 7
    # two best: class 5 → images 0, 1, both its own; class 7 → images 2, 1, one its own
    assert class_retrieval(audio, image, labels, topk=2)[1] == pytest.approx(75)
    assert class_retrieval(audio, image, labels)[1] == pytest.approx(100 * (2 / 3 + 1 / 3) / 2)  # 3 of 50 there
    assert class_chance(labels) == pytest.approx((50, 50))


def test_a_long_centre_wins_by_dot_product_but_not_by_cosine():
    audio, labels = torch.tensor([[10.0, 0.0], [0.6, 0.8]]), torch.tensor([0, 1])
    image, image_labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    # dot products 10 10 0 of class 0 (whose best is a tie with a stranger) and .6 1.4 .8 of class 1
    assert class_retrieval(audio, image, labels, 1, image_labels) == pytest.approx((200 / 3, 50))
    # cosines 1 .71 0 and .6 .99 .8: every image is nearest to its own
    assert class_retrieval(audio, image, labels, 1, image_labels, cosine=True) == pytest.approx((100, 100))
    found = speech_metrics(audio, torch.tensor([0, 2]), image, image_labels)
    assert found["accuracy"] == pytest.approx(200 / 3) and found["accuracy_cosine"] == 100
    assert found["ap50"] == found["ap50_cosine"] == pytest.approx(100 * (1 / 3 + 2 / 3) / 2)  # all three are listed


def test_the_highest_precision_is_that_of_a_perfect_ranking():
    assert highest_ap(torch.tensor([0] * 6 + [1] * 60), 50) == pytest.approx((12 + 100) / 2)
    assert highest_ap(torch.tensor([0, 0, 1, 1]), 50) == pytest.approx(50)  # the four images are all that can be listed


def test_captions_and_images_may_differ_in_number():
    audio, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1])
    image, image_labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 1])
    accuracy, _ = class_retrieval(audio, image, labels, 1, image_labels)
    assert accuracy == pytest.approx(200 / 3)


def test_equal_scores_are_no_success():
    same = torch.ones(6, 4)
    labels = torch.arange(6) // 2
    assert class_retrieval(same, same, labels, topk=2) == (0, 0)


def test_both_ways_and_what_is_reported_without_classes():
    image, items = torch.eye(3), torch.tensor([0, 0, 1, 2])
    audio = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]])
    found = both_ways(audio, image, items, torch.arange(3))
    # speech: ranks of the right image 1, 3 (after a tie that counts as lost), 1, 1
    assert found["speech_to_image_r1"] == pytest.approx(75)
    assert found["speech_to_image_map"] == pytest.approx(100 * (1 + 1 / 3 + 1 + 1) / 4)
    # image 0: its captions rank 1 and (tie of 0s, lost) 4: (1 + 2/4) / 2; the others are first
    assert found["image_to_speech_map"] == pytest.approx(100 * (0.75 + 1 + 1) / 3)
    assert speech_metrics(audio, items, image, None, everything=False) == found
    whole = speech_metrics(audio, items, image, None)
    # image 1's own caption is twice as long as a strange one in its direction: first, or in a tie that counts as lost
    cosines = found | {"image_to_speech_r1": 100 * 2 / 3, "image_to_speech_map": 100 * (0.75 + 0.5 + 1) / 3}
    assert whole == pytest.approx(found | {f"{name}_cosine": value for name, value in cosines.items()})
    classed = speech_metrics(audio, items, image, torch.tensor([0, 1, 1]), everything=False)
    assert classed.keys() == {"accuracy", "ap50", "chance", "ap50_chance"}
