"""The resume file of a run and the one before it: one of the two is complete at every moment."""

import math
import os
from pathlib import Path

from common import checkpoint
from common.distributed.rendezvous import BEGAN

RESUME, PREVIOUS = "resume.pth", "resume_previous.pth"


def keep(folder, content, first: bool = False, replace: bool = False) -> None:
    """Write resume.pth; the one of before becomes resume_previous.pth.

    first: of a run that starts from scratch; that of another run goes. replace: it takes the place of the last one,
    which is of the same step.
    """
    path, previous = Path(folder) / RESUME, Path(folder) / PREVIOUS
    checkpoint.save(path, content, None if first or replace else previous)
    if first:
        previous.unlink(missing_ok=True)  # of another run: nothing may ever go on from it


def seconds(found) -> float:
    """The wall time that a run with a limit has taken, by the resume file that `find` gave; 0 if it says none."""
    taken = found[0].get("seconds") if found and isinstance(found[0], dict) else None
    return max(0.0, float(taken)) if isinstance(taken, (int, float)) and math.isfinite(taken) else 0.0


def find(choice: str, folder):
    """→ (content, path) of the resume file that `choice` means, or None for a start from scratch.

    choice: none; auto, the newest intact one in `folder`, if there is any; or a file. When the launcher starts a
    process again, the training goes on from its own file, whatever the choice was. UserError if a file that was asked
    for is missing, or all are damaged.
    """
    newest = Path(folder) / RESUME
    if newest.is_file() and newest.stat().st_mtime > float(os.environ.get(BEGAN, "inf")):
        choice = "auto"
    if choice == "none":
        return None
    if choice != "auto":
        return checkpoint.load(choice), Path(choice)
    paths = [path for path in (newest, Path(folder) / PREVIOUS) if path.is_file()]
    return checkpoint.load_first_whole(paths) if paths else None
