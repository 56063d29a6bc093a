"""Numbered snapshots of a run, such as epoch_10.pth or netG_2000.pth: which of them stay, and the links to them."""

import re
from pathlib import Path

from common.files import link


def before(path) -> list[Path]:
    """The snapshots beside `path` with its name and a smaller number, newest first; none if its name has no number."""
    path = Path(path)
    name = re.fullmatch(r"(.*_)(\d+)(\.\w+)", path.name)
    if not name:
        return []
    pattern = re.compile(re.escape(name[1]) + r"(\d+)" + re.escape(name[3]))
    found = {
        int(match[1]): other
        for other in path.parent.iterdir()
        if (match := pattern.fullmatch(other.name)) and other.is_file()
    }
    return [found[number] for number in sorted(found, reverse=True) if number < int(name[2])]


def set_links(newest, best: bool) -> None:
    """Let latest.pth, and best.pth if it is the `best`, beside a snapshot stand for it."""
    newest = Path(newest)
    for name in ("latest.pth", "best.pth")[: 1 + best]:
        link(newest, newest.with_name(name))


def thin_out(newest, keep: int, every: int) -> None:
    """Delete the snapshots before `newest` but for `keep` in all, those whose number `every` divides, and linked ones.

    keep 0: all stay; every 0: none stays for its number.
    """
    if not keep:
        return
    newest = Path(newest)
    linked = {other.resolve() for other in newest.parent.iterdir() if other.is_symlink()}
    for path in before(newest)[keep - 1 :]:
        number = int(re.findall(r"\d+", path.stem)[-1])
        if path.resolve() not in linked and not (every and number % every == 0):
            path.unlink(missing_ok=True)


def repair_link(name, target) -> None:
    """Let the link `name` stand for `target`, if its folder can be written."""
    try:
        link(target, name)
    except OSError:
        pass
