"""What DAVEnet's speech network learns from: the images themselves, by matchmaps and a sampled margin loss.

Harwath et al., ECCV 2018, sections 4.2 and 4.3; images as in the authors' implementation.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from Audio_to_Image.encoders import davenet
from Audio_to_Image.objectives import ImageObjective, random_of
from Audio_to_Image.settings import MatchmapSettings
from common import checkpoint
from common.devices import autocast
from common.distributed import ranks
from common.parallel import default_jobs
from common.untrusted.images import open_rgb, scale_shorter_side

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1
# In the recalls by matchmap, as in the authors' test set: time and memory grow with the square.
MOST_IMAGES = 1000
IMAGES_AT_ONCE = 32


class MatchmapObjective(ImageObjective):
    """An image network, trained with the speech network so that pairs score higher than sampled impostors by a margin.

    image: images `[N, 3, S, S]`, normalised → maps `[N, d, H, W]`; settings: settings.MatchmapSettings
    """

    terms = ("margin",)

    def __init__(self, image: torch.nn.Module, settings: MatchmapSettings, precision: str = "fp32"):
        super().__init__()
        self.image, self.settings, self.precision = image, settings, precision
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    @classmethod
    def from_data(cls, options, network, train):
        image, weights = davenet.VGG16Image(network.nhidden), options.start.image_weights
        if weights:
            own = image.state_dict()
            state = checkpoint.state_dict_of(checkpoint.load(weights), weights)
            state = {
                key.replace("features.", "image_model.", 1): value
                for key, value in state.items()
                if not key.startswith("classifier.")
            }
            last = list(own)[-1].rpartition(".")[0]  # torchvision's VGG16 ends before it
            checkpoint.load_into(image, {**{key: own[key] for key in own if key.startswith(last)}, **state}, weights)
        objective = cls(image, options.training, options.training.precision)
        objective.hold_training_images(train.clips.split)
        return objective

    @classmethod
    def from_state(cls, state, network, settings):
        if "image_model.0.weight" in state:  # the authors' image_model.<n>.pth
            state.update({f"image.{key}": state.pop(key) for key in list(state)})
        if not any(key.startswith("image.") for key in state):
            raise KeyError("image_model.0.weight")
        return cls(davenet.VGG16Image(network.nhidden), settings)

    # ---- images ----

    def read_images(self, split) -> list[np.ndarray]:
        """uint8 `[H, W, 3]` each, the shorter side 256/224 of that of the crops, as in the authors' test."""
        paths = list(dict.fromkeys(item.image for item in split.items))
        side = round(self.settings.image_size * 256 / 224)
        read = lambda path: np.asarray(scale_shorter_side(open_rgb(path), side, path))
        with ThreadPoolExecutor(default_jobs()) as threads:
            images = dict(zip(paths, threads.map(read, paths)))
        return [images[item.image] for item in split.items]

    def prepare(self, batch, seed):
        size = self.settings.image_size
        crops = [random_crop(self.images[item], size, random_of((*seed, int(item)))) for item in batch.items]
        return dataclasses.replace(batch, images=to_tensor(crops).to(batch.mels.device, non_blocking=True))

    def maps(self, images: torch.Tensor, precision: str) -> torch.Tensor:
        """uint8 `[N, 3, S, S]` → float32 `[N, d, H, W]`."""
        with autocast(images.device, precision):
            return self.image((images.to(self.mean.dtype) / 255 - self.mean) / self.std).float()

    @torch.no_grad()
    def _maps_of(self, split, items, precision):
        """The maps of some items of a split, centre crops, some images at a time."""
        images, size = self.images_of(split), self.settings.image_size
        for start in range(0, len(items), IMAGES_AT_ONCE):
            crops = [centre_crop(images[item], size) for item in items[start : start + IMAGES_AT_ONCE]]
            yield self.maps(to_tensor(crops).to(self.mean.device), precision)

    # ---- losses and metrics ----

    def forward(self, words, lens, sentence, batch, seed):
        image = ranks.gather_rows(self.maps(batch.images, self.precision))
        audio, lens = ranks.gather_rows(words.float()), ranks.gather_rows(lens.to(words.device))
        draw = torch.Generator().manual_seed(int(random_of(seed).integers(1 << 62)))
        other_image, other_clip = (davenet.draw_impostors(len(audio), draw).to(audio.device) for _ in range(2))
        kind = self.settings.similarity
        own, wrong_image, wrong_clip = (
            davenet.pair_similarity(*pair, kind)
            for pair in (
                (image, audio, lens),
                (image[other_image], audio, lens),
                (image, audio[other_clip], lens[other_clip]),
            )
        )
        loss = davenet.margin_loss(own, wrong_image, wrong_clip, self.settings.margin)
        return loss, {"loss": loss, "margin": loss}

    def embed_images(self, features, split, precision="fp32"):
        """The mean of each image's map: its dot product with a sentence is the mean of their matchmap."""
        return torch.cat([maps.mean((2, 3)) for maps in self._maps_of(split, range(len(split.items)), precision)])

    @torch.no_grad()
    def more_metrics(self, encoder, meta, clips, batch_size, precision):
        """`davenet.recalls` by matchmap, one caption an image: the first usable one of the first 1,000 images."""
        items, first = np.unique(clips.items[clips.usable], return_index=True)
        items, chosen = items[:MOST_IMAGES], clips.usable[first[:MOST_IMAGES]]
        training = encoder.training
        encoder.eval()
        n_frames = torch.from_numpy(clips.columns(chosen))
        lens = encoder.positions(n_frames).to(clips.device)
        words = []
        for start in range(0, len(chosen), batch_size):
            rows = slice(start, start + batch_size)
            with autocast(clips.device, precision):
                maps, _ = encoder(clips.mels(chosen[rows]), lens[rows], n_frames[rows])
            words.append(maps[:, :, : int(lens.max())].float())
        encoder.train(training)
        scores = [
            davenet.similarity(maps, torch.cat(words), lens, self.settings.similarity)
            for maps in self._maps_of(clips.split, items, precision)
        ]
        return {f"matchmap_{name}": value for name, value in davenet.recalls(torch.cat(scores)).items()}


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size]


def random_crop(image: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """A rectangle of 8 to 100 % of the area and an aspect of 3/4 to 4/3, scaled to `[size, size, 3]`.

    As torchvision's RandomResizedCrop: ten tries, then the largest centred rectangle of an aspect within the bounds.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1)
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = generator.integers(width - w + 1), generator.integers(height - h + 1)
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    crop = Image.fromarray(image[top : top + h, left : left + w])
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """`[H, W, 3]` each → uint8 `[N, 3, H, W]`."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
