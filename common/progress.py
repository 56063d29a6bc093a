"""Progress bars: tqdm's on a terminal; in a log file a line every half minute and one at the end.

tqdm itself writes ten times a second into a log, all of it one line of megabytes.
"""

import sys

import tqdm as library

LOG_SECONDS = 30  # between two lines in a log


class _LogLines(library.tqdm):
    """tqdm whose states are lines of their own."""

    def __init__(self, *args, **options):
        self._shown = None
        # The monitor thread, which would show a slow bar sooner, is kept away by maxinterval.
        options |= {"mininterval": LOG_SECONDS, "maxinterval": float("inf"), "miniters": 1, "ascii": True}
        super().__init__(*args, **options)

    def display(self, msg=None, pos=None):
        if self.n != self.initial and self.n != self._shown:
            self._shown = self.n
            print(self.format_meter(**{**self.format_dict, "ncols": 100}), file=self.fp, flush=True)

    def clear(self, nolock=False):  # lines stay
        pass

    def close(self):
        if not self.disable:
            self.display()
            self.leave = False  # else tqdm ends its own line
            super().close()


def tqdm(*args, **options):
    """As `tqdm.tqdm`. disable=None, which shows nothing in a log, is the same as False here: a log gets its lines."""
    if (options.get("file") or sys.stderr).isatty():
        return library.tqdm(*args, **options)
    return _LogLines(*args, **{**options, "disable": bool(options.get("disable"))})
