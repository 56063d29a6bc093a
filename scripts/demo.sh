#!/usr/bin/env bash
# The whole method on a small data set that it draws and speaks itself: set-up, then the recipe of toybirds.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
bash "$here/setup.sh"
exec bash "$here/toybirds.sh" "$@"
