"""Small archives made by the tests, honest and evil ones, and what a folder holds."""

import io
import tarfile
import zipfile
from pathlib import Path

FILES = {"set/images/a.jpg": b"\xff\xd8 an image", "set/labels.txt": b"1 a.jpg\n", "notes.txt": b"beside the set"}


def make_tar(members, mode="w:gz") -> bytes:
    """members: path → bytes, or TarInfo objects for what is no ordinary file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member)
            info.size = len(members[member])
            tar.addfile(info, io.BytesIO(members[member]))
    return buffer.getvalue()


def make_zip(members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return buffer.getvalue()


def special(name, kind, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
