"""Formats that both trees share: split files, feature pickles, checkpoints, whole-file writes, command lines."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from common import ROOT, checkpoint, cli, files
from common.cli import UserError
from common.features import feature_path, load_features, read_pickle, save_features
from common.splits import load_split

COMMANDS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("Audio_to_Image", "StackGAN_v2", "scripts")
    for path in (ROOT / folder).glob("*.py")
    if "Parser(" in path.read_text()
)


def write_split(folder, data, name="train", **fields):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"image_base_path": str(folder / "images"), "audio_base_path": str(folder / "wav"), "data": data} | fields
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


# ---- split files ----------------------------------------------------------------------------------------------------


def test_birds_form(tmp_path):
    write_split(
        tmp_path,
        [
            {
                "image": "002.Auk/a.jpg",
                "class": "002.Auk",
                "text": ["one", "two"],
                "audio": ["p/002.Auk/a_0.wav", "p/002.Auk/a_1.wav"],
            }
        ],
    )
    (item,) = (split := load_split(tmp_path, "train")).items
    assert (item.key, item.label, item.texts, split.has_classes) == ("002.Auk/a", 1, ("one", "two"), True)
    assert item.image == tmp_path / "images/002.Auk/a.jpg"
    assert item.audio[1] == tmp_path / "wav/p/002.Auk/a_1.wav"


def test_image_base_path_with_or_without_its_last_folder(tmp_path):
    (tmp_path / "images/001.A").mkdir(parents=True)
    (tmp_path / "images/001.A/a.jpg").touch()
    for base in (tmp_path, tmp_path / "images"):
        write_split(tmp_path, [{"image": "001.A/a.jpg", "class": "001.A"}], image_base_path=str(base))
        assert load_split(tmp_path, "train").items[0].image.is_file()


def test_flowers_form(tmp_path):
    write_split(
        tmp_path,
        [
            {"img": "image_1.jpg", "class": 102, "text": ["x"], "wav": "a.wav"},
            {"img": "image_2.jpg", "class": 1, "text": ["y"], "wav": ["b.wav"]},
        ],
    )
    split = load_split(tmp_path, "train")
    assert split.labels == [101, 0] and split.items[0].audio == (tmp_path / "wav/a.wav",)


def test_places_form(tmp_path):
    write_split(
        tmp_path,
        [
            {"image": "./kitchenette/k.jpg", "wav": "wavs/12/u.wav", "asr_text": "a kitchen"},
            {"image": "./bedroom/b.jpg", "wav": "wavs/7/v.wav", "asr_text": "a bed"},
        ],
    )
    split = load_split(tmp_path, "train")
    assert split.labels == [5, 0] and split.items[0].key == "kitchenette/k"
    assert split.items[0].audio == (tmp_path / "wav/12/u.wav",) and split.items[0].texts == ("a kitchen",)


def test_sets_without_classes_give_every_item_its_own(tmp_path):
    write_split(tmp_path, [{"image": f"{i}.jpg", "text": ["x"]} for i in range(3)])
    split = load_split(tmp_path, "train")
    assert split.labels == [0, 1, 2] and not split.has_classes


def test_names_without_numbers_are_numbered_by_the_alphabet(tmp_path):
    write_split(tmp_path, [{"image": f"{i}.jpg", "class": name} for i, name in enumerate(("b", "a", "b"))])
    assert load_split(tmp_path, "train").labels == [1, 0, 1]


@pytest.mark.parametrize(
    "item, words",
    [
        ({"image": "../x.jpg", "class": "1"}, "leaves its base folder"),
        ({"image": "/x.jpg", "class": "1"}, "leaves its base"),
        ({"image": "a.jpg", "class": "1", "audio": ["../../x.wav"]}, "leaves its base"),
        ({"class": "1"}, "lacks 'img'"),
        ({"image": 3, "class": "1"}, "not a path"),
        (["a"], "item 0"),
        ({"image": "a.jpg", "text": [1]}, "not a list of sentences"),
        ({"image": "a.jpg", "audio": 7}, "item 0"),
        ({"image": "a\0.jpg"}, "not a path"),
    ],
)
def test_items_that_are_wrong(tmp_path, item, words):
    write_split(tmp_path, [item])
    with pytest.raises(UserError, match=words) as error:
        load_split(tmp_path, "train")
    assert "train.json" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", '{"data": []}', '{"data": 3}', '{"data": [{}]}', "\xff", "[" * 100_000]
)
def test_files_that_are_no_split(tmp_path, text):
    (tmp_path / "train.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="train.json"):
        load_split(tmp_path, "train")


# ---- features -------------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    return load_split(
        write_split(tmp_path / "set", [{"image": f"{i}.jpg", "text": ["a", "b"]} for i in range(3)]), "train"
    )


def test_features_come_back(tmp_path, split):
    path = feature_path(tmp_path, "train", "audio", "x")
    even = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    save_features(path, even, split, teacher="t")
    assert pickle.loads(path.read_bytes()).shape == (3, 2, 4)
    np.testing.assert_array_equal(np.stack(load_features(path, split, "stage")), even)
    assert json.loads(path.with_suffix(".json").read_text())["teacher"] == "t"
    uneven = [even[0], even[1][:1], even[2]]
    save_features(path, uneven, split)
    assert [row.shape for row in load_features(path, split, "stage")] == [(2, 4), (1, 4), (2, 4)]


def test_features_of_python_2_and_of_old_numpy(tmp_path, split):
    """Protocol 2 with latin-1 strings, and numpy.core in place of numpy._core."""
    rows = [np.full((2, 4), i, np.float32) for i in range(3)]
    for protocol in (0, 2, 4):
        text = (
            pickle.dumps(rows, protocol).replace(b"numpy._core", b"numpy.core")
            if protocol < 4
            else pickle.dumps(rows, 4)
        )
        (tmp_path / "f.pickle").write_bytes(text)
        np.testing.assert_array_equal(np.stack(load_features(tmp_path / "f.pickle", split, "stage")), np.stack(rows))


def test_stale_or_foreign_features_name_the_stage(tmp_path, split):
    path = tmp_path / "f.pickle"
    save_features(path, np.zeros((3, 2, 4)), split)
    other = load_split(write_split(tmp_path / "other", [{"image": f"{i}.png", "text": []} for i in (2, 1, 0)]), "train")
    with pytest.raises(UserError, match="another version.*run stage again"):
        load_features(path, other, "stage")
    for value, words in (
        (np.zeros((2, 2, 4)), "2 rows.*3 items"),
        (np.full((3, 2, 4), np.nan), "not finite"),
        ([np.zeros((2, 4)), np.zeros((2, 5)), np.zeros((2, 4))], "equal width"),
        ({}, "no rows"),
    ):
        path.write_bytes(pickle.dumps(value))
        path.with_suffix(".json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=words):
            load_features(path, split, "stage")
    with pytest.raises(UserError, match="run stage first"):
        load_features(tmp_path / "none.pickle", split, "stage")


class Evil:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_pickles_run_nothing(tmp_path):
    target = tmp_path / "made"
    nested = np.array([Evil(target)], dtype=object)
    code = b"cposix\nmkdir\n(V" + str(target).encode() + b"\ntR."
    build = b"c__main__\nsomething\n(dV__setstate__\ncposix\nsystem\nsb."
    encode = b"c_codecs\nencode\n(V" + b"x\nVunicode_escape\ntR."
    for data in (
        pickle.dumps(Evil(target)),
        pickle.dumps([{"a": nested}]),
        code,
        build,
        encode,
        b"\x80\x02P1\n.",
        b"\x80\x04\x8d" + (2**60).to_bytes(8, "little"),
        b"",
        b"\x80\x05.",
        os.urandom(200),
    ):
        (tmp_path / "f.pickle").write_bytes(data)
        with pytest.raises(UserError, match="f.pickle"):
            read_pickle(tmp_path / "f.pickle")
    assert not target.exists()


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_hostile_or_damaged_checkpoints_run_nothing(tmp_path):
    path, target = tmp_path / "x.pth", tmp_path / "made"
    torch.save({"a": Evil(target)}, path)
    with pytest.raises(UserError, match="refused"):
        checkpoint.load(path)
    checkpoint.save(path, {"a": torch.arange(1000.0)})
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-50], os.urandom(500), pickle.dumps(Evil(target))):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="x.pth"):
            checkpoint.load(path)
    assert not target.exists()


def test_networks_of_other_shapes_are_named(tmp_path):
    module = torch.nn.Linear(2, 3)
    state = checkpoint.state_dict_of(
        {"meta": {}, "state_dict": {"module." + k: v for k, v in module.state_dict().items()}}, "f"
    )
    checkpoint.load_into(module, state, "f")
    with pytest.raises(UserError, match=r"'weight' is \(3, 2\) there and \(4, 2\) here"):
        checkpoint.load_into(torch.nn.Linear(2, 4), {"weight": state["weight"], "bias": torch.zeros(4)}, "f")
    with pytest.raises(UserError, match="lacks 'bias'"):
        checkpoint.load_into(module, {"weight": state["weight"]}, "f")


def test_digest_depends_on_every_value():
    state = {"a": torch.zeros(3), "b": torch.tensor(1)}
    other = {"b": torch.tensor(1), "a": torch.tensor([0, 0, 1e-30])}
    assert checkpoint.digest(state) == checkpoint.digest(dict(reversed(state.items()))) != checkpoint.digest(other)


# ---- files and command lines ----------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    with pytest.raises(UserError, match="a.json cannot be written"), files.atomic_path(path):
        raise OSError(28, "No space left on device")
    assert files.read_json(path) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


def test_files_have_ordinary_permissions_whatever_other_threads_do(tmp_path):
    """Those that the umask leaves, which belongs to the whole process and is never touched."""
    from concurrent.futures import ThreadPoolExecutor

    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda i: files.write_text(tmp_path / f"{i % 40}.txt", "text"), range(400)))
            (tmp_path / "plain").touch()
    finally:
        assert os.umask(before) == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640} and len(os.listdir(tmp_path)) == 41


def test_links_are_replaced_in_one_step(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).write_text(name)
        files.link(tmp_path / name, tmp_path / "latest")
    assert (tmp_path / "latest").read_text() == "2" and os.readlink(tmp_path / "latest") == "2"


def test_number_lists():
    assert cli.number_list("0-2,7") == [0, 1, 2, 7]
    for text in ("x", "3-1", ""):
        with pytest.raises(Exception, match="number"):
            cli.number_list(text)


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_heavy_imports(command):
    """--help names a meaning for each option; torch, librosa and the like are not imported for it."""
    result = run("-X", "importtime", command, "--help")
    assert result.returncode == 0 and "usage:" in result.stdout
    heavy = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert not heavy & {"torch", "librosa", "numpy", "PIL", "scipy", "soundfile"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_sentence(command):
    result = run(command, "--no_such_option")
    assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_every_option_has_a_meaning():
    """No add_argument without help, in any command."""
    import ast

    for command in COMMANDS:
        for node in ast.walk(ast.parse((ROOT / command).read_text())):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if (
                name in ("add", "add_argument")
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and str(node.args[0].value).startswith("-")
            ):
                assert any(keyword.arg == "help" for keyword in node.keywords), f"{command}: {node.args[0].value}"


def test_a_random_state_may_be_a_row_of_several():
    """As in the resume file of several processes: torch would take the first row's memory, or crash."""
    from common import devices

    torch.manual_seed(1)
    state, expected = devices.random_state(torch.device("cpu"))["cpu"], torch.rand(3)
    devices.set_random_state({"cpu": torch.stack([torch.zeros_like(state), state])[1]}, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": "\xc3\xa4"}',
        b'\xef\xbb\xbf{"a": "\xc3\xa4"}',
        b"\xff\xfe" + '{"a": "ä"}'.encode("utf-16-le"),
        b"\xfe\xff" + '{"a": "ä"}'.encode("utf-16-be"),
        b'\xef\xbb\xbf\r\n{"a":\r\n"\xc3\xa4"}\r',
    ],
)
def test_text_in_utf8_and_utf16(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    assert files.read_json(tmp_path / "a.json") == {"a": "ä"}
    assert "\r" not in files.read_text(tmp_path / "a.json")


@pytest.mark.parametrize(
    "data, byte",
    [(b"abc\xe4", 3), (b"\xef\xbb\xbfabc\xe4", 6), (b"\xff\xfea\0b", 4), (b"a\0b\0", 1), (b"\xff\xfe\0\0a\0\0\xd8", 6)],
)
def test_text_in_other_encodings_is_told(tmp_path, data, byte):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=rf"a.txt is not text in UTF-8 or UTF-16: byte {byte} \(0x"):
        files.read_text(tmp_path / "a.txt")


def test_stray_bytes_of_text_where_they_do_no_harm(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\nb")
    assert files.read_text(tmp_path / "a.txt", "replace") == "caf\ufffd\nb"


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.checksum(tmp_path / "a", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert files.sha256(tmp_path / "a") == files.checksum(tmp_path / "a")


def test_waiting_threads_sleep_unless_the_user_says_otherwise():
    """Set before torch loads OpenMP's library, which reads it once."""
    import os
    import subprocess
    import sys

    code = "import common, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for given, found in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        result = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True)
        assert result.stdout == f"{found} False\n", result.stderr
