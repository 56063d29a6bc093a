#!/usr/bin/env bash
# Train the speech encoder in some processes:  bash ./run_audio_encoder.sh PROCESSES --output_dir DIR --dataset NAME …
# PROCESSES counts those of this machine (one a GPU). More machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and MASTER_PORT set (docs/multi_gpu.md). All other words go to Audio_to_Image/train_audio_encoder.py; see
# its --help. As published, PYTHON names another interpreter than that of .venv, and ARNOLD_* and METIS_* the machines.
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
command="$root/Audio_to_Image/train_audio_encoder.py"
fail() { echo "run_audio_encoder.sh: error: $1" >&2; exit 2; }
python="$root/.venv/bin/python"
[ -z "${PYTHON-}" ] && [ -x "$python" ] || python="${PYTHON:-python3}"
command -v "$python" > /dev/null || fail "PYTHON is $python, which was not found; leave it unset or name an interpreter"

processes="${1-}"
case "$processes" in
    -h | --help) exec "$python" "$command" --help ;;
    '' | 0* | *[!0-9]*)
        fail "the first word is the number of processes on this machine, as in: bash ./run_audio_encoder.sh 1 \
--output_dir DIR --dataset NAME …" ;;
esac
shift
for word in "$@"; do
    case "$word" in -h | --help) exec "$python" "$command" --help ;; esac
done

[ "$python" = "$root/.venv/bin/python" ] || "$python" "$root/scripts/installed.py" ||
    fail "$python lacks libraries of this project; run bash scripts/setup.sh first, or set PYTHON to one that has them"
if [ -z "${NNODES-}" ] && [ -n "${ARNOLD_WORKER_NUM-}${ARNOLD_SERVER_NUM-}" ]; then
    for number in "${ARNOLD_SERVER_NUM:=0}" "${ARNOLD_WORKER_NUM:=1}"; do
        case "$number" in *[!0-9]*) fail "ARNOLD_SERVER_NUM or ARNOLD_WORKER_NUM is $number, not a number of machines" ;; esac
    done
    NNODES=$((10#$ARNOLD_SERVER_NUM + 10#$ARNOLD_WORKER_NUM))
    NODE_RANK="${NODE_RANK:-${ARNOLD_ID:-0}}"
    MASTER_ADDR="${MASTER_ADDR:-${METIS_SERVER_0_HOST:-${METIS_WORKER_0_HOST:-127.0.0.1}}}"
    MASTER_PORT="${MASTER_PORT:-${METIS_SERVER_0_PORT:-${METIS_WORKER_0_PORT:-29500}}}"
    export NNODES NODE_RANK MASTER_ADDR MASTER_PORT
fi
if [ "${NNODES:-1}" = 1 ]; then
    where=(--standalone)
else
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?set NODE_RANK, the number of this machine from 0}"
           --master_addr "${MASTER_ADDR:?set MASTER_ADDR, the address of machine 0}"
           --master_port "${MASTER_PORT:-29500}")
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m common.distributed.launch "${where[@]}" --nproc_per_node "$processes" "$command" "$@"
