"""From images to records: one pass over the generated images feeds every metric that was asked for.

What a record is stands in `records`.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common import attributes, checkpoint, splits
from common.cli import UserError
from common.progress import tqdm
from StackGAN_v2.evaluation import attribute_probe, metrics, records
from StackGAN_v2.evaluation.feature_extractors import Extractor
from StackGAN_v2.evaluation.image_sets import (
    FeatureFile,
    Found,
    Generated,
    RealImages,
    batches,
    load_generated,
    real_features,
    survey,
)

NEEDS_FEATURES = {"kid", "pr"}  # of the main extractor, kept on disk for comparing pairs
BY_CLASS = {"retrieval", "class"}  # never through an Inception, so that they compare with or without weights
FEWEST = {"fid": 2, "is": 10, "kid": 2, "pr": 4}  # images, below which the metric does not exist


@dataclass
class Job:
    """What is compared with what. main: extractor of FID, KID, precision and recall; class_extractor: of the class
    metrics (None if not needed); classifier: of the inception score. size: pixels at which both sides are compared;
    scratch: a folder on a disk with room for the features of all images."""

    wanted: list[str]
    data_dir: Path
    scratch: Path
    split: splits.Split
    found: Found
    size: int
    real: RealImages
    main: Extractor | None
    class_extractor: Extractor | None
    classifier: Extractor | None
    torchvision: Extractor | None  # of S2IGAN's retrieval protocol
    device: torch.device
    batch_size: int
    jobs: int
    bars: bool = True  # show how far it is
    protocol: dict = field(default_factory=dict)  # what the command knows besides, for every record
    left_out: list[str] = field(default_factory=list)  # "metric: reason" of what is not measured

    def progress(self, batches_, images: int, description: str):
        """Pass batches on, with a progress bar over `images`."""
        with tqdm(total=images, desc=description, unit="img", disable=not self.bars) as bar:
            for batch in batches_:
                yield batch
                bar.update(len(batch))

    @property
    def images(self) -> list[Generated]:
        return self.found.images

    @property
    def labels(self) -> torch.Tensor:
        """Classes of the generated images, int64 `[N]`."""
        return torch.tensor([self.split.items[image.item].label for image in self.images])

    @property
    def real_labels(self) -> torch.Tensor:
        """Classes of the real images, int64 `[M]`."""
        return torch.tensor([item.label for item in self.real.items])


def feasible(wanted: list[str], generated: int, real: int, batch: int = 1) -> tuple[list[str], list[str]]:
    """(the metrics of `wanted` that exist for so many images, one reason for each of the others).

    batch: of images that the inception score's network counts at a time.
    """
    possible, reasons = [], []
    for name in wanted:
        sides = {"generated": generated} if name == "is" else {"generated": generated, "real": real}
        fewest = max(FEWEST[name], batch) if name == "is" else FEWEST.get(name, 1)
        short = [
            f"it needs at least {fewest} {side} images, and there {'is' if count == 1 else 'are'} {count}"
            for side, count in sides.items()
            if count < fewest
        ]
        if short:
            reasons.append(f"{name}: {short[0]}")
        else:
            possible.append(name)
    return possible, reasons


def measure(job: Job) -> list[dict]:
    """All records of `job`, in the order of `METRICS`; what cannot be measured is added to `job.left_out`."""
    odd = survey(job.images, job.found.size)
    with ExitStack() as stack:
        kept = job.data_dir / job.split.name
        real = {
            extractor.name: real_features(job.real, extractor, kept, job.batch_size, job.jobs, job.progress)
            for extractor in _real_sides(job)
        }
        reader = _AttributeReader(job) if "attributes" in job.wanted else None
        seen = _Pass(job, reader)
        stack.callback(seen.close)
        seen.run()
        for file in real.values():
            stack.callback(file.close)
        return records.of(job, seen, real, [*job.found.warnings, *odd])


def _real_sides(job: Job) -> list[Extractor]:
    sides = [job.main] if {"fid", "kid", "pr"} & set(job.wanted) else []
    if BY_CLASS & set(job.wanted) and job.class_extractor not in sides:
        sides.append(job.class_extractor)
    return sides + [job.torchvision] * ("s2igan" in job.wanted)


class _Pass:
    """One walk over the generated images. Sums in memory, features on disk: memory does not grow with the images,
    except by a few bytes an image for names and attribute values."""

    def __init__(self, job: Job, reader):
        wanted = set(job.wanted)
        self.job, self.reader = job, reader
        self.moments = metrics.Moments(job.main.width, job.device) if "fid" in wanted else None
        self.score = (
            metrics.InceptionScore(
                len(job.images), job.classifier.classes, records.IS_SPLITS, batch=job.classifier.batch
            )
            if "is" in wanted
            else None
        )
        self.kept = [job.main] if NEEDS_FEATURES & wanted else []
        if BY_CLASS & wanted and job.class_extractor not in self.kept:
            self.kept.append(job.class_extractor)
        if "s2igan" in wanted:
            self.kept.append(job.torchvision)
        self.files: dict[str, FeatureFile] = {}
        self.read: list[torch.Tensor] = []

    def run(self) -> None:
        job = self.job
        used = [job.main] * bool(self.moments) + self.kept + [job.classifier] * bool(self.score)
        used = list(dict.fromkeys(used))  # each once

        def load(index):
            return load_generated(job.images[index].path, job.size)

        # without a name: whatever becomes of this process, nothing of them stays
        files = {e: tempfile.TemporaryFile(dir=job.scratch, prefix=".evaluate") for e in self.kept}
        try:
            for images in job.progress(
                batches(load, len(job.images), job.batch_size, job.jobs), len(job.images), "generated images"
            ):
                for extractor in used:
                    features, logits = extractor(images)
                    if extractor in files:
                        files[extractor].write(features.cpu().numpy().tobytes())
                    if self.moments and extractor is job.main:
                        self.moments.update(features)
                    if self.score and extractor is job.classifier:
                        self.score.update(logits)
                if self.reader:
                    self.read.append(self.reader.read(images))
            for file in files.values():
                file.flush()
        except OSError as error:
            raise UserError(f"the features of the images cannot be kept in {job.scratch}: {error.strerror}") from None
        self.files = {e.name: FeatureFile(file, e.width, e.device) for e, file in files.items()}

    def close(self) -> None:
        for file in self.files.values():
            file.close()


class _AttributeReader:
    """The probe of a data set, trained once and kept in its folder, and what it reads from the real images."""

    def __init__(self, job: Job):
        self.attributes = attributes.load_attributes(job.data_dir / "attributes.json")
        # with the margin kept: the probe makes random crops, as the generator's training does
        train = RealImages(splits.load_split(job.data_dir, "train"), attribute_probe.MARGIN, margin=1)
        self.probe = self._load_or_train(job, train)
        # the generator's images are always of this crop, whatever --crop compares them with
        real = RealImages(job.split, job.size)
        needed = sorted({real.number[image.item] for image in job.images})
        rows = [
            self.read(images)
            for images in job.progress(
                batches(lambda i: real.load(needed[i]), len(needed), job.batch_size, job.jobs),
                len(needed),
                "real images (probe)",
            )
        ]
        rows = dict(zip(needed, torch.cat(rows)))
        self.real = torch.stack([rows[real.number[image.item]] for image in job.images])

    def _load_or_train(self, job, train) -> attribute_probe.Probe:
        path = train.split.path.parent / "train" / "attribute_probe.pth"
        truth = self.attributes.of_items(train.items)
        key = train.key(attribute_probe.VERSION, self.attributes.values, truth.tolist())
        if path.is_file():
            content = checkpoint.load(path)
            if isinstance(content, dict) and content.get("key") == key:
                return attribute_probe.probe_from_state(content, path, job.device)
        images = torch.cat(
            list(
                job.progress(
                    batches(train.load, len(train), job.batch_size, job.jobs), len(train), "training images (probe)"
                )
            )
        )
        probe = attribute_probe.train_probe(images, truth, self.attributes.counts, device=job.device, progress=job.bars)
        checkpoint.save(path, {"key": key, **attribute_probe.probe_state(probe)})
        return probe

    def read(self, images):
        return attribute_probe.read_attributes(self.probe, images)
