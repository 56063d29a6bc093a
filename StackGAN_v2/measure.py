"""From pictures to records: one pass over the generated pictures feeds every metric that was asked for.

A record is {"metric", "value", "unit", …, "protocol", "date", "warnings"}; its name carries the protocol, as in
`fid_lite0_64px_box_test240_gen2400`.
"""
import datetime
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from common import checkpoint, splits
from common.cli import UserError
from StackGAN_v2 import attribute_probe, metrics
from StackGAN_v2.extractors import Extractor
from StackGAN_v2.picture_sets import FeatureFile, Generated, RealPictures, batches, load_generated, real_features

METRICS = ("fid", "is", "kid", "pr", "retrieval", "class", "attributes")
NEEDS_FEATURES = {"kid", "pr"}                     # of the main extractor, kept on disk for comparing pairs
BY_CLASS = {"retrieval", "class"}                  # always through lite0, so that they compare with or without weights
FEWEST = {"fid": 2, "is": 10, "kid": 2, "pr": 4}   # pictures, below which the metric does not exist
IS_SPLITS, KID_SUBSETS, KID_SUBSET_SIZE, PR_NEIGHBOURS, RANKS = 10, 100, 1000, 3, (1, 5, 10)


@dataclass
class Job:
    """What is compared with what. main: extractor of FID, KID, precision and recall; lite0: of the class metrics (None
    if not needed); judge: of the inception score. named: the size in the pictures' names; size: that of comparison."""
    wanted: list[str]
    data_dir: Path
    split: splits.Split
    pictures: list[Generated]
    named: int
    size: int
    real: RealPictures
    main: Extractor | None
    lite0: Extractor | None
    judge: Extractor | None
    device: torch.device
    batch_size: int
    jobs: int
    bars: bool = True                              # show how far it is
    protocol: dict = field(default_factory=dict)   # what the command knows besides, for every record

    def progress(self, batches_, pictures: int, description: str):
        """Pass batches on, with a progress bar over `pictures`."""
        with tqdm(total=pictures, desc=description, unit="img", disable=not self.bars) as bar:
            for batch in batches_:
                yield batch
                bar.update(len(batch))

    @property
    def labels(self) -> torch.Tensor:
        """Classes of the generated pictures, int64 `[N]`."""
        return torch.tensor([self.split.items[picture.item].label for picture in self.pictures])

    @property
    def real_labels(self) -> torch.Tensor:
        return torch.tensor(self.split.labels)


def check(job: Job) -> None:
    """UserError if a metric cannot exist for so few pictures, before anything is computed."""
    for name in job.wanted:
        fewest, sides = FEWEST.get(name, 1), {"generated": len(job.pictures)}
        if name != "is":
            sides["real"] = len(job.real)
        for side, count in sides.items():
            if count < fewest:
                raise UserError(f"--metrics {name}: it needs at least {fewest} {side} pictures, and there "
                                f"{'is' if count == 1 else 'are'} {count}")


def measure(job: Job) -> list[dict]:
    """All records of `job`, in the order of `METRICS`."""
    check(job)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="evaluate_"))
        kept = job.data_dir / job.split.name
        real = {extractor.name: real_features(job.real, extractor, kept, job.batch_size, job.jobs, job.progress)
                for extractor in _real_sides(job)}
        reader = _AttributeReader(job) if "attributes" in job.wanted else None
        seen = _Pass(job, Path(folder), reader)
        seen.run()
        for file in (*real.values(), *seen.files.values()):
            stack.callback(file.close)
        records = []
        for name in METRICS:
            if name in job.wanted:
                records += _RECORDS[name](job, seen, real)
        return records


def _real_sides(job: Job) -> list[Extractor]:
    sides = [job.main] if {"fid", "kid", "pr"} & set(job.wanted) else []
    if BY_CLASS & set(job.wanted) and job.lite0 not in sides:
        sides.append(job.lite0)
    return sides


class _Pass:
    """One walk over the generated pictures. Sums in memory, features on disk: memory does not grow with the pictures,
    except by a few bytes a picture for names and attribute values."""

    def __init__(self, job: Job, folder: Path, reader):
        wanted = set(job.wanted)
        self.job, self.folder, self.reader = job, folder, reader
        self.moments = metrics.Moments(job.main.width, job.device) if "fid" in wanted else None
        self.score = metrics.InceptionScore(len(job.pictures), job.judge.classes, IS_SPLITS) if "is" in wanted else None
        self.kept = [job.main] if NEEDS_FEATURES & wanted else []
        if BY_CLASS & wanted and job.lite0 not in self.kept:
            self.kept.append(job.lite0)
        self.files: dict[str, FeatureFile] = {}
        self.read: list[torch.Tensor] = []

    def run(self) -> None:
        job = self.job
        used = [job.main] * bool(self.moments) + self.kept + [job.judge] * bool(self.score)
        used = list(dict.fromkeys(used))           # each once

        def load(index):
            return load_generated(job.pictures[index].path, job.named, job.size)
        with ExitStack() as stack:
            files = {e: stack.enter_context(open(self.folder / f"{e.name}.f32", "wb")) for e in self.kept}
            for pictures in job.progress(batches(load, len(job.pictures), job.batch_size, job.jobs), len(job.pictures),
                                         "generated pictures"):
                for extractor in used:
                    features, logits = extractor(pictures)
                    if extractor in files:
                        files[extractor].write(features.cpu().numpy().tobytes())
                    if self.moments and extractor is job.main:
                        self.moments.update(features)
                    if self.score and extractor is job.judge:
                        self.score.update(logits)
                if self.reader:
                    self.read.append(self.reader.read(pictures))
        self.files = {e.name: FeatureFile(self.folder / f"{e.name}.f32", e.width, e.device) for e in self.kept}


class _AttributeReader:
    """The probe of a data set, trained once and kept in its folder, and what it reads from the real pictures."""

    def __init__(self, job: Job):
        self.attributes = attribute_probe.load_attributes(job.data_dir / "attributes.json")
        # with the margin kept: the probe makes random crops, as the generator's training does
        train = RealPictures(splits.load_split(job.data_dir, "train"), attribute_probe.MARGIN, margin=1)
        self.probe = self._load_or_train(job, train)
        # the generator's pictures are always of this crop, whatever --crop compares them with
        real = RealPictures(job.split, job.size)
        needed = sorted({picture.item for picture in job.pictures})
        rows = [self.read(pictures) for pictures in job.progress(
            batches(lambda i: real.load(needed[i]), len(needed), job.batch_size, job.jobs), len(needed),
            "real pictures (probe)")]
        self.real = dict(zip(needed, torch.cat(rows)))

    def _load_or_train(self, job, train) -> attribute_probe.Probe:
        path = train.split.path.parent / "train" / "attribute_probe.pth"
        truth = self.attributes.of_items(train.split)
        key = train.key(attribute_probe.VERSION, self.attributes.values, truth.tolist())
        if path.is_file():
            content = checkpoint.load(path)
            if isinstance(content, dict) and content.get("key") == key:
                return attribute_probe.probe_from_state(content, path, job.device)
        pictures = torch.cat(list(job.progress(batches(train.load, len(train), job.batch_size, job.jobs), len(train),
                                               "training pictures (probe)")))
        probe = attribute_probe.train_probe(pictures, truth, self.attributes.counts, device=job.device,
                                            progress=job.bars)
        checkpoint.save(path, {"key": key, **attribute_probe.probe_state(probe)})
        return probe

    def read(self, pictures):
        return attribute_probe.read_attributes(self.probe, pictures)


def _record(job: Job, name: str, value, unit: str, warnings=(), protocol=None, **more) -> dict:
    shared = {"generated_pictures": len(job.pictures), "size_px": job.size, "picture_size_px": job.named,
              **job.protocol}
    return {"metric": name, "value": value, "unit": unit, **more, "protocol": {**shared, **(protocol or {})},
            "date": datetime.datetime.now().isoformat(timespec="seconds"), "warnings": list(warnings)}


def _against_real(job: Job, extractor: Extractor) -> tuple[str, dict]:
    """The part of a name that says what was compared, and the same for the protocol."""
    stem = f"{extractor.name}_{job.size}px_{job.real.crop}_{job.split.name}{len(job.real)}_gen{len(job.pictures)}"
    return stem, {"extractor": extractor.what, "crop": job.real.crop, "real_split": str(job.split.path),
                  "real_pictures": len(job.real)}


def _fid(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    moments = metrics.Moments(job.main.width, job.device)
    for rows in metrics.blocks(real[job.main.name]):
        moments.update(rows)
    value = metrics.frechet_distance(seen.moments.mean, seen.moments.covariance, moments.mean, moments.covariance)
    few = [f"{count} {side} pictures for {job.main.width} features: their covariance is singular and the distance "
           "biased upwards; compare only with the same numbers of pictures"
           for side, count in (("generated", seen.moments.count), ("real", moments.count)) if count <= job.main.width]
    return [_record(job, f"fid_{stem}", value, "", few, protocol)]


def _kid(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    generated, true = seen.files[job.main.name], real[job.main.name]
    size = min(KID_SUBSET_SIZE, len(generated), len(true))
    value, std = metrics.kernel_distance(generated, true, KID_SUBSETS, size)
    few = [f"subsets of {size} pictures, not {KID_SUBSET_SIZE}, for want of pictures"] if size < KID_SUBSET_SIZE else []
    protocol |= {"subsets": KID_SUBSETS, "subset_size": size}
    return [_record(job, f"kid_{stem}", value, "", few, protocol, std=std)]


def _is(job, seen, real):
    value, std = seen.score.value()
    few = [f"{len(job.pictures)} pictures: the score of fewer than 5000 is biased downwards"] \
        if len(job.pictures) < 5000 else []
    return [_record(job, f"is_{job.judge.name}_{job.size}px_gen{len(job.pictures)}", value, "", few,
                    {"extractor": job.judge.what, "splits": IS_SPLITS}, std=std)]


def _pr(job, seen, real):
    stem, protocol = _against_real(job, job.main)
    values = metrics.precision_recall(seen.files[job.main.name], real[job.main.name], PR_NEIGHBOURS)
    return [_record(job, f"{name}_{stem}", value, "", (), {**protocol, "neighbours": PR_NEIGHBOURS})
            for name, value in zip(("precision", "recall"), values)]


def _retrieval(job, seen, real):
    stem, protocol = _against_real(job, job.lite0)
    true, labels, shown = real[job.lite0.name], job.labels, job.real_labels
    values = metrics.retrieval(true, seen.files[job.lite0.name], shown, labels, RANKS)
    try:
        ceiling = metrics.retrieval(true, true, shown, shown, RANKS, without_self=True)
    except ValueError:                             # classes of one picture: nothing to find but the query
        ceiling = dict.fromkeys(values)
    right = labels.bincount(minlength=int(shown.max()) + 1)[shown]     # entries that each query could find
    chance = 100 * right[right > 0].double().mean().item() / len(labels)
    protocol |= {"queries": "real pictures", "gallery": "generated pictures", "similarity": "cosine",
                 "right": "of the same class", "ceiling": "real pictures in the gallery, without the query",
                 "chance": "share of right ones in the gallery"}
    return [_record(job, f"retrieval_{name}_{stem}", value, "%", (), protocol, ceiling=ceiling[name],
                    **({"chance": chance} if name == "map" else {})) for name, value in values.items()]


def _class(job, seen, real):
    stem, protocol = _against_real(job, job.lite0)
    values = metrics.centroid_accuracy(seen.files[job.lite0.name], job.labels, real[job.lite0.name], job.real_labels)
    protocol |= {"right": "nearest class centroid of the real pictures, cosine",
                 "ceiling": "real pictures, each against centroids made without it"}
    return [_record(job, f"class_accuracy_{stem}", values["accuracy"], "%", (), protocol, ceiling=values["ceiling"],
                    chance=values["chance"])]


def _attributes(job, seen, real):
    reader = seen.reader
    wanted = torch.stack([reader.attributes.named(job.split, p.item, p.sentence) for p in job.pictures])
    real_read = torch.stack([reader.real[picture.item] for picture in job.pictures])
    report = attribute_probe.agreement_report(torch.cat(seen.read), real_read, wanted, job.labels, reader.attributes)
    few = [] if report["normalised"] is not None else [
        "the probe reads real pictures no better than chance, or nothing can be shuffled: there is no normalised score"]
    protocol = {"probe": f"convolutional, {attribute_probe.SIZE} px, trained on the real training pictures",
                "real_split": str(job.split.path), "ceiling": "the same sentences, read from their real pictures",
                "chance": "sentences of other classes, mean over all pairs"}
    return [_record(job, f"attribute_agreement_{job.size}px_{job.split.name}_gen{len(job.pictures)}",
                    report.pop("agreement"), "%", few, protocol, **report)]


_RECORDS = {"fid": _fid, "is": _is, "kid": _kid, "pr": _pr, "retrieval": _retrieval, "class": _class,
            "attributes": _attributes}
