"""Settings that the trainings of this project have in common; each training's own groups stand with it."""

from dataclasses import dataclass
from pathlib import Path

from common.settings import Group, SettingError, setting


@dataclass(frozen=True)
class ComputeSettings(Group):
    """Machine."""

    device: str = setting(
        "auto", "where to compute", more="auto takes a GPU if there is one", metavar="auto|cpu|cuda[:N]", compared=False
    )
    precision: str = setting(
        "auto",
        "arithmetic of matrix products",
        compared=False,
        choices=("auto", "fp32", "tf32", "bf16"),
        more="auto: bf16 where the device "
        "multiplies it; fp32: all of float32; tf32: float32 with short products (GPUs)",
    )


@dataclass(frozen=True)
class SnapshotSettings(Group):
    """Snapshots."""

    keep: int = setting(0, "newest snapshots kept, beside the best", more="0: all", at_least=0, compared=False)
    keep_every: int = setting(
        0, "snapshots whose number is a multiple of N are kept too", more="0: none for that", at_least=0, compared=False
    )


@dataclass(frozen=True)
class SeedSettings(Group):
    """Start and end."""

    seed: int = setting(
        0, "seed of everything random", options=("--manualSeed",), at_least=0, at_most=2**32 - 1, compared=False
    )
    max_steps: int = setting(
        0, "stop after N steps in all", more="0: only where the training ends", at_least=0, compared=False
    )
    max_minutes: float = setting(
        0.0,
        "end the training after N minutes of wall time",
        more="counted over all interruptions, from after the data are read; 0: any time",
        at_least=0,
        compared=False,
    )


@dataclass(frozen=True)
class ValidationSettings(Group):
    """Validation."""

    val_share: float = setting(
        0.0,
        "share of the training split that is left out and chooses the best snapshot",
        at_least=0,
        below=1,
        published=False,
        more="of its classes where the test split has others (zero-shot sets), else of its images, drawn by the seed; "
        "0: all is trained on, and the test split chooses, as published",
    )


@dataclass(frozen=True)
class ResumeSettings(Group):
    """Start and end."""

    resume: str = setting(
        "auto",
        "where to go on",
        metavar="auto|none|FILE",
        compared=False,
        more="auto: from the run's resume.pth if it is there, or the one before if it is damaged; "
        "none: start from scratch; FILE: from that resume file",
    )
    dry_run: bool = setting(False, "print the resolved settings and stop, before anything is written", compared=False)

    def check(self) -> None:
        if self.resume not in ("auto", "none") and not Path(self.resume).is_file():
            raise SettingError("resume", self.resume, "it does not exist; give a resume file, auto or none")
