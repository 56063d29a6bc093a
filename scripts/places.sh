#!/usr/bin/env bash
# Choices for the Places subset: people's own recordings, so no speech is made; the folder is data/Places_subset.
dataset=Places_subset
engine=none
download="Places_audio googlenet"                # the first is had by form: this says how, until it is there
download_extra=fid_inception                     # metrics go through EfficientNet-lite0 without it
prepare=./scripts/prepare_places.py
encoder_options="$encoder_options --save_every 1" # an epoch takes long, and a crash repeats what was not saved
gan_cfg=StackGAN_v2/cfg/places_3stages.yml
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset places "$@"
