#!/usr/bin/env bash
# A recipe: every stage from spoken words to images and numbers, for one data set.
#
#   bash scripts/run.sh --dataset birds                       all stages; those that are done are skipped
#   bash scripts/run.sh --dataset birds --stage 3 --stop_stage 4
#   bash scripts/run.sh --dataset birds --nproc 8 --nnodes 2 --node_rank 0 --master_addr HOST      and on the other machine
#                                                                                                   --node_rank 1
#
#   0 data             download, draw or prepare the set, where a recipe can
#   1 speech           synthesise the captions (sets that come with recordings have none to make)
#   2 image features   ten views of every image through the teacher (left out where the encoder needs none)
#   3 encoder          train the speech encoder
#   4 speech features  embed every caption
#   5 generator        train it
#   6 images         generate every test sentence
#   7 evaluation       the numbers
#   8 report           one HTML page
#
# The choices in recipe.sh are the published ones; scripts/<dataset>.sh changes what differs for a set, and an option of the
# same name changes it for one run: --teacher efficientnet_lite0 --gan_options "--max_steps 1000".
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/recipe.sh"

evaluate() {    # joined by &&: bash does not stop at errors within a function whose status is asked for
    evaluate_encoder &&
    "$python" ./StackGAN_v2/evaluate.py --images "$(samples)" --data_dir "$data" --device "$device" $evaluate_options
}

samples() { dirname "$(readlink -f "$generator/Model/latest.pth")" | sed "s|\$|/iteration$(readlink -f \
    "$generator/Model/latest.pth" | sed 's/.*netG_//; s/\.pth$//')/single_samples/valid|"; }

# ---- stages --------------------------------------------------------------------------------------------------------
data_stages
encoder_stage
run_stage 4 "speech features" "$python" ./Audio_to_Image/extract_audio_feature.py --model "$encoder/latest.pth" \
    --audio_switch "$features" --dataset "$dataset" --data_root "$data_root" --device "$device" $extract_options
run_stage 5 generator launch ./StackGAN_v2/main.py --cfg "$gan_cfg" --output_dir "$gan_name" --audio_switch "$features" \
    --data_dir "$data" --device "$device" --manualSeed "$seed" $gan_options
end_of_training
run_stage 6 images "$python" ./StackGAN_v2/main.py --cfg "$gan_cfg" --set TRAIN.FLAG=False \
    --eval_net_g "$generator/Model/latest.pth" --data_dir "$data" --audio_switch "$features" --device "$device" $sample_options
run_stage 7 evaluation evaluate
run_stage 8 report "$python" ./scripts/report.py "$recipe" --dataset "$dataset" --data_root "$data_root" \
    --output "$recipe/index.html" --device "$device"
[ "$stop_stage" -lt 8 ] || echo "the page: $recipe/index.html"
