#!/usr/bin/env bash
# Choices for CUB-200-2011: those of the paper, which are run.sh's own.
download="CUB_200_2011 cvpr2016_cub googlenet"
download_extra=fid_inception    # metrics go through EfficientNet-lite0 without it
published_speech=birds_speech
prepare=./scripts/prepare_birds.py
gan_cfg=StackGAN_v2/cfg/birds_3stages.yml
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset birds "$@"
