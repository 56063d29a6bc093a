"""How much of what a sentence says stands in its embedding: a linear probe of the attributes that it names.

For sets with attributes.json (toybirds). One logistic regression an attribute, on embeddings of training sentences that
name it, read on those of test sentences, whose classes it has not met. The encoder learns nothing from it.
"""

import numpy as np
import torch
import torch.nn.functional as F

from common.attributes import Attributes

MOST_SENTENCES = 8000  # embedded for it, of the training split and of the split that is measured, each
PENALTIES = (1e-4, 1e-3, 1e-2)  # on the mean square of the weights; chosen on held-out training classes
HELD_OUT = 5  # one training class in so many
ITERATIONS = 60  # of L-BFGS


def sentence_numbers(split) -> np.ndarray:
    """For each clip of a split its number among all sentences of its image: int `[clips]`."""
    said: dict[int, int] = {}
    numbers = []
    for image, item in zip(split.image_numbers, split.items):
        first = said.get(image, 0)
        numbers += range(first, first + len(item.audio))
        said[image] = first + max(len(item.audio), len(item.texts))  # also those that are not spoken
    return np.array(numbers, np.int64)


def named_values(attributes: Attributes, clips, chosen: np.ndarray) -> torch.Tensor:
    """The values that the sentences of some clips of a datasets.SpeechClips name: int64 `[N, A]`, −1 where not named."""
    sentences = sentence_numbers(clips.split)
    return torch.stack([attributes.named(clips.split, int(clips.items[clip]), int(sentences[clip])) for clip in chosen])


def chosen_sentences(clips, most: int = MOST_SENTENCES) -> np.ndarray:
    """At most `most` of the usable clips, spread evenly over the split."""
    return clips.usable[
        np.unique(np.linspace(0, len(clips.usable) - 1, min(most, len(clips.usable))).round().astype(int))
    ]


def probe_scores(
    train: torch.Tensor, train_named: torch.Tensor, groups: np.ndarray, test: torch.Tensor, test_named, names
) -> dict[str, float]:
    """→ {"probe": of all attributes that the test sentences name, the share read rightly; "probe_chance": by the most
    frequent training value of each; "probe_<name>": of one attribute}, in percent.

    train `[N, d]`, test `[M, d]`: embeddings; *_named: `[N, A]`, `[M, A]` values, −1 where not named; groups: `[N]`,
    classes of the training sentences, some of which are held out to choose the penalty. Equal on every run of a device.
    """
    mean, scale = train.mean(0), train.std(0).mean().clamp(min=1e-9)
    train, test = ((rows.float() - mean) / scale for rows in (train, test))
    held = torch.from_numpy(np.unique(groups, return_inverse=True)[1] % HELD_OUT == 0).to(train.device)
    values, right, guessed, count = {}, 0, 0, 0
    for number, name in enumerate(names):
        own, asked = train_named[:, number] >= 0, test_named[:, number] >= 0
        if not asked.any() or not own.any():
            continue
        x, y, where = train[own], train_named[own, number].to(train.device), held[own.to(held.device)]
        found = _read(x, y, where, test[asked]) == test_named[asked, number].to(train.device)
        values[f"probe_{name}"] = 100 * found.double().mean().item()
        usual = y.bincount().argmax().item()
        right, count = right + int(found.sum()), count + len(found)
        guessed += int((test_named[asked, number] == usual).sum())
    return {"probe": 100 * right / count, "probe_chance": 100 * guessed / count, **values} if count else {}


def _read(x, y, held, asked) -> torch.Tensor:
    """The values that are read in `asked` `[M, d]`, learnt from x `[N, d]`, y `[N]`; held: bool `[N]`."""
    classes = int(y.max()) + 1
    penalty = PENALTIES[1]
    if 0 < int(held.sum()) < len(held):
        scores = []
        for tried in PENALTIES:
            weights = _regression(x[~held], y[~held], classes, tried)
            scores.append((_logits(x[held], weights).argmax(1) == y[held]).double().mean().item())
        penalty = PENALTIES[int(np.argmax(scores))]
    return _logits(asked, _regression(x, y, classes, penalty)).argmax(1)


def _regression(x, y, classes: int, penalty: float) -> torch.Tensor:
    """Multinomial logistic regression: weights `[d + 1, classes]`, the last row being the bias."""
    weights = torch.zeros(x.shape[1] + 1, classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(_logits(x, weights), y) + penalty * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def _logits(x, weights):
    return x @ weights[:-1] + weights[-1]
