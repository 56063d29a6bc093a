"""Which builds of PyTorch there are. Called by setup.sh with .venv's interpreter; the standard library and pip suffice.

is_cpu                     status 0 if PyTorch is installed here without CUDA
wanted [--index-url URL]   print the requirements of the newest CPU build of torch and its torchvision in pip's index
"""

import importlib.metadata
import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path

OLDEST = (2, 11)  # as pyproject.toml says
AHEAD = 15  # torchvision 0.N belongs to torch 2.(N - AHEAD)


def is_cpu() -> bool:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    spec = importlib.util.find_spec("torch")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
    return "+cpu" in version or not list(folder.glob("lib/libtorch_cuda*"))


def versions(name: str, words: list[str]) -> list[str]:
    """The versions of a package that pip finds, newest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--disable-pip-version-check", *words]
    found = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(found.stderr)
    line = re.search(r"^Available versions: (.*)$", found.stdout, re.MULTILINE)
    return [version.strip() for version in line[1].split(",")] if line else []


def wanted(words: list[str]) -> list[str] | None:
    """The requirements; None if there is no CPU build of both."""
    if platform.system() == "Darwin":  # every build for it is one without CUDA
        return ["torch>=2.11", "torchvision>=0.26"]
    images = versions("torchvision", words)
    for version in versions("torch", words):
        number = re.match(r"2\.(\d+)\.\d+\+cpu$", version)
        if not number or (2, int(number[1])) < OLDEST:
            continue
        match = next((one for one in images if re.match(rf"0\.{int(number[1]) + AHEAD}\.\d+\+cpu$", one)), None)
        if match:
            return [f"torch=={version}", f"torchvision=={match}"]
    return None


def main(words: list[str]) -> int:
    if words[0] == "is_cpu":
        return not is_cpu()
    requirements = wanted(words[1:])
    print(*requirements or [], sep="\n")
    return requirements is None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
