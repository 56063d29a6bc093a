"""Our Adam: torch's updates, whatever order the weights lie in."""

import pytest
import torch

from StackGAN_v2.training.adam import Adam

SHAPES = [((8, 6, 4, 4), True), ((8, 6, 4, 4), False), ((5, 1, 4, 4), True), ((7,), False), ((3, 4), False)]


def parameters():
    torch.manual_seed(0)
    return [
        torch.randn(shape).to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
        for shape, last in SHAPES
    ]


def steps(optimizer, weights, first, last):
    for number in range(first, last):
        for weight in weights:
            weight.grad = (weight.detach() * number).sin()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_updates_and_state_are_torchs(weight_decay):
    found, expected = parameters(), parameters()
    ours = Adam(found, 0.01, betas=(0.5, 0.999), weight_decay=weight_decay)
    plain = torch.optim.Adam(expected, 0.01, betas=(0.5, 0.999), weight_decay=weight_decay, foreach=False)
    steps(ours, found, 1, 4)
    steps(plain, expected, 1, 4)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.state_dict()["state"], plain.state_dict()["state"])
    assert [w.stride() for w in found] == [w.stride() for w in expected]


def test_a_loaded_state_goes_on_exactly(tmp_path):
    whole, parts = parameters(), parameters()
    steps(Adam(whole, 0.01), whole, 1, 6)
    first = Adam(parts, 0.01)
    steps(first, parts, 1, 3)
    torch.save(first.state_dict(), tmp_path / "x.pth")
    second = Adam(parts, 0.01)
    second.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    steps(second, parts, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts))


def test_gradients_are_not_copied():
    """torch lays a channels_last gradient out anew in every step, which takes longer than the update."""
    weight = torch.randn(64, 32, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    weight.grad = torch.randn_like(weight)
    optimizer = Adam([weight], 0.01)
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        optimizer.step()
    assert {"aten::clone", "aten::contiguous"}.isdisjoint(event.key for event in seen.key_averages())
