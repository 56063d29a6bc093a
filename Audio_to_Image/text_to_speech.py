"""Speak the captions of a data set: split files → 16 kHz wavs, named in the split files afterwards.

    python ./Audio_to_Image/text_to_speech.py --dataset toybirds --engine hibari
    python ./Audio_to_Image/text_to_speech.py --dataset birds --output_dir ./data/birds/CUB_200_2011_audio \\
        --APP_ID … --API_KEY … --SECRET_KEY …

    python ./Audio_to_Image/text_to_speech.py --text "a red bird" --save_path red.wav --engine hibari

Complete files that already say the right thing are kept, so that an interrupted run goes on where it stopped. Files
that this command did not write are never overwritten: they are taken as recordings of their captions. So are those
that a split file names, one a caption; then only what is missing of them is spoken, and nothing else is needed if none
is.
"""

import os
import sys
from pathlib import Path

from Audio_to_Image.command_settings import BAIDU_THREADS, BIRDS_AUDIO, SpeechOptions
from common.cli import Parser, UserError, run
from common.options import add_options, add_published, parse_groups

CHUNK_CLIPS = 8  # half a second of hibari: Ctrl-C waits for two of them


def parse_options() -> SpeechOptions:
    parser = Parser("Speak the captions of a data set (baidu: over the network; hibari, espeak: without).")
    add_options(parser, SpeechOptions)
    add_published(parser, flags=("--one_by_one",))  # published: skip what is there, which is always done
    options = parse_groups(parser, SpeechOptions)[1]
    if (options.text is None) != (options.save_path is None):
        parser.error("--text SENTENCE and --save_path FILE go together")
    if options.text is None and options.dataset is None:
        parser.error("the following arguments are required: --dataset")
    return options


def main() -> int:
    options = parse_options()
    if options.text is not None:
        return speak_one(options)
    from Audio_to_Image import tts
    from Audio_to_Image.tts import clips
    from common.splits import data_dir, load_split

    folder = data_dir(options.dataset, options.data_root)
    splits = [load_split(folder, name) for name in split_names(options.splits)]
    output = options.output_dir or folder / default_output(options.dataset)
    engine = None if options.engine == "baidu" else make_engine(options)  # its keys are asked for where needed
    voices = chosen_voices(options.voices, engine or tts.kind("baidu"))
    recorded = {split for split in splits if clips.has_recordings(split)}
    most = most_captions(options.captions_per_image, splits)
    plans = {
        split: clips.plan(split, output / "audio", voices, options.speed, options.seed, number)
        for split, number in zip(splits, most)
    }
    check_shared_names(plans)
    wanted = [clip for items in plans.values() for item in items for clip in item][: options.limit]
    state = {clip: clips.state_of(clip.path, clip.comment(options.engine)) for clip in wanted}
    for split, items in plans.items():
        check_own_names(split, items, output / "audio")
    todo = [clip for clip in wanted if state[clip] in (clips.MISSING, clips.OURS)]
    foreign = [clip for clip in wanted if state[clip] == clips.FOREIGN]
    if todo:
        engine = checked_engine(options, engine, voices)
    print(
        f"{len(wanted)} captions, {len(wanted) - len(todo)} of them spoken before; {len(todo)} to speak with "
        f"{options.engine} ({', '.join(voices[:5])}{', …' if len(voices) > 5 else ''}) into {output}",
        flush=True,
    )
    if foreign:
        print(
            f"{len(foreign)} of the files there are not from this command; they are kept as recordings of their "
            "captions"
        )
    failures = unusable(foreign) + speak(todo, engine, options.jobs)
    missing = {clip for clip, _ in failures}
    for split, items in plans.items():
        finish_split(split, items, output / "audio", missing, set(wanted) if options.limit else None, split in recorded)
    return report(failures)


def speak_one(options) -> int:
    """One sentence into one file."""
    from Audio_to_Image.tts import clips

    path = options.save_path
    if path.suffix.lower() != ".wav":
        raise UserError(f"--save_path {path}: speech is written as .wav; end the name so")
    if clips.state_of(path, "") == clips.FOREIGN:
        raise UserError(
            f"--save_path {path} is there, and this command did not write it; move it, or give another name"
        )
    engine = make_engine(options)
    voice = chosen_voices(options.voices, engine)[0]
    clip = clips.Clip(options.text, path, path.name, voice, options.speed[0], options.seed)
    failures = speak([clip], engine, 1)
    if not failures:
        print(path)
    return report(failures)


def split_names(given) -> list[str]:
    names = [name for name in given if name]
    if not names or any("/" in name for name in names):
        raise UserError(f"--splits '{','.join(given)}' is not a list of split files such as train,test")
    return list(dict.fromkeys(names))


def most_captions(counts: tuple[int, ...] | None, splits: list) -> tuple:
    """How many captions of an image are spoken in each split, None: all."""
    counts = counts or (None,)
    if len(counts) not in (1, len(splits)):
        raise UserError(
            f"--captions_per_image has {len(counts)} numbers for the {len(splits)} of --splits; give one, or one for each"
        )
    return counts if len(counts) == len(splits) else counts * len(splits)


def default_output(dataset: str) -> str:
    return BIRDS_AUDIO if dataset in ("birds", "toybirds") else f"{Path(dataset).name}_audio"


def make_engine(options):
    from Audio_to_Image import tts

    if options.engine != "baidu":
        return tts.make(options.engine)
    names = {"app_id": "APP_ID", "api_key": "API_KEY", "secret_key": "SECRET_KEY"}
    keys = {key: getattr(options, name) or os.environ.get(f"BAIDU_{name}", "") for key, name in names.items()}
    return tts.make("baidu", **keys, qps=options.qps, retries=options.retries, timeout=options.timeout)


def checked_engine(options, engine, voices):
    """The engine, which can speak with `voices`. Baidu's alone is not made and asked before there is work for it."""
    if engine is None:
        engine = make_engine(options)
        for voice in voices:
            engine.check(voice)
    return engine


def chosen_voices(text: str | None, engine) -> list[str]:
    """'all', a number of voices, or their names. Baidu's names are numbers: there a number is a name.

    engine: one that can be asked whether it has them, or the class Baidu, which cannot be yet.
    """
    if text is None:
        voices = [engine.default_voice] if isinstance(engine, type) else engine.default_voices
    elif text == "all":
        voices = engine.voices()
    elif text.isdecimal() and engine.name != "baidu":
        voices = engine.voices()[: int(text)]
        if len(voices) != int(text) or not voices:
            raise UserError(f"--voices {text}: --engine {engine.name} has from 1 to {len(engine.voices())} voices here")
    else:
        voices = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not voices:
            raise UserError(f"--voices '{text}' names no voice")
    for voice in voices if not isinstance(engine, type) else ():
        engine.check(voice)
    return voices


def check_shared_names(plans) -> None:
    """An image may be in both splits, but not under one file's name with two texts."""
    said = {}
    for items in plans.values():
        for item in items:
            for clip in item:
                if said.setdefault(clip.path, clip.text) != clip.text:
                    raise UserError(
                        f"two splits have different captions for {clip.name}; speak them into different "
                        f"folders, with --splits and --output_dir"
                    )


def check_own_names(split, items, audio_root: Path) -> None:
    """UserError where a split file names recordings that are there, that this command did not write, and whose names it
    would replace by others."""
    from Audio_to_Image.tts import clips

    others = [
        path
        for item, of_item in zip(split.items, items)
        for path in item.audio
        if path not in {clip.path for clip in of_item} and clips.state_of(path, "") == clips.FOREIGN
    ]
    if others:
        raise UserError(
            f"{split.path} names {len(others)} recordings that this command did not write, the first "
            f"{others[0]}; to have its captions spoken, take these names out of a copy of the set"
        )


def unusable(foreign) -> list:
    """[(clip, reason)] of files that are kept, but cannot be used as sound."""
    from Audio_to_Image.tts import clips

    failures = []
    for clip in foreign:
        try:
            clips.check_foreign(clip.path)
        except UserError as error:
            failures.append((clip, f"the file there is not from this command and is kept, but cannot be used: {error}"))
    return failures


def speak(todo, engine, jobs) -> list:
    """[(clip, reason)] of those that failed."""
    from Audio_to_Image.tts import clips
    from common.parallel import in_chunks, parallel_map
    from common.progress import tqdm

    if not todo:
        return []
    todo = list({clip.path: clip for clip in todo}.values())
    size = 1 if engine.threads else CHUNK_CLIPS
    jobs = jobs or (BAIDU_THREADS if engine.threads else None)
    failures, short = [], 0
    with tqdm(total=len(todo), desc="speech", unit="clip") as bar:
        for results in parallel_map(clips.worker(engine), in_chunks(todo, size), jobs, engine.threads, engine.stop):
            bar.update(len(results))
            failures += [(clip, reason) for clip, reason, _ in results if reason]
            short += sum(is_short for _, _, is_short in results)
    if short:
        print(f"{short} clips are shorter than 0.64 s; the encoder cannot use them and takes other captions instead")
    return failures


def finish_split(split, items, audio_root: Path, missing: set, wanted: set | None, recorded: bool) -> None:
    """Name the sound in the split file, once all of it is there; one that is `recorded` names it already."""
    from common.files import project_path, read_json, write_json

    clips = [clip for item in items for clip in item]
    if any(clip in missing or wanted is not None and clip not in wanted for clip in clips):
        print(f"{split.path} is left as it is: not all of its captions have sound")
        return
    if recorded:
        return
    content = read_json(split.path)
    before = dict(content), [dict(raw) for raw in content["data"]]
    content.pop("a_audio_base_path", None)
    content["audio_base_path"] = project_path(audio_root)
    for raw, item in zip(content["data"], items):
        set_audio(raw, [clip.name for clip in item])
    if before != (content, content["data"]):
        write_json(split.path, content)
        print(f"{split.path} now names the sound in {content['audio_base_path']}")


def set_audio(raw: dict, names: list[str]) -> None:
    """Birds' items call it `audio`, flowers' and Places' `wav`; Places' has one caption, and a five-letter prefix."""
    if "asr_text" in raw:
        names = [f"wavs/{name}" for name in names]
        raw["wav"] = names[0] if isinstance(raw.get("wav", ""), str) and len(names) == 1 else names
    else:
        raw["wav" if "audio" not in raw and ("wav" in raw or "img" in raw) else "audio"] = names


def report(failures: list, most: int = 20) -> int:
    if not failures:
        return 0
    print(f"{len(failures)} captions could not be spoken (run the command again to try these alone):", file=sys.stderr)
    for clip, reason in failures[:most]:
        print(f"  {clip.name}: {reason}", file=sys.stderr)
    if len(failures) > most:
        print(f"  and {len(failures) - most} more", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run(main)
