"""Batches of the generator: their order, wrong pairs and captions, published crops, and the cache that they are cut from."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gan_set import make_set
from PIL import Image

from common.bounding_boxes import bounding_boxes
from common.cli import UserError
from common.splits import load_split
from StackGAN_v2.data import image_cache
from StackGAN_v2.data.datasets import Order, OtherClass, SpeechFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("with space 'and quote'"))


def test_the_stream_of_images_visits_every_one_before_any_again():
    order = Order(5, seed=3)
    whole = order.indices(0, 20)
    assert all(sorted(whole[i : i + 5].tolist()) == list(range(5)) for i in range(0, 20, 5))
    assert len({tuple(whole[i : i + 5].tolist()) for i in range(0, 20, 5)}) > 1
    pieces = torch.cat([Order(5, seed=3).indices(first, count) for first, count in ((0, 3), (3, 11), (14, 6))])
    assert torch.equal(pieces, whole)
    assert not torch.equal(Order(5, seed=4).indices(0, 20), whole)


def test_wrong_images_are_of_another_class_and_equally_likely():
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
    assert image_cache.crop_box((200, 100), (80, 40, 40, 20)) == (70, 20, 130, 80)  # centre (100, 50), half 30
    assert image_cache.crop_box((200, 100), (0, 0, 40, 20)) == (0, 0, 50, 40)  # clipped at the corner


def test_cached_batches_equal_the_pillow_path(folder):
    """Crop, mirror and the smaller sizes on the device against Pillow, one image at a time."""
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
        for size, images in zip(sizes, batch):
            expected = np.asarray(crop.resize((size, size), Image.BILINEAR), np.float32)
            found = (images[n].permute(1, 2, 0).numpy() + 1) * 127.5
            assert np.abs(found - expected).max() <= (1e-4 if size == 64 else 1.001)


@pytest.fixture(scope="module", params=[64, 256])
def cuts(request):
    """Images of odd shapes (noise, black and white, a slope), and crops of them at all borders, also mirrored."""
    side, random = request.param * 76 // 64, np.random.default_rng(0)
    shapes = [(side, side), (side, side + 37), (side + 51, side)]
    noise = [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    slope = np.add.outer(np.arange(side), 2 * np.arange(side + 9))[:, :, None] // np.array([3, 4, 5]) % 256
    images = [*noise, (noise[1] > 127).astype(np.uint8) * 255, slope.astype(np.uint8)]
    cache = image_cache.ImageCache(
        torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images])),
        np.array([image.shape[:2] for image in images]),
    )
    corners = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.0, 0.999], [0.5, 0.25]])
    draw = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(corners)), torch.arange(2))
    return request.param, images, cache, (draw[:, 0], corners[draw[:, 1]], draw[:, 2] > 0)


def test_cuts_in_bytes_equal_pillow_to_the_last_level(cuts):
    size, images, cache, draw = cuts
    sizes = [size // 4, size // 2, size]
    batch = cache.batch(*draw, sizes)
    for n, (index, offset, mirror) in enumerate(zip(*draw)):
        image = images[index]
        top, left = (int(offset[i] * (image.shape[i] - size + 1)) for i in (0, 1))
        crop = image[top : top + size, left : left + size]
        crop = Image.fromarray(crop[:, ::-1] if mirror else crop)
        for s, found in zip(sizes, batch):
            assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
            expected = np.asarray(crop.resize((s, s), Image.BILINEAR), np.float32)
            difference = np.abs((found[n].permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max()
            assert difference <= (1e-4 if s == size else 1.001), (s, n)
    assert batch[-1].min() == -1 and batch[-1].max() == 1


def test_a_gpu_cuts_the_same(cuts):
    """The indexing that a GPU does gives the same bytes; its float32 gives smaller images at most one level away."""
    size, _, cache, (indices, offsets, mirror) = cuts
    corner = (offsets * (torch.stack((cache.height, cache.width), 1)[indices] - size + 1)).long()
    cut = cache._cut(indices, corner, mirror, size)
    assert torch.equal(cut, cache._gather(indices, corner, mirror, size))
    for s in (size // 4, size // 2):
        levels = image_cache._smaller_in_floats(cut.permute(0, 3, 1, 2), s).permute(0, 2, 3, 1)
        assert (levels - image_cache._smaller(cut, s).float()).abs().max() <= 1
    scaled = torch.empty(cut.shape)
    image_cache._scale(cut, scaled)
    assert (scaled - (cut / 127.5 - 1)).abs().max() < 2e-7


def test_cuts_do_not_depend_on_threads(cuts):
    """Also with more threads than images; threads that begin later get torch's number as it was."""
    size, _, cache, draw = cuts
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 50):
            torch.set_num_threads(threads)
            found.append(cache.batch(*draw, [size // 4, size // 2, size]))
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
    picked = [17, 3, 38, 3]  # nor on the rest of the batch
    alone = cache.batch(*(part[picked] for part in draw), [size // 2, size])[0]
    assert torch.equal(alone, found[0][1][picked])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuts_on_a_gpu_are_those_of_the_cpu(cuts):
    size, _, cache, draw = cuts
    sizes, device = [size // 4, size // 2, size], torch.device("cuda")
    there = image_cache.ImageCache(cache.pixels, torch.stack((cache.height, cache.width), 1).numpy()).to(device)
    sent = cache.batch(*draw, sizes, device)
    for host, on_gpu, way in zip(cache.batch(*draw, sizes), there.batch(*draw, sizes), sent):
        assert way.device.type == "cuda" and torch.equal(on_gpu, way)
        assert (host - way.cpu()).abs().max() * 127.5 <= (1e-4 if way.shape[-1] == size else 1.001)


def test_the_cache_is_rebuilt_when_a_image_changes(folder):
    split = load_split(folder, "test")
    build = lambda: image_cache.build(split, folder / "test", 64, jobs=1, progress=False)  # noqa: E731
    first = build().pixels.clone()
    Image.new("RGB", (100, 80), "red").save(split.items[0].image)
    assert not torch.equal(build().pixels, first)
    (folder / "test" / "images_64.npy").write_bytes(b"cut")
    (folder / "test" / "images_64.json").unlink()
    assert len(build()) == len(split.items)


# ---- bounding boxes --------------------------------------------------------------------------------------------------


@pytest.fixture
def boxed(tmp_path):
    """(split of two images of 200 × 100 whose names hold spaces, a function that writes their boxes)."""
    root = tmp_path / "CUB/images"
    names = ["001.kind/my bird 0.png", "002.kind/my bird 1.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (200, 100), "blue").save(root / name)
    (root.parent / "images.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    data = [{"image": name, "class": name.split("/")[0]} for name in names]
    (tmp_path / "train.json").write_text(json.dumps({"image_base_path": str(root), "data": data}))

    def write(first: str, second: str = "90 40 20 20"):
        (root.parent / "bounding_boxes.txt").write_text(f"1 {first}\n2 {second}\n")

    return load_split(tmp_path, "train"), write


def build(split):
    return image_cache.build(split, split.path.parent / "train", 64, jobs=1, progress=False)


def test_boxes_of_names_with_spaces_are_used(boxed):
    split, write = boxed
    write("90 40 20 20")
    assert bounding_boxes(split) == {item.key: (90, 40, 20, 20) for item in split.items}
    assert build(split).width.tolist() == [76, 76]  # a square around the box, not the image of 2 : 1


@pytest.mark.parametrize(
    "box, reason",
    [
        ("nan nan nan nan", "four finite"),
        ("95 45 20", "four finite"),
        ("90 40 20 inf", "four finite"),
        ("90 40 20 20 1", "four finite"),
        ("a b c d", "four finite"),
        ("100 50 0 0", "no extent"),
        ("0.45 0.4 0.1 0.2", "fractions"),
        ("0 0 1 1", "fractions"),
        ("90 40 -20 20", "no extent"),
        ("1e308 1 1e308 9", "no extent"),
        ("700 500 40 30", "outside its image, which has 200 × 100"),
        ("-40 10 40 30", "outside"),
        ("10 100 40 30", "outside"),
    ],
)
def test_what_is_no_box_is_named_by_file_and_line(boxed, box, reason):
    split, write = boxed
    write("90 40 20 20", box)
    with pytest.raises(UserError, match=rf"bounding_boxes.txt, line 2: .*{reason}"):
        build(split)


def test_boxes_and_names_that_do_not_belong_together(boxed):
    split, write = boxed
    write("90 40 20 20")
    names = split.image_root.parent / "images.txt"
    names.write_text(names.read_text().replace("2 002", "7 002"))
    with pytest.raises(UserError, match="images.txt, line 2: the image of number 7 has no box"):
        bounding_boxes(split)
    names.write_text("1 a.png\n\n2\n")
    with pytest.raises(UserError, match="images.txt, line 3"):
        bounding_boxes(split)
    names.write_bytes(b"\xff\xfe\xd8")
    with pytest.raises(UserError, match="images.txt"):
        bounding_boxes(split)


def test_boxes_of_any_unicode_text_are_read(boxed):
    split, write = boxed
    write("90 40 20 20")
    for name in ("images.txt", "bounding_boxes.txt"):
        path = split.image_root.parent / name
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert bounding_boxes(split) == {item.key: (90, 40, 20, 20) for item in split.items}


def test_a_box_partly_outside_is_clipped():
    assert image_cache.crop_box((200, 100), (-10, 90, 40, 30)) == (0, 75, 40, 100)
    assert image_cache.crop_box((200, 100), (199.9, 50, 0.5, 2)) == (199, 50, 200, 52)


def test_thin_images_are_named_before_they_are_scaled(boxed):
    split, _ = boxed
    for item, size in zip(split.items, ((1, 100_000), (1, 900))):  # 76 × 68,400: few pixels, but too long a side
        Image.new("RGB", size).save(item.image)
    with pytest.raises(UserError, match=r"my bird 0.png is too thin an image .1 × 100000.* \(and 1 more images\)$"):
        build(split)
