"""What the shell scripts need and only GNU's programs do: macOS has no flock, sha256sum, stat -c or head -c 1M.

Called by recipe.sh alone; the standard library suffices.

  lock N SENTENCE                     lock the caller's open file N; SENTENCE is printed if that has to wait
  identity FILE                       time of change in seconds and inode; nothing if there is no file
  fingerprint FILE… -- LARGE…         SHA-256 of files by content, of large ones by size, first and last MiB
  now                                 seconds since 1970
"""

import fcntl
import hashlib
import os
import sys
import time

MIB = 1 << 20


def lock(handle: int, sentence: str) -> None:
    """The lock stays when this process ends: it belongs to the open file, which the caller keeps."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(sentence, file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)


def identity(path: str) -> str:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return ""
    return f"{int(status.st_mtime)}.{status.st_ino}"


def fingerprint(files: list[str], large: list[str]) -> str:
    """In the form of sha256sum; files that are missing count as empty."""
    total = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as file:
                total.update(file.read())
        except OSError:
            continue
    for path in large:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                total.update(f"{size}\n".encode() + file.read(MIB))
                file.seek(max(0, size - MIB))
                total.update(file.read(MIB))
        except OSError:
            continue
    return f"{total.hexdigest()}  -"


def main(words: list[str]) -> None:
    what, *rest = words
    if what == "lock":
        lock(int(rest[0]), rest[1])
    elif what == "identity":
        print(identity(rest[0]))
    elif what == "fingerprint":
        end = rest.index("--")
        print(fingerprint(rest[:end], rest[end + 1 :]))
    else:
        print(f"{time.time():.6f}")


if __name__ == "__main__":
    main(sys.argv[1:])
