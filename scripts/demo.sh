#!/usr/bin/env bash
# The whole method on a small data set that it draws and speaks itself: set-up, then a page of what the networks in
# pretrained/ make of birds that they have not met (a minute), then the recipe of toybirds, whose page replaces that one.
#   bash scripts/demo.sh --no_training     stop after the first page;  other options are those of scripts/run.sh
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
fail() { echo "demo.sh: error: $1" >&2; exit 2; }
place() { case "$1" in /* | ./* | ../*) echo "$1" ;; *) echo "$here/../$1" ;; esac; }      # as in the recipe
training=1 first=1 shown= data_root="$here/../data" output_root="$here/../output" tag=demo device=auto words=()
for ((i = 1; i <= $#; i++)); do
    j=$((i + 1)) value=
    [ "$j" -gt $# ] || value="${!j}"
    case "${!i}" in
        --no_training) training=; continue ;;
        --data_root) data_root="$(place "$value")" ;;
        --output_root) output_root="$(place "$value")" ;;
        --tag) tag="$value" ;;
        --device) device="$value" ;;
        --stage | --stop_stage | -h | --help) first= ;;       # a part of the recipe, which has its own page
    esac
    words+=("${!i}")
done
bash "$here/setup.sh"
page="$output_root/$tag/index.html"
networks="$here/../pretrained/toybirds"
if [ -z "$training" ] || { [ -n "$first" ] && [ ! -e "$output_root/$tag/.done_8" ]; }; then
    if [ -f "$networks/encoder.pth" ] && [ -f "$networks/generator.pth" ] && [ -f "$networks/card.json" ]; then
        echo "first, the networks in pretrained/toybirds: a page of what they make of birds that they have not met"
        "$here/../.venv/bin/python" "$here/first_look.py" --data_root "$data_root" --output "$page" --device "$device" &&
            shown=1 && echo "that page shows the pretrained networks: open $page" || [ -n "$training" ] || exit 2
    elif [ -z "$training" ]; then
        fail "--no_training: there are no networks in pretrained/toybirds"
    fi
fi
[ -n "$training" ] || exit 0
echo "now training the demo's own networks${shown:+; their page follows (scripts/demo.sh --no_training stops before this)}"
exec bash "$here/toybirds.sh" ${words[@]+"${words[@]}"}
