"""Feature pickles: the published format, with a note that says what they are.

A feature file holds an array `[images, views or captions, width]`, or a list of such 2-D arrays where the images have
different numbers of captions. Beside `<name>.pickle` stands `<name>.json`: shape, dtype, hash of the split's order,
source.
"""

import datetime
import pickle
import re
import sys
from pathlib import Path

import numpy as np

from common import pretrained
from common.cli import UserError
from common.files import MADE_BY, atomic_path, read_json, read_note, require_ours, write_json
from common.untrusted.pickles import read_pickle

PUBLISHED_TEACHER = "googlenet_caffe"  # whose features published sets have, some under names of their own
_S2IGAN, _FILENAMES = "speech_embeddings_", "filenames.pickle"
UNFINISHED = "unfinished"  # stands in place of the order while a file is being written


def save_features(path, features, split, **source) -> None:
    """Write `features` (array `[images, k, d]` or list of arrays `[k_i, d]`) and its note.

    An item without any row, such as one whose recordings cannot be used, has an array `[0, d]`. `source` says where the
    features come from (teacher or checkpoint with its hash, settings) and goes into the note. UserError if a file
    that this project did not write is there.
    """
    path = Path(path)
    require_replaceable(path)
    rows = [np.asarray(row, np.float32) for row in features]
    if len(rows) != len(split.items):
        raise ValueError(f"{len(rows)} rows for {len(split.items)} items")
    same = len({row.shape for row in rows}) == 1
    # never a new pickle beside an old description, nor one beside none, which would look like a published file
    write_json(path.with_suffix(".json"), {"made_by": MADE_BY, "order": UNFINISHED})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(np.stack(rows) if same else rows, file, protocol=4)
    write_json(
        path.with_suffix(".json"),
        {
            "made_by": MADE_BY,
            "images": len(rows),
            "shape": [len(rows), *rows[0].shape] if same else "list",
            "dtype": "float32",
            "width": rows[0].shape[-1],
            "order": split.digest(),
            "split": split.name,
            **source,
            "date": datetime.datetime.now().isoformat(timespec="seconds"),
            "command": " ".join(_hide_secrets(sys.argv)),
        },
    )


def require_replaceable(path) -> None:
    """UserError if features cannot be written to `path` because a published file, or another one, is there."""
    require_ours(Path(path).with_suffix(".json"), "--audio_switch")
    require_ours(path, "--audio_switch")


def _hide_secrets(argv: list[str]) -> list[str]:
    return ["…" if previous.endswith(("KEY", "APP_ID")) else word for previous, word in zip(["", *argv], argv)]


def load_features(path, split, made_by: str, some_without: bool = False) -> list[np.ndarray]:
    """One float32 array `[k_i, d]` an item of `split`, in order.

    A missing `audio_features_<NAME>.pickle` is looked for in S2IGAN's form (`s2igan_form`).
    some_without: items may have no row (`k_i` = 0), as those without a usable recording. UserError if the file is
    missing, of another split or order, not features, or without any row; `made_by` is the stage to run (again).
    """
    path, published = Path(path), s2igan_form(path)
    if published:
        return _checked(_rows_by_name(published, split), published, split, made_by, some_without)
    if not path.is_file():
        raise UserError(f"{path} does not exist; run {made_by} first")
    described = path.with_suffix(".json")
    if described.is_file():
        content = read_json(described)
        order = content.get("order") if isinstance(content, dict) else None
        if order == UNFINISHED:
            raise UserError(f"{path} is unfinished, its writing was interrupted; run {made_by} again")
        if order != split.digest():
            raise UserError(
                f"{path} was made for another version of {split.path} (order {order}, now "
                f"{split.digest()}); run {made_by} again"
            )
    return _checked(read_pickle(path), path, split, made_by, some_without)


def _checked(rows, path: Path, split, made_by: str, some_without: bool) -> list[np.ndarray]:
    """The content of a feature pickle as `load_features` gives it."""
    count = len(rows) if isinstance(rows, list) or isinstance(rows, np.ndarray) and rows.ndim else "no"
    if count != len(split.items):
        raise UserError(
            f"{path} holds {count} rows, but {split.path} has {len(split.items)} items; run {made_by} again"
        )
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is reported below
            rows = [np.atleast_2d(np.asarray(row, np.float32)) for row in rows]
    except (ValueError, TypeError, OverflowError):
        rows = []
    lacking = [item for item, row in zip(split.items, rows) if not row.size]
    filled = [row for row in rows if row.size]
    if not filled or any(row.ndim != 2 for row in rows) or len({row.shape[1] for row in filled}) != 1:
        raise UserError(f"{path} does not hold one array of equal width an image; run {made_by} again")
    if lacking and not some_without:
        raise UserError(
            f"{path} holds no features of '{lacking[0].key}' ({len(lacking)} such items of {len(rows)}): "
            f"they had no recording that can be used; add some and run {made_by} again"
        )
    rows = [row if row.size else np.empty((0, filled[0].shape[1]), np.float32) for row in rows]
    if not all(np.isfinite(row).all() for row in rows):
        raise UserError(f"{path} holds numbers that are not finite; run {made_by} again")
    return rows


def s2igan_form(path) -> Path | None:
    """The file in S2IGAN's form that takes the place of `audio_features_<NAME>.pickle`, or `path` if it is one itself.

    That is `speech_embeddings_<NAME>.pickle` beside it, for the name s2igan also `speech_embeddings_<split>.pickle` as
    published; None if the file is there itself or there is neither.
    """
    path = Path(path)
    if path.name.startswith(_S2IGAN) and path.with_name(_FILENAMES).is_file():
        return path if path.is_file() else None
    name = path.stem.removeprefix("audio_features_")
    if path.is_file() or name == path.stem:
        return None
    names = [name, path.parent.name] if name == "s2igan" else [name]
    found = (path.with_name(f"{_S2IGAN}{one}.pickle") for one in names)
    return next((other for other in found if other.is_file()), None)


def _rows_by_name(path: Path, split) -> list:
    """The rows of a file in S2IGAN's form in the order of `split`: its filenames.pickle says which image each is of."""
    listed = path.with_name(_FILENAMES)
    if not listed.is_file():
        raise UserError(
            f"{listed} does not exist, which says what the rows of {path.name} are of; copy it from the "
            "same set of S2IGAN"
        )
    rows, names = read_pickle(path), read_pickle(listed)
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(rows, (list, np.ndarray)) or not isinstance(names, list) or len(rows) != len(names):
        raise UserError(
            f"{path} and {listed.name} beside it do not belong together: they are not two lists of one length"
        )
    row_of: dict[str, int] = {}
    short: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        key = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        key = re.sub(r"\.(jpe?g|png)$", "", key.removeprefix("./"), flags=re.IGNORECASE)
        row_of.setdefault(key, number)
        short.setdefault(key.rpartition("/")[2], []).append(number)
    found = []
    for item in split.items:  # folders may differ: a name that no other image has is enough
        alike = [row_of[item.key]] if item.key in row_of else short.get(item.key.rpartition("/")[2], [])
        if len(alike) != 1:
            raise UserError(f"{listed} does not name '{item.key}' of {split.path}; it is of another set or split")
        found.append(rows[alike[0]])
    return found


def feature_path(data_dir, split_name: str, kind: str, switch: str) -> Path:
    """Where a feature file lives: `<data_dir>/<split>/<kind>_features_<switch>.pickle`, kind `image` or `audio`."""
    return Path(data_dir) / split_name / f"{kind}_features_{switch}.pickle"


def find_features(split, kind: str, switch: str) -> Path:
    """The feature file of a split, kind `image` or `audio`: ours (`feature_path`) or, where there is none, one of a
    published set. Without any: ours, which does not exist.

    Published: what the birds' split file names; `<split>_image_feature_caffe.pickle` and
    `<split>_audio_features_<switch>.pickle` in the flowers' folder; `<split>_split_caffe.pickle` and
    `<split>_split_audio_features_<switch>.pickle` in the Places' `metadata/`. A set's test split may be called `val`.
    """
    own = feature_path(split.folder, split.name, kind, switch)
    teacher = kind == "image" and switch == PUBLISHED_TEACHER
    others = [split.image_features] if teacher and split.image_features else []
    for name in dict.fromkeys((split.name, split.path.stem.removesuffix("_split"))):
        for file in (
            f"{name}/{kind}_features_{switch}.pickle",
            f"{name}_image_feature_caffe.pickle" if teacher else f"{name}_{kind}_features_{switch}.pickle",
            f"metadata/{name}_split_caffe.pickle"
            if teacher
            else f"metadata/{name}_split_{kind}_features_{switch}.pickle",
        ):
            others.append(split.folder / file)
    return next((path for path in (own, *others) if path.is_file()), own)


def encoder_of(features) -> str | None:
    """The digest of the encoder that made a file of speech features; None if nothing says so (published files)."""
    return _text(read_note(Path(features).with_suffix(".json")).get("encoder"))


def trained_on(net_g) -> str | None:
    """The digest of the encoder from whose speech a run's `Model/netG_<n>.pth`, or a pretrained generator, learned; None
    if it is not known."""
    name = pretrained.name_of(net_g)
    if name:
        generator = pretrained.card(name).get("generator")
        return _text(generator.get("speech_encoder")) if isinstance(generator, dict) else None
    options = read_note(Path(net_g).resolve().parent.parent / "options.json").get("options")
    return _text(options.get("speech_encoder")) if isinstance(options, dict) else None


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def require_same_encoder(net_g, features) -> None:
    """UserError if a generator is known to have learned from another encoder's speech than `features` hold."""
    learned, given = trained_on(net_g), encoder_of(features)
    if learned and given and learned != given:
        raise UserError(
            f"{net_g} was trained on speech features of encoder {learned}, but {features} is of encoder "
            f"{given}; run Audio_to_Image/extract_audio_feature.py with the former, train the generator "
            "again, or use them nevertheless with --any_speech"
        )
