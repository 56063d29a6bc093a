"""A speech encoder and a generator with random weights, as files of runs below a folder."""

import json
from pathlib import Path

import torch

from Audio_to_Image.speech_encoder import CNNRNN
from common import checkpoint
from StackGAN_v2.model import Generator, init_weights

FRAMES = 256  # 2.56 s are heard


def make_runs(root: Path) -> tuple[Path, Path]:
    """→ (the encoder's file, the generator's run), below `root` as the recipes have them below output/."""
    torch.manual_seed(0)
    encoder = CNNRNN(embedding_dim=16, nhidden=12, bidirectional=True).eval()
    state = encoder.state_dict()
    meta = {"max_frames": FRAMES, "dataset": "tiny", "teacher": "stub", "metrics": {"map_s2i": 0.5}}
    digest = checkpoint.digest(state)
    encoder_file = root / "Audio_to_Image/log/tiny_speech_encoder/latest.pth"
    checkpoint.save(encoder_file, {"meta": {**meta, "digest": digest}, "state_dict": state, "objective": {}})
    run = root / "StackGAN_v2/tiny_speech_encoder"
    generator = Generator(3, 16, 8, 4, 5, 12).apply(init_weights)
    for name, buffer in generator.named_buffers():  # images that are not all alike
        if name.endswith("running_var"):
            buffer.fill_(0.3)
    checkpoint.save(run / "Model/netG_7.pth", generator.state_dict())
    (run / "Model/latest.pth").symlink_to("netG_7.pth")
    options = {"speech_encoder": digest, "manualSeed": 3, "data_dir": "./data/tiny"}
    (run / "options.json").write_text(json.dumps({"options": options, "command": ["main.py", "--cfg", "tiny.yml"]}))
    return encoder_file, run
