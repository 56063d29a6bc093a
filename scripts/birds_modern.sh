#!/usr/bin/env bash
# CUB-200-2011 at 256 pixels by the modern method: the choices of birds.sh, spoken by the voice that needs no account.
exec bash "$(dirname -- "$0")/run.sh" --dataset birds --method modern --engine hibari "$@"
