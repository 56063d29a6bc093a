"""The four sets' downloads in their exact original forms, made of the miniatures, with real images and real sound."""

import io
import os
import tarfile
import wave
import zipfile

import numpy as np
from PIL import Image
from prepare_miniatures import MAKERS, captions_of, write_lines

RATE = 16000
PIXELS = {"birds": (400, 340)}  # the miniature's bounding boxes lie within


def image(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG of coloured waves, different for each number."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = [np.sin(x / (7 + number % 5 + colour) + number) + np.cos(y / (9 + colour) - number) for colour in range(3)]
    file = io.BytesIO()
    Image.fromarray(((np.stack(waves, -1) + 2) * 63).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def sound(number: int) -> bytes:
    """A mono wav of 16 bits, 0.75 to 1.05 s: a sliding tone over a little noise."""
    time = np.arange(int((0.75 + number % 4 / 10) * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 40 * (number % 7) + 100 * time) * time)
    noise = np.random.default_rng(number).normal(0, 0.02, len(time))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        out.writeframes((8000 * (0.8 * tone + noise)).astype("<i2").tobytes())
    return file.getvalue()


def make(name: str, folder) -> dict[str, bytes]:
    """Registry name → what its address gives, for the set `name`; all of it also stands unpacked in `folder`."""
    folder.mkdir()
    MAKERS[name](folder)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.write_bytes(image(number, PIXELS.get(name, (96, 80))))
    for number, path in enumerate(sorted(folder.rglob("*.wav"))):
        path.write_bytes(sound(number))
    return _PACKERS[name](folder)


def _birds(folder):
    (folder / "attributes.txt").write_text("1 has_bill_shape::curved_(up_or_down)\n")  # beside the top folder
    return {"CUB_200_2011": tgz(folder, "CUB_200_2011", "attributes.txt"), "cvpr2016_cub": tgz(folder, "cvpr2016_cub")}


def _flowers(folder):
    return {
        "Oxford_102": tgz(folder, "jpg"),
        "Oxford_102_labels": (folder / "imagelabels.mat").read_bytes(),
        "cvpr2016_flowers": tgz(folder, "cvpr2016_flowers"),
    }


def _places(folder):
    return {"Places_audio": tgz(folder, "PlacesAudio_400k_distro")}


def _flickr8k(folder):
    (folder / "flickr_audio/wav2spk.txt").write_text("1000_693b08cb0e_0.wav 1\n")
    return {
        "Flickr8k_audio": tgz(folder, "flickr_audio"),
        "Flickr8k_images": zipped(folder, "Flicker8k_Dataset"),
        "Flickr8k_text": zipped(folder / "Flickr8k_text", ""),
    }


_PACKERS = {"birds": _birds, "flowers": _flowers, "places": _places, "flickr8k": _flickr8k}


def tgz(folder, *names) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name in names:
            tar.add(folder / name, name)
    return file.getvalue()


def zipped(folder, name) -> bytes:
    """A zip as macOS makes it, with folders of their own and its resource files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted({folder / name, *(folder / name).rglob("*")} - {folder}):
            archive.write(path, path.relative_to(folder))
        archive.writestr(f"__MACOSX/{name or 'readme.txt'}/._x", b"\0\5\x16\7")
    return file.getvalue()


def make_whole_cub(folder) -> None:
    """CUB and its captions, unpacked, with all their files: 200 species, 11,788 names of one image of 500 pixels."""
    archive, captions, names = folder / "CUB_200_2011", folder / "cvpr2016_cub", []
    kinds = [f"{number:03d}.Bird_{number}" for number in range(1, 201)]
    counts = [59 + (n < 5) for n in range(150)] + [58 + (n < 33) for n in range(50)]  # 8,855 and 2,933
    folder.mkdir()
    (folder / "one.jpg").write_bytes(image(0, (500, 375)))
    for kind, count in zip(kinds, counts):
        (archive / "images" / kind).mkdir(parents=True)
        (captions / "text_c10" / kind).mkdir(parents=True)
        for _ in range(count):
            names.append(f"{kind}/{kind[4:]}_{len(names):04d}_{len(names)}")
            os.link(folder / "one.jpg", archive / "images" / f"{names[-1]}.jpg")
            (captions / "text_c10" / f"{names[-1]}.txt").write_text("\n".join(captions_of(names[-1])) + "\n")
    write_lines(archive / "images.txt", (f"{n} {name}.jpg" for n, name in enumerate(names, 1)))
    write_lines(archive / "classes.txt", (f"{int(kind[:3])} {kind}" for kind in kinds))
    write_lines(archive / "image_class_labels.txt", (f"{n} {int(name[:3])}" for n, name in enumerate(names, 1)))
    write_lines(archive / "bounding_boxes.txt", (f"{n} 60.0 27.0 325.0 304.0" for n, _ in enumerate(names, 1)))
    write_lines(captions / "trainvalclasses.txt", kinds[:150])
    write_lines(captions / "testclasses.txt", kinds[150:])
