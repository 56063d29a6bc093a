"""Damaged inputs through the commands: each ends well or in one sentence, whichever part of it meets the file first."""

import random

import pytest
import stages
from damage import variants

# stage → its inputs, of which one file at a time is damaged before it runs
INPUTS = {
    "speech": ["data/toybirds/train.json"],
    "image features": ["data/toybirds/test.json", "**/images/*/*.jpg"],
    "encoder": ["**/audio/*/*/*.wav", "**/train/image_features_*.pickle"],
    "speech features": ["**/epoch_2.pth", "**/test/log_mels.npy"],
    "generator": ["**/train/audio_features_eff*.pickle", "**/train/audio_features_eff*.json", "**/images/*/*.jpg"],
    "images": ["**/netG_4.pth", "**/test/audio_features_eff*.pickle"],
    "speech numbers": ["**/epoch_2.pth", "**/test/image_features_*.pickle"],
    "image numbers": ["**/valid/*/*_64_*.png", "**/samples.json"],
    "report": ["**/metrics.json", "output/StackGAN_v2/*/stats.jsonl", "output/*/*/*/options.json", "**/netG_4.pth"],
}


@pytest.mark.parametrize("name", INPUTS)
def test_damaged_inputs(name, trial, count, seeds):
    trial.make(name)
    for seed in seeds(0.1 / len(INPUTS)):
        for pattern in INPUTS[name]:
            dice = random.Random(f"{seed} {name} {pattern}")
            stages.restore(trial.saved(name), trial.place)
            found = sorted(trial.place.glob(pattern))
            assert found, f"no {pattern} before {name}"
            path = dice.choice(found)
            what, data = dice.choice(list(variants(path.read_bytes(), 8, dice)))
            path.write_bytes(data)
            ended = trial.run(name)
            told = f"{name}, {path.name}, {what}: status {ended.status}\n{ended.output}"
            sentences = [line for line in ended.output.splitlines() if "error: " in line]
            assert ended.status in (0, 2) and len(sentences) == ended.status // 2, told
            assert "Traceback" not in ended.output and not ended.left, told
            count("damaged")
