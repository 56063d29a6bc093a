"""Regions of images: how they are found, their colours and details, the loss of the colours, and how images move."""

import math

import pytest
import torch

from StackGAN_v2 import losses
from StackGAN_v2.networks.exemplar import (
    CLUSTERED_SIDE,
    LIGHTNESS,
    MOVES,
    PLACE,
    ROUNDS,
    SHEAR,
    SHIFTED,
    STRETCH,
    TURN,
    common_colours,
    compose,
    cut,
    details,
    masks_of,
    mean_colours,
    moved,
    nearness,
    recolour,
    softened,
)


def in_thirds(side):
    """An image `[1, 3, s, s]`: red above, and below green on the left and blue on the right."""
    image = torch.full((1, 3, side, side), -1.0)
    half = side // 2
    image[:, 0, :half], image[:, 1, half:, :half], image[:, 2, half:, half:] = 1.0, 1.0, 1.0
    return image


def spotted(side, size):
    """A grey image, darker from above to below, with a red square of so many pixels."""
    image = torch.linspace(0.2, -0.2, side)[:, None].expand(1, 3, side, side).clone()
    spot = torch.zeros(1, side, side, dtype=torch.bool)
    spot[:, side // 3 : side // 3 + size, side // 2 : side // 2 + size] = True
    return torch.where(spot[:, None], torch.tensor([0.9, -0.8, -0.8])[:, None, None], image), spot


def plain_cut(image, count):
    """k-means on a grid of at most 32 × 32 pixels; → numbers `[s, s]`."""
    side = image.shape[1]
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.cat((image, PLACE * rows[None], PLACE * columns[None])).double().permute(1, 2, 0)
    step = max(1, side // CLUSTERED_SIDE)
    few = points[::step, ::step].flatten(0, 1)
    centres = [few.mean(0)]
    while len(centres) < count:
        nearest = torch.stack([(few - centre).square().sum(1) for centre in centres]).amin(0)
        centres.append(few[nearest.argmax()])
    for _ in range(ROUNDS):
        own = torch.stack([(few - centre).square().sum(1) for centre in centres]).argmin(0)
        centres = [few[own == k].mean(0) if (own == k).any() else centre for k, centre in enumerate(centres)]
    return torch.stack([(points - centre).square().sum(2) for centre in centres]).argmin(0)


def test_regions_by_hand():
    """2×2 pixels, dark above: the first centre is the mean, the second one the first of the four farthest pixels."""
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0] = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    found = cut(image, 2)
    assert found.dtype == torch.uint8 and found.tolist() == [[[1, 1], [0, 0]]]
    assert not cut(image, 1).any()


@pytest.mark.parametrize("side", [2, 32, 64, 128])
def test_clear_regions_are_found(side):
    found = cut(in_thirds(side), 3)
    half = side // 2
    parts = (found[0, :half], found[0, half:, :half], found[0, half:, half:])
    assert [len(part.unique()) for part in parts] == [1, 1, 1]
    assert sorted(int(part[0, 0]) for part in parts) == [0, 1, 2]


@pytest.mark.parametrize("side", [8, 32, 64, 128])
def test_regions_equal_the_plain_computation(side):
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 8) * 2 - 1, size=(side, side), mode="bilinear")
    expected = torch.stack([plain_cut(image, 6) for image in images])
    assert (cut(images, 6) == expected).float().mean() > 0.99  # pixels between two centres may be rounded either way
    assert len(expected.unique()) == 6


def test_equal_images_have_equal_regions():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)[[0, 1, 0]]
    found = cut(images, 5)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert torch.equal(cut(images, 5), found)
    assert torch.equal(cut(images.contiguous(memory_format=torch.channels_last), 5), found)


@pytest.mark.parametrize("side, size", [(32, 1), (64, 2), (128, 4)])
def test_a_small_spot_of_another_colour_is_a_region(side, size):
    image, spot = spotted(side, size)
    found = cut(image, 12)
    assert torch.equal(found == found[spot][0], spot)


@pytest.mark.parametrize("side", [32, 64])
def test_more_regions_than_colours_divide_the_place(side):
    image = in_thirds(side)
    found = cut(image, 12)
    masks = masks_of(found, 12)
    own = mean_colours(masks, image)
    assert len(found.unique()) > 3 and found.max() < 12
    torch.testing.assert_close(compose(masks, own), image)
    alike = cut(torch.full((1, 3, side, side), 0.3), 12)
    assert len(alike.unique()) > 3 and alike.max() < 12


def test_more_regions_than_pixels():
    found = cut(torch.rand(1, 3, 2, 2), 6)
    masks = masks_of(found, 6)
    assert len(found.unique()) == 4
    assert mean_colours(masks, torch.ones(1, 3, 2, 2)).sum(1).tolist() == [[4.0] * 3]


def test_masks_by_hand():
    masks = masks_of(torch.tensor([[[0, 2], [2, 0]]], dtype=torch.uint8), 3)
    assert masks.dtype == torch.float32
    assert masks.tolist() == [[[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 1], [1, 0]]]]
    assert masks_of(torch.tensor([[[255]]], dtype=torch.uint8), 256)[0, :, 0, 0].nonzero().tolist() == [[255]]


def test_soft_edges_by_hand():
    """The border goes on as it is: of the nine pixels about the corner four are the corner's."""
    corner = torch.zeros(1, 1, 3, 4)
    corner[..., 0, 0] = 9.0
    assert softened(corner).tolist() == [[[[4, 2, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]]]]
    masks = masks_of(torch.randint(5, (2, 6, 6)), 5)
    torch.testing.assert_close(softened(masks).sum(1), torch.ones(2, 6, 6))


def test_composition_by_hand():
    """Two parts, two pixels: all of the first part, then a quarter of it."""
    masks = torch.tensor([[[[1.0, 0.25]], [[0.0, 0.75]]]])
    palette = torch.tensor([[[0.2, -0.4, 1.0], [0.6, 0.4, -1.0]]])
    expected = torch.tensor([[[0.2, 0.5]], [[-0.4, 0.2]], [[1.0, -0.5]]])[None]
    torch.testing.assert_close(compose(masks, palette), expected)


def test_mean_colours_by_hand():
    """Weighted by the mask; of an empty one 0."""
    masks = torch.tensor([[[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]])
    image = torch.tensor([[[[0.5, 1.0, -1.0]], [[0.0, -0.5, 0.25]], [[1.0, 1.0, 1.0]]]])
    expected = torch.tensor([[[1.0, -0.25, 1.5], [-0.5, 0.0, 1.5], [0.0, 0.0, 0.0]]]) / 1.5
    torch.testing.assert_close(mean_colours(masks, image), expected)
    pixel = torch.zeros(1, 1, 40, 50)
    pixel[..., 7, 8] = 1
    image = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(mean_colours(pixel, image)[0, 0], image[0, :, 7, 8])


def test_details_by_hand():
    """A pixel lighter than its region in green alone, one as light, one darker in all by more than 1."""
    masks = torch.tensor([[[[1.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]]]])
    palette = torch.tensor([[[0.2, 0.0, -0.4], [0.6, 0.4, 0.8]]])
    image = torch.tensor([[[[0.2, 0.4, -1.0]], [[0.5, 0.2, -1.0]], [[-0.4, 0.2, -1.0]]]])
    found = details(image, masks, palette)
    torch.testing.assert_close(found, torch.tensor([[[0.5 * LIGHTNESS[1], 0.0, -1.0]]]))
    assert sum(LIGHTNESS) == pytest.approx(1)


def test_common_colours_by_hand():
    """From 0 and 0.1 the first round gives 0 and 2.2 / 3, the second one the two clusters."""
    pixels = torch.tensor([0.0, 0.1, 1.0, 1.1])[:, None] * torch.tensor([1.0, -1.0, 0.5])
    clusters = torch.tensor([[0.05], [1.05]]) * torch.tensor([1.0, -1.0, 0.5])
    torch.testing.assert_close(common_colours(pixels, 2, 1)[1], 2.2 / 3 * torch.tensor([1.0, -1.0, 0.5]))
    torch.testing.assert_close(common_colours(pixels, 2), clusters)
    again = torch.cat((pixels[:1], pixels[:1], pixels[2:], -0.1 * pixels[2:3], 0.1 * pixels[2:3]))
    torch.testing.assert_close(common_colours(again, 3), torch.stack((pixels[0], pixels[0], clusters[1])))
    assert torch.equal(common_colours(pixels[1:3], 5), pixels[[1, 2, 1, 2, 1]])
    assert torch.equal(pixels[1], 0.1 * torch.tensor([1.0, -1.0, 0.5]))  # what is given stays


def test_recolouring_by_hand():
    """Mean colour (1, 2, 3); the first channel becomes the difference of red and green, of unit direction."""
    image = torch.tensor([[[[0.0, 2.0]], [[2.0, 2.0]], [[3.0, 3.0]]]])
    draws = torch.tensor([[3.0, -3.0, 0, 0, 0, 5.0, 0, 2.0, 0, 0.0, 1.0, 0.0]])
    half = 0.5**0.5
    expected = torch.tensor([[[[-half, half]], [[0.3, 0.3]], [[0.0, 0.0]]]])
    torch.testing.assert_close(recolour(image, draws), expected)


def test_recoloured_images_hide_their_colours():
    """Turned colours, turned map: any rotation of the colours gives images that are equally likely."""
    image = torch.rand(1, 3, 4, 4)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    draws = torch.randn(1, 12)
    turned = torch.einsum("ij,njhw->nihw", turn, image)
    undone = torch.cat(((draws[:, :9].view(3, 3) @ turn.T).view(1, 9), draws[:, 9:]), 1)
    torch.testing.assert_close(recolour(turned, undone), recolour(image, draws))


def test_the_loss_of_colours_by_hand():
    """Two colours as far apart as the targets' deviation: one is wanted, or none of them more. The second region is a
    quarter of a hundredth of the image, and the colour that it lacks counts a quarter."""
    colours = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.08]])
    wanted = torch.stack((colours[0], colours.mean(0)))[None]
    logits = torch.log(torch.tensor([[[1.0, 3.0], [3.0, 2.0]]]))
    target = 1 / (1 + math.exp(-0.5))
    first = -target * math.log(1 / 4) - (1 - target) * math.log(3 / 4)
    second = -0.5 * math.log(3 / 5) - 0.5 * math.log(2 / 5)
    for area, share in ((0.0, 0.0), (0.0025, 0.25), (0.01, 1.0), (0.6, 1.0)):
        loss = losses.colour_loss(logits, wanted, colours, torch.tensor([[0.3, area]]))
        assert float(loss) == pytest.approx((first + share * second) / (1 + share), rel=1e-5)
    with pytest.raises(AssertionError):
        losses.colour_loss(logits, wanted, colours[:1], torch.ones(1, 2))


def test_nearness_by_hand():
    """Two colours at distances of one and two deviations; further colours take part as they come."""
    wanted, colours = torch.zeros(1, 1, 3), torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, -0.2]])
    a, b = math.exp(-0.5), math.exp(-2)
    expected = torch.tensor([[[a / (a + b), b / (a + b)]]]).log()
    torch.testing.assert_close(nearness(wanted, colours, 0.1), expected)
    far = nearness(torch.ones(1, 1, 3), colours, 1e-3)
    assert far.isfinite().all() and far.exp().sum() == 1


def still(n, mirrored=False):
    """Moves that leave images where they are."""
    moves = torch.zeros(n, MOVES)
    moves[:, 0] = -1.0 if mirrored else 1.0
    return moves


def plain_moved(image, moves):
    """Where each pixel lies in the image, and the value there, bilinear between the four pixels around."""
    side, n = image.shape[1], moves * torch.tensor([1.0, TURN, STRETCH, STRETCH, SHEAR, 1, 1])
    sign, cos, sin = (-1 if moves[0] < 0 else 1), math.cos(n[1]), math.sin(n[1])
    out = torch.zeros_like(image)
    for i in range(side):
        for j in range(side):
            x, y = (2 * j + 1) / side - 1, (2 * i + 1) / side - 1
            across = sign * (math.exp(n[2]) * cos * x + (float(n[4]) - sin) * y) + SHIFTED * float(moves[5])
            down = sin * x + math.exp(n[3]) * cos * y + SHIFTED * float(moves[6])
            row, column = (min(max(((v + 1) * side - 1) / 2, 0), side - 1) for v in (down, across))
            for r, a in ((math.floor(row), 1 - row % 1), (math.floor(row) + 1, row % 1)):
                for c, b in ((math.floor(column), 1 - column % 1), (math.floor(column) + 1, column % 1)):
                    if a * b:
                        out[:, i, j] += a * b * image[:, r, c]
    return out


def one_move(place, amount):
    moves = still(1)
    moves[0, place] = amount
    return moves


def test_moves_by_hand():
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved(image, still(1)), image)
    torch.testing.assert_close(moved(image, torch.zeros(1, MOVES)), image)
    torch.testing.assert_close(moved(image, still(1, mirrored=True)), image.flip(3))
    pixel = 2 / 4 / SHIFTED  # of an image from −1 to 1
    left = torch.cat((image[..., 1:], image[..., 3:]), 3)
    torch.testing.assert_close(moved(image, one_move(5, pixel)), left, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved(image, one_move(6, pixel)), image[:, :, [1, 2, 3, 3]], atol=1e-5, rtol=0)
    quarter = math.pi / 2 / TURN  # against the clock
    torch.testing.assert_close(moved(image, one_move(1, quarter)), image.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    twice = math.log(2) / STRETCH  # twice as many pixels lie across
    a, b, c, d = image.unbind(3)
    narrow = torch.stack((a, (a + b) / 2, (c + d) / 2, d), 3)
    torch.testing.assert_close(moved(image, one_move(2, twice)), narrow, atol=1e-5, rtol=0)
    narrow = narrow.transpose(2, 3)
    torch.testing.assert_close(moved(image.transpose(2, 3), one_move(3, twice)), narrow, atol=1e-5, rtol=0)
    shear = one_move(4, 0.5 / SHEAR)  # of the lower border, by a quarter of the width
    lines = torch.arange(4.0).expand(1, 3, 4, 4)
    expected = (torch.arange(4.0) + torch.tensor([[-0.75], [-0.25], [0.25], [0.75]])).clamp(0, 3)
    torch.testing.assert_close(moved(lines, shear), expected.expand(1, 3, 4, 4), atol=1e-5, rtol=0)


def test_moves_equal_the_plain_computation():
    torch.manual_seed(0)
    images, moves = torch.rand(4, 3, 6, 6), torch.randn(4, MOVES) * 3
    moves[:, 0] = torch.tensor([1.0, -1.0, 0.3, -0.2])
    expected = torch.stack([plain_moved(*one) for one in zip(images, moves)])
    torch.testing.assert_close(moved(images, moves), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(AssertionError):
        moved(images, moves[:3])
