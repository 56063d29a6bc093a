"""Whether this interpreter has the libraries that the project needs: status 0 or 1, nothing else."""

import importlib.util
import sys

NEEDED = ("torch", "torchvision", "numpy", "scipy", "PIL", "yaml", "soundfile", "tqdm")

if __name__ == "__main__":
    sys.exit(sys.version_info < (3, 10) or not all(map(importlib.util.find_spec, NEEDED)))
