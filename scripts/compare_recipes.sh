#!/usr/bin/env bash
# Recipes compared at equal training time, each with several seeds: one table and one page.
#
#   bash scripts/compare_recipes.sh --dataset toybirds --minutes 10 --seeds "0 1 2"      published, improved and modern
#   bash scripts/compare_recipes.sh --dataset cub100 --rows "published modern"
#   bash scripts/compare_recipes.sh --dataset toybirds --rows modern --variants scripts/modern_parts.txt
#
# --rows are methods of run.sh. --variants names a file with a further row a line, "name | changes", where changes are choices
# of run.sh; --gan_changes and --encoder_changes add to the options of --base, the method that is varied. Every row trains for
# --minutes (encoder_share percent of it the encoder at most) on the same data; what is made ready for it beforehand does not
# count: log-mels, cached images, teacher features. All other choices are those of run.sh and hold for every row.
#
# A row that is done is skipped, and an interrupted one goes on. The table (table.md, table.csv) and the page (index.html) in
# output/<tag>_comparison/ are written again after every row.
set -euo pipefail
given=("$@")
rows="published improved modern"
seeds="0 1 2"
variants=                    # a file
base=modern                  # the method that the variants change
own_choices="rows seeds variants base"
source "$(dirname -- "${BASH_SOURCE[0]}")/recipe.sh"

known() { case "$2" in published | improved | modern) ;; *) fail "$1 $2: choose published, improved or modern" ;; esac; }
for row in $rows; do known --rows "$row"; done
known --base "$base"
for number in $seeds; do
    case "$number" in *[!0-9]*) fail "--seeds $number is not a whole number" ;; esac
done
[ -n "$(echo $seeds)" ] || fail "--seeds names none"
[ -z "$stage_given$method" ] && [ "$stop_stage" = 8 ] || fail "--stage, --stop_stage and --method are for run.sh; use --rows"
[ "$nnodes" -le 1 ] || fail "--nnodes $nnodes: rows are compared on one machine"
case "$variants" in '' | /*) ;; *) [ -f "$variants" ] || variants="$stands/$variants" ;; esac
[ -z "$variants" ] || [ -f "$variants" ] || fail "--variants $variants does not exist"

rest=()                      # what holds for every row
for ((i = 0; i < ${#given[@]}; i += 2)); do
    case " rows seeds variants base " in *" ${given[i]#--} "*) ;; *) rest+=("${given[i]}" "${given[i + 1]}") ;; esac
done
names=() changes=()          # of the rows; changes: words, a line each
for row in $rows; do
    names+=("$row")
    changes+=("$(printf '%s\n' --method "$row")")
done
if [ -n "$variants" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        name="$(sed 's/|.*//; s/^ *//; s/ *$//' <<< "$line")"
        case "$name" in '' | '#'*) continue ;; *[!A-Za-z0-9\ .+-]*) fail "--variants: '$name' is no name of letters, digits and . + -" ;; esac
        case "$line" in *'|'*) ;; *) fail "--variants: '$line' is not of the form: name | changes" ;; esac
        words="$(xargs printf '%s\n' <<< "${line#*|}" 2> /dev/null)" || fail "--variants: the quotes of '$line' do not match"
        names+=("$name")
        changes+=("$(printf '%s\n' --method "$base")"$'\n'"$words")
    done < "$variants"
fi
[ "${#names[@]}" -gt 0 ] || fail "--rows and --variants name no row"

folder="$output_root/${tag}_comparison"
case "$folder" in /*) ;; *) folder="$PWD/$folder" ;; esac
made=() row_at_work=
trap '[ -z "$row_at_work" ] || kill "$row_at_work" 2> /dev/null; exit 143' TERM HUP INT  # its stages follow it
for seed in $seeds; do
    for ((i = 0; i < ${#names[@]}; i++)); do
        run="${names[i]// /_}_seed$seed"
        echo "---- ${names[i]}, seed $seed"
        words=()
        while IFS= read -r word; do words+=("$word"); done <<< "${changes[i]}"
        bash scripts/run.sh "${rest[@]}" --dataset "$dataset" --data_root "$data_root" --output_root "$folder" --tag "$run" \
            --seed "$seed" --minutes "${minutes:-10}" --features "${tag}_$run" --stop_stage 7 "${words[@]}" &
        row_at_work=$!
        wait "$row_at_work"
        row_at_work=
        made+=("$folder/$run")
        "$python" ./scripts/comparison_page.py --dataset "$dataset" --data_root "$data_root" --output "$folder" "${made[@]}" \
            > /dev/null
    done
done
cat "$folder/table.md"
echo "the page: $folder/index.html"
