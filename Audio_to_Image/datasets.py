"""What the encoder is trained on: spoken captions and teacher features of one split, and the order they come in."""

import copy
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch

from Audio_to_Image.audio import is_heard
from Audio_to_Image.front_ends import width_of
from Audio_to_Image.mel_cache import MelCache, columns_of
from Audio_to_Image.recording_remarks import remarks
from Audio_to_Image.sound_files import SILENT
from Audio_to_Image.speech_encoder import FRAMES_PER_POSITION, embed
from Audio_to_Image.voice_augmentation import VoiceVariant
from common.cache_place import choose_place
from common.cli import UserError
from common.devices import autocast
from common.distributed import ranks
from common.splits import PLACES_CLASSES, Split

TIME_MASKS = BAND_MASKS = 2  # SpecAugment (Park et al. 2019), sized for sentences of a few seconds
WIDEST_TIME_MASK = 0.1  # of a clip's frames
WIDEST_BAND_MASK = 8  # of 40 mel bands


@dataclass(frozen=True)
class Plan:
    """One epoch: `[steps, batch]` numbers of items, and of the clip and the teacher view drawn for each.

    voices: of the variant of the clip, 0 for the recording itself.
    """

    items: np.ndarray
    clips: np.ndarray
    views: np.ndarray
    voices: np.ndarray

    def __len__(self):
        return len(self.items)


@dataclass(frozen=True)
class Batch:
    """mels float32 `[B, bands, T]`, image `[B, d]`, labels `[B]` on the device; n_frames `[B]` on the CPU, descending:
    columns of the front end, which are frames of 10 ms for log-mels.

    items: the items' numbers, int `[B]`; images: what an objective that looks at images adds, `[B, 3, S, S]`.
    """

    mels: torch.Tensor
    n_frames: torch.Tensor
    image: torch.Tensor
    labels: torch.Tensor
    items: np.ndarray
    images: torch.Tensor | None = None


def is_places(split: Split) -> bool:
    """Places maps are scaled by their own maximum in training; the set is known by its seven classes."""
    return all(item.class_name in PLACES_CLASSES for item in split.items)


def default_short_clips(dataset: str) -> str:
    """'skip', as published, for the published sets; 'pad' for others: people's recordings may be of one word."""
    name = PurePath(dataset).name
    return "skip" if name in ("birds", "flowers") or name.startswith("Places") else "pad"


class SpeechClips:
    """The frame features of a split's captions, from its `cache`, in batches on `device`. Clips count as in the cache.

    max_frames: frames of 10 ms that a batch's maps span; they are `width` columns wide. where: 'gpu' and 'ram' hold all
    clips there, 'disk' reads the mapped file; what does not fit falls back to the next, and all give the same numbers.
    short_clips: what becomes of those under 0.64 s (audio.is_heard). `items[c]` is the item of clip c, `n_frames[c]` its
    length in frames of 10 ms, `usable` the clips that can be used. UserError if there is none.
    """

    def __init__(
        self,
        split: Split,
        cache: MelCache,
        max_frames: int,
        device: torch.device,
        where: str | None = None,
        short_clips: str = "skip",
    ):
        assert max_frames % FRAMES_PER_POSITION == 0, max_frames
        self.split, self.cache, self.max_frames, self.device = split, cache, max_frames, device
        self.front, self.width = cache.front, width_of(cache.front, max_frames)
        self.items = np.repeat(np.arange(len(split.items)), [len(item.audio) for item in split.items])
        assert len(self.items) == len(cache), (len(self.items), len(cache))
        self.n_frames = cache.n_frames
        silent = np.array([SILENT in clip.remarks for clip in cache.clips], bool)
        self.usable = np.flatnonzero(is_heard(self.n_frames, silent, short_clips))
        if not len(self.usable):
            raise UserError(no_recording(split, cache))
        self.where = self._hold(where or "auto")

    def subset(self, split: Split, items: np.ndarray) -> "SpeechClips":
        """The clips of `split`, which holds the items of these ascending numbers; what holds the values is shared.

        UserError if none of them can be used.
        """
        place = np.full(len(self.split.items), -1)
        place[items] = np.arange(len(items))
        clips = np.flatnonzero(place[self.items] >= 0)
        part = copy.copy(self)
        part.split, part.cache, part.items = split, self.cache.subset(clips), place[self.items[clips]]
        part.n_frames = self.n_frames[clips]
        part.usable = np.flatnonzero(np.isin(clips, self.usable))
        if not len(part.usable):
            raise UserError(no_recording(split, part.cache))
        return part

    def _hold(self, wanted: str) -> str:
        """Bring the clips as near as there is room for; where that is."""
        place, _ = choose_place(self.cache.values.nbytes, wanted, self.device)
        if place == "gpu":
            held = torch.empty(len(self.cache.values), dtype=torch.int16, device=self.device)
            for start in range(0, len(held), 1 << 26):
                block = np.array(self.cache.values[start : start + (1 << 26)])
                held[start : start + len(block)] = torch.from_numpy(block).to(self.device)
            self._values = held
        elif place == "ram":
            self.cache.values = np.array(self.cache.values)
        return place

    def columns(self, clips: np.ndarray) -> np.ndarray:
        """Columns of each of `clips`, at most those of `max_frames`: what an encoder is told as lengths."""
        return columns_of(self.front, np.minimum(self.n_frames[clips], self.max_frames))

    def mels(self, clips: np.ndarray) -> torch.Tensor:
        """float32 `[len(clips), bands, width]` on the device, padded with 0; log-mels in dB."""
        if self.where == "gpu":
            return self._gather(clips) * self.front.step
        steps = torch.from_numpy(self.cache.raw_batch(clips, self.max_frames)[0])
        return steps.to(self.device, non_blocking=True).float() * self.front.step

    def _gather(self, clips: np.ndarray) -> torch.Tensor:
        """float32 `[len(clips), bands, width]` steps from the long row on the GPU, where each clip is [bands, n]."""
        stored = columns_of(self.front, self.n_frames[clips])
        where = torch.from_numpy(np.stack([self.cache.offsets[clips], stored, self.columns(clips)])).to(self.device)
        start, n, heard = where[:, :, None, None]
        time = torch.arange(self.width, device=self.device)
        band = torch.arange(self.front.bands, device=self.device)[:, None]
        spoken = time < heard
        index = torch.where(spoken, start + band * n + time, 0)
        return self._values[index].float() * spoken

    def unusable(self) -> list[str]:
        """One sentence for every clip that cannot be used."""
        return [clip_fault(self.cache, clip) for clip in np.setdiff1d(np.arange(len(self.items)), self.usable)]

    def remarks(self) -> list[str]:
        """What is odd about the recordings, one line a kind."""
        return remarks(zip(self.cache.paths, self.cache.clips), self.max_frames)

    def without_speech(self) -> list[str]:
        """The items without a caption that can be used, and why."""
        faults = {}
        for clip in np.setdiff1d(np.arange(len(self.items)), self.usable)[::-1]:
            faults[self.items[clip]] = clip_fault(self.cache, clip)
        return [
            f"{self.split.items[number].key}: {faults.get(number, 'no recording is named')}"
            for number in np.setdiff1d(np.arange(len(self.split.items)), self.items[self.usable])
        ]


def clip_fault(cache: MelCache, clip: int) -> str:
    """Why a clip cannot be used, in one sentence."""
    if clip in cache.errors:
        return cache.errors[clip]
    seconds = cache.clips[clip].seconds
    return (
        f"{cache.paths[clip]} holds no sound"
        if not seconds
        else f"{cache.paths[clip]} lasts {seconds:.2f} s, under 0.64 s"
    )


def no_recording(split: Split, cache: MelCache) -> str:
    """Why a split has no recording that can be used: how many are missing, no sound or short, and one of each."""
    kinds = {}
    for number, clip in enumerate(cache.clips):
        kinds.setdefault(clip.cause or "under 0.64 s or silent", []).append(clip_fault(cache, number))
    return f"{split.path} has no recording that can be used: " + "; ".join(
        f"{len(faults)} {kind} (the first: {faults[0]})" for kind, faults in kinds.items()
    )


def open_clips(
    split: Split,
    max_frames: int,
    device: torch.device,
    where: str | None = None,
    jobs: int | None = None,
    progress: bool = True,
    short_clips: str = "skip",
    front: str = "log_mel",
    variant: VoiceVariant | None = None,
) -> SpeechClips:
    """The clips of a split, their features computed first where they lack: by one process, while others wait.

    front, variant: as MelCache takes them. UserError if the split names no recording, or none that can be used.
    """
    if not any(item.audio for item in split.items):
        raise UserError(
            f"{split.path} names no recordings ('audio' or 'wav' of its items); record them, or have the "
            "captions spoken by text_to_speech.py"
        )
    if ranks.is_main():
        cache = MelCache.of_split(split, jobs=jobs, progress=progress, front=front, variant=variant)
    ranks.barrier()
    if not ranks.is_main():
        cache = MelCache.of_split(split, build=False, progress=False, front=front, variant=variant)
    return SpeechClips(split, cache, max_frames, device, where, short_clips)


def open_clips_for(meta: dict, split: Split, device: torch.device, jobs: int | None = None) -> SpeechClips:
    """The clips of a split as the encoder of `meta` (speech_encoder.load_encoder) is given them."""
    return open_clips(
        split, meta["max_frames"], device, jobs=jobs, short_clips=meta["short_clips"], front=meta["front_end"]
    )


class TrainingSet:
    """Pairs of speech and teacher features: `clips` of a split and `features`, one array `[views, d]` an item.

    Items without a caption that can be used are left out. voices: variants of the same clips, from which each step
    takes one at random, or the recording itself.
    """

    def __init__(self, clips: SpeechClips, features: list[np.ndarray], voices: tuple[SpeechClips, ...] = ()):
        assert len(features) == len(clips.split.items), (len(features), len(clips.split.items))
        device = clips.device
        self.clips, self.width, self.voices = clips, features[0].shape[1], (clips, *voices)
        self.scale_by_peak = is_places(clips.split) and clips.front.name == "log_mel"
        self.captions = np.bincount(clips.items[clips.usable], minlength=len(features))
        self.spoken = np.flatnonzero(self.captions)  # items that are trained on
        self.first_caption = np.cumsum(self.captions) - self.captions  # in `clips.usable`
        self.views = np.array([len(rows) for rows in features])
        self.first_view = np.cumsum(self.views) - self.views
        self.features = torch.from_numpy(np.concatenate(features)).to(device)
        self.labels = torch.tensor(clips.split.labels, device=device)

    def __len__(self):
        return len(self.spoken)

    def plan(self, seed: int, epoch: int, batch: int) -> Plan:
        """The epoch's order: every item at most once, in whole batches of `batch`, with a random caption and view each.

        A pure function of its arguments and the data, so that any rank, at any time, finds the same order.
        """
        generator = np.random.default_rng([seed, epoch])
        items = self.spoken[generator.permutation(len(self))]
        caption, view = generator.random((2, len(self)))
        clips = self.clips.usable[self.first_caption[items] + (caption * self.captions[items]).astype(np.int64)]
        views = self.first_view[items] + (view * self.views[items]).astype(np.int64)
        voices = np.random.default_rng([seed, epoch, len(self.voices)]).integers(0, len(self.voices), len(self))
        steps = len(self) // batch
        return Plan(*(values[: steps * batch].reshape(steps, batch) for values in (items, clips, views, voices)))

    def batch(self, plan: Plan, step: int, rows: slice, masks: np.random.Generator | None = None) -> Batch:
        """`rows` of the plan's batch `step`, longest clip first. masks: draw SpecAugment's masks from it."""
        drawn = masks.random((4, plan.items.shape[1], TIME_MASKS)) if masks else None  # for all ranks alike
        items, clips, views, voices = (
            values[step, rows] for values in (plan.items, plan.clips, plan.views, plan.voices)
        )
        n_frames = self._by_voice(voices, clips, lambda voice, chosen: voice.columns(chosen))
        order = np.argsort(-n_frames, kind="stable")
        mels = self._by_voice(voices[order], clips[order], lambda voice, chosen: voice.mels(chosen))
        if self.scale_by_peak:
            mels = mels / mels.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)
        if masks:
            mels = spec_augment(mels, n_frames[order], drawn[:, rows][:, order])
        to_device = lambda values: torch.from_numpy(values[order]).to(mels.device, non_blocking=True)
        return Batch(
            mels,
            torch.from_numpy(n_frames[order]),
            self.features.index_select(0, to_device(views)),
            self.labels.index_select(0, to_device(items)),
            items[order],
        )

    def _by_voice(self, voices: np.ndarray, clips: np.ndarray, read):
        """read(variant, clips) of each clip's own variant, put together in the order of `clips`."""
        if len(self.voices) == 1:
            return read(self.clips, clips)
        parts = {int(number): read(self.voices[number], clips[voices == number]) for number in np.unique(voices)}
        first = next(iter(parts.values()))
        shape = (len(clips), *first.shape[1:])
        whole = np.zeros(shape, first.dtype) if isinstance(first, np.ndarray) else first.new_zeros(shape)
        for number, part in parts.items():
            where = np.flatnonzero(voices == number)
            whole[where if isinstance(first, np.ndarray) else torch.from_numpy(where).to(first.device)] = part
        return whole

    def files(self, plan: Plan, step: int) -> list[str]:
        """The sound files of a whole batch."""
        return [str(self.clips.cache.paths[clip]) for clip in plan.clips[step]]


def spec_augment(mels: torch.Tensor, n_frames: np.ndarray, drawn: np.ndarray) -> torch.Tensor:
    """Replace bands of time and of frequency by the clip's mean (Park et al. 2019, without time warping).

    mels: `[B, 40, T]`; n_frames: `[B]`; drawn: uniform numbers `[4, B, masks]`: where and how wide, in time and bands.
    """
    batch, bands, frames = mels.shape
    time_width = np.floor(drawn[1] * (WIDEST_TIME_MASK * n_frames[:, None] + 1))
    time_start = np.floor(drawn[0] * (n_frames[:, None] - time_width + 1))
    band_width = np.floor(drawn[3] * (WIDEST_BAND_MASK + 1))
    band_start = np.floor(drawn[2] * (bands - band_width + 1))
    limits = torch.from_numpy(np.stack([time_start, time_start + time_width, band_start, band_start + band_width]))
    limits = limits.float().to(mels.device, non_blocking=True)[..., None]  # [4, B, masks, 1]
    time, band = (torch.arange(n, device=mels.device) for n in (frames, bands))
    hidden_time = ((time >= limits[0]) & (time < limits[1])).any(1)  # [B, T]
    hidden_band = ((band >= limits[2]) & (band < limits[3])).any(1)  # [B, 40]
    lens = torch.from_numpy(n_frames).to(mels.device, non_blocking=True)
    spoken = (time < lens[:, None])[:, None]  # [B, 1, T]
    mean = mels.sum((1, 2)) / (lens * bands)  # the padding is zero
    return torch.where((hidden_time[:, None] | hidden_band[..., None]) & spoken, mean[:, None, None], mels)


def embed_clips(
    encoder,
    meta: dict,
    clips: SpeechClips,
    batch_size: int,
    precision: str = "fp32",
    progress: bool = False,
    chosen: np.ndarray | None = None,
) -> torch.Tensor:
    """Embeddings `[clips, d]`, float32 on the device, of the `chosen` clips in their order (default: `clips.usable`);
    ranks share the work."""
    from common.progress import tqdm

    wanted = clips.usable if chosen is None else chosen
    mine = np.array_split(wanted, ranks.world_size())
    longest = max(map(len, mine))
    mine = mine[ranks.rank()]
    parts = [torch.zeros(0, encoder.nhidden, device=clips.device)]
    for start in tqdm(range(0, len(mine), batch_size), "embedding speech", unit="batch", disable=not progress):
        some = mine[start : start + batch_size]
        with autocast(clips.device, precision):
            parts.append(embed(encoder, meta, clips.mels(some), clips.n_frames[some]))
    rows = torch.cat(parts)
    if ranks.world_size() == 1:
        return rows
    padded = torch.nn.functional.pad(rows, (0, 0, 0, longest - len(rows)))
    shares = ranks.gather_rows(padded).split(longest)
    sizes = [len(share) for share in np.array_split(wanted, ranks.world_size())]
    return torch.cat([share[:size] for share, size in zip(shares, sizes)])
