"""Settings of interpolation.py."""

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path

from common import ROOT
from common.cli import number_list
from common.settings import Group, setting, with_default
from common.training_settings import ComputeSettings

STEPS = 11  # images on the line, both ends included
BASE_BYTES = 40  # of --img_filename_base, which stands before an input's name


def file_name_base(text: str) -> str:
    if (
        not text
        or "/" in text
        or text.startswith(".")
        or not text.isprintable()
        or len(text.encode(errors="surrogateescape")) > BASE_BYTES
    ):
        raise ArgumentTypeError(
            f"'{text[:BASE_BYTES]}' is not the beginning of a file's name, of at most {BASE_BYTES} bytes"
        )
    return text


@dataclass(frozen=True)
class InputSettings(Group):
    """Inputs."""

    type: str = setting(
        "inference",
        "inference: images of every input; interpolation: images between two inputs, and a strip of them",
        choices=("inference", "interpolation"),
    )
    wav: tuple[str, ...] = setting(
        (), "recordings, of any rate, channels and format (wav, flac, ogg, mp3, webm, m4a, …)", metavar="FILE"
    )
    text: tuple[str, ...] = setting((), "sentences, spoken by --engine", metavar="SENTENCE")
    input_text: str | None = setting(None, "published spelling of a --text", metavar="SENTENCE")
    input_text_other: str | None = setting(None, "the second sentence of --type interpolation", metavar="SENTENCE")
    engine: str = setting("hibari", "speech synthesis for --text", choices=("hibari", "espeak"))
    voice: str | None = setting(None, "voice of --engine", none="its first")


@dataclass(frozen=True)
class NetworkSettings(Group):
    """Networks."""

    encoder: str | None = setting(
        None,
        "speech encoder .pth, or a name in pretrained/",
        options=("--encoder", "--audio_encoder_path"),
        metavar="FILE|NAME",
        none="of those and of the latest.pth and best.pth below output/Audio_to_Image/log, the newest one that the "
        "generator was trained with",
    )
    generator: str | None = setting(
        None,
        "generator netG_<n>.pth, or a name in pretrained/",
        options=("--generator", "--gan_path"),
        metavar="FILE|NAME",
        none="the newest latest.pth below output/StackGAN_v2, else the pretrained one",
    )
    device: str = with_default(ComputeSettings, "device", "auto")


@dataclass(frozen=True)
class OutputSettings(Group):
    """Images."""

    seeds: tuple[int, ...] = setting(
        (0,),
        "seeds of the noise",
        at_least=0,
        at_most=2**63,
        parse=number_list,
        metavar="LIST",
        more="with 0-7, inference generates each input eight times and interpolation makes eight lines",
    )
    interpolation_num: int = setting(
        STEPS - 1,
        "interpolation: parts that the line is cut into, so N + 1 images",
        at_least=1,
        at_most=1000,
        more="1000 at the most",
    )
    img_filename_base: str | None = setting(
        None,
        "begin the images' names with this",
        parse=file_name_base,
        none="the recording's name or the words of the sentence",
    )
    output_dir: Path = setting(
        ROOT / "output/interpolation",
        "folder of the images",
        more="files in it that this project did not write are never replaced",
    )
    all_sizes: bool = setting(False, "also write the images of the earlier, smaller branches")


@dataclass(frozen=True)
class ImageOptions(OutputSettings, NetworkSettings, InputSettings):
    """All options of interpolation.py."""
