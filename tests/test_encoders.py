"""Audio_to_Image.encoders: DAVEnet and S2IGAN against independent computations; matchmaps, losses and recalls by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from Audio_to_Image.encoders import davenet, s2igan

DAVENET_SHAPES = {
    "batchnorm1.weight": [1],
    "conv1.weight": [128, 1, 40, 1],
    "conv1.bias": [128],
    "conv2.weight": [256, 128, 1, 11],
    "conv3.weight": [512, 256, 1, 17],
    "conv4.weight": [512, 512, 1, 17],
    "conv5.weight": [1024, 512, 1, 17],
    "conv5.bias": [1024],
}
S2IGAN_SHAPES = {
    "Conv1.weight": [64, 40, 6],
    "Conv2.weight": [128, 64, 6],
    "bnorm1.weight": [64],
    "bnorm2.weight": [128],
    "rnn.weight_ih_l0": [1536, 128],
    "rnn.weight_hh_l1_reverse": [1536, 512],
    "rnn.weight_ih_l1": [1536, 1024],
    "att.att_heads.0.hidden.weight": [128, 1024],
    "att.att_heads.0.out.weight": [1024, 128],
}


@pytest.mark.parametrize(
    "network, shapes", [(davenet.DAVEnetAudio, DAVENET_SHAPES), (s2igan.S2IGANEncoder, S2IGAN_SHAPES)]
)
def test_names_and_shapes_are_those_of_the_authors(network, shapes):
    state = network().state_dict()
    assert {key: list(state[key].shape) for key in shapes} == shapes


def test_the_image_network_is_vgg16_with_a_head():
    state = davenet.VGG16Image().state_dict()
    assert list(state["image_model.0.weight"].shape) == [64, 3, 3, 3]
    assert list(state["image_model.28.weight"].shape) == [512, 512, 3, 3]
    assert list(state["image_model.30.weight"].shape) == [1024, 512, 3, 3]


@torch.no_grad()
def test_davenet_is_convolutions_and_poolings_one_position_at_a_time():
    """A position of the first layers, computed by sums over the log-mel, then the rest by unfolding."""
    torch.manual_seed(0)
    network = davenet.DAVEnetAudio(n_filters=3, embedding_dim=8).eval()
    network.batchnorm1.running_mean.fill_(-2.0)
    network.batchnorm1.running_var.fill_(4.0)
    x = torch.randn(2, 3, 32)
    y = (x + 2) / math.sqrt(4 + 1e-5)
    h = F.relu(torch.einsum("nbt,ob->not", y, network.conv1.weight[:, 0, :, 0]) + network.conv1.bias[:, None])

    def conv(h, layer):
        width = layer.weight.shape[3]
        columns = F.pad(h, (width // 2, width // 2)).unfold(2, width, 1)  # [N, C, T, width]
        return F.relu(torch.einsum("nctw,ocw->not", columns, layer.weight[:, :, 0]) + layer.bias[:, None])

    def pool(h):
        return F.pad(h, (1, 1), value=-torch.inf).unfold(2, 3, 2).amax(3)

    h = pool(conv(h, network.conv2))
    for layer in (network.conv3, network.conv4, network.conv5):
        h = pool(conv(h, layer))
    words, sentence = network(x, torch.tensor([2, 1]))
    assert words.shape == (2, 8, 2)
    torch.testing.assert_close(words[0], h[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(words[1, :, 0], h[1, :, 0], rtol=1e-4, atol=1e-5)
    assert not words[1, :, 1].any()  # beyond the clip's own positions
    torch.testing.assert_close(sentence, torch.stack([h[0].mean(1), h[1, :, 0]]), rtol=1e-4, atol=1e-5)


def test_similarities_by_hand():
    """One image of 2 × 2 positions, one clip of 3, two channels: M[h, w, t] = ⟨image, audio⟩ worked out on paper."""
    image = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])[None]  # [1, 2, 2, 2]
    audio = torch.tensor([[1.0, 0.0, 5.0], [1.0, 2.0, 7.0]])[None]  # [1, 2, 3]
    # positions (1,0) (0,1) (2,0) (0,3) with times (1,1) (0,2) (5,7): 1 1 2 3 | 0 2 0 6 | 5 7 10 21
    whole, part = torch.tensor([3]), torch.tensor([2])
    expected = {
        "SISA": (58 / 12, 15 / 8),
        "MISA": ((3 + 6 + 21) / 3, (3 + 6) / 2),
        "SIMA": ((5 + 7 + 10 + 21) / 4, (1 + 2 + 2 + 6) / 4),
    }
    for kind, (of_whole, of_part) in expected.items():
        assert davenet.similarity(image, audio, whole, kind).item() == pytest.approx(of_whole)
        assert davenet.similarity(image, audio, part, kind).item() == pytest.approx(of_part)
    with pytest.raises(ValueError, match="SISA, MISA, SIMA"):
        davenet.similarity(image, audio, whole, "MIMA")


def test_similarity_of_all_pairs_is_that_of_each():
    torch.manual_seed(1)
    image, audio, lens = torch.randn(3, 5, 2, 3), torch.randn(4, 5, 6), torch.tensor([6, 1, 3, 4])
    for kind in davenet.SIMILARITIES:
        scores = davenet.similarity(image, audio, lens, kind)
        assert scores.shape == (3, 4)
        for i in range(3):
            for j in range(4):
                one = davenet.similarity(image[i : i + 1], audio[j : j + 1, :, : lens[j]], lens[j : j + 1], kind)
                assert scores[i, j].item() == pytest.approx(one.item(), rel=1e-5)


def test_margin_loss_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.5], [0.0, 1.0, 4.0], [2.0, 0.5, 2.0]])
    images, clips = torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])
    # wrong images: S[1,0] 0, S[2,1] .5, S[0,2] 2.5; wrong clips: S[0,2] 2.5, S[1,0] 0, S[2,1] .5; own: 3 1 2
    expected = (0 + 0.5 + 1.5 + 0.5 + 0 + 0) / 3
    assert davenet.sampled_margin_loss(scores, images, clips).item() == pytest.approx(expected)


def test_impostors_are_others_and_equally_likely():
    drawn = torch.stack([davenet.draw_impostors(5, torch.Generator().manual_seed(seed)) for seed in range(4000)])
    assert not (drawn == torch.arange(5)).any()
    counts = torch.stack([drawn[:, 0].eq(other).sum() for other in range(1, 5)]).double()
    assert (counts - 1000).abs().max() < 120


def test_recalls_by_hand():
    scores = torch.zeros(12, 12) - torch.eye(12)  # own score the worst of all
    scores[0, 0], scores[1, 1] = 5.0, 0.0  # best; equal to ten others, which count as better
    found = davenet.recalls(scores)
    assert found["audio_to_image_r1"] == found["image_to_audio_r1"] == pytest.approx(100 / 12)
    assert found["audio_to_image_r10"] == pytest.approx(100 / 12)
    assert davenet.recalls(torch.eye(12))["image_to_audio_r1"] == 100


@torch.no_grad()
def test_s2igan_is_convolutions_a_gru_and_attention_one_clip_at_a_time():
    """Each clip alone, without padding or packing, through formulas; two clips of other lengths in one batch."""
    torch.manual_seed(2)
    network = s2igan.S2IGANEncoder(n_filters=5, nhidden=12, attention=7).eval()
    for norm in (network.bnorm1, network.bnorm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    n_frames = torch.tensor([40, 57])
    x = torch.randn(2, 5, 64) * 3 - 40
    words, sentence = network(x, None, n_frames)
    head = network.att.att_heads[0]
    for i, frames in enumerate(n_frames.tolist()):
        clip = x[i, :, :frames]
        h = (clip - clip.mean(1, keepdim=True)) / (clip.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        h = F.pad(h, (0, 64 - frames))
        for conv, norm in ((network.Conv1, network.bnorm1), (network.Conv2, network.bnorm2)):
            h = torch.einsum("ctw,ocw->ot", h.unfold(1, 6, 2), conv.weight) + conv.bias[:, None]
            scale = norm.weight / (norm.running_var + 1e-5).sqrt()
            h = (h - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]
        own = (((frames - 6) // 2 + 1) - 6) // 2 + 1
        outputs, _ = network.rnn(h[:, :own].T[None])
        torch.testing.assert_close(words[i, :, :own], outputs[0].T, rtol=1e-4, atol=1e-5)
        assert not words[i, :, own:].any()
        weights = torch.softmax(head.out(torch.tanh(head.hidden(outputs[0]))), 0)
        pooled = (weights * outputs[0]).sum(0)
        torch.testing.assert_close(sentence[i], pooled / pooled.norm(), rtol=1e-4, atol=1e-5)


def test_matching_loss_by_hand():
    """Three pairs of which the first two are of one class: for those the other one does not count as wrong."""
    audio, image = (
        torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]),
        torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 5.0]]),
    )
    cosine = [[1.0, 0.0, 0.6], [0.6, 0.8, 0.6 * 0.6 + 0.8 * 0.8], [0.0, 1.0, 0.8]]  # image in rows, audio in columns
    allowed = [[0, 2], [1, 2], [0, 1, 2]]

    def entropy(row, own, among):
        return -math.log(math.exp(10 * row[own]) / sum(math.exp(10 * row[j]) for j in among))

    columns = list(zip(*cosine))
    expected = sum(entropy(side[i], i, allowed[i]) for side in (cosine, columns) for i in range(3)) / 3
    assert s2igan.matching_loss(audio, image, torch.tensor([4, 4, 9])).item() == pytest.approx(expected, rel=1e-5)


def test_the_image_head_gives_unit_vectors():
    assert s2igan.ImageHead(6, 4)(torch.randn(3, 6)).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
