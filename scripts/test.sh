#!/usr/bin/env bash
# Run the tests, after setting up what they need. All words go to pytest:  bash scripts/test.sh -k golden
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
