"""Batches of the generator: their order, wrong pairs and captions, published crops, and the cache that they are cut from."""
import numpy as np
import pytest
import torch
from gan_set import make_set
from PIL import Image

from common.cli import UserError
from common.splits import load_split
from StackGAN_v2 import image_cache
from StackGAN_v2.datasets import Order, OtherClass, SpeechFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("with space 'and quote'"))


def test_the_stream_of_images_visits_every_one_before_any_again():
    order = Order(5, seed=3)
    whole = order.indices(0, 20)
    assert all(sorted(whole[i:i + 5].tolist()) == list(range(5)) for i in range(0, 20, 5))
    assert len({tuple(whole[i:i + 5].tolist()) for i in range(0, 20, 5)}) > 1
    pieces = torch.cat([Order(5, seed=3).indices(first, count) for first, count in ((0, 3), (3, 11), (14, 6))])
    assert torch.equal(pieces, whole)
    assert not torch.equal(Order(5, seed=4).indices(0, 20), whole)


def test_wrong_pictures_are_of_another_class_and_equally_likely():
    labels = [2, 0, 2, 1, 0, 2]
    images = torch.arange(6).repeat_interleave(600)
    drawn = OtherClass(labels).draw(images, torch.linspace(0, 1 - 1e-7, 600).repeat(6))
    for image, label in enumerate(labels):
        others = [i for i, other in enumerate(labels) if other != label]
        counts = torch.bincount(drawn[images == image], minlength=6)
        assert counts[others].tolist() == pytest.approx([600 / len(others)] * len(others), abs=2)
        assert int(counts.sum()) == int(counts[others].sum())
    with pytest.raises(UserError, match="single class"):
        OtherClass([1, 1])


def test_a_caption_is_picked_from_its_own_image():
    rows = [np.full((count, 2), 10.0 * i, np.float32) + np.arange(count)[:, None] for i, count in enumerate((3, 1, 2))]
    features = SpeechFeatures([row.astype(np.float32) for row in rows])
    picked = features.pick(torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0.0, 0.5, 0.9999999, 0.9, 0.4, 0.6]))
    assert picked[:, 0].tolist() == [0, 1, 2, 10, 20, 21]


def test_crop_box_by_hand():
    assert image_cache.crop_box((200, 100), (80, 40, 40, 20)) == (70, 20, 130, 80)      # centre (100, 50), half 30
    assert image_cache.crop_box((200, 100), (0, 0, 40, 20)) == (0, 0, 50, 40)           # clipped at the corner


def test_cached_batches_equal_the_pillow_path(folder):
    """Crop, mirror and the smaller sizes on the device against Pillow, one picture at a time."""
    split = load_split(folder, "train")
    cache = image_cache.build(split, folder / "train", 64, jobs=1, progress=False)
    offsets = torch.tensor([[0.0, 0.999], [0.5, 0.3], [0.7, 0.0]])
    mirror, indices, sizes = torch.tensor([False, True, False]), torch.tensor([0, 3, 6]), [16, 32, 64]
    batch = cache.batch(indices, offsets, mirror, sizes)
    boxes = image_cache.bounding_boxes(split)
    for n, index in enumerate(indices.tolist()):
        item = split.items[index]
        stored = Image.fromarray(image_cache.prepare(item.image, boxes[item.key], 76))
        assert min(stored.size) == 76
        top, left = (int(offsets[n, i] * (stored.size[1 - i] - 63)) for i in (0, 1))
        crop = stored.crop((left, top, left + 64, top + 64))
        crop = crop.transpose(Image.FLIP_LEFT_RIGHT) if mirror[n] else crop
        for size, pictures in zip(sizes, batch):
            expected = np.asarray(crop.resize((size, size), Image.BILINEAR), np.float32)
            found = (pictures[n].permute(1, 2, 0).numpy() + 1) * 127.5
            assert np.abs(found - expected).max() <= (1e-4 if size == 64 else 1.001)


def test_the_cache_is_rebuilt_when_a_picture_changes(folder):
    split = load_split(folder, "test")
    build = lambda: image_cache.build(split, folder / "test", 64, jobs=1, progress=False)      # noqa: E731
    first = build().pixels.clone()
    Image.new("RGB", (100, 80), "red").save(split.items[0].image)
    assert not torch.equal(build().pixels, first)
    (folder / "test" / "images_64.npy").write_bytes(b"cut")
    (folder / "test" / "images_64.json").unlink()
    assert len(build()) == len(split.items)
