#!/usr/bin/env bash
# Say or type a sentence and see images of it, on a page of this machine: set-up if needed, then the server.
#   bash scripts/voice.sh            bash scripts/voice.sh --port 8000 --generator FILE
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
bash "$here/setup.sh"
python="$here/../.venv/bin/python"
if ! "$python" -c 'import starlette, uvicorn' 2> /dev/null; then
    echo "voice: installing the packages of the page (5 MB)"
    (cd -- "$here/.." && .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet -e '.[voice]') ||
        { echo "voice.sh: error: they could not be installed; see the message above" >&2; exit 2; }
fi
exec "$python" "$here/voice.py" "$@"
