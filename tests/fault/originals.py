"""Small whole files of every kind that the project reads, each with the readers that meet such a file."""

import io
import json
import pickle
from dataclasses import dataclass

import numpy as np
import torch
import toy_archives
import toy_caffemodel
import yaml
from PIL import Image


@dataclass(frozen=True)
class Original:
    """name: with the suffix that users would give it. kinds: readers of readers.py. copies: how many damaged ones."""

    name: str
    kinds: tuple[str, ...]
    data: bytes
    copies: int = 24


def make(folder) -> list[Original]:
    """All originals; the same bytes every time. `folder` is for libraries that write to paths only."""
    return [*sounds(), *images(), *pickles(), *checkpoints(folder), *texts(), *networks(), *archives(), *matlab()]


def make_cached(folder) -> None:
    """Two sounds and two images in `folder`, for the caches of readers.py."""
    import soundfile

    for n in range(2):
        soundfile.write(folder / f"{n}.wav", np.sin(np.arange(16000 * (n + 1)) / 20), 16000)
        Image.fromarray(np.full((20, 30 + n, 3), 80 * n, np.uint8)).save(folder / f"{n}.png")


def sounds():
    import soundfile

    time = np.arange(6000) / 8000
    wave = (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)
    for name, options in (
        ("a.wav", {}),
        ("float.wav", {"subtype": "FLOAT"}),
        ("adpcm.wav", {"subtype": "IMA_ADPCM"}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.flac", {}),
        ("a.mp3", {}),
        ("a.aiff", {}),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 8000, **{"format": name[2:].upper() if name[1] == "." else "WAV", **options})
        yield Original(name, ("sound",), buffer.getvalue())


def images():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    smooth = Image.fromarray(noise).resize((90, 60))
    grey16 = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 200)
    frames = [smooth.convert("P"), smooth.rotate(90).convert("P")]
    for name, image, options in (
        ("a.jpg", smooth.convert("RGB"), {}),
        ("progressive.jpg", smooth.convert("RGB"), {"progressive": True}),
        ("cmyk.jpg", smooth.convert("CMYK"), {}),
        ("a.png", smooth.convert("RGB"), {}),
        ("rgba.png", smooth, {}),
        ("deep.png", grey16, {}),
        ("palette.png", smooth.convert("P"), {"transparency": 3}),
        ("a.gif", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("a.tif", smooth, {}),
        ("packed.tif", smooth.convert("RGB"), {"compression": "tiff_lzw"}),
        ("a.webp", smooth, {}),
        ("a.bmp", smooth.convert("RGB"), {}),
        ("a.ppm", smooth.convert("RGB"), {}),
        ("a.jp2", smooth, {}),
    ):
        buffer = io.BytesIO()
        suffix = name.split(".")[1]
        image.save(buffer, {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix), **options)
        yield Original(name, ("image",), buffer.getvalue(), copies=16)


def pickles():
    even = np.random.default_rng(1).normal(size=(3, 2, 5)).astype(np.float32)
    uneven = [even[0], even[1][:1], even[2].astype(np.float64)]
    objects = np.empty(3, object)
    objects[:] = uneven
    for protocol, value in ((0, even), (2, uneven), (2, objects), (4, even), (4, uneven), (5, uneven)):
        kind = type(value).__name__ + ("_objects" if value is objects else "")
        yield Original(f"{kind}_{protocol}.pickle", ("features", "pickle"), pickle.dumps(value, protocol), copies=40)
    yield Original(
        "mixed.pickle", ("pickle",), pickle.dumps({"a": [1, 2.5, "x", b"y", None, 10**40], 3: (True,)}, 4), 40
    )
    python2 = pickle.dumps(uneven, 2).replace(b"numpy._core", b"numpy.core")
    yield Original("python2.pickle", ("features", "pickle"), python2, copies=40)


def checkpoints(folder):
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4, dtype=torch.float16), "n": torch.tensor(3)}
    yield Original("plain.pth", ("checkpoint",), _saved({"meta": {"seed": 1, "names": ["x"]}, "state_dict": state}), 60)
    yield Original("old.pth", ("checkpoint",), _saved(state, _use_new_zipfile_serialization=False), 60)
    yield from _networks(folder)


def _networks(folder):
    from Audio_to_Image.speech_encoder import CNNRNN
    from StackGAN_v2.model import Generator
    from StackGAN_v2.networks.affine import AffineGenerator
    from StackGAN_v2.networks.exemplar import ExemplarGenerator, Sizes

    encoder = CNNRNN(n_filters=2, embedding_dim=2, nhidden=4, bidirectional=True).half().state_dict()
    yield Original("encoder.pth", ("encoder",), _saved({"meta": {"max_frames": 64}, "state_dict": encoder}), 8)
    generator = Generator(branch_num=2, base_size=16, gf_dim=2, z_dim=2, embedding_dim=2, text_dim=4, r_num=1)
    yield Original("netG_2.pth", ("generator",), _saved(generator.state_dict()), 24)
    affine = AffineGenerator([2, 2, 2], z_dim=2, text_dim=4, condition_dim=2, mask=2)
    yield Original("netG_3.pth", ("generator",), _saved(affine.state_dict()), 12)
    sizes = Sizes(32, regions=2, colours=2, width=2, hidden=2, z_dim=8, text_dim=4, condition_dim=2)
    yield Original("netG_4.pth", ("generator",), _saved(ExemplarGenerator(sizes, 2).state_dict()), 12)


def _saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def texts():
    birds = {
        "image_base_path": "./data/x",
        "audio_base_path": "./data/x/a",
        "image_feature_path": "./data/x",
        "data": [
            {
                "image": f"00{n}.Auk/{n}.jpg",
                "class": f"00{n}.Auk",
                "text": ["one", "zwei ü"],
                "audio": ["p/1.wav", "p/2.wav"],
            }
            for n in (1, 2)
        ],
    }
    places = {
        "image_base_path": "x",
        "audio_base_path": "y",
        "data": [{"image": "./kitchenette/k.jpg", "wav": "wavs/12/u.wav", "asr_text": "a kitchen", "uttid": "1"}],
    }
    registry = {
        "thing": {
            "purpose": "p",
            "goal": "a/b",
            "licence": "l",
            "urls": ["https://x.org/a.zip"],
            "unpack": True,
            "size": 12,
            "sha256": "0" * 64,
        }
    }
    cfg = {
        "DATASET_NAME": "birds",
        "TREE": {"BRANCH_NUM": 2},
        "TRAIN": {"BATCH_SIZE": 4, "BETAS": [0.5, 0.99], "COEFF": {"KL": 1e-1}, "FLAG": False},
    }
    boxes = "".join(f"{n} 60.0 27.0 325.0 304.0\n" for n in range(1, 4))
    yield Original("train.json", ("split", "json"), json.dumps(birds, indent=1).encode(), 60)
    yield Original("val.json", ("places", "split", "json"), json.dumps(places).encode(), 60)
    yield Original("registry.json", ("registry",), json.dumps(registry).encode(), 40)
    yield Original("registry.yml", ("registry",), yaml.safe_dump(registry).encode(), 40)
    yield Original("cfg.yml", ("cfg",), yaml.safe_dump(cfg).encode(), 60)
    yield Original("bounding_boxes.txt", ("boxes",), boxes.encode(), 40)


def networks():
    rng = np.random.default_rng(2)
    weights = {
        name: (rng.normal(size=(2, 3, 1, 1)).astype(np.float32), np.zeros(2, np.float32)) for name in ("a", "b/c")
    }
    for encoding in ("new", "old"):
        yield Original(
            f"{encoding}.caffemodel", ("caffemodel", "googlenet"), toy_caffemodel.caffemodel(weights, encoding), 80
        )


def archives():
    for name, data in (
        ("a.tgz", toy_archives.make_tar(toy_archives.FILES)),
        ("a.zip", toy_archives.make_zip(toy_archives.FILES)),
        ("a.tar", toy_archives.make_tar(toy_archives.FILES, "w")),
        ("a.tar.xz", toy_archives.make_tar(toy_archives.FILES, "w:xz")),
        ("a.tar.bz2", toy_archives.make_tar(toy_archives.FILES, "w:bz2")),
    ):
        yield Original(name, ("archive",), data, 30)


def matlab():
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"labels": np.arange(1, 41)[None]}, do_compression=True)
    yield Original("imagelabels.mat", ("labels",), buffer.getvalue(), 60)
