"""Miniatures of the four sets' archives, unpacked, in their exact original forms: a few classes, a few images."""

import json

import numpy as np

from common.splits import PLACES_CLASSES

IMAGE = b"\xff\xd8 an image"
SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "023.Brandt_Cormorant")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_lines(path, lines):
    write(path, "".join(f"{line}\n" for line in lines))


def captions_of(name):
    return [f"this is caption {k} of {name}" for k in range(10)]


def make_birds(folder):
    """Three species, two images each, the third with another name in Reed's archive; the third is for testing."""
    archive, captions = folder / "CUB_200_2011", folder / "cvpr2016_cub"
    names = [f"{kind}/{kind[4:]}_{k + 1:04d}_{1000 * n + k}.jpg" for n, kind in enumerate(SPECIES) for k in range(2)]
    for name in names:
        write(archive / "images" / name, IMAGE)
        theirs = name.replace("Brandt_", "Brandts_").replace(".jpg", ".txt")
        write_lines(captions / "text_c10" / theirs, captions_of(name))
    write(captions / "text_c10/001.Black_footed_Albatross.t7", b"features of the paper")
    numbered = [(n + 1, name) for n, name in enumerate(names)]
    write_lines(archive / "images.txt", (f"{n} {name}" for n, name in numbered))
    write_lines(archive / "classes.txt", (f"{int(kind[:3])} {kind}" for kind in SPECIES))
    write_lines(archive / "image_class_labels.txt", (f"{n} {int(name[:3])}" for n, name in numbered))
    write_lines(archive / "bounding_boxes.txt", (f"{n} 60.0 27.0 325.0 304.0" for n, _ in numbered))
    write_lines(captions / "trainvalclasses.txt", SPECIES[:2])
    write_lines(captions / "testclasses.txt", ["023.Brandts_Cormorant"])


def make_flowers(folder):
    """Nine images of the classes 77, 1 and 102; class 1 is for testing."""
    from scipy.io import savemat

    labels = [77, 77, 77, 1, 1, 102, 102, 102, 102]
    for n, label in enumerate(labels, 1):
        write(folder / f"jpg/image_{n:05d}.jpg", IMAGE)
        write_lines(folder / f"cvpr2016_flowers/text_c10/class_{label:05d}/image_{n:05d}.txt", captions_of(n))
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    write_lines(folder / "cvpr2016_flowers/trainvalclasses.txt", ["class_00077", "class_00102"])
    write_lines(folder / "cvpr2016_flowers/testclasses.txt", ["class_00001"])


def utterance(n, image):
    return {
        "uttid": f"A1-GSUN_{n:04X}",
        "speaker": "A1",
        "asr_text": f"a\u00a0room  number {n}",
        "wav": f"wavs/{n % 3}/utterance_{n}.wav",
        "image": image,
    }


def make_places(folder):
    """The release as it is unpacked: each room class with 5 images for training and 2 for validation, and others."""
    kinds = [*PLACES_CLASSES, "abbey"]
    release, n = folder / "PlacesAudio_400k_distro", 0
    for split, count in (("train", 5), ("val", 2)):
        data = []
        for kind in kinds:
            below = f"{kind[0]}/{kind}/home" if kind == "dinette" else f"{kind[0]}/{kind}"
            for _ in range(count):
                n += 1
                data.append(utterance(n, f"{below}/gsun_{n:08x}.jpg"))
                if kind != "abbey":
                    write(folder / "images256" / data[-1]["image"], IMAGE)
                    write(release / data[-1]["wav"], b"RIFF sound")
        content = {"image_base_path": "/data/sls/images/", "audio_base_path": "/data/sls/audio/", "data": data}
        write(release / f"metadata/{split}.json", json.dumps(content))


def make_flickr8k(folder):
    """Sixteen images, five recordings each, with captions and the usual lists (12, 2, 2)."""
    names = [f"{1000 + n}_693b08cb0e" for n in range(16)]
    for name in names:
        write(folder / f"Flicker8k_Dataset/{name}.jpg", IMAGE)
        for k in range(5):
            write(folder / f"flickr_audio/wavs/{name}_{k}.wav", b"RIFF sound")
    # The order of the original's lines is not that of the numbers.
    write_lines(
        folder / "flickr_audio/wav2capt.txt",
        (f"{name}_{k}.wav {name}.jpg #{k}" for k in (3, 0, 4, 1, 2) for name in names),
    )
    write_lines(
        folder / "Flickr8k_text/Flickr8k.token.txt",
        [
            "2258277193_586949ec62.jpg.1#0\tA stray line of the original .",
            *(f"{name}.jpg#{k}\tA dog {k} runs in {name} ." for name in names for k in range(5)),
        ],
    )
    for part, (first, last) in {"train": (0, 12), "dev": (12, 14), "test": (14, 16)}.items():
        write_lines(folder / f"Flickr8k_text/Flickr_8k.{part}Images.txt", (f"{name}.jpg" for name in names[first:last]))


MAKERS = {"birds": make_birds, "flowers": make_flowers, "places": make_places, "flickr8k": make_flickr8k}
