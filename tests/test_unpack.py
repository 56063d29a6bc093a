"""Unpacking: cut, damaged and evil archives of every kind end in one sentence, and nothing leaves the folder."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from toy_archives import FILES, contents, make_tar, make_zip, special

from common.cli import UserError
from scripts.data.download.unpack import BadArchive, Limits, unpack


@pytest.mark.parametrize(
    "pack",
    [
        make_tar,
        lambda files: make_tar(files, "w"),
        lambda files: make_tar(files, "w:xz"),
        lambda files: make_tar(files, "w:bz2"),
        make_zip,
    ],
)
def test_truncated_archives_of_every_kind(tmp_path, pack):
    whole = pack(FILES)
    archive = tmp_path / "set.archive"
    end = len(whole) if whole[257:262] != b"ustar" else 3 * 1024 + 512  # a plain tar ends in 10 KiB of zeros
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
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # says 5 bytes, holds 9,000
        at = liar.index(signature) + offset
        liar[at : at + 4] = (5).to_bytes(4, "little")
    check_refused(tmp_path, bytes(liar), "damaged")


def test_names_of_dots_and_drives(tmp_path):
    """What other systems would take for the folder above or another disk is refused; other dots are letters."""
    for name in (
        "set/.. /escaped",
        "set/.../escaped",
        "\\\\server\\share\\escaped",
        "c:escaped",
        "set\\..\\..\\escaped",
    ):
        check_refused(tmp_path, make_zip({name: b"x"}), "leaves its folder")
        check_refused(tmp_path, make_tar({name: b"x"}), "leaves its folder")
    check_unpacked(tmp_path, make_zip({"set./a.": b"1", "set/.b": b"2"}), {"set./a.": b"1", "set/.b": b"2"})


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


# ---- archives of other programs --------------------------------------------------------------------------------------

WINDOWS = {
    "set\\images\\a.jpg": FILES["set/images/a.jpg"],
    "set\\labels.txt": FILES["set/labels.txt"],
    "notes.txt": FILES["notes.txt"],
}


def check_unpacked(tmp_path: Path, body: bytes, expected=FILES, name="set.archive") -> None:
    (tmp_path / name).write_bytes(body)
    (tmp_path / "out").mkdir()
    unpack(tmp_path / name, tmp_path / "out", Limits(100_000, 50))
    assert contents(tmp_path / "out") == expected
    shutil.rmtree(tmp_path / "out")


def test_backslashes_are_folders(tmp_path):
    check_unpacked(tmp_path, make_zip(WINDOWS))
    check_unpacked(tmp_path, make_zip({"set\\": b"", "set\\images\\": b"", **WINDOWS}))
    check_unpacked(tmp_path, make_tar(WINDOWS))
    check_refused(tmp_path, make_zip({"set\\a": b"1", "set/a": b"2"}), "twice")


def test_an_archive_in_an_archive_is_unpacked_through(tmp_path):
    check_unpacked(tmp_path, make_zip({"set.zip": make_zip(FILES)}))
    check_unpacked(tmp_path, make_zip({"folder/set.tar.gz": make_tar(FILES)}))
    check_unpacked(tmp_path, make_tar({"a/b/set.zip": make_zip({"set.tar": make_tar(FILES, "w")})}))
    check_unpacked(tmp_path, make_zip({"set.tgz": make_tar(FILES), "__MACOSX/._set.tgz": b"\0\5\x16\7"}))
    check_unpacked(tmp_path, make_tar({"._set.tgz": b"\0\5\x16\7", "set.tgz": make_tar(FILES)}))
    two = {"a.zip": make_zip({"a": b"1"}), "b.zip": make_zip({"b": b"2"})}
    check_unpacked(tmp_path, make_zip(two), two)  # which of them is meant, only a person can say
    weights = {"net.pth": make_zip({"net/data.pkl": b"x"})}  # a zip inside, but no archive to its users
    check_unpacked(tmp_path, make_zip(weights), weights)


def test_inner_archives_are_held_to_the_same_rules(tmp_path):
    check_refused(tmp_path, make_zip({"set.tgz": make_tar({"../escaped": b"x"})}), "in it set.tgz) has a member")
    check_refused(tmp_path, make_zip({"set.zip": make_zip({"zeros": bytes(1 << 20)})}), "unpacks to more than 10,000")
    check_refused(tmp_path, make_zip({"set.zip": make_zip({})}), "in it set.zip) holds no files")
    check_refused(tmp_path, make_zip({"set.rar": b"Rar!\x1a\x07\0 and more"}), "in it set.rar) is a RAR archive")
    body = make_zip({"a": b"x"})
    for _ in range(6):
        body = make_zip({"set.zip": body})
    check_refused(tmp_path, body, "more than 4 archives in each other")


def test_resource_files_of_macos_are_left_out_but_checked(tmp_path):
    mac = {"__MACOSX/set/._a": b"x", "set/__MACOSX/._b": b"x", "set/.DS_Store": b"x"}
    check_unpacked(tmp_path, make_zip({**FILES, **mac}))
    check_refused(tmp_path, make_zip({"__MACOSX/../../escaped": b"x"}), "leaves its folder")
    check_refused(tmp_path, make_zip({"__MACOSX/zeros": bytes(1 << 20)}), "unpacks to more than 10,000 bytes")


def test_names_that_differ_in_case_only(tmp_path):
    """Two files where the disk tells them apart; where it does not, tarfile and zipfile would overwrite the first."""
    both = {"set/a": b"1", "set/A": b"2"}
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        check_refused(tmp_path, make_zip(both), "twice")
    else:
        check_unpacked(tmp_path, make_zip(both), both)
        check_unpacked(tmp_path, make_tar(both), both)


@pytest.mark.parametrize(
    "head, what",
    [
        (b"7z\xbc\xaf'\x1c", "is a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "is a RAR archive"),
        (b"(\xb5/\xfd", "is compressed with zstd"),
        (b"PK\7\x08PK\3\4", "is one part of a zip archive in several"),
        (b'\x04"M\x18', "is compressed with lz4"),
        (b"\x1f\x9d\x90", "is compressed with compress"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(tmp_path, head, what):
    check_refused(tmp_path, head + bytes(600), what)
    check_refused(tmp_path, head + bytes(600), "pack the folder as .zip or .tar.gz and pass that with --archive FILE")


def test_web_pages_are_called_so(tmp_path):
    for page in (b"<!DOCTYPE html><html>", b"\xef\xbb\xbf \n<html>", b"<?xml version='1.0'?><Error/>"):
        check_refused(tmp_path, page + b" " * 600, "is no tar or zip archive but a web page")


def test_encrypted_split_and_oddly_packed_zips(tmp_path):
    body = bytearray(make_zip({"a": b"x" * 50}))
    central = body.index(b"PK\1\2")
    encrypted = bytearray(body)
    encrypted[central + 8] |= 1
    check_refused(tmp_path, bytes(encrypted), "is encrypted; unpack it with another program")
    last = bytearray(body)
    last[body.index(b"PK\5\6") + 4] = 3  # the fourth volume, with the list of members
    check_refused(tmp_path, bytes(last), "is one part of a zip archive in several")
    deflate64 = bytearray(body)
    for at in (body.index(b"PK\3\4") + 8, central + 10):
        deflate64[at] = 9
    check_refused(tmp_path, bytes(deflate64), "is packed by a method that is not read here")
    (tmp_path / "out").mkdir()
    (tmp_path / "set.zip.001").write_bytes(body[:70])
    with pytest.raises(BadArchive, match="set.zip.001 is damaged or cut off as one part of several, which are to be"):
        unpack(tmp_path / "set.zip.001", tmp_path / "out", Limits(10_000))


def test_python_without_the_data_filter_is_told(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    (tmp_path / "a.tar").write_bytes(make_tar(FILES, "w"))
    with pytest.raises(UserError, match="lacks the data filter; use Python 3.10.12"):
        unpack(tmp_path / "a.tar", tmp_path, Limits(10_000))
