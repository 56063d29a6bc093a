"""Command lines: typed options whose help says meaning, unit and default, and errors of one sentence with status 2.

Nothing heavy is imported here, so that `--help` answers at once: a command parses first and imports torch afterwards.
"""

import argparse
import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

# Errors of a file that are not a fault of the program: no room, no permission, a device or connection that fails.
_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENAMETOOLONG,
}


class UserError(Exception):
    """Something that the user can fix. The message is one sentence that names the option or file and what to do."""


class Lost(UserError):
    """Another process of the same training has gone. The launcher reports it, where there is one."""


LOST = 75  # exit status of a process whose launcher reports the reason
LAUNCHED = "LAUNCHER_TELLS"  # environment variable that the launcher sets

# What takes memory, in the order in which lowering it helps, and how to lower it. A command is advised what it has.
_MEMORY_OPTIONS = {
    "--set": "TRAIN.BATCH_SIZE (--set TRAIN.BATCH_SIZE=…)",
    "--batch_size": "--batch_size",
    "--seeds": "the number of --seeds",
    "--max_images": "--max_images",
    "--jobs": "--jobs",
    "--workers": "--workers",
}
_NO_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|out of memory|bad.?alloc|ALLOC_FAILED|not enough memory",
    re.IGNORECASE,
)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds '(default: …)' to every option that has one."""

    def _get_help_string(self, action):
        text = action.help or ""
        if "%(default)" in text or action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool):
            return text
        if isinstance(action.default, (list, tuple)):
            text += f" (default: {(' ' if action.nargs else ',').join(map(str, action.default))})"
            return text if action.default else action.help
        return text + " (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """ArgumentParser without abbreviations whose errors are a single sentence and status 2."""

    _current: "Parser | None" = None  # the parser of the command that is running

    def __init__(self, description: str, **kwargs):
        kwargs.setdefault("formatter_class", lambda prog: _HelpFormatter(prog, width=110, max_help_position=34))
        super().__init__(description=description, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        Parser._current = self
        return super().parse_known_args(args, namespace)

    def error(self, message):
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def follow_parent() -> None:
    """Get the signal that $FOLLOW_PARENT names ('<process> <signal>') when that process, our parent, is gone.

    Otherwise a training would go on unseen when only the script or launcher that started it was killed, and the next
    run would write into the same folder.
    """
    process, _, name = os.environ.get("FOLLOW_PARENT", "").partition(" ")
    if process == str(os.getppid()):
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
            ctypes.CDLL(None).prctl(1, int(signal.Signals[name]), 0, 0, 0)  # PR_SET_PDEATHSIG
        if process != str(os.getppid()):
            os.kill(os.getpid(), signal.Signals[name])


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the stack like an exit, so that worker processes end and no temporary file or folder stays."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run(main) -> None:
    """Run a command's `main()` and exit with the status that it returns (None: 0).

    A UserError becomes its sentence and status 2, as do a full or failing disk and a lack of memory; an interrupt
    becomes status 130, and a reader of the output that went away (`… | head`) status 141. Only a fault of the program
    shows a traceback.
    """
    follow_parent()
    _prepare_streams()
    _prepare_home()
    try:
        status = _status_of(main)
        for stream in (sys.stdout, sys.stderr):  # here, so that an error is not met first when Python shuts down
            stream.flush()
    except BrokenPipeError:
        if not _reader_is_gone():  # a pipe or connection of the program's own
            raise
        status = 128 + signal.SIGPIPE
        _discard_output()
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _discard_output()
        status = _fail(f"the output cannot be written: {error.strerror}")
    raise SystemExit(status)


def _status_of(main) -> int | str:
    try:
        return main() or 0
    except SystemExit as ended:  # argparse after --help, or an error that it has printed
        return ended.code or 0
    except Lost as error:
        return LOST if LAUNCHED in os.environ else _fail(error)
    except UserError as error:
        return _fail(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _fail(_too_little_memory(error))
        if error.errno not in _OF_THE_MACHINE:
            raise
        return _fail(f"{error.filename or 'a file or the output'} cannot be written or read: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(_too_little_memory(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or torch (CPU or GPU) says that there is not enough memory."""
    return (
        isinstance(error, MemoryError)
        or isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or bool(_NO_MEMORY.search(str(error))))
    )


def _too_little_memory(error: BaseException) -> str:
    """One sentence: whose memory, how much was asked for, and which options of this command lower it."""
    on_gpu = type(error).__name__ == "OutOfMemoryError" or "CUDA" in str(error) or "CUBLAS" in str(error)
    asked = re.search(r"allocate ([\d.]+) ?(bytes|[KMGTP]iB)", str(error))
    size = f" ({_size(asked[1], asked[2])} were asked for)" if asked else ""
    known = Parser._current._option_string_actions if Parser._current else ()
    lower = [words for option, words in _MEMORY_OPTIONS.items() if option in known]
    advice = f"lower {' or '.join(lower)}" if lower else "end other programs"
    return f"there is too little memory{' on the GPU' if on_gpu else ''}{size}; {advice}, or use a machine with more"


def _size(number: str, unit: str) -> str:
    return f"{float(number) / 2**30:,.1f} GiB" if unit == "bytes" else f"{number} {unit}"


def _prepare_streams() -> None:
    """Open streams that the shell has closed (`>&-`), and let characters that the terminal lacks be written escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # the lowest free number is this one: no other file may get it
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if number == 0 else "w"))
    for stream in (sys.stdout, sys.stderr):  # file names may hold bytes that no encoding has
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:  # not a stand-in of a test
            reconfigure(errors="backslashreplace")


def _prepare_home() -> None:
    """Without a home folder that can be written, caches of libraries (numba's, matplotlib's, torch's) go to a temporary
    folder, and where the user has no name, as in some containers, a number stands for it: these libraries fail else.
    """
    home = os.environ.get("HOME", "")
    if not (home and os.access(home, os.W_OK)):
        folder = os.path.join(tempfile.gettempdir(), f"speech-to-image-caches-{os.getuid()}")
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if os.stat(folder, follow_symlinks=False).st_uid == os.getuid():  # and not of somebody who was first
                for name in (
                    "NUMBA_CACHE_DIR",
                    "MPLCONFIGDIR",
                    "TORCHINDUCTOR_CACHE_DIR",
                    "TRITON_CACHE_DIR",
                    "XDG_CACHE_HOME",
                ):
                    os.environ.setdefault(name, os.path.join(folder, name.lower()))
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        import pwd

        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = f"user{os.getuid()}"


def _reader_is_gone() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads."""
    import select

    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Send what the streams still hold nowhere: Python writes it when it shuts down, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
        return
    os.dup2(nowhere, 2)


def _fail(reason) -> int:
    """Print one sentence, in which a file's name cannot hold commands to the terminal; status 2."""
    text = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in str(reason))
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    return 2


def first_few(lines, most: int = 20) -> list[str]:
    """The first `most` of `lines` as text and, where there are others, a last line that counts them."""
    lines = list(lines)
    return [*map(str, lines[:most]), *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]


def _number(kind, test, meaning):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not {meaning}") from None
        if not test(value):
            raise argparse.ArgumentTypeError(f"{text} is not {meaning}")
        return value

    return parse


positive_int = _number(int, lambda v: v > 0, "a whole number above 0")
natural = _number(int, lambda v: v >= 0, "a whole number of 0 or more")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")


def existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file" if path.exists() else f"{text} does not exist")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be read; check its permissions")
    return path


def existing_dir(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder" if path.exists() else f"{text} does not exist")
    return path


def name_list(text: str) -> list[str]:
    """'train, test' → the names between the commas."""
    return [name.strip() for name in text.split(",")]


MOST_NUMBERS = 100_000  # of a list


def number_list(text: str) -> list[int]:
    """'0-7', '3' or '1,4,6-8' → the whole numbers meant, in order."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
            if len(numbers) + len(span) > MOST_NUMBERS:
                raise argparse.ArgumentTypeError(f"'{text}' names more than {MOST_NUMBERS:,} numbers")
            numbers += span
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers such as 0-7 or 1,4") from None
    if not numbers:
        raise argparse.ArgumentTypeError(f"'{text}' names no number")
    return numbers
