#!/usr/bin/env bash
# Choices for some thousand real photographs of birds on two CPU cores, in under an hour: 64 pixels, an offline voice, few
# sentences. The set is any folder data/cub100 in the birds' form: train.json and test.json with sentences, the images that
# they name, and attributes.json for the agreement (docs/datasets.md). Nothing is fetched.
source "$(dirname -- "${BASH_SOURCE[0]}")/toybirds.sh"
tag=cub100
prepare=
captions_per_image=2,1                            # of 5,900 images: 10,300 sentences, some minutes
own_method=modern
modern_encoder_options="$modern_encoder_options --epoch 40"      # what its share of the minutes holds
improved_gan_options="--set TRAIN.MAX_ITERATIONS=6000 --set TRAIN.EMA=0.999"
minutes=36                                        # of both trainings; what is around them takes half as long
sample_options=
[ "${BASH_SOURCE[0]}" != "$0" ] || exec bash "$(dirname -- "$0")/run.sh" --dataset cub100 "$@"
