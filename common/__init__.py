"""What both trees share: command lines, files, split files, features, checkpoints, runs, devices, ranks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the project's root; relative base paths in split files count from here
