"""Files made to run code, to eat memory or to leave their folder: refused, or read for what they hold, and no more."""

import copyreg
import pickle

import hostile
import numpy as np
import originals
import pytest
import torch


@pytest.fixture
def extension():
    copyreg.add_extension("os", "mkdir", hostile.EXTENSION)
    yield
    copyreg.remove_extension("os", "mkdir", hostile.EXTENSION)


def test_the_hostile_pickles_are_hostile(tmp_path, extension):
    """Python's own unpickler falls for every one of them: else the tests below would show nothing."""
    canary = tmp_path / "canary"
    for name, data in hostile.executing(str(canary)).items():
        try:
            pickle.loads(data)
        except Exception:  # some fall over after the deed
            pass
        assert canary.is_dir(), name
        canary.rmdir()
    torch.load(_written(tmp_path / "x.pth", hostile.checkpoints(str(canary))["beside a network"]), weights_only=False)
    assert canary.is_dir()


def _written(path, data: bytes):
    path.write_bytes(data)
    return path


def test_pickles_run_nothing(tmp_path, worker, count):
    canary = tmp_path / "canary"
    cases = hostile.executing(str(canary)) | hostile.refused(str(canary))
    for name, data in cases.items():
        path = _written(tmp_path / "x.pickle", data)
        for kind in ("pickle", "features"):
            assert worker.read(kind, path), f"{name} was read"
            assert not canary.exists(), f"{name} ran"
            count("hostile")


def test_checkpoints_run_nothing(tmp_path, worker, count):
    canary = tmp_path / "canary"
    for name, data in hostile.checkpoints(str(canary)).items():
        path = _written(tmp_path / "x.pth", data)
        for kind in ("checkpoint", "encoder", "generator"):
            sentence = worker.read(kind, path)
            assert sentence or kind == "checkpoint" and name == "obj in a checkpoint", f"{name} was read"
            assert not canary.exists(), f"{name} ran"
            count("hostile")


def test_arrays_beside_a_data_set_run_nothing(tmp_path, worker, count):
    """Caches are .npy files, which can hold pickles: those in an untrusted data set are untrusted, too."""
    canary = tmp_path / "canary"
    array = np.empty(4, object)
    array[:] = [hostile.Reduced(str(canary))] * 4
    originals.make_cached(tmp_path)
    for name, kind in (("log_mels.npy", "mels"), ("images_16.npy", "images"), ("00000.npy", "shard")):
        for _ in range(2):  # once without the cache's own index, once beside it
            np.save(tmp_path / name, array, allow_pickle=True)
            assert worker.read(kind, tmp_path / name) is None
            assert not canary.exists(), name
            count("hostile")


def test_python_2_pickles_are_still_read(tmp_path, worker):
    rows = [np.arange(8, dtype=np.float32).reshape(2, 4) + i for i in range(3)]
    for protocol in range(3):
        data = pickle.dumps(rows, protocol).replace(b"numpy._core", b"numpy.core")
        assert worker.read("features", _written(tmp_path / "f.pickle", data)) is None
    # [numpy.array([[1.5, -2]], '<f4')] as Python 2.7 and NumPy 1.16 wrote it, cPickle protocol 2 and pickle protocol 0
    binary = (
        b"\x80\x02]q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(K\x01"
        b"K\x01K\x02\x86cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
        b"\x00tb\x89U\x08\x00\x00\xc0?\x00\x00\x00\xc0tba."
    )
    text = (
        b"(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n(I1\n(I1\nI2\n"
        b"tp7\ncnumpy\ndtype\np8\n(S'f4'\np9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\n"
        b"S'\\x00\\x00\\xc0?\\x00\\x00\\x00\\xc0'\np14\ntp15\nba."
    )
    from common.untrusted.pickles import read_pickle

    for data in (binary, text):
        (array,) = read_pickle(_written(tmp_path / "f.pickle", data))
        assert array.dtype == np.float32 and array.tolist() == [[1.5, -2.0]]
