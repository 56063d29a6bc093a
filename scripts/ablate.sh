#!/usr/bin/env bash
# What each loss of the speech encoder is worth: train it with every choice of JEL, L1 and distillation, and compare.
# What each part of the modern method is worth, generator included, is compare_recipes.sh's to say, with --variants.
#
#   bash scripts/ablate.sh --dataset birds                              the seven rows of the table
#   bash scripts/ablate.sh --dataset birds --only "jel jel+l1+distill"  some of them
#   bash scripts/ablate.sh --dataset birds --seeds "0 1 2"              each with three seeds: mean and deviation
#
# The data are made first, by the recipe's stages 0 to 2, unless they are there (--stage 3: take them as they are). A row that
# is done is skipped, and an interrupted one goes on. The table, output/<tag>_ablation/table.md and table.csv, is written again
# after every row, with the rows of this call. Choices are those of run.sh; of --encoder_options, the three flags are set here.
set -euo pipefail
rows="jel l1 distill jel+l1 jel+distill l1+distill jel+l1+distill"
only="$rows"
seeds=                       # default: --seed
own_choices="only seeds"
source "$(dirname -- "${BASH_SOURCE[0]}")/recipe.sh"

for row in $only; do
    case " $rows " in *" $row "*) ;; *) fail "--only $row is none of: $rows" ;; esac
done
for number in ${seeds:=$seed}; do
    case "$number" in *[!0-9]*) fail "--seeds $number is not a whole number" ;; esac
done
[ -n "$(echo $only)" ] || fail "--only names no row; there are: $rows"
[ "$stage" -le 3 ] || fail "--stage $stage: the encoders are stage 3, so it can be 3 at the most"
[ "$stop_stage" = 8 ] || fail "--stop_stage is for run.sh; every row here is trained and evaluated"
[ -z "$no_teacher" ] || fail "--dataset $dataset: its encoder learns without these losses; give --method improved or published"

stage_given=                 # what is done stays done
data_stages
folder="$output_root/${tag}_ablation"
data_renewed=$renewed        # then every row is trained again
stage=3
options=
for word in $encoder_options; do
    case "$word" in --jel_flag | --l1_flag | --distill_flag) ;; *) options="$options $word" ;; esac
done
trained=()
for seed in $seeds; do
    for row in $only; do
        echo "---- $row, seed $seed"
        recipe="$folder/${row}_seed$seed"
        encoder="$recipe/encoder"
        renewed=$data_renewed
        mkdir -p "$recipe"
        flags="--${row//+/_flag --}_flag"
        encoder_options="--keep 1 $options $flags"
        encoder_stage
        [ "$node_rank" -eq 0 ] || continue                                   # what follows is machine 0's
        run_stage 7 evaluation evaluate_encoder
        rm -f "$encoder"/resume*.pth                                         # there is nothing left to go on with
        trained+=("$recipe")
        "$python" ./scripts/ablation_table.py --output "$folder" "${trained[@]}" > /dev/null
    done
done
end_of_training
cat "$folder/table.md"
echo "the table: $folder/table.md and table.csv"
