#!/usr/bin/env bash
# Run the tests, after setting up what they need. All words go to pytest:  bash scripts/test.sh -k golden
# With --every_cpu first, three times: with torch's plain kernels, with those of AVX2, and with all that this CPU has,
# since float32's rounding differs between them.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
if [ "${1-}" = --every_cpu ]; then
    shift
    unset ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA
    status=0
    for kernels in ATEN_CPU_CAPABILITY=default "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2" ""; do
        echo "==== ${kernels:-all that this CPU has}"
        env $kernels bash scripts/test.sh "$@" || status=1
    done
    exit "$status"
fi
bash scripts/setup.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"     # a process for each core is faster than one process on all
if [ $# = 0 ]; then                               # all of it: lint and types, too
    .venv/bin/python -m ruff check
    .venv/bin/python -m ruff format --check
    .venv/bin/python -m mypy
fi
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup "$@"
