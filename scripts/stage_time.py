"""Add a finished stage to a recipe's stages.jsonl: number, name, seconds, command. Called by run.sh alone."""

import sys
import time

from common.files import append_line

path, number, name, began, command = sys.argv[1:]
seconds = time.time() - float(began)
append_line(path, {"stage": int(number), "name": name, "seconds": round(seconds, 1), "command": command})
print(f"stage {number} ({name}): {seconds:.0f} s")
