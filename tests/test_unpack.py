"""Unpacking: cut, damaged and evil archives of every kind end in one sentence, and nothing leaves the folder."""
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from toy_archives import FILES, contents, make_tar, make_zip, special

from common.cli import UserError
from scripts.data.download.unpack import BadArchive, Limits, unpack


@pytest.mark.parametrize("pack", [make_tar, lambda files: make_tar(files, "w"), lambda files: make_tar(files, "w:xz"),
                                  lambda files: make_tar(files, "w:bz2"), make_zip])
def test_truncated_archives_of_every_kind(tmp_path, pack):
    whole = pack(FILES)
    archive = tmp_path / "set.archive"
    end = len(whole) if whole[257:262] != b"ustar" else 3 * 1024 + 512     # a plain tar ends in 10 KiB of zeros
    for length in sorted({1, 2, 20, end // 3, end // 2, end - 600, end - 20, end - 1} & set(range(end))):
        archive.write_bytes(whole[:length])
        (tmp_path / "out").mkdir()
        with pytest.raises(BadArchive, match="set.archive .*(fetch it again|--archive FILE)"):
            unpack(archive, tmp_path / "out", Limits(10_000))
        shutil.rmtree(tmp_path / "out")
    archive.write_bytes(whole)
    (tmp_path / "out").mkdir()
    assert unpack(archive, tmp_path / "out", Limits(10_000)) == (3, sum(map(len, FILES.values())))
    assert contents(tmp_path / "out") == FILES


HUGE = special("set/huge", tarfile.REGTYPE, size=1 << 50)
EVIL_TARS = {
    "parent": ({"set/a": b"1", "set/../../escaped": b"x"}, "leaves its folder"),
    "absolute": ({"/tmp/escaped": b"x"}, "leaves its folder"),
    "backslash": ({"..\\escaped": b"x"}, "leaves its folder"),
    "symlink": ([special("set/link", tarfile.SYMTYPE, linkname="/etc")], "symbolic link"),
    "hard link": ([special("set/link", tarfile.LNKTYPE, linkname="../escaped")], "hard link"),
    "device": ([special("set/null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "device"),
    "pipe": ([special("set/pipe", tarfile.FIFOTYPE)], "pipe"),
    "twice": ([special("set/a", tarfile.REGTYPE), special("set/a", tarfile.REGTYPE)], "twice"),
    "deep": ({"d/" * 70 + "a": b"x"}, "nested too deep"),
    "many": ({f"set/{number}": b"" for number in range(60)}, "more than 50 files"),
    "zeros": ({"set/zeros": bytes(1 << 20)}, "unpacks to more than 10,000 bytes"),
    "empty": ({}, "holds no files"),
}


@pytest.mark.parametrize("name", EVIL_TARS)
def test_evil_tars(tmp_path, name):
    members, reason = EVIL_TARS[name]
    check_refused(tmp_path, make_tar(members), reason)


def test_declared_sizes_and_headers_beyond_reason(tmp_path):
    check_refused(tmp_path, HUGE.tobuf(tarfile.GNU_FORMAT) + bytes(1024), "unpacks to more than")
    header = special("long", tarfile.GNUTYPE_LONGNAME, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
    check_refused(tmp_path, header + bytes(1024), "has a header of")
    chain = special("x", tarfile.GNUTYPE_LONGNAME, size=0).tobuf(tarfile.GNU_FORMAT)
    check_refused(tmp_path, chain * 5000 + bytes(1024), "damaged")


def test_evil_zips(tmp_path):
    check_refused(tmp_path, make_zip({"../escaped": b"x"}), "leaves its folder")
    check_refused(tmp_path, make_zip({"/escaped": b"x"}), "leaves its folder")
    check_refused(tmp_path, make_zip({"C:\\escaped": b"x"}), "leaves its folder")
    check_refused(tmp_path, make_zip({"zeros": bytes(1 << 20)}), "unpacks to more than 10,000 bytes")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    check_refused(tmp_path, make_zip({link: b"/etc"}), "symbolic link")
    liar = bytearray(make_zip({"zeros": bytes(9000)}))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):     # says 5 bytes, holds 9,000
        at = liar.index(signature) + offset
        liar[at:at + 4] = (5).to_bytes(4, "little")
    check_refused(tmp_path, bytes(liar), "damaged")


def check_refused(tmp_path: Path, body: bytes, reason: str) -> None:
    """`body` is refused for `reason`, in one sentence with its name, and nothing is written outside its folder."""
    archive, folder = tmp_path / "evil.archive", tmp_path / "in/out"
    archive.write_bytes(body)
    folder.mkdir(parents=True)
    with pytest.raises(BadArchive) as error:
        unpack(archive, folder, Limits(10_000, 50))
    assert reason in str(error.value) and "evil.archive" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("escaped")) and not Path("/tmp/escaped").exists()
    shutil.rmtree(tmp_path / "in")


def test_flipped_bits_end_in_success_or_one_sentence(tmp_path):
    """Damage spread over small archives: a bit at a time, never the same one."""
    for body in (make_tar(FILES, "w")[:4096], make_tar(FILES), make_zip(FILES)):
        for at in range(0, len(body), max(1, len(body) // 40)):
            damaged = bytearray(body)
            damaged[at] ^= 1 + at % 255
            (tmp_path / "a").write_bytes(damaged)
            (tmp_path / "out").mkdir()
            try:
                unpack(tmp_path / "a", tmp_path / "out", Limits(10_000))
            except UserError as error:
                assert "\n" not in str(error)
            shutil.rmtree(tmp_path / "out")
