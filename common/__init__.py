"""What both trees share: command lines, files, split files, features, checkpoints, runs, devices, ranks."""

import os
from pathlib import Path

# OpenMP's threads spin while they wait for the others. Beside another process they so keep the one that they wait for
# from its core: on two cores, training fell from 2.3 to 0.5 iterations a second. After a thousand turns they sleep, which
# is libgomp's own choice where threads outnumber cores. torch loads libgomp later; workers inherit it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

ROOT = Path(__file__).resolve().parent.parent  # the project's root; relative base paths in split files count from here
