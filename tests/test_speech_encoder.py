"""The encoder gives the published implementation's numbers, and is rebuilt from any file that holds one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_recipe import array, fill_state_dict, summary

from Audio_to_Image.speech_encoder import CNNRNN, embed, load_encoder
from common import checkpoint
from common.cli import UserError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "encoder.npz")


@pytest.fixture(scope="module")
def filled():
    network = CNNRNN(40, bidirectional=True)
    fill_state_dict(network)
    return network.eval()


def small(**options) -> CNNRNN:
    """Of one LSTM width only, since the convolutions are fixed."""
    torch.manual_seed(0)
    return CNNRNN(**{"nhidden": 8, **options}).eval()


def test_state_dict_has_the_published_names_and_shapes_in_order(filled):
    keys = json.loads((GOLDEN / "encoder_keys.json").read_text())
    assert [(key, list(value.shape)) for key, value in filled.state_dict().items()] == list(keys.items())


@pytest.mark.parametrize("four_dimensions", [False, True])
def test_golden_forward(filled, golden, four_dimensions):
    x = torch.from_numpy(array("encoder_input", (3, 40, 2048), 10.0) - 40)
    with torch.no_grad():
        words, sentence = filled(x[:, None] if four_dimensions else x, torch.tensor([2048, 1300, 700]) // 64)
    assert words.shape == (3, 1024, 32) and sentence.shape == (3, 1024)
    np.testing.assert_allclose(summary(words), golden["enc_bi_eval_words"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sentence, golden["enc_bi_eval_sent"], rtol=1e-4, atol=5e-5)


def test_initial_weights():
    torch.manual_seed(0)
    state = CNNRNN().state_dict()
    assert state["Conv.7.0.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["Conv.10.1.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert not state["Conv.10.1.bias"].any()


def test_the_sentence_is_the_mean_over_all_positions_and_several_layers_work():
    network = small(rnn_layers=3, bidirectional=True)
    words, sentence = network(torch.randn(2, 40, 256), [4, 1])
    assert not words[1, :, 1:].any() and words[1, :, 0].any()
    torch.testing.assert_close(sentence, words.sum(2) / 4)


def test_embed_takes_any_order_and_width():
    network, meta = small(bidirectional=True), {"max_frames": 256}
    mels, frames = torch.randn(3, 40, 256), torch.tensor([100, 256, 180])
    for row, n in enumerate(frames):
        mels[row, :, n:] = 0
    together = embed(network, meta, mels, frames)
    for row in range(3):
        alone = embed(network, meta, mels[row : row + 1, :, : frames[row]], frames[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-6)
    longer = torch.cat([mels, torch.randn(3, 40, 64)], 2)
    torch.testing.assert_close(embed(network, meta, longer, torch.tensor([100, 320, 180])), together)
    with pytest.raises(ValueError, match="63 frames"):
        embed(network, meta, mels, torch.tensor([100, 63, 180]))


@pytest.mark.parametrize("published", ["bare", "module", "meta"])
def test_any_encoder_is_rebuilt_from_its_tensors(tmp_path, published):
    network = small(nhidden=6, rnn_layers=2, bidirectional=published != "bare", n_filters=20)
    state = network.state_dict()
    if published == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / "epoch_7.pth"
    checkpoint.save(path, {"meta": {"something": 1}, "state_dict": state} if published == "meta" else state)
    loaded, meta = load_encoder(path)
    assert not loaded.training and meta["max_frames"] == 2048 and meta["teacher"] is None
    assert (meta["nhidden"], meta["rnn_layers"], meta["n_filters"]) == (6, 2, 20)
    assert meta["bidirectional"] == (published != "bare")
    assert checkpoint.digest(loaded.state_dict()) == checkpoint.digest(network.state_dict()) == meta["digest"]


def test_files_that_hold_no_complete_encoder_are_refused(tmp_path):
    path, network = tmp_path / "x.pth", small()
    checkpoint.save(path, {"weight": torch.zeros(3)})
    with pytest.raises(UserError, match="no speech encoder: it lacks"):
        load_encoder(path)
    checkpoint.save(path, {"ca_net.fc.weight": torch.zeros(8, 3)})
    with pytest.raises(UserError, match="it holds a generator; give a latest.pth"):
        load_encoder(path)
    for key, shape in (("Conv.1.0.weight", (64,)), ("Conv.10.0.weight", (0, 512, 1, 5)), ("RNN.weight_hh_l0", (32, 0))):
        checkpoint.save(path, {**network.state_dict(), key: torch.zeros(shape)})
        with pytest.raises(UserError, match="no speech encoder|another architecture"):
            load_encoder(path)
    checkpoint.save(path, {"meta": {"digest": "0" * 16}, "state_dict": network.state_dict()})
    with pytest.raises(UserError, match="damaged"):
        load_encoder(path)
    checkpoint.save(path, {"meta": {"max_frames": 100}, "state_dict": network.state_dict()})
    with pytest.raises(UserError, match="max_frames is 100"):
        load_encoder(path)
    state = network.state_dict()
    state["Conv.4.0.weight"] = state["Conv.4.0.weight"][:, :, :, :9]
    checkpoint.save(path, state)
    with pytest.raises(UserError, match=r"Conv.4.0.weight.*\(128, 64, 1, 9\).*\(128, 64, 1, 17\)"):
        load_encoder(path)
