"""How much sound a file holds, whatever its header says, and what is said about files that hold none."""
import io
import shlex
import struct

import numpy as np
import pytest
import soundfile

from Audio_to_Image import mpeg_frames, sound_files
from Audio_to_Image.sound_files import CANCELLING, CUT_OFF, MISSING, NOT_SOUND, SILENT, SoundError, decode, read_sound

RATE, SECONDS = 16000, 3.0


def voice(seconds=SECONDS, rate=RATE):
    """Noise whose loudness goes up and down, so that encoders with a variable bit rate vary it."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time)) * (0.02 + 0.1 * np.sin(2 * time) ** 2)
    return (noise + 0.2 * np.sin(2000 * time)).astype(np.float32)


def encoded(samples=None, rate=RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(rate=rate) if samples is None else samples, rate, **options)
    return buffer.getvalue()


WAV = encoded(format="WAV", subtype="PCM_16")
FLAC = encoded(format="FLAC", subtype="PCM_16")
MP3 = encoded(format="MP3")
VORBIS = encoded(format="OGG", subtype="VORBIS")
OPUS = encoded(format="OGG", subtype="OPUS", rate=48000)
RF64 = encoded(format="RF64", subtype="PCM_16")
AU = encoded(format="AU", subtype="PCM_16")
CAF = encoded(format="CAF", subtype="PCM_16")
LONG_VORBIS = encoded(np.tile(voice(), 4), format="OGG", subtype="VORBIS")
SOUND_FRAMES = MP3[mpeg_frames.frame_at(MP3, 0).length:]                    # without the frame that holds their number


def with_length(data: bytes, length: int, riff: int | None = None, name=b"data") -> bytes:
    place = data.index(name) + 4
    data = data[:place] + struct.pack("<I", length) + data[place + 4:]
    return data if riff is None else data[:4] + struct.pack("<I", riff) + data[8:]


def flac_of(samples: int) -> bytes:
    return FLAC[:21] + bytes([FLAC[21] & 0xf0]) + struct.pack(">I", samples) + FLAC[26:]


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def tag(told: int, content: bytes) -> bytes:
    """An ID3 tag whose length says `told`."""
    return b"ID3\4\0\0" + bytes([told >> 21 & 127, told >> 14 & 127, told >> 7 & 127, told & 127]) + content


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 37, 1, 0xa0000000) + bytes(8) + b"hello"
CAF_DATA = CAF.index(b"data") + 4
DS64 = bytes(24)
WHOLE = {
    "wav of length 0": with_length(WAV, 0, 0), "of length 2^32-1": with_length(WAV, 0xffffffff, 0xffffffff),
    "of length 2^31": with_length(WAV, 0x80000000), "of length 2": with_length(WAV, 2), "of length 5000": with_length(WAV, 5000),
    "odd chunk, not padded": WAV[:12] + chunk(b"odd ", b"abc") + WAV[12:], "odd chunk": WAV[:12] + chunk(b"odd ", b"abc") + b"\0" + WAV[12:],
    "LIST before fmt": WAV[:12] + chunk(b"LIST", b"INFO") + WAV[12:], "filler": WAV[:36] + chunk(b"FLLR", bytes(4044)) + WAV[36:],
    "length 0 behind an odd chunk": with_length(WAV[:36] + chunk(b"odd ", b"abc") + WAV[36:], 0),
    "length 0 behind much": with_length(WAV[:36] + chunk(b"bext", bytes(902)) + chunk(b"iXML", b"<x/>" * 500) + WAV[36:], 0),
    "a chunk behind": WAV + chunk(b"LIST", bytes(600)), "an ID3v1 tag behind": WAV + b"TAG" + bytes(125),
    "RF64": RF64, "RF64 of length 0": RF64[:20] + DS64 + RF64[44:], "RF64 of length -1": RF64[:20] + b"\xff" * 24 + RF64[44:],
    "BW64": b"BW64" + RF64[4:], "AU of length 0": AU[:8] + bytes(4) + AU[12:], "AU of length 10": AU[:8] + b"\0\0\0\x0a" + AU[12:],
    "AU of length -1": AU[:8] + b"\xff" * 4 + AU[12:], "CAF": CAF, "CAF of length -1": CAF[:CAF_DATA] + b"\xff" * 8 + CAF[CAF_DATA + 8:],
    "CAF of length 0": CAF[:CAF_DATA] + bytes(8) + CAF[CAF_DATA + 8:],
    "W64 of length 0": (w64 := encoded(format="W64", subtype="PCM_16"))[:w64.index(b"data") + 16] + bytes(8)
    + w64[w64.index(b"data") + 24:], "AIFF": encoded(format="AIFF"),
    **{f"{subtype} of length 0": with_length(encoded(format="WAV", subtype=subtype), 0)
       for subtype in ("PCM_24", "FLOAT", "DOUBLE", "ALAW", "ULAW", "PCM_U8", "IMA_ADPCM", "MS_ADPCM", "GSM610")},
    "FLAC of length 0": flac_of(0), "FLAC of length 2000": flac_of(2000), "FLAC of length 10^9": flac_of(10 ** 9),
    "mp3 without Xing": SOUND_FRAMES, "mp3 behind an ID3 tag": tag(300, bytes(300)) + MP3,
    "behind one of wrong length": tag(5000, bytes(100)) + MP3, "behind one of short length": tag(10, b"abc\xff\xfb" * 20) + MP3,
    "behind an APE tag": APE + MP3, "behind junk": b"\x12\x34junk" * 50 + MP3, "before an ID3v1 tag": MP3 + b"TAG" + bytes(125),
    "Vorbis": VORBIS, "Opus": OPUS}
JOINED = {"wav": WAV + WAV, "wav of two rates": WAV + encoded(rate=22050, format="WAV"), "FLAC": FLAC + FLAC, "mp3": MP3 + MP3,
          "mp3 without Xing": SOUND_FRAMES * 2, "mp3 and mp3 without Xing": MP3 + SOUND_FRAMES,
          "mp3 of two rates": MP3 + encoded(rate=44100, format="MP3"), "tagged mp3": tag(9, bytes(9)) + MP3 + APE + tag(9, bytes(9)) + MP3,
          "Vorbis": VORBIS + VORBIS, "Opus": OPUS + OPUS, "Vorbis and Opus": VORBIS + OPUS}
CUT = {"wav": WAV[:-32000], "FLAC": FLAC[:-len(FLAC) // 3], "mp3": MP3[:-len(MP3) // 3], "Vorbis": VORBIS[:-len(VORBIS) // 3],
       "Vorbis of many pages": LONG_VORBIS[:-3000], "Opus": OPUS[:-len(OPUS) // 3], "AU": AU[:-32000], "CAF": CAF[:-32000]}


@pytest.mark.parametrize("name", WHOLE)
def test_lengths_in_headers_are_not_believed(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(WHOLE[name])
    sound = read_sound(tmp_path / "a.wav")
    assert abs(sound.seconds - SECONDS) < 0.1 and not sound.remarks and not sound.promised
    assert np.corrcoef(sound.samples[4000:8000], voice(rate=sound.rate)[4000:8000])[0, 1] > 0.9 or "mp3" in name or \
        "behind" in name or "before" in name
    assert np.array_equal(decode(WHOLE[name], "an answer").samples, sound.samples)


@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_all_heard(name):
    sound = decode(JOINED[name], "a")
    assert abs(sound.seconds - 2 * SECONDS) < 0.2 and not sound.remarks
    assert all(0.05 < np.abs(part).max() < 1 for part in np.array_split(sound.samples, 12))


@pytest.mark.parametrize("name", CUT)
def test_what_is_left_of_a_file_that_was_cut_off_is_heard(name):
    sound = decode(CUT[name], "a")
    whole = 4 * SECONDS if "many" in name else SECONDS
    assert 0.4 * whole < sound.seconds < 0.98 * whole and sound.remarks == (CUT_OFF,)
    assert not sound.promised or abs(sound.promised - whole) < 0.1


@pytest.mark.parametrize("data, options", [(WAV, {}), (FLAC, {}), (VORBIS, {}), (OPUS, {}), (MP3, {})])
def test_right_headers_change_nothing(data, options):
    """Up to the decoder's rounding, which differs with the size of blocks."""
    wanted, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    sound = decode(data, "a")
    assert sound.rate == rate and sound.samples.shape == wanted.shape and np.abs(sound.samples - wanted).max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_every_kind_is_as_long_as_it_is(rate, channels):
    data = encoded(np.tile(voice(rate=rate)[:, None], channels), rate, format="MP3")
    assert len(decode(data, "a").samples) == int(SECONDS * rate)
    frames = data[mpeg_frames.frame_at(data, 0).length:]
    assert 0 <= decode(frames, "a").seconds - SECONDS < 0.3                     # the encoder's delay is no longer known


def test_remarks(tmp_path):
    tone = voice(1.0)
    assert decode(encoded(np.zeros(16000), format="WAV"), "a").remarks == (SILENT,)
    assert decode(encoded(np.full(16000, 0.2), format="WAV"), "a").remarks == (SILENT,)             # an offset alone
    assert decode(encoded(np.zeros(0), format="WAV"), "a").remarks == (SILENT,)
    assert decode(encoded(np.stack([tone, -tone], 1), format="WAV"), "a").remarks == (CANCELLING,)
    assert decode(encoded(np.stack([tone, -0.99 * tone], 1), format="FLAC"), "a").remarks == (CANCELLING,)
    assert decode(encoded(np.stack([tone, 0 * tone], 1), format="WAV"), "a").remarks == ()
    assert decode(encoded(0.001 * tone, format="WAV", subtype="FLOAT"), "a").remarks == ()          # quiet


def test_long_parts_are_refused_together(monkeypatch):
    monkeypatch.setattr(sound_files, "MAX_SAMPLES", 80000)
    with pytest.raises(SoundError, match="longer than") as caught:
        decode(WAV + WAV, "a")
    assert caught.value.cause == sound_files.TOO_LONG
    high = encoded(np.zeros(1000), 768000, format="WAV", subtype="PCM_16")
    low = encoded(np.zeros(30000), 1000, format="WAV", subtype="PCM_16")
    with pytest.raises(SoundError, match="longer than"):                        # 23 million samples at the first rate
        decode(high + low, "a")


NAMED = {"m4a": b"\0\0\0 ftypM4A " + bytes(200), "mp4": b"\0\0\0 ftypisom" + bytes(200), "mov": b"\0\0\0 ftypqt  " + bytes(200),
         "3gp": b"\0\0\0 ftyp3gp4" + bytes(200), "webm": b"\x1aE\xdf\xa3" + bytes(200), "amr": b"#!AMR\n" + bytes(200),
         "wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(200), "aac": b"\xff\xf1\x50\x80" + bytes(200),
         "caf": b"caff\0\1\0\0desc" + bytes(200)}
OTHERS = {"an HTML page": b"\n<!DOCTYPE html><html><body>404</body></html>", "JSON text": b'{"err_no": 501, "err_msg": "no"}',
          "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(99), "text": b"nothing here\n" * 20, "a zip archive": b"PK\3\4" + bytes(99),
          "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "MIDI": b"MThd" + bytes(99)}


@pytest.mark.parametrize("kind", NAMED)
def test_recordings_that_have_to_be_converted_are_named_and_the_command_works(tmp_path, kind):
    """Its output has another name than its input, one that is free, and both are quoted."""
    for name in ("my recording.wav", "-x.wav", f"voice.{kind}"):
        path = tmp_path / name
        path.write_bytes(NAMED[kind])
        with pytest.raises(SoundError, match=f"\\({kind}\\)") as caught:
            read_sound(path)
        words = shlex.split(str(caught.value).split("converted first: ")[1] if kind != "caf" else
                            str(caught.value)[str(caught.value).index("ffmpeg"):])
        assert words[:3] == ["ffmpeg", "-i", str(path)] and len(words) == 4 and caught.value.cause == NOT_SOUND
        assert words[3].endswith(".wav") and words[3] != words[2] and not (tmp_path / words[3]).exists()


def test_a_conversion_of_a_relative_name_cannot_be_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-y.wav").write_bytes(NAMED["webm"])
    with pytest.raises(SoundError, match="ffmpeg -i ./-y.wav ./-y_converted.wav$"):
        read_sound("-y.wav")


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_sound_is_named(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(OTHERS[kind])
    with pytest.raises(SoundError, match=f"a.wav is not sound but .*{kind}") as caught:
        read_sound(tmp_path / "a.wav")
    assert caught.value.cause == NOT_SOUND and "ffmpeg" not in str(caught.value)


def test_causes(tmp_path):
    (tmp_path / "empty.wav").touch()
    for name, cause, words in (("gone.wav", MISSING, "does not exist"), ("empty.wav", NOT_SOUND, "0 bytes"), ("", NOT_SOUND, "not a file")):
        with pytest.raises(SoundError, match=words) as caught:
            read_sound(tmp_path / name)
        assert caught.value.cause == cause


@pytest.mark.parametrize("seed", range(40))
def test_damage_never_ends_in_anything_but_sound_or_a_sentence(seed):
    generator = np.random.default_rng(seed)
    data = bytearray([WAV, FLAC, MP3, VORBIS, OPUS, RF64, CAF, MP3 + VORBIS][seed % 8])
    for place in generator.integers(0, min(len(data), 400 if seed % 2 else len(data)), 12):
        data[place] = generator.integers(256)
    try:
        assert np.isfinite(decode(bytes(data[:generator.integers(1, len(data))]), "a").samples).all()
    except SoundError as error:
        assert "\n" not in str(error)
