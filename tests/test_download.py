"""Downloads against a server on loopback: resume, retries, mirrors, sums, full disks, and the command itself."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_files import serving
from toy_archives import FILES, contents, make_tar

from common import ROOT
from common.cli import UserError
from scripts import download
from scripts.data.download import fetch as fetching
from scripts.data.download import install
from scripts.data.download.fetch import Patience
from scripts.data.download.registry import Entry
from scripts.data.download.unpack import BadArchive

QUICK = Patience(timeout=20, retries=2, pause=0.01)
UNPACKED = {
    "images/a.jpg": FILES["set/images/a.jpg"],
    "labels.txt": FILES["set/labels.txt"],
    "notes.txt": FILES["notes.txt"],
}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


def entry_of(server, body: bytes, path="/set.tgz", **changes) -> Entry:
    """Serve `body` and describe it."""
    server.files[path] = body
    entry = Entry(
        "toy",
        "a test",
        "birds/set",
        "none",
        urls=(server.url(path),),
        unpack=True,
        size=len(body),
        unpacked=10_000,
        md5=hashlib.md5(body).hexdigest(),
    )
    return replace(entry, **changes)


def leftovers(root: Path) -> list[str]:
    """Files below the data folder that are neither a goal, nor a record, nor a lock."""
    return [name for name in contents(root) if not name.endswith((".lock", ".downloaded.json"))]


def command(*options, **more):
    return subprocess.run(
        [sys.executable, "scripts/download.py", *map(str, options)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        **more,
    )


# --- the way from the server to the place ------------------------------------------------------------------------


def test_fetches_unpacks_records_and_does_nothing_twice(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    assert "3 files" in install.get(entry, tmp_path, patience=QUICK)
    assert contents(tmp_path / "birds/set") == UNPACKED
    record = json.loads((tmp_path / "birds/.downloaded.json").read_text())["set"]
    assert (record["name"], record["files"], record["sum"]) == ("toy", 3, f"md5:{entry.md5}")
    assert record["source"] == server.url()
    assert "nothing to do" in install.get(entry, tmp_path, patience=QUICK)
    assert len(server.requests) == 1
    assert all(name.startswith("birds/set/") for name in leftovers(tmp_path))  # no archive, no part stays


def test_plain_file_goes_to_its_place_and_a_change_is_noticed(server, tmp_path):
    entry = entry_of(server, b"weights", "/net.pth", unpack=False, goal="pretrained/net.pth")
    install.get(entry, tmp_path, keep_archive=True, patience=QUICK)
    assert (tmp_path / "pretrained/net.pth").read_bytes() == b"weights"
    assert (tmp_path / ".downloads/toy/net.pth").exists()
    assert "nothing to do" in install.get(entry, tmp_path, patience=QUICK)
    (tmp_path / "pretrained/net.pth").write_bytes(b"weighty")
    with pytest.raises(UserError, match="net.pth has changed since it was fetched; move it away"):
        install.get(entry, tmp_path, patience=QUICK)
    assert (tmp_path / "pretrained/net.pth").read_bytes() == b"weighty"


def test_what_the_user_put_there_is_used(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    (tmp_path / "birds/set").mkdir(parents=True)
    (tmp_path / "birds/set/mine.txt").write_text("mine")
    assert "used as it is" in install.get(entry, tmp_path, patience=QUICK)
    assert contents(tmp_path / "birds/set") == {"mine.txt": b"mine"} and not server.requests
    wrong = replace(entry, unpack=False, goal="birds/set/mine.txt")
    with pytest.raises(UserError, match="MD5 is not the published one; move it away"):
        install.get(wrong, tmp_path, patience=QUICK)


def test_lost_files_are_noticed_and_added_ones_are_no_fault(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    install.get(entry, tmp_path, patience=QUICK)
    (tmp_path / "birds/set/cache.npy").write_bytes(b"made later")
    assert "nothing to do" in install.get(entry, tmp_path, patience=QUICK)
    (tmp_path / "birds/set/cache.npy").unlink()
    (tmp_path / "birds/set/labels.txt").unlink()
    with pytest.raises(UserError, match="holds 2 files .* of the 3"):
        install.get(entry, tmp_path, patience=QUICK)


# --- resume, retries, mirrors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranges, tags, starts",
    [
        (True, True, [None, "bytes=50-"]),  # goes on from where it broke off
        (False, True, [None, "bytes=50-"]),  # the server ignores ranges: from the beginning
        (True, False, [None, None]),  # no way to know whether it is the same file: from the beginning
    ],
)
def test_dropped_connection_is_resumed(server, tmp_path, ranges, tags, starts):
    entry = entry_of(server, make_tar(FILES))
    server.ranges, server.tags, server.drop_after = ranges, tags, [50]
    install.get(entry, tmp_path, patience=QUICK)
    assert [wanted for _, wanted in server.requests] == starts
    assert contents(tmp_path / "birds/set") == UNPACKED


def test_a_later_run_goes_on_and_a_changed_file_starts_afresh(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    for drop, wanted in ((40, None), (30, "bytes=40-")):
        server.drop_after = [drop]
        with pytest.raises(UserError, match=r"connection ended at byte \d+ of \d+.*what has arrived is kept"):
            install.get(entry, tmp_path, patience=Patience(2, 0, 0))
        assert server.requests[-1][1] == wanted
    assert (tmp_path / ".downloads/toy/set.tgz.part").stat().st_size == 70
    other = entry_of(server, make_tar(FILES | {"set/more.txt": b"more"}))
    install.get(other, tmp_path, patience=QUICK)
    assert server.requests[-1][1] == "bytes=70-" and (tmp_path / "birds/set/more.txt").exists()


def test_a_killed_download_goes_on(server, tmp_path):
    """SIGKILL in the middle of the body; the next run asks for the rest only."""
    entry = entry_of(server, make_tar({"set/noise": os.urandom(3 << 20)}), unpacked=4 << 20)
    (tmp_path / "more.json").write_text(
        json.dumps(
            {
                "toy": {
                    "purpose": "a test",
                    "goal": entry.goal,
                    "licence": "none",
                    "urls": list(entry.urls),
                    "unpack": True,
                    "md5": entry.md5,
                }
            }
        )
    )
    part = tmp_path / ".downloads/toy/set.tgz.part"
    server.drop_after = [2 << 20] + 50 * [0]  # the attempts that follow bring nothing
    process = subprocess.Popen(
        [sys.executable, "scripts/download.py", "toy", "--registry", tmp_path / "more.json", "--data_root", tmp_path],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size == 2 << 20):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    seen, server.drop_after = len(server.requests), []
    install.get(entry, tmp_path, patience=QUICK)
    assert server.requests[seen:] == [("/set.tgz", f"bytes={2 << 20}-")]


def test_a_part_that_is_complete_or_too_long(server, tmp_path):
    """A run was killed between the last byte and the renaming; then the file on the server is a shorter one."""
    body = make_tar(FILES)
    entry, part = entry_of(server, body), tmp_path / ".downloads/toy/set.tgz.part"
    server.drop_after = [50]
    with pytest.raises(UserError, match="what has arrived is kept"):
        install.get(entry, tmp_path, patience=Patience(2, 0, 0))
    part.write_bytes(body)
    install.get(entry, tmp_path, patience=QUICK)
    assert server.requests[1:] == [("/set.tgz", f"bytes={len(body)}-")] and not part.exists()
    other = replace(entry, goal="other/set")
    server.drop_after = [50]
    with pytest.raises(UserError, match="what has arrived is kept"):
        install.get(other, tmp_path, patience=Patience(2, 0, 0))
    part.write_bytes(body + b"more")
    install.get(other, tmp_path, patience=QUICK)
    assert server.requests[-1] == ("/set.tgz", None) and contents(tmp_path / "other/set") == UNPACKED


def test_errors_of_the_server_are_retried_and_mirrors_tried_in_order(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    server.statuses = [503, 500]
    install.get(replace(entry, urls=(server.url("/set.tgz"),)), tmp_path, patience=QUICK)
    assert len(server.requests) == 3
    server.requests.clear()
    mirrored = replace(entry, goal="birds/other", urls=(server.url("/gone.tgz"), server.url()))
    install.get(mirrored, tmp_path, patience=QUICK)
    assert [path for path, _ in server.requests] == ["/gone.tgz", "/set.tgz"]  # a 404 is not asked again


def test_nothing_reachable_names_every_address(server, tmp_path):
    entry = entry_of(server, make_tar(FILES), urls=(server.url("/gone"), server.url(), "http://127.0.0.1:9/set.tgz"))
    server.statuses = [404, 500, 500, 500]
    with pytest.raises(UserError) as error:
        install.get(entry, tmp_path, patience=QUICK)
    text = str(error.value)
    assert "/gone: HTTP 404" in text and "HTTP 500" in text and "after 3 attempts" in text and "efused" in text
    assert "--archive FILE" in text and "\n" not in text


def test_a_silent_server_times_out(server, tmp_path):
    server.stall = True
    with pytest.raises(UserError, match="no answer in time"):
        install.get(entry_of(server, b"x"), tmp_path, patience=Patience(timeout=0.1, retries=0))


# --- what arrives is not what was meant --------------------------------------------------------------------------


def test_wrong_sum_and_wrong_size_are_refused_before_unpacking(server, tmp_path):
    entry = entry_of(server, make_tar(FILES))
    with pytest.raises(BadArchive, match=f"its MD5 is {entry.md5} where {'0' * 32} is expected"):
        install.get(replace(entry, md5="0" * 32), tmp_path, patience=QUICK)
    with pytest.raises(UserError, match=rf"has {entry.size} bytes where the registry says {entry.size + 1}"):
        install.get(replace(entry, size=entry.size + 1), tmp_path, patience=QUICK)
    assert not (tmp_path / "birds/set").exists() and not leftovers(tmp_path)
    install.get(entry, tmp_path, patience=QUICK)  # the bad one does not stand in the way


def test_a_web_page_is_not_an_archive(server, tmp_path):
    entry = entry_of(server, b"<!DOCTYPE html><title>Quota exceeded</title>" + b" " * 600, size=None, md5=None)
    with pytest.raises(BadArchive, match="set.tgz is no tar or zip archive but a web page"):
        install.get(entry, tmp_path, patience=QUICK)
    assert not leftovers(tmp_path)


def test_a_web_page_instead_of_weights_is_called_so(server, tmp_path):
    page = b"<html>Not found</html>"
    entry = entry_of(server, page, "/net.pth", unpack=False, goal="pretrained/net.pth", size=None, md5="0" * 32)
    with pytest.raises(BadArchive, match="net.pth is a web page: its MD5 is"):
        install.get(entry, tmp_path, patience=QUICK)
    assert not leftovers(tmp_path)


def test_an_evil_archive_leaves_no_trace_at_the_goal(server, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/train.json").write_text("{}")
    entry = entry_of(server, make_tar({"set/a": b"1", "../escaped": b"x"}))
    with pytest.raises(BadArchive, match="leaves its folder"):
        install.get(entry, tmp_path, patience=QUICK)
    assert os.listdir(tmp_path / "birds") == ["train.json"] and leftovers(tmp_path) == ["birds/train.json"]


# --- full disks --------------------------------------------------------------------------------------------------


def test_room_is_checked_before_anything_is_fetched(server, tmp_path, monkeypatch):
    entry = entry_of(server, make_tar(FILES), unpacked=5 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 << 30, 6 << 30, 4 << 30))
    with pytest.raises(UserError, match=r"toy needs 5 GiB on the disk of .*birds, where 3.94 GiB are free"):
        install.get(entry, tmp_path, patience=QUICK)
    assert not server.requests


def test_room_is_checked_when_only_the_server_knows_the_size(server, tmp_path, monkeypatch):
    entry = entry_of(server, make_tar(FILES), size=None, unpack=False, goal="set.tgz")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 0, install.SPARE + 10))
    with pytest.raises(UserError, match="toy needs .* 10 B are free"):
        install.get(entry, tmp_path, patience=QUICK)


def test_disk_full_while_fetching_keeps_the_part(server, tmp_path, monkeypatch):
    entry = entry_of(server, make_tar(FILES))
    monkeypatch.setattr(fetching, "open", full_after(1), raising=False)
    monkeypatch.setattr(fetching, "BLOCK", 60)
    with pytest.raises(UserError, match="cannot be written: No space left on device; free some space"):
        install.get(entry, tmp_path, patience=QUICK)
    have = (tmp_path / ".downloads/toy/set.tgz.part").stat().st_size
    assert 0 < have <= 60
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    install.get(entry, tmp_path, patience=QUICK)
    assert server.requests[-1][1] == f"bytes={have}-" and contents(tmp_path / "birds/set") == UNPACKED


def test_disk_full_while_unpacking_keeps_the_archive_and_nothing_half(server, tmp_path, monkeypatch):
    entry = entry_of(server, make_tar(FILES))
    monkeypatch.setattr(tarfile, "bltn_open", full_after(1))  # what tarfile writes files by
    with pytest.raises(UserError, match="cannot be written: No space left on device; free some space"):
        install.get(entry, tmp_path, patience=QUICK)
    assert leftovers(tmp_path) == [".downloads/toy/set.tgz"] and not os.listdir(tmp_path / "birds")
    monkeypatch.undo()
    install.get(entry, tmp_path, patience=QUICK)
    assert len(server.requests) == 1 and contents(tmp_path / "birds/set") == UNPACKED
    record = json.loads((tmp_path / "birds/.downloaded.json").read_text())["set"]
    assert record["source"] == server.url()  # though it was the run before that fetched it


def full_after(writes: int):
    """An `open` whose files take so many writes in all, then raise ENOSPC."""
    left = [writes]

    def opener(path, mode="r", *arguments):
        file = open(path, mode, *arguments)
        if "r" in mode:
            return file

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                if not left[0]:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                left[0] -= 1
                return file.write(data)

            def __getattr__(self, name):
                return getattr(file, name)

        return Full()

    return opener


KILLED_AFTER_TWO_FILES = """
import os, signal, tarfile
from scripts import download
extract, written = tarfile.TarFile.extract, []
def extract_and_die(*arguments, **options):
    extract(*arguments, **options)
    written.append(arguments)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
tarfile.TarFile.extract = extract_and_die
download.run(download.main)
"""


def test_a_polite_kill_while_unpacking_leaves_nothing_half(tmp_path):
    """SIGTERM between two members; then the copy on disk is unpacked as if nothing had been."""
    copy = tmp_path / "set.tar"
    copy.write_bytes(make_tar(FILES, "w"))
    (tmp_path / "more.json").write_text(
        json.dumps(
            {"toy": {"purpose": "a test", "goal": "birds/set", "licence": "none", "by_hand": "no way", "unpack": True}}
        )
    )
    options = ["toy", "--registry", tmp_path / "more.json", "--data_root", tmp_path, "--archive", copy]
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_TWO_FILES, *options], cwd=ROOT, timeout=60)
    assert killed.returncode == 128 + signal.SIGTERM and not os.listdir(tmp_path / "birds")
    (tmp_path / "birds/.set.unpacking-1/set").mkdir(parents=True)  # as SIGKILL would leave it
    assert command(*options).returncode == 0
    assert contents(tmp_path / "birds/set") == UNPACKED
    assert not list(tmp_path.glob("birds/.set.unpacking-*"))


# --- Google Drive, by hand, --archive ----------------------------------------------------------------------------


def test_google_drive_goes_through_gdown(server, tmp_path, monkeypatch):
    import gdown

    calls = []

    def give(id, output, **options):
        calls.append((id, options))
        Path(output).write_bytes(make_tar(FILES))

    entry = entry_of(server, b"", urls=(), drive="abc", size=None, md5=None, file="set.tar.gz")
    monkeypatch.setattr(gdown, "download", give)
    assert "no checksum is published, the SHA-256 of what came is" in install.get(entry, tmp_path, patience=QUICK)
    assert calls == [("abc", {"resume": True, "use_cookies": False, "timeout": 20, "retries": 2})]
    assert contents(tmp_path / "birds/set") == UNPACKED


@pytest.mark.parametrize("failure", ["FileURLRetrievalError", "OSError", "nothing", "no package"])
def test_google_drive_refuses(server, tmp_path, monkeypatch, failure):
    import gdown

    def refuse(**options):
        if failure != "nothing":
            raise getattr(gdown.exceptions, failure, OSError)("Cannot retrieve\n\n the link")

    monkeypatch.setattr(gdown, "download", refuse)
    if failure == "no package":
        monkeypatch.setitem(sys.modules, "gdown", None)
    entry = entry_of(server, b"", urls=(), drive="abc", size=None, md5=None)
    with pytest.raises(UserError, match="uc.id=abc in a browser and pass it with --archive FILE") as error:
        install.get(entry, tmp_path, patience=QUICK)
    assert "\n" not in str(error.value)


def test_archive_on_disk_is_checked_and_left_there(server, tmp_path):
    entry = entry_of(server, make_tar(FILES), by_hand="fill in the form", urls=())
    with pytest.raises(UserError, match="cannot be fetched by a program: fill in the form; .* --archive FILE"):
        install.get(entry, tmp_path / "data", patience=QUICK)
    assert not (tmp_path / "data/birds").exists()
    copy = tmp_path / "my copy.tgz"
    copy.write_bytes(make_tar(FILES)[:-5])
    with pytest.raises(BadArchive, match="my copy.tgz has .* bytes where"):
        install.get(entry, tmp_path / "data", copy)
    assert copy.exists()
    copy.write_bytes(server.files["/set.tgz"])
    install.get(entry, tmp_path / "data", copy)
    assert contents(tmp_path / "data/birds/set") == UNPACKED and copy.exists()


# --- the command --------------------------------------------------------------------------------------------------


def test_command_lists_adds_entries_and_fetches(server, tmp_path):
    body = b"a network"
    server.files["/net.pth"] = body
    more = tmp_path / "more.yml"
    more.write_text(
        f"our_net:\n  purpose: birds at 256 pixels\n  goal: pretrained/net.pth\n  licence: MIT\n"
        f"  urls: ['{server.url('/net.pth')}']\n  sha256: {hashlib.sha256(body).hexdigest()}\n"
    )
    root = tmp_path / "data of 'mine'"
    listed = command("--list", "--registry", more, "--data_root", root)
    assert listed.returncode == 0 and not root.exists()
    assert "CUB_200_2011" in listed.stdout and "birds at 256 pixels" in listed.stdout
    detail = command("--list", "our_net", "Places_audio", "--registry", more, "--data_root", root).stdout
    assert "licence   MIT" in detail and "by hand: fill in the form" in detail
    got = command("our_net", "--registry", more, "--data_root", root)
    assert got.returncode == 0, got.stderr
    assert (root / "pretrained/net.pth").read_bytes() == body


def test_command_errors_are_one_sentence_with_status_2(tmp_path, capsys):
    result = command("Places_audio", "--data_root", tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "fill in the form" in result.stderr
    with pytest.raises(UserError, match="cub_200 is not in the registry; did you mean CUB_200_2011"):
        download.main(["cub_200"])
    for options in ([], ["a", "b", "--archive", __file__], ["a", "--archive", "/no/such"]):
        with pytest.raises(SystemExit) as stop:
            download.parse(options)
        assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err
