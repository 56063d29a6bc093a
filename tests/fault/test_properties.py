"""What holds for every input, tried on random ones: readers give back what was written, or refuse in a sentence."""

import io
import json
import pickle
import pickletools
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given
from hypothesis import strategies as st
from worker import check_sentence

from Audio_to_Image import audio
from common.cli import UserError
from common.listed_files import inside
from common.settings import flatten
from common.splits import load_split
from common.untrusted.pickles import read_pickle
from scripts.data.download.unpack import Limits, unpack
from StackGAN_v2.config import Config, load_config

KINDS = ("<f4", "<f8", ">f4", "<f2", "<i4", "|i1", "|b1", "<c8", "<U3", "|S2")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
scalars |= st.binary(max_size=5)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    array = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, shape).astype(draw(st.sampled_from(KINDS)))
    return np.asfortranarray(array) if draw(st.booleans()) else array


values = st.recursive(
    scalars | arrays(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
texts = st.text(st.characters(), max_size=12)
PARTS = st.sampled_from(
    ["..", ".", "a", "b c", "", "~", "ü", "x" * 300, "-rf", "$HOME", "'", '"', "\\", "\n", "\0", "\x1b[2J"]
)


_ran = []  # one entry an example


@pytest.fixture(autouse=True)
def tell(count):
    before = len(_ran)
    yield
    count("examples", len(_ran) - before)


def read(reader, name: str, data: bytes):
    """What `reader` makes of a file of these bytes; a UserError is held against the rules for sentences."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        _ran.append(name)
        try:
            return reader(path)
        except UserError as error:
            check_sentence(str(error), path)
            raise


def same(a, b) -> bool:
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@given(values, st.integers(0, 5))
def test_plain_pickles_come_back(value, protocol):
    assert same(value, read(read_pickle, "x.pickle", pickle.dumps(value, protocol)))


OPCODES = [code for code in pickletools.opcodes if code.name != "STOP"]


@given(st.lists(st.tuples(st.sampled_from(OPCODES), st.binary(max_size=9)), max_size=40))
def test_random_opcodes_end_in_a_value_or_a_sentence(steps):
    body = b"".join(code.code.encode("latin1") + argument for code, argument in steps)
    for data in (body + b".", pickle.dumps([np.ones(3), {"a": 1}], 4)[:-1] + body + b"."):
        try:
            read(read_pickle, "x.pickle", data)
        except UserError:
            pass


items = st.fixed_dictionaries(
    {},
    optional={
        "image": texts | st.lists(PARTS, max_size=5).map("/".join),
        "img": texts,
        "class": texts | st.integers() | st.none(),
        "text": texts | st.lists(texts | st.integers(), max_size=3),
        "audio": st.lists(PARTS, max_size=3),
        "wav": texts,
        "asr_text": texts,
    },
)


@given(st.lists(items | st.integers(), max_size=4), texts | st.none(), texts | st.none())
def test_split_files_name_only_what_lies_below_their_bases(data, images, sound):
    content = {"image_base_path": images, "audio_base_path": sound, "data": data}
    try:
        split = read(lambda path: load_split(path.parent, "train"), "train.json", json.dumps(content).encode())
    except UserError:
        return
    split.digest()
    for item in split.items:
        for base, path in [(split.image_root, item.image), *((split.audio_root, path) for path in item.audio)]:
            assert path.is_relative_to(base) and ".." not in path.relative_to(base).parts
            str(path).encode()  # a name that a file can have


@given(st.lists(PARTS, max_size=6).map("/".join) | texts)
def test_paths_inside_a_folder_stay_there(relative):
    _ran.append(relative)
    try:
        path = inside(Path("/base"), relative)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return
    assert Path("/base") in path.parents and ".." not in path.parts


@given(
    st.integers(0, 3000),
    st.integers(1, 3),
    st.sampled_from([1000, 8000, 11025, 16000, 44100, 192000]),
    st.sampled_from(["PCM_16", "PCM_U8", "PCM_24", "FLOAT"]),
    st.integers(0, 99),
)
def test_every_sound_becomes_a_log_mel(length, channels, rate, subtype, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, (length, channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    mel, n_frames = read(audio.load_log_mel, "x.wav", buffer.getvalue())
    samples_at_16_khz = int(np.ceil(length * 16000 / rate)) or audio.EMPTY_SAMPLES
    assert n_frames == min(audio.MAX_FRAMES, 1 + samples_at_16_khz // audio.HOP) and mel.shape == (40, 2048)
    assert np.isfinite(mel).all() and -80 <= mel.min() and mel.max() <= 0 and (mel[:, n_frames:] == 0).all()


KEYS = flatten(Config())


@given(st.dictionaries(st.sampled_from(list(KEYS)) | texts, scalars | st.lists(scalars, max_size=2), max_size=3))
def test_settings_keep_their_types(changes):
    tree = {}
    for name, value in changes.items():
        *groups, key = name.split(".") if name in KEYS else [name]
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[key] = value
    try:
        cfg = read(load_config, "x.yml", yaml.safe_dump(tree, allow_unicode=True).encode(errors="backslashreplace"))
    except UserError:
        return
    for name, value in flatten(cfg).items():
        assert type(value) is type(KEYS[name]), name


@given(
    st.lists(
        st.tuples(
            st.lists(PARTS, min_size=1, max_size=4).map("/".join),
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
            PARTS,
        ),
        max_size=5,
    )
)
def test_archives_stay_in_their_folder(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 4 if kind == tarfile.REGTYPE else 0
            info.linkname = f"../{target}"
            tar.addfile(info, io.BytesIO(b"data"))

    def unpacked(path):
        inner = path.parent / "in/out"
        inner.mkdir(parents=True)
        try:
            unpack(path, inner, Limits(1000, 10))
        finally:
            assert sorted(one.name for one in path.parent.iterdir()) == ["in", "x.tar"]
            assert [one.name for one in (path.parent / "in").iterdir()] == ["out"]
            assert all(one.is_dir() or one.is_file() and not one.is_symlink() for one in inner.rglob("*"))
            names = [PurePosixPath(one).as_posix() for one in inner.rglob("*")]
            assert all(name.isprintable() for name in names), names
            shutil.rmtree(inner.parent)

    try:
        read(unpacked, "x.tar", buffer.getvalue())
    except UserError:
        pass
