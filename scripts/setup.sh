#!/usr/bin/env bash
# Make .venv in the project's root: the libraries of pyproject.toml, and the project itself as an editable install.
# Nothing to do (under 2 s) when it is there and current.
#   bash scripts/setup.sh            PYTHON=python3.12 bash scripts/setup.sh   to choose the interpreter
#   TORCH=cpu bash scripts/setup.sh  PyTorch without CUDA, 1 GB in place of 6: from pip's own index if it has such builds,
#                                    else TORCH=https://download.pytorch.org/whl/cpu (or another index of them)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
fail() { echo "setup.sh: error: $1" >&2; exit 2; }

python="${PYTHON:-python3}"
mark=.venv/.installed
torch="${TORCH:-}"               # not given: whatever is installed stays
wanted="$(cat requirements.txt pyproject.toml | cksum) $python $PWD"
case "$torch" in '' | cpu | http://* | https://* | file://*) ;;
    *) fail "TORCH is '$torch'; it can be cpu, or the address of a package index with PyTorch's CPU builds" ;; esac
if [ -x .venv/bin/python ] && [ "$(cat "$mark" 2>/dev/null)" = "$wanted" ]; then
    [ -z "$torch" ] || .venv/bin/python scripts/torch_build.py is_cpu && exit 0
fi

command -v "$python" > /dev/null || fail "$python was not found; install Python 3.10 or newer, or set PYTHON to its path"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version 2>&1) is too old; Python 3.10 or newer is needed, set PYTHON to its path"
"$python" -c 'import venv, ensurepip' 2> /dev/null ||
    fail "$python cannot make virtual environments; install its venv package (Debian: apt install python3-venv)"
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import torch, librosa' 2> /dev/null; then
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    needed=10; [ -z "$torch" ] || needed=4
    [ "$free" -ge "$needed" ] || fail "$free GiB are free here; the libraries need $needed GiB while they install"
fi

size="about 6 GB"; [ -z "$torch" ] || size="about 2 GB"
echo "setup: installing the libraries of pyproject.toml into .venv (some minutes, $size)"
[ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2> /dev/null || "$python" -m venv --clear .venv ||
    fail ".venv could not be made; see the message above"
log=.venv/pip.log
: > "$log"
pip() { .venv/bin/python -m pip "$1" --disable-pip-version-check --no-input "${@:2}" >> "$log" 2>&1; }
cpu_torch() {       # PyTorch and torchvision of one CPU build, before the rest, which takes them as they are
    local index=()
    [ "$torch" = cpu ] || index=(--index-url "$torch")
    .venv/bin/python scripts/torch_build.py wanted ${index[@]+"${index[@]}"} > .venv/torch.txt 2>> "$log" ||
        fail "pip's index has no CPU builds of PyTorch; name one that has: TORCH=https://download.pytorch.org/whl/cpu bash scripts/setup.sh"
    pip install ${index[@]+"${index[@]}"} $(cat .venv/torch.txt)
}
if ! { { [ -z "$torch" ] || .venv/bin/python scripts/torch_build.py is_cpu || cpu_torch; } && pip install -r requirements.txt; }; then
    if grep -qiE 'No space left' "$log"; then fail "the disk is full; free 10 GiB and run it again"; fi
    if grep -qiE 'connection|resolve|timed out|proxy|network|from versions: none' "$log"; then
        fail "no package index could be reached; check the network or pip's index settings (details: $log)"; fi
    fail "pip could not install what pyproject.toml lists: $(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log") (details: $log)"
fi
printf '%s' "$wanted" > "$mark.tmp" && mv "$mark.tmp" "$mark"
echo "setup: done"
