"""Files as the published code and its authors' downloads have them: split files, pickles of Python 2, old weights."""

import json
import struct
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

SENTENCE = "this bird is red with a short beak"


def python_2_array(array: np.ndarray) -> bytes:
    """The opcodes that Python 2 writes for a float32 array (protocol 2): its bytes as a str, old module names."""
    data, shape = array.astype("<f4").tobytes(), b"".join(b"M" + struct.pack("<H", size) for size in array.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(data)) + data + b"tb"
    )


def python_2_pickle(rows) -> bytes:
    """A list of float32 arrays, or of texts, as `pickle.dump(rows, file, 2)` of Python 2 writes it."""
    items = b"".join(
        python_2_array(row) if isinstance(row, np.ndarray) else b"U" + bytes([len(row)]) + row.encode() for row in rows
    )
    return b"\x80\x02](" + items + b"e."


def text_pickle(rows) -> bytes:
    """A list of texts in protocol 0, the default of Python 2."""
    return b"(lp0\n" + b"".join(b"S'" + row.encode() + b"'\np%d\na" % (n + 1) for n, row in enumerate(rows)) + b"."


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return path


def media(rng, image: Path, sounds: list[Path]) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(image)
    for sound in sounds:
        sound.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(sound, 0.1 * rng.standard_normal(16000), 16000, subtype="PCM_16")


def views(rng, items: int) -> list[np.ndarray]:
    """Features of GoogLeNet's form: `[10, 1024]` an item."""
    return [abs(rng.standard_normal((10, 1024))).astype(np.float32) for _ in range(items)]


def make_birds(data: Path, items: int = 4, captions: int = 2) -> Path:
    """data/birds with train.json and val.json, keys with a_, features and lists of file names by Python 2."""
    rng, folder = np.random.default_rng(1), data / "birds"
    for split, classes, side in (("train", ("001.Auk", "002.Gull"), "train"), ("val", ("003.Wren",), "test")):
        rows = []
        for number in range(items):
            kind = classes[number % len(classes)]
            stem = f"{kind}/{kind[4:]}_{number:04d}_{split}"
            sounds = [f"{stem}_{k}.wav" for k in range(captions)]
            rows.append(
                {
                    "image": f"{stem}.jpg",
                    "class": kind,
                    "text": [f"{SENTENCE} {k}" for k in range(captions)],
                    "audio": sounds,
                }
            )
            media(
                rng,
                folder / "CUB_200_2011/images" / f"{stem}.jpg",
                [folder / "CUB_200_2011_audio/audio/0" / name for name in sounds],
            )
        write(
            folder / f"{split}.json",
            {
                "a_image_base_path": "./data/birds/CUB_200_2011",
                "a_audio_base_path": "./data/birds/CUB_200_2011_audio/audio/0",
                "a_image_feature_path": f"./data/birds/{side}/image_features_googlenet_caffe.pickle",
                "data": rows,
            },
        )
        write(folder / side / "image_features_googlenet_caffe.pickle", python_2_pickle(views(rng, items)))
        write(folder / side / "filenames.pickle", text_pickle([row["image"][:-4] for row in rows]))
        write(
            folder / side / "class_info.pickle",
            b"(lp0\n" + b"".join(b"I%d\na" % int(row["class"][:3]) for row in rows) + b".",
        )
    return folder


def make_flowers(data: Path, items: int = 4) -> Path:
    """data/flowers: classes by number, wav, features beside the split files."""
    rng, folder = np.random.default_rng(2), data / "flowers"
    for split in ("train", "test"):
        rows = [
            {
                "img": f"image_{n:05d}{split}.jpg",
                "class": n % 2 + 1 if n else str(n % 2 + 1),
                "text": [SENTENCE],
                "wav": [f"class_{n % 2 + 1:05d}/image_{n:05d}{split}_0.wav"],
            }
            for n in range(items)
        ]
        for row in rows:
            media(rng, folder / "jpg" / row["img"], [folder / "flowers_audio" / row["wav"][0]])
        write(
            folder / f"{split}.json",
            {
                "image_base_path": "./data/flowers/jpg",
                "audio_base_path": "./data/flowers/flowers_audio",
                "image_feature": f"./data/flowers/{split}_image_feature_caffe.pickle",
                "data": rows,
            },
        )
        write(folder / f"{split}_image_feature_caffe.pickle", python_2_pickle(views(rng, items)))
        spoken = rng.standard_normal((items, 1, 1024)).astype(np.float32)
        write(folder / f"{split}_audio_features_0.pickle", python_2_pickle(list(spoken)))
    return folder


def make_places(data: Path, items: int = 4, form: str = "{}_split.json") -> Path:
    """data/Places_subset: split files and features in metadata/, base paths of the authors' machine."""
    rng, folder = np.random.default_rng(3), data / "Places_subset"
    kinds = ("bedroom", "kitchenette")
    for split in ("train", "val"):
        rows = [
            {"image": f"./{kinds[n % 2]}/{n}{split}.jpg", "wav": f"wavs/{n}/u{split}.wav", "asr_text": "a room"}
            for n in range(items)
        ]
        for row in rows:
            media(rng, folder / "data" / row["image"], [folder / "audios" / row["wav"][5:]])
        write(
            folder / "metadata" / form.format(split),
            {"image_base_path": "/data/theirs/images/", "audio_base_path": "/data/theirs/wavs/", "data": rows},
        )
        write(folder / "metadata" / f"{split}_split_caffe.pickle", python_2_pickle(views(rng, items)))
        spoken = rng.standard_normal((items, 1024)).astype(np.float32)
        write(folder / "metadata" / f"{split}_split_audio_features_0.pickle", python_2_pickle(list(spoken)))
    return folder


def write_old_weights(path: Path, state: dict, meta: dict | None = None) -> Path:
    """Weights as torch before 0.4.1 and DataParallel give them: `module.`, no counts of batches, not a zip archive."""
    state = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    torch.save(
        state if meta is None else {"meta": meta, "state_dict": state}, path, _use_new_zipfile_serialization=False
    )
    return path
