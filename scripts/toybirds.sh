#!/usr/bin/env bash
# Choices for toybirds, the set that the project draws and speaks itself: the birds' recipe, small enough for two CPU cores.
# 300 species to learn from and 60 that the model never meets, three pictures each, ten sentences a picture.
tag=demo
prepare="./scripts/make_toybirds.py --classes 360 --test_classes 60 --images_per_class 3"
engine=hibari
speech_options="--speed 1.1-1.3"                  # cost follows the length of the sound
teacher=efficientnet_lite0                        # its ImageNet weights come with a package; GoogLeNet's do not
teacher_options="--view_size 128"                 # the pictures have 128 pixels
encoder_options="--epoch 60 --eval_every 10 --lr_schedule cosine --loss_diff 1 --loss_same 0.1 --l1_flag --jel_flag
  --lambda_l1 5 --distill_flag --lambda_distill 1000 --learning_rate 1e-3 --bidirectional --rnn_layers 1
  --max_frames 640"
gan_cfg=StackGAN_v2/cfg/toybirds_3stages.yml
paint_options="--all_sizes"
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset toybirds "$@"
