"""Counting equal columns instead of convolving them changes no value, gradient or statistic of the encoder."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import array, fill_state_dict, summary

from Audio_to_Image.padding_free_conv import _TAIL, _Layout, convolve_columns
from Audio_to_Image.speech_encoder import CNNRNN


def clips(n_frames, frames=2048, dtype=torch.float64):
    torch.manual_seed(1)
    mels = -80 * torch.rand(len(n_frames), 40, frames, dtype=dtype)
    for mel, n in zip(mels, n_frames):
        mel[:, n:] = 0
    return mels


def pair(**options):
    """The same small network twice: over whole maps, and over columns."""
    torch.manual_seed(0)
    whole = CNNRNN(**{"embedding_dim": 16, "nhidden": 8, "bidirectional": True, **options}).double()
    columns = copy.deepcopy(whole)
    whole.whole_maps, columns.whole_maps = True, False
    return whole, columns


@pytest.mark.parametrize(
    "n_frames, frames",
    [
        ([2048, 1999, 1500, 640, 64], 2048),  # the longest have no constant column
        ([333, 332, 200, 199, 65], 704),  # the width at which some clips just end early enough
        ([128, 100], 128),
    ],
)  # none does
def test_training_is_that_of_whole_maps(n_frames, frames):
    whole, columns = pair()
    x = clips(n_frames, frames)
    target = torch.randn(len(n_frames), 8, dtype=x.dtype)
    for network in (whole, columns):
        words, sentence = network.train()(x, torch.tensor(n_frames) // 64, n_frames)
        ((sentence - target) ** 2).sum().backward()
        network.results = words, sentence
    for wanted, found in zip(whole.results, columns.results):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    largest = max(parameter.grad.abs().max() for parameter in whole.parameters())
    for (name, wanted), found in zip(whole.named_parameters(), columns.parameters()):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-7, atol=1e-11 * float(largest), msg=name)
    for (name, wanted), found in zip(whole.named_buffers(), columns.buffers()):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11, msg=name)


def test_whole_maps_come_out_in_every_position():
    whole, columns = pair()
    x = clips([1000, 400, 70, 2048])
    torch.testing.assert_close(
        convolve_columns(columns.train().Conv, x, [1000, 400, 70, 2048]),
        whole.train().convolve(x),
        rtol=1e-9,
        atol=1e-11,
    )


def test_golden_forward_over_columns():
    network = CNNRNN(40, bidirectional=True)
    fill_state_dict(network)
    golden = np.load(Path(__file__).parent / "golden/encoder.npz")
    x = torch.from_numpy(array("encoder_input", (3, 40, 2048), 10.0) - 40)
    with torch.no_grad():
        words, sentence = network.eval()(x, torch.tensor([2048, 1300, 700]) // 64, [2048] * 3)
    np.testing.assert_allclose(summary(words), golden["enc_bi_eval_words"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sentence, golden["enc_bi_eval_sent"], rtol=1e-4, atol=5e-5)


def test_short_clips_cost_a_fraction():
    geometry = [(3, 1), (3, 2), (17, 2), (13, 2), (3, 1), (9, 2), (3, 2), (3, 1), (5, 2)]
    layout = _Layout.of([500] * 10, 2048, geometry)
    for kernel, stride in geometry:
        layout = layout.after(kernel, stride)
    assert layout.frames == 32 and layout.tail == _TAIL // 64 and set(layout.widths) == {11}  # (500 + 194) / 64
    counts = layout.counts()
    assert len(counts) == 10 * 11 + 4 and counts.sum() == 10 * 32
    assert counts[-4:].tolist() == [10 + 10 * (32 - 11 - 4), 10, 10, 10]


def test_half_precision_keeps_statistics_in_full():
    whole, columns = pair(n_filters=40)
    x = clips([700, 300], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for network in (whole.float().train(), columns.float().train()):
            network(x, torch.tensor([10, 4]), [700, 300])[1].sum().backward()
    for (name, wanted), found in zip(whole.named_buffers(), columns.buffers()):
        torch.testing.assert_close(found, wanted, rtol=0.03, atol=0.03, msg=name)
