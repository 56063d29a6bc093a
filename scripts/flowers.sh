#!/usr/bin/env bash
# Choices for Oxford-102: those of the birds.
download="Oxford_102 Oxford_102_labels cvpr2016_flowers googlenet"
download_extra=fid_inception    # metrics go through EfficientNet-lite0 without it
published_speech=flowers_speech
prepare=./scripts/prepare_flowers.py
gan_cfg=StackGAN_v2/cfg/flowers_3stages.yml
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset flowers "$@"
