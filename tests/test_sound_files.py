"""How much sound a file holds, whatever its header says, and what is said about files that hold none."""

import contextlib
import io
import resource
import struct

import av
import numpy as np
import pytest
import soundfile

from Audio_to_Image import sound_files
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


def without_length(mp3: bytes) -> bytes:
    """Without the first frame, which holds their number."""
    return mp3[mp3.index(mp3[:2], 4) :]


WAV = encoded(format="WAV", subtype="PCM_16")
FLAC = encoded(format="FLAC", subtype="PCM_16")
MP3 = encoded(format="MP3")
VORBIS = encoded(format="OGG", subtype="VORBIS")
OPUS = encoded(format="OGG", subtype="OPUS", rate=48000)
RF64 = encoded(format="RF64", subtype="PCM_16")
AU = encoded(format="AU", subtype="PCM_16")
CAF = encoded(format="CAF", subtype="PCM_16")
LONG_VORBIS = encoded(np.tile(voice(), 4), format="OGG", subtype="VORBIS")
SOUND_FRAMES = without_length(MP3)  # without the frame that holds their number


def with_length(data: bytes, length: int, riff: int | None = None, name=b"data") -> bytes:
    place = data.index(name) + 4
    data = data[:place] + struct.pack("<I", length) + data[place + 4 :]
    return data if riff is None else data[:4] + struct.pack("<I", riff) + data[8:]


def flac_of(samples: int) -> bytes:
    return FLAC[:21] + bytes([FLAC[21] & 0xF0]) + struct.pack(">I", samples) + FLAC[26:]


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def tag(told: int, content: bytes) -> bytes:
    """An ID3 tag whose length says `told`."""
    return b"ID3\4\0\0" + bytes([told >> 21 & 127, told >> 14 & 127, told >> 7 & 127, told & 127]) + content


APE = b"APETAGEX" + struct.pack("<IIII", 2000, 37, 1, 0xA0000000) + bytes(8) + b"hello"
CAF_DATA = CAF.index(b"data") + 4
DS64 = bytes(24)
WHOLE = {
    "wav of length 0": with_length(WAV, 0, 0),
    "of length 2^32-1": with_length(WAV, 0xFFFFFFFF, 0xFFFFFFFF),
    "of length 2^31": with_length(WAV, 0x80000000),
    "of length 2": with_length(WAV, 2),
    "of length 5000": with_length(WAV, 5000),
    "odd chunk, not padded": WAV[:12] + chunk(b"odd ", b"abc") + WAV[12:],
    "odd chunk": WAV[:12] + chunk(b"odd ", b"abc") + b"\0" + WAV[12:],
    "LIST before fmt": WAV[:12] + chunk(b"LIST", b"INFO") + WAV[12:],
    "filler": WAV[:36] + chunk(b"FLLR", bytes(4044)) + WAV[36:],
    "length 0 behind an odd chunk": with_length(WAV[:36] + chunk(b"odd ", b"abc") + WAV[36:], 0),
    "length 0 behind much": with_length(
        WAV[:36] + chunk(b"bext", bytes(902)) + chunk(b"iXML", b"<x/>" * 500) + WAV[36:], 0
    ),
    "a chunk behind": WAV + chunk(b"LIST", bytes(600)),
    "an ID3v1 tag behind": WAV + b"TAG" + bytes(125),
    "RF64": RF64,
    "RF64 of length 0": RF64[:20] + DS64 + RF64[44:],
    "RF64 of length -1": RF64[:20] + b"\xff" * 24 + RF64[44:],
    "BW64": b"BW64" + RF64[4:],
    "AU of length 0": AU[:8] + bytes(4) + AU[12:],
    "AU of length 10": AU[:8] + b"\0\0\0\x0a" + AU[12:],
    "AU of length -1": AU[:8] + b"\xff" * 4 + AU[12:],
    "CAF": CAF,
    "CAF of length -1": CAF[:CAF_DATA] + b"\xff" * 8 + CAF[CAF_DATA + 8 :],
    "CAF of length 0": CAF[:CAF_DATA] + bytes(8) + CAF[CAF_DATA + 8 :],
    "W64 of length 0": (w64 := encoded(format="W64", subtype="PCM_16"))[: w64.index(b"data") + 16]
    + bytes(8)
    + w64[w64.index(b"data") + 24 :],
    "AIFF": encoded(format="AIFF"),
    **{
        f"{subtype} of length 0": with_length(encoded(format="WAV", subtype=subtype), 0)
        for subtype in ("PCM_24", "FLOAT", "DOUBLE", "ALAW", "ULAW", "PCM_U8", "IMA_ADPCM", "MS_ADPCM", "GSM610")
    },
    "FLAC of length 0": flac_of(0),
    "FLAC of length 2000": flac_of(2000),
    "mp3 without Xing": SOUND_FRAMES,
    "mp3 behind an ID3 tag": tag(300, bytes(300)) + MP3,
    "behind one of wrong length": tag(5000, bytes(100)) + MP3,
    "behind one of short length": tag(10, b"abc\xff\xfb" * 20) + MP3,
    "behind an APE tag": APE + MP3,
    "behind junk": b"\x12\x34junk" * 50 + MP3,
    "before an ID3v1 tag": MP3 + b"TAG" + bytes(125),
    "Vorbis": VORBIS,
    "Opus": OPUS,
}
JOINED = {
    "wav": WAV + WAV,
    "wav of two rates": WAV + encoded(rate=22050, format="WAV"),
    "FLAC": FLAC + FLAC,
    "mp3": MP3 + MP3,
    "mp3 without Xing": SOUND_FRAMES * 2,
    "mp3 and mp3 without Xing": MP3 + SOUND_FRAMES,
    "mp3 of two rates": MP3 + encoded(rate=44100, format="MP3"),
    "tagged mp3": tag(9, bytes(9)) + MP3 + APE + tag(9, bytes(9)) + MP3,
    "Vorbis": VORBIS + VORBIS,
    "Opus": OPUS + OPUS,
    "Vorbis and Opus": VORBIS + OPUS,
}
CUT = {
    "wav": WAV[:-32000],
    "FLAC": FLAC[: -len(FLAC) // 3],
    "mp3": MP3[: -len(MP3) // 3],
    "Vorbis": VORBIS[: -len(VORBIS) // 3],
    "Vorbis of many pages": LONG_VORBIS[:-3000],
    "Opus": OPUS[: -len(OPUS) // 3],
    "AU": AU[:-32000],
    "CAF": CAF[:-32000],
}


@pytest.mark.parametrize("name", WHOLE)
def test_lengths_in_headers_are_not_believed(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(WHOLE[name])
    sound = read_sound(tmp_path / "a.wav")
    # Where its first frame is not in its place, an mp3 file does not say how much silence its encoder added.
    assert (
        abs(sound.seconds - SECONDS) < (0.14 if "behind" in name else 0.1) and not sound.remarks and not sound.promised
    )
    assert (
        np.corrcoef(sound.samples[4000:8000], voice(rate=sound.rate)[4000:8000])[0, 1] > 0.9
        or "mp3" in name
        or "behind" in name
        or "before" in name
    )
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
    # The page of an Ogg file that is not there to its end is lost: up to a second of Opus.
    assert (0.3 if name == "Opus" else 0.4) * whole < sound.seconds < 0.98 * whole and sound.remarks == (CUT_OFF,)
    assert not sound.promised or abs(sound.promised - whole) < 0.1


@pytest.mark.parametrize("data, options", [(WAV, {}), (FLAC, {}), (VORBIS, {}), (OPUS, {}), (MP3, {})])
def test_right_headers_change_nothing(data, options):
    """Up to the decoder's rounding; without loss, exactly."""
    wanted, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    sound = decode(data, "a")
    assert sound.rate == rate and sound.samples.shape == wanted.shape and np.abs(sound.samples - wanted).max() < 2e-6


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_every_kind_is_as_long_as_it_is(rate, channels):
    data = encoded(np.tile(voice(rate=rate)[:, None], channels), rate, format="MP3")
    assert len(decode(data, "a").samples) == int(SECONDS * rate)
    frames = without_length(data)
    assert 0 <= decode(frames, "a").seconds - SECONDS < 0.3  # the encoder's delay is no longer known


def test_damage_in_the_middle_is_remarked():
    damaged = bytearray(FLAC)
    damaged[len(FLAC) // 2 : len(FLAC) // 2 + 50] = bytes(50)
    sound = decode(bytes(damaged), "a")
    assert 2.5 < sound.seconds < 2.9 and sound.remarks == (CUT_OFF,) and sound.promised == SECONDS
    sound = decode(flac_of(10**9), "a")
    assert sound.seconds == SECONDS and sound.remarks == (CUT_OFF,) and sound.promised == 10**9 / RATE


def muxed(container: str, codec: str, rate=48000, target=None, **options) -> bytes:
    """Sound in a container, by FFmpeg's own encoders."""
    buffer = io.BytesIO()
    samples = voice(rate=rate)
    with av.open(target or buffer, "w", format=container, options=options) as opened:
        stream = opened.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.bit_rate = 64000
        wanted = stream.codec_context.format.name if codec != "pcm_s16le" else "s16"
        resampler = av.AudioResampler(wanted, "mono", rate, frame_size=960 if codec == "libopus" else 1024)
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            opened.mux(stream.encode(part))
    return buffer.getvalue()


def vorbis_in_webm() -> bytes:
    """FFmpeg's own Vorbis encoder is an experiment; libsndfile's packets are taken over."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(VORBIS)) as source, av.open(buffer, "w", format="webm") as opened:
        stream = opened.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                opened.mux(packet)
    return buffer.getvalue()


MUXED = {
    "webm, Opus": ("webm", "libopus"),
    "webm, Vorbis": ("webm", ""),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "mov": ("mov", "pcm_s16le"),
    "mka": ("matroska", "pcm_s16le"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "3gp": ("3gp", "aac"),
    "ALAC": ("ipod", "alac"),
    "CAF, ALAC": ("caf", "alac"),
    "opus": ("ogg", "libopus"),
    "mp3 in wav": ("wav", "libmp3lame"),
}


WEBM, M4A = muxed("webm", "libopus"), muxed("ipod", "aac", 44100)


@pytest.mark.parametrize("kind", MUXED)
def test_recordings_of_browsers_and_phones_are_read(tmp_path, kind):
    container, codec = MUXED[kind]
    data = muxed(container, codec, 44100 if codec in ("aac", "wmav2") else 48000) if codec else vorbis_in_webm()
    (tmp_path / "recording.wav").write_bytes(data)
    sound = read_sound(tmp_path / "recording.wav")
    assert abs(sound.seconds - SECONDS) < 0.13 and sound.remarks == () and not sound.promised
    wanted = voice(rate=sound.rate)[20000:26000]  # wherever the encoder's delay has put it
    found = np.correlate(sound.samples[16000:34000], wanted) / np.linalg.norm(wanted) / np.linalg.norm(wanted)
    assert found.max() > (0.8 if codec in ("", "aac", "wmav2", "libopus", "libmp3lame") else 0.999)
    assert np.array_equal(decode(data, "a").samples, sound.samples)


def test_cut_recordings_of_browsers_and_phones(tmp_path):
    live = muxed("webm", "libopus", live="1")  # as browsers write: of unknown length
    assert abs(decode(live, "a").seconds - SECONDS) < 0.1 and decode(live, "a").remarks == ()
    muxed("ipod", "aac", 44100, target=str(tmp_path / "a.m4a"), movflags="faststart")
    for data in (muxed("webm", "libopus"), (tmp_path / "a.m4a").read_bytes()):
        sound = decode(data[: len(data) * 2 // 3], "a")
        assert 1 < sound.seconds < 2.5 and sound.remarks == (CUT_OFF,) and abs(sound.promised - SECONDS) < 0.1


def test_ffmpeg_opens_no_other_file(tmp_path, monkeypatch):
    """Playlists and the like name files and addresses; under whatever name, they are no sound."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.wav").write_bytes(WAV)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{tmp_path}/private.wav\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{tmp_path}/private.wav'\n"
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    dash = '<?xml version="1.0"?><MPD><Period><BaseURL>private.wav</BaseURL></Period></MPD>'
    for text in (playlist, concat, session, dash):
        for name in ("a.wav", "a.m3u8", "a.mp3"):
            (tmp_path / name).write_text(text)
            with pytest.raises(SoundError, match="is not sound but"):
                read_sound(tmp_path / name)
        for head in (b"ID3\4\0\0\0\0\0\0", b"#!AMR\n", b"\xff\xfb\x90\x64", b"\1\2\3", b".RMF"):
            try:
                assert (
                    np.abs(decode(head + text.encode(), "a").samples[4000:]).max(initial=0) < 0.01 or head[:1] == b"#"
                )
            except SoundError:
                pass


def test_remarks(tmp_path):
    tone = voice(1.0)
    assert decode(encoded(np.zeros(16000), format="WAV"), "a").remarks == (SILENT,)
    assert decode(encoded(np.full(16000, 0.2), format="WAV"), "a").remarks == (SILENT,)  # an offset alone
    assert decode(encoded(np.zeros(0), format="WAV"), "a").remarks == (SILENT,)
    assert decode(encoded(np.stack([tone, -tone], 1), format="WAV"), "a").remarks == (CANCELLING,)
    assert decode(encoded(np.stack([tone, -0.99 * tone], 1), format="FLAC"), "a").remarks == (CANCELLING,)
    assert decode(encoded(np.stack([tone, 0 * tone], 1), format="WAV"), "a").remarks == ()
    assert decode(encoded(0.001 * tone, format="WAV", subtype="FLOAT"), "a").remarks == ()  # quiet


def test_long_parts_are_refused_together(monkeypatch):
    monkeypatch.setattr(sound_files, "MAX_SAMPLES", 80000)
    with pytest.raises(SoundError, match="longer than") as caught:
        decode(WAV + WAV, "a")
    assert caught.value.cause == sound_files.TOO_LONG
    high = encoded(np.zeros(1000), 768000, format="WAV", subtype="PCM_16")
    low = encoded(np.zeros(30000), 1000, format="WAV", subtype="PCM_16")
    with pytest.raises(SoundError, match="longer than"):  # 23 million samples at the first rate
        decode(high + low, "a")


NAMED = {
    "m4a": b"\0\0\0 ftypM4A " + bytes(200),
    "mp4": b"\0\0\0 ftypisom" + bytes(200),
    "mov": b"\0\0\0 ftypqt  " + bytes(200),
    "3gp": b"\0\0\0 ftyp3gp4" + bytes(200),
    "webm": b"\x1aE\xdf\xa3" + bytes(200),
    "amr": b"#!AMR\n\xff\xff",
    "wma": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(200),
    "aac": b"\xff\xf1\x50\x80" + bytes(200),
    "caf": b"caff\0\1\0\0desc" + bytes(200),
}
OTHERS = {
    "an HTML page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "JSON text": b'{"err_no": 501, "err_msg": "no"}',
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "text": b"nothing here\n" * 20,
    "a zip archive": b"PK\3\4" + bytes(99),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "MIDI": b"MThd" + bytes(99),
}


@pytest.mark.parametrize("kind", NAMED)
def test_recordings_without_sound_are_named(tmp_path, kind):
    path = tmp_path / "my recording.wav"
    path.write_bytes(NAMED[kind])
    with pytest.raises(
        SoundError, match=f"my recording.wav is an? .*\\({kind}\\) with no sound that can be read"
    ) as caught:
        read_sound(path)
    assert caught.value.cause == NOT_SOUND


def test_other_kinds_are_named():
    for container, codec, name in (
        ("avi", "pcm_s16le", "an AVI video"),
        ("flv", "aac", "a Flash video"),
        ("wv", "wavpack", "WavPack"),
    ):
        with pytest.raises(SoundError, match=f"is .*{name}.*, which cannot be read; convert it to wav"):
            decode(muxed(container, codec, 44100), "a")


def test_memory_that_a_damaged_file_asks_for():
    """A text of 3 GB is announced before the samples; FFmpeg would make room for it."""
    data = muxed("wav", "libmp3lame")
    place = data.index(b"LIST")
    text = (
        data[:place]
        + b"LIST"
        + struct.pack("<I", 0xB800001A)
        + b"INFOISFT"
        + struct.pack("<I", 0x70000000)
        + data[place + 20 :]
    )
    for damaged in (text, text.replace(b"RIFF", b"RF64"), encoded(format="AIFF")[:-96000] + b"NAME\x70\0\0\0"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(SoundError):
            decode(damaged, "a")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_sound_is_named(tmp_path, kind):
    (tmp_path / "a.wav").write_bytes(OTHERS[kind])
    with pytest.raises(SoundError, match=f"a.wav is not sound but .*{kind}") as caught:
        read_sound(tmp_path / "a.wav")
    assert caught.value.cause == NOT_SOUND and "ffmpeg" not in str(caught.value)


def test_causes(tmp_path):
    (tmp_path / "empty.wav").touch()
    for name, cause, words in (
        ("gone.wav", MISSING, "does not exist"),
        ("empty.wav", NOT_SOUND, "0 bytes"),
        ("", NOT_SOUND, "not a file"),
    ):
        with pytest.raises(SoundError, match=words) as caught:
            read_sound(tmp_path / name)
        assert caught.value.cause == cause


@pytest.mark.parametrize("seed", range(60))
def test_damage_never_ends_in_anything_but_sound_or_a_sentence(seed):
    generator = np.random.default_rng(seed)
    data = bytearray([WAV, FLAC, MP3, VORBIS, OPUS, RF64, CAF, MP3 + VORBIS, WEBM, M4A][seed % 10])
    for place in generator.integers(0, min(len(data), 400 if seed % 2 else len(data)), 12):
        data[place] = generator.integers(256)
    try:
        assert np.isfinite(decode(bytes(data[: generator.integers(1, len(data))]), "a").samples).all()
    except SoundError as error:
        assert "\n" not in str(error)
