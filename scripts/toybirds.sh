#!/usr/bin/env bash
# Choices for toybirds, the set that the project draws and speaks itself, small enough for two CPU cores: 64 pixels.
# 3,200 species to learn from, one image and one sentence each, and 100 that the model never meets, three images each with two
# sentences: images cost little, speech a third of a minute for a thousand sentences. Three voices share the sentences, so
# that not one voice alone is understood.
tag=demo
prepare="./scripts/make_toybirds.py --classes 3300 --test_classes 100 --images_per_class 1 --test_images_per_class 3"
engine=hibari,espeak
captions_per_image=1,2
speech_options="--voices hibari.heart,espeak.en-us+f2,espeak.en-us+m3 --speed 1.0-1.4"  # cost follows the sound's length
teacher=efficientnet_lite0                        # its ImageNet weights come with a package; GoogLeNet's do not
teacher_options="--view_size 128"                 # the images have 128 pixels
own_method=modern
improved_encoder_options="--epoch 14 --eval_every 7 --batch_size 16 --grad_clip 5 --lr_schedule cosine --learning_rate 5e-4
  --loss_diff 1 --loss_same 0.1 --l1_flag --jel_flag --lambda_l1 5 --distill_flag --lambda_distill 1000
  --bidirectional --rnn_layers 1 --max_frames 576"
improved_gan_cfg=StackGAN_v2/cfg/toybirds_3stages.yml
published_encoder_options="$encoder_options --max_frames 576"
published_gan_options="--set TREE.BASE_SIZE=16 --set TRAIN.SNAPSHOT_INTERVAL=1000"
modern_encoder_options="$modern_encoder_options --epoch 20 --eval_every 20"
modern_gan_cfg=StackGAN_v2/cfg/toybirds_exemplar.yml
sample_options="--all_sizes"
evaluate_options="--lite0_size 128"
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset toybirds "$@"
