"""The published front end: log-mel spectrograms (audio.py)."""

from Audio_to_Image import audio


class LogMel:
    """40 mel bands, a column every 10 ms, in dB from -80 to 0."""

    name = "log_mel"
    bands = audio.N_MELS
    file = "log_mels"
    step = audio.TOP_DB / 32767
    settings = audio.SETTINGS

    @staticmethod
    def columns(n_frames):
        return n_frames

    def compute(self, clips):
        return audio.log_mels_of_samples(clips)
