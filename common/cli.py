"""Command lines: typed options whose help says meaning, unit and default, and errors of one sentence with status 2.

Nothing heavy is imported here, so that `--help` answers at once: a command parses first and imports torch afterwards.
"""
import argparse
import contextlib
import errno
import os
import signal
import sys
from pathlib import Path

# Errors of a file that are no fault of a program: no room, no permission, a device or connection that fails.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
                   errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENAMETOOLONG}


class UserError(Exception):
    """Something that the user can mend. The message is one sentence that names the option or file and what to do."""


class Lost(UserError):
    """Another process of the same training has gone, which is the launcher's to tell, where there is one."""


LOST = 75                   # exit status of a process whose launcher tells why
LAUNCHED = "LAUNCHER_TELLS"                        # set by it


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds '(default: …)' to every option that has one."""

    def _get_help_string(self, action):
        text = action.help or ""
        if "%(default)" in text or action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool):
            return text
        return text + " (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """ArgumentParser without abbreviations whose errors are a single sentence and status 2.

    A fault of ours shows its traceback; a fault of the user's never does.
    """

    def __init__(self, description: str, **kwargs):
        kwargs.setdefault("formatter_class", lambda prog: _HelpFormatter(prog, width=110, max_help_position=34))
        super().__init__(description=description, allow_abbrev=False, **kwargs)

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
        with contextlib.suppress(OSError, AttributeError):         # Linux alone has it
            ctypes.CDLL(None).prctl(1, int(signal.Signals[name]), 0, 0, 0)         # PR_SET_PDEATHSIG
        if process != str(os.getppid()):
            os.kill(os.getpid(), signal.Signals[name])


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the stack like an exit, so that worker processes end and no temporary file or folder stays."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run(main) -> None:
    """Run a command's `main()`; turn a UserError into its sentence and status 2, an interrupt into status 130.

    So end, too, a full or failing disk and a lack of memory where nothing nearer says more.
    """
    follow_parent()
    sys.stdout.reconfigure(errors="backslashreplace")      # file names may hold bytes that no encoding has
    try:
        status = main()
    except Lost as error:
        status = LOST if LAUNCHED in os.environ else _fail(error)
    except (UserError, MemoryError) as error:
        status = _fail(error if isinstance(error, UserError) else f"there is too little memory ({error or 'all used'})")
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        status = _fail(f"{error.filename or 'a file'} cannot be written or read: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except BrokenPipeError:                    # the reader of our output went away (`… | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise SystemExit(status or 0)


def _fail(reason) -> int:
    """Print one sentence, in which a stranger's file name cannot steer the terminal."""
    text = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in str(reason))
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)
    return 2


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
nonnegative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number of 0 or more")


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


def number_list(text: str) -> list[int]:
    """'0-7', '3' or '1,4,6-8' → the whole numbers meant, in order."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            numbers += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers such as 0-7 or 1,4") from None
    if not numbers:
        raise argparse.ArgumentTypeError(f"'{text}' names no number")
    return numbers
