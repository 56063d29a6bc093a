#!/usr/bin/env bash
# Choices for Flickr8k with its spoken captions: five recordings an image, no classes.
engine=none
download="Flickr8k_audio Flickr8k_images Flickr8k_text googlenet"
download_extra=fid_inception    # metrics go through EfficientNet-lite0 without it
prepare=./scripts/prepare_flickr8k.py
gan_cfg=StackGAN_v2/cfg/flickr8k_3stages.yml
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset flickr8k "$@"
