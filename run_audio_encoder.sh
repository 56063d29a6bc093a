#!/usr/bin/env bash
# Train the speech encoder in some processes:  bash ./run_audio_encoder.sh PROCESSES --output_dir DIR --dataset NAME …
# PROCESSES counts those of this machine (one a GPU). More machines: the same command on each, with NNODES, NODE_RANK,
# MASTER_ADDR and MASTER_PORT set (docs/multi_gpu.md). All other words go to Audio_to_Image/train_audio_encoder.py; see
# its --help.
set -euo pipefail
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
command="$root/Audio_to_Image/train_audio_encoder.py"
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3

processes="${1-}"
case "$processes" in
    -h | --help) exec "$python" "$command" --help ;;
    '' | 0* | *[!0-9]*)
        echo "run_audio_encoder.sh: error: the first word is the number of processes on this machine," \
             "as in: bash ./run_audio_encoder.sh 1 --output_dir DIR --dataset NAME …" >&2
        exit 2 ;;
esac
shift
for word in "$@"; do
    case "$word" in -h | --help) exec "$python" "$command" --help ;; esac
done

if [ "${NNODES:-1}" = 1 ]; then
    where=(--standalone)
else
    where=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?set NODE_RANK, the number of this machine from 0}"
           --master_addr "${MASTER_ADDR:?set MASTER_ADDR, the address of machine 0}"
           --master_port "${MASTER_PORT:-29500}")
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m common.distributed.launch "${where[@]}" --nproc_per_node "$processes" "$command" "$@"
