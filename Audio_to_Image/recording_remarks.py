"""What those who recorded a data set should know about their recordings: one line a kind, naming the files."""

from Audio_to_Image.audio import HOP, RATE
from Audio_to_Image.sound_files import CANCELLING, CUT_OFF, SILENT

MOST_NAMES = 5

_TEXTS = {
    SILENT: "{} silent",
    CANCELLING: "{} in channels that cancel each other, so that nothing is left of them as one channel; export one of "
    "the channels alone",
    CUT_OFF: "{} cut off or damaged; what is there is heard",
}


def remarks(clips, max_frames: int) -> list[str]:
    """clips: pairs of a file's name and its audio.Clip; max_frames: of the encoder's map."""
    clips = [(name, clip) for name, clip in clips if not clip.error]
    heard = max_frames * HOP / RATE
    lines = []
    long = [f"{name} ({heard:.2f} of {clip.seconds:.2f} s)" for name, clip in clips if clip.seconds > heard]
    if long:
        lines.append(
            f"{_recordings(long)} longer than the {heard:.2f} s that the encoder hears; the rest is not heard: "
            f"{first(long)}"
        )
    for kind, text in _TEXTS.items():
        names = [
            f"{name} ({clip.seconds:.2f} of {clip.promised:.2f} s)"
            if kind == CUT_OFF and clip.promised
            else f"{name} ({clip.seconds:.2f} s)"
            for name, clip in clips
            if kind in clip.remarks
        ]
        if names:
            lines.append(f"{text.format(_recordings(names))}: {first(names)}")
    return lines


def first(names, most: int = MOST_NAMES) -> str:
    return ", ".join(map(str, names[:most])) + (f", and {len(names) - most} more" if len(names) > most else "")


def _recordings(names) -> str:
    return f"{len(names)} recording{' is' if len(names) == 1 else 's are'}"
