"""Fine-tuning an Inception-v3 on a set's own classes: `images` cuts and divides them, `training` is the loop."""
