"""Commands that start in a tenth of a second and die on order.

`ForkServer` starts one process that has imported everything and then forks a child for every command, which runs the
command's own file in a session of its own. A child can be killed before its k-th change to the watched folder, after a
time, or in the middle of a write.
"""

import contextlib
import errno
import importlib
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 120  # seconds that any command may take
MODULES = """numpy PIL.Image PIL.PngImagePlugin PIL.JpegImagePlugin scipy.linalg soundfile soxr librosa.filters tqdm
    yaml torch torchvision torch._dynamo torch.utils.tensorboard Audio_to_Image.trainer Audio_to_Image.teachers.extraction
    Audio_to_Image.mel_cache Audio_to_Image.tts.clips Audio_to_Image.tts.espeak StackGAN_v2.config
    StackGAN_v2.stages StackGAN_v2.evaluation.evaluator StackGAN_v2.evaluation.feature_extractors scripts.data.toybirds.dataset
    scripts.data.download.install scripts.data.prepare.birds scripts.data.prepare.splitfiles scripts.report.page_data
    scripts.report.page jinja2 matplotlib.figure matplotlib.backends.backend_svg""".split()
# What is kept in steps of minutes of work is here kept in steps of a few files.
SMALLER = {("Audio_to_Image.mel_cache", "_JOURNAL_EVERY"): 5, ("Audio_to_Image.teachers.extraction", "SHARD"): 3}
_NEED_ROOM = {"open", "os.mkdir", "os.symlink", "os.link"}
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate"}


@dataclass(frozen=True)
class Ended:
    """status: as a shell sees it (137: killed); changes: one line for each change of a file that was begun;
    left: processes of the session that outlived it by a minute."""

    status: int
    output: str
    changes: list[str]
    seconds: float
    left: list[int]


class ForkServer:
    """A context manager: `run` starts a command there and waits for its end."""

    def __enter__(self):
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        return self

    def __exit__(self, *unused):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(
        self,
        words,
        watch,
        change: int | None = None,
        after: float | None = None,
        at_bytes: int | None = None,
        alone: bool = False,
        full: bool = False,
    ) -> Ended:
        """Run `words`, a command file and its options. change: kill it before this change below `watch`, counted from
        0; after: kill it then, in seconds; at_bytes: let the kernel kill it when a file grows beyond. alone: the
        leader only, not its workers. full: nothing is killed; the disk is full from that change or those bytes on."""
        request = dict(
            words=list(map(str, words)),
            watch=str(watch),
            change=change,
            after=after,
            at_bytes=at_bytes,
            alone=alone,
            full=full,
        )
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork_server has died"
        reply = json.loads(answer)
        session = reply.pop("session")
        return Ended(**reply, left=ended_soon(lambda: of_session(session)))


def ended_soon(find, seconds: float = 60) -> list[int]:
    """What `find()` still finds after that time, which is then ended; [] as soon as it finds nothing."""
    end = time.monotonic() + seconds
    while (left := find()) and time.monotonic() < end:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return left


def of_session(session: int) -> list[int]:
    """The processes of a session."""
    return [process for process, its_session in _processes() if its_session == session]


def at_work(place) -> list[int]:
    """The processes whose command names a folder."""
    found = []
    for process, _ in _processes():
        with contextlib.suppress(OSError):
            if os.fsencode(place) in Path(f"/proc/{process}/cmdline").read_bytes() and process != os.getpid():
                found.append(process)
    return found


def _processes():
    """(process, session) of all that live."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.parent.name), int(session)


# ---- the process that forks ----


def serve() -> None:
    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):  # one that has moved costs time and nothing else
            importlib.import_module(name)
    for (module, name), value in SMALLER.items():
        assert hasattr(sys.modules[module], name)
        setattr(sys.modules[module], name, value)
    sys.modules["torch"].set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(_attend(**json.loads(line))), flush=True)


def _attend(words, watch, change, after, at_bytes, alone, full) -> dict:
    began = time.monotonic()
    said, mouth = os.pipe()
    changes, pen = os.pipe()
    child = os.fork()
    if child == 0:
        _live(words, mouth, pen, watch, change, at_bytes, alone, full)
    os.close(mouth)
    os.close(pen)
    texts, killed = {said: b"", changes: b""}, False
    handle = os.pidfd_open(child)
    while True:
        passed = time.monotonic() - began
        if passed > (LIMIT if after is None or killed else after):
            with contextlib.suppress(ProcessLookupError):  # its session has not begun: in the next turn
                (os.kill if alone else os.killpg)(child, signal.SIGKILL)
                killed = True
        ready = select.select([handle, *texts], [], [], 0.01 if after is not None and not killed else 0.5)[0]
        for pipe in ready:
            if pipe != handle:
                texts[pipe] += os.read(pipe, 1 << 16)
        if ready == [handle] or handle in ready and not any(select.select(texts, [], [], 0)[0]):
            break
        if handle in ready:  # workers that outlive it hold the pipes: what is in them is enough
            for pipe in texts:
                os.set_blocking(pipe, False)
                with contextlib.suppress(BlockingIOError):
                    while block := os.read(pipe, 1 << 16):
                        texts[pipe] += block
            break
    _, code = os.waitpid(child, 0)
    for pipe in (said, changes, handle):
        os.close(pipe)
    status = os.waitstatus_to_exitcode(code)
    return dict(
        status=status if status >= 0 else 128 - status,
        output=texts[said].decode(errors="replace")[-4000:],
        changes=texts[changes].decode().splitlines(),
        seconds=time.monotonic() - began,
        session=child,
    )


def _live(words, mouth, pen, watch, change, at_bytes, alone, full) -> None:
    """The child's whole life."""
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(mouth, 1)
        os.dup2(mouth, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        if at_bytes is not None:  # the part of the write that fits is done, the rest is not
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN if full else signal.SIG_DFL)  # ignored: write() fails
        sys.addaudithook(_Watcher(watch, pen, change, alone, full))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Watcher:
    """An audit hook: told of every change to a file before it happens, from Python code of any library."""

    def __init__(self, watch: str, pen: int, change: int | None, alone: bool, full: bool):
        self.watch, self.pen, self.change, self.alone, self.seen = os.fsencode(watch), pen, change, alone, 0
        self.full = full

    def __call__(self, event: str, arguments) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _CHANGES:
            path = arguments[1 if event in ("os.rename", "os.symlink", "os.link") else 0]
        else:
            return
        name = os.path.abspath(os.fsencode(path)) if isinstance(path, (str, bytes, os.PathLike)) else b"?"
        # names that are relative to an open folder belong to a tree that is being removed
        if not name.startswith(self.watch) and not (event in ("os.remove", "os.rmdir") and arguments[-1] != -1):
            return
        if self.full:
            if self.change is not None and self.seen >= self.change and event in _NEED_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        elif self.seen == self.change:
            (os.kill if self.alone else os.killpg)(os.getpid(), signal.SIGKILL)
        self.seen += 1
        os.write(self.pen, f"{event} {name.decode(errors='replace')}\n".encode())


if __name__ == "__main__":
    serve()
