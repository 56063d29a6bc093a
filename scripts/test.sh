#!/usr/bin/env bash
# Run the tests, after setting up what they need. All words go to pytest:  bash scripts/test.sh -k golden
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"     # a process for each core is faster than one process on all
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup "$@"
