"""Add a finished stage to a recipe's stages.jsonl: number, name, seconds, command. Called by run.sh alone."""
import sys
import time
from pathlib import Path

if __name__ == "__main__":                         # run as a file: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.files import append_line  # noqa: E402

path, number, name, began, command = sys.argv[1:]
seconds = time.time() - float(began)
append_line(path, {"stage": int(number), "name": name, "seconds": round(seconds, 1), "command": command})
print(f"stage {number} ({name}): {seconds:.0f} s")
