"""Checkpoints that cannot lie: their checksum, what stands in for a damaged one, which snapshots stay."""

import os
import random

import pytest
import torch

from common import checkpoint, files, resume, snapshots
from common.checkpoint import Damaged
from common.cli import UserError


def content():
    """A network, the state of an optimizer (keys are numbers) and plain values: all that this project's files hold."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, betas=(0.5, 0.9))
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "none": None,
        "number": 0.1,
        "text": "ü",
        "flags": [True, (1, -2), {}],
        "half": torch.ones(5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "random": torch.get_rng_state(),
        "bools": torch.tensor([True, False]),
        "transposed": torch.arange(6.0).view(2, 3).T,
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def flip(path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


# ---- the checksum ----


def test_a_file_with_a_checksum_is_an_ordinary_checkpoint(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint.save(path, content())
    assert same(checkpoint.load(path), content())
    for mapped in (False, True):  # what published code does with it
        assert same(torch.load(path, weights_only=True, mmap=mapped), content())
    assert path.read_bytes()[-71:].startswith(b"sha256 ")


def test_the_checksum_does_not_depend_on_how_tensors_lie_or_are_cut(monkeypatch):
    """A tensor that is not contiguous is hashed in small copies: the sum is that of the whole one."""
    whole = checkpoint._checksum(content())
    for at_once in (1, 100, 1 << 30):
        monkeypatch.setattr(checkpoint, "_HASHED_AT_ONCE", at_once)
        assert checkpoint._checksum(content()) == whole
    lying = torch.randn(7, 3, 5, 5)
    assert checkpoint._hash(lying) == checkpoint._hash(lying.contiguous(memory_format=torch.channels_last))
    assert checkpoint._hash(lying) != checkpoint._hash(lying.flip(0))


def test_hashing_never_copies_a_large_tensor_whole(monkeypatch):
    copied, contiguous = [], torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: copied.append(tensor.nbytes) or contiguous(tensor))
    checkpoint._hash(torch.zeros(64, 64, 16, 16).to(memory_format=torch.channels_last))  # 4 MiB
    assert len(copied) == 4 and max(copied) == 1 << 20


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_others_have_none_and_load(tmp_path, zipped):
    torch.save(content(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(checkpoint.load(tmp_path / "a.pth"), content())


def test_no_flipped_bit_goes_unseen(tmp_path):
    """Wherever a bit flips: the very content, or one sentence. Without the checksum torch reads wrong numbers."""
    path, chance, silent, refused = tmp_path / "a.pth", random.Random(1), 0, 0
    checkpoint.save(path, content())
    whole = path.read_bytes()
    for _ in range(150):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole)
        flip(path, place, bit)
        try:
            assert same(checkpoint.load(path), content()), (place, bit)
        except Damaged as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            try:
                silent += not same(torch.load(path, weights_only=True), content())
            except Exception:  # damage that torch notices by itself
                pass
    assert refused > 25 and silent > 5


def test_every_part_of_the_content_is_summed(tmp_path):
    def told(value):
        checkpoint.save(tmp_path / "a.pth", value)
        return (tmp_path / "a.pth").read_bytes()[-64:]

    zeros = torch.zeros(2, 3)
    values = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.T.contiguous()},
        {"a": zeros.int()},
        {"a": [zeros]},
        {"a": (zeros,)},
        {"a": zeros, "n": 1},
        {"a": zeros, "n": 1.0},
        {"a": zeros, "n": "1"},
        {"a": torch.full((2, 3), 1e-40)},
        {"a": torch.full((2, 3), -0.0)},
    ]
    sums = [told(value) for value in values]
    assert len(set(sums)) == len(values)
    assert told({"a": zeros.T.contiguous().T}) == sums[0]  # however it lies in memory


@pytest.mark.parametrize(
    "name, value",
    [
        ("of more than there is", {"a": torch.zeros(1).expand(10**13)}),
        ("without values", {"a": torch.zeros(3, device="meta")}),
        ("sparse", {"a": torch.zeros(3, 3).to_sparse()}),
    ],
)
def test_tensors_that_would_eat_the_memory_are_refused(tmp_path, name, value):
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(Damaged, match="a.pth is refused.*has not that many values"):
        checkpoint.load(tmp_path / "a.pth")


def test_a_list_within_itself_is_refused(tmp_path, monkeypatch):
    endless = []
    endless.append(endless)
    torch.save(endless, tmp_path / "a.pth")
    monkeypatch.setattr(checkpoint, "_MOST_VALUES", 1000)
    with pytest.raises(Damaged, match="more than 1,000 values"):
        checkpoint.load(tmp_path / "a.pth")


# ---- the one before ----


def test_latest_stands_for_the_newest_whole_snapshot(tmp_path, capsys):
    for number in (5, 10, 15, 20):
        checkpoint.save(tmp_path / f"netG_{number}.pth", {"n": torch.tensor(number)})
        files.link(tmp_path / f"netG_{number}.pth", tmp_path / "latest.pth")
    files.link(tmp_path / "netG_20.pth", tmp_path / "best.pth")
    checkpoint.save(tmp_path / "netD_1.pth", {"n": torch.tensor(0)})
    for number in (15, 20):
        path = tmp_path / f"netG_{number}.pth"
        path.write_bytes(path.read_bytes()[:-200])
    for name in ("netG_20.pth", "best.pth"):  # asked for by name: no other will do
        with pytest.raises(Damaged, match=name):
            checkpoint.load(tmp_path / name)
    assert capsys.readouterr().err == ""
    assert checkpoint.load(tmp_path / "latest.pth")["n"] == 10
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("netG_10.pth is used instead" in line for line in lines)
    assert os.readlink(tmp_path / "latest.pth") == "netG_10.pth"  # so that whoever follows it finds the same one
    for number in (5, 10):
        (tmp_path / f"netG_{number}.pth").write_bytes(b"")
    with pytest.raises(Damaged, match="netG_10.pth"):
        checkpoint.load(tmp_path / "latest.pth")


def test_the_resume_file_before_the_last_stays(tmp_path, capsys, monkeypatch):
    def found():
        content, path = resume.find("auto", tmp_path)
        return content["n"], path.name

    assert resume.find("auto", tmp_path) is None and resume.find("none", tmp_path) is None
    resume.keep(tmp_path, {"n": 1}, first=True)
    assert found() == (1, "resume.pth") and len(os.listdir(tmp_path)) == 1
    resume.keep(tmp_path, {"n": 2})
    with monkeypatch.context() as patch:  # a file system without second names
        patch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no")))
        resume.keep(tmp_path, {"n": 3})
    assert found() == (3, "resume.pth") and len(os.listdir(tmp_path)) == 2 and resume.find("none", tmp_path) is None
    (tmp_path / "resume.pth").rename(tmp_path / "away")  # killed between the two renames
    assert found() == (2, "resume_previous.pth") and capsys.readouterr().err == ""
    (tmp_path / "resume.pth").write_bytes((tmp_path / "away").read_bytes()[:-300])
    assert found() == (2, "resume_previous.pth")
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "resume.pth is" in line and "resume_previous.pth is used instead" in line
    with pytest.raises(Damaged, match="resume.pth"):
        resume.find(str(tmp_path / "resume.pth"), tmp_path)  # asked for by name
    flip(tmp_path / "resume_previous.pth", -10)
    with pytest.raises(Damaged, match="resume.pth is .*; use another one"):
        found()
    resume.keep(tmp_path, {"n": 4}, first=True)
    assert found() == (4, "resume.pth") and not (tmp_path / "resume_previous.pth").exists()


def test_a_write_that_fails_leaves_both(tmp_path, monkeypatch):
    for n in (1, 2):
        resume.keep(tmp_path, {"n": n})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(UserError, match="resume.pth cannot be written: No space left on device"):
        resume.keep(tmp_path, {"n": 3})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- which stay ----


@pytest.mark.parametrize(
    "keep, every, left",
    [
        (0, 0, [5, 10, 15, 20, 25, 30]),
        (1, 0, [5, 15, 20, 30]),
        (3, 0, [5, 10, 15, 20, 30]),
        (1, 10, [5, 10, 15, 20, 30]),
    ],
)
def test_links_never_dangle(tmp_path, keep, every, left):
    """The newest is 20; 25 and 30 were made before the run went back to an older state, and are left alone."""
    for number in (5, 10, 15, 20, 25, 30):
        (tmp_path / f"epoch_{number}.pth").write_bytes(b"")
    (tmp_path / "epoch_x.pth").write_bytes(b"")
    for name, number in (("best.pth", 5), ("latest.pth", 15), ("mine.pth", 30)):
        files.link(tmp_path / f"epoch_{number}.pth", tmp_path / name)
    snapshots.thin_out(tmp_path / "epoch_20.pth", keep, every)
    assert sorted(int(path.stem[6:]) for path in tmp_path.glob("epoch_*[0-9].pth")) == sorted({*left, 25})
    assert all(path.exists() for path in tmp_path.iterdir()) and (tmp_path / "epoch_x.pth").exists()


# ---- what goes in ----


def test_the_first_tensor_that_is_not_finite_is_named():
    value = {
        "a": {"x": torch.ones(3), "n": torch.tensor([1, 2])},
        "b": [{"y": torch.tensor([0.0, 1e38])}, "text", None],
    }
    assert checkpoint.first_not_finite(value) is None and checkpoint.first_not_finite({}) is None
    value["b"][0]["y"][1] = float("inf")
    assert checkpoint.first_not_finite(value) == "b.0.y"
    value["a"]["x"][2] = float("nan")
    assert checkpoint.first_not_finite(value) == "a.x"


def test_an_optimizer_takes_its_state_and_keeps_its_settings():
    def adam(network, lr):
        return torch.optim.Adam(network.parameters(), lr)

    old, network = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    first, second = adam(old, 1.0), adam(network, 0.1)
    old(torch.ones(1, 3)).sum().backward()
    first.step()
    checkpoint.load_optimizer(second, first.state_dict(), "f")
    assert second.param_groups[0]["lr"] == 0.1
    assert torch.equal(second.state[network.weight]["exp_avg"], first.state[old.weight]["exp_avg"])
    with pytest.raises(UserError, match=r"exp_avg is \(2, 3\) there and \(4, 3\) here"):
        checkpoint.load_optimizer(adam(torch.nn.Linear(3, 4), 1.0), first.state_dict(), "f")
    for wrong in ({}, {"state": {}, "param_groups": []}, None):
        with pytest.raises(UserError, match="f holds no state of this optimizer"):
            checkpoint.load_optimizer(second, wrong, "f")


# ---- files of others ----


def test_weights_without_batch_counts_load_as_in_torch(tmp_path):
    """Those of before torch 0.4.1, and torchvision's Inception."""
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(4, 3))
    state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    checkpoint.load_into(norm, state, "f")
    assert norm.num_batches_tracked == 1 and torch.equal(norm.running_mean, state["running_mean"])


def test_a_mismatch_names_the_first_key_of_the_network():
    network = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(20)))
    with pytest.raises(UserError, match="it lacks '0.weight'"):
        checkpoint.load_into(network, {}, "f")
    with pytest.raises(UserError, match="it has 'b'"):
        checkpoint.load_into(network, {**network.state_dict(), "b": torch.zeros(1), "a": torch.zeros(1)}, "f")


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html>", "\ufeff\n <html>", "<?xml version='1.0'?><Error>"])
def test_a_web_page_is_called_so(tmp_path, page):
    path = tmp_path / "a.pth"
    path.write_text(page, encoding="utf-8")
    with pytest.raises(Damaged, match="a.pth is a web page, not a checkpoint"):
        checkpoint.load(path)


def test_no_advice_to_run_code(tmp_path):
    """torch's own message says how to load a file all the same."""
    path = tmp_path / "a.pth"
    for value in ({"a": os.system}, {"a": random.Random(0)}):
        torch.save(value, path)
        with pytest.raises(Damaged) as error:
            checkpoint.load(path)
        assert "weights_only" not in str(error.value) and "allowlist" not in str(error.value), str(error.value)


def test_too_little_memory_is_one_sentence(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.pth", {"a": torch.zeros(3)})
    monkeypatch.setattr(torch, "load", lambda *unused, **options: torch.empty(10**14))
    with pytest.raises(UserError, match="a.pth does not fit into memory: it is damaged, or too large for this machine"):
        checkpoint.load(tmp_path / "a.pth")
