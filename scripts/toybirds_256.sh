#!/usr/bin/env bash
# Choices for toybirds at 256 pixels, which needs a GPU: drawn birds of 320 pixels, networks and batches of the
# published size. 200 species to learn from and 40 that the model never meets, ten images each, ten sentences an image.
source "$(dirname -- "${BASH_SOURCE[0]}")/toybirds.sh"
tag=toybirds_256
prepare="./scripts/make_toybirds.py --classes 240 --test_classes 40 --images_per_class 10 --image_size 320"
teacher_options=
own_method=improved
published_gan_options="--set TRAIN.MAX_ITERATIONS=10000"
modern_gan_cfg=StackGAN_v2/cfg/birds_modern.yml
captions_per_image=
improved_gan_options="--set TREE.BASE_SIZE=64 --set GAN.GF_DIM=64 --set GAN.DF_DIM=64 --set TRAIN.BATCH_SIZE=24
  --set TRAIN.MAX_ITERATIONS=10000"               # minutes on a recent GPU, days on two CPU cores
evaluate_options="--metrics attributes"
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset toybirds_256 "$@"
