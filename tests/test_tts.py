"""Speech synthesis: the engines, Baidu's protocol against a server of our own, and the command."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import soundfile

from Audio_to_Image import tts
from Audio_to_Image.tts import SpeechError, clips
from Audio_to_Image.tts.baidu import Baidu
from common import ROOT
from common.cli import UserError
from common.splits import load_split

COMMAND = ROOT / "Audio_to_Image" / "text_to_speech.py"
RED, YELLOW = "A bird with a red crown.", "This bird has yellow wings, and a long beak."
SECRET = "s3cr3t-key-never-shown"


def command(*options, **environment):
    """(status, standard output, standard error)"""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BAIDU_")}
    done = subprocess.run(
        [sys.executable, COMMAND, *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**variables, **environment},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


# ---- engines without a network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["hibari", "espeak"])
def test_speech_does_not_depend_on_what_was_said_before(engine):
    first = tts.speak(RED, engine)
    assert first.dtype == np.float32 and first.ndim == 1 and 16000 < len(first) < 64000
    assert 0.05 < np.abs(first).max() <= 1
    other = tts.speak(YELLOW, engine)
    assert len(other) > len(first) and np.array_equal(tts.speak(RED, engine), first)
    assert len(tts.speak(RED, engine, speed=1.3)) < 0.9 * len(first)


def test_espeak_in_another_process_says_the_same():
    program = (
        "import hashlib; from Audio_to_Image import tts; tts.speak('Something else.', 'espeak', 'en-us+m3'); "
        f"print(hashlib.sha256(tts.speak('{RED}', 'espeak', 'en-us+f2', seed=3).tobytes()).hexdigest())"
    )
    import hashlib

    here = hashlib.sha256(tts.speak(RED, "espeak", "en-us+f2", seed=3).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_voices():
    espeak = tts.make("espeak")
    assert len(espeak.voices()) == 52 and "heart" in tts.make("hibari").voices()
    for voice in espeak.voices():
        espeak.check(voice)
    assert not np.array_equal(tts.speak(RED, "espeak", "en-us+f2"), tts.speak(RED, "espeak", "en-gb-x-rp+m3"))
    for voice in ("en-us+nobody", "xx", "en-us+../../x", ""):
        with pytest.raises(UserError, match="has no voice"):
            espeak.check(voice)
    with pytest.raises(UserError, match="has no voice 'bob'"):
        tts.speak(RED, "hibari", "bob")


@pytest.mark.parametrize("engine", ["hibari", "espeak"])
def test_nothing_to_say(engine):
    with pytest.raises(UserError, match="cannot be spoken"):
        tts.speak(" ", engine)


def test_unknown_engine():
    with pytest.raises(UserError, match="baidu, hibari, espeak"):
        tts.speak(RED, "festival")


# ---- Baidu ----------------------------------------------------------------------------------------------------------


def wav(seconds=0.5):
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(np.arange(int(16000 * seconds)) / 10), 16000, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Speaks Baidu's protocol. `answers` are given in turn, the last one for ever: bytes, a dict, or 'drop', 'slow'."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.tokens = [wav()], [], 0
        self.token = {"access_token": "token", "expires_in": 2592000, "scope": "brain_all_scope"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # the token
        self.server.tokens += 1
        self.reply(self.server.token)

    def do_POST(self):  # text2audio
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append({name: value[0] for name, value in urllib.parse.parse_qs(body).items()})
        answers = self.server.answers
        self.reply(answers.pop(0) if len(answers) > 1 else answers[0])

    def reply(self, answer):
        if answer == "drop":
            self.connection.close()
            return
        if answer == "slow":
            time.sleep(1.5)
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    from aip import AipSpeech
    from aip.base import AipBase

    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(AipBase, "_AipBase__accessTokenUrl", f"{address}/token")
    monkeypatch.setattr(AipSpeech, "_AipSpeech__ttsUrl", f"{address}/text2audio")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def baidu(**options):
    return Baidu("app", "key", SECRET, **{"qps": 1000, "retries": 2, "timeout": 0.4, "backoff": 0.001, **options})


def test_baidu_speaks(server):
    engine = baidu()
    engine.check("1")
    samples, rate = engine.synthesize(RED, "1", speed=1.2)
    assert rate == 16000 and len(samples) == 8000 and samples.dtype == np.float32
    asked = server.asked[0]
    assert asked["tex"] == RED and asked["per"] == "1" and asked["spd"] == "6" and asked["tok"] == "token"
    assert server.tokens == 1 and SECRET not in repr(engine)


@pytest.mark.parametrize(
    "bad",
    [
        b"<html>503</html>",
        b"",
        {"err_no": 503, "err_msg": "backend"},
        {"error_code": 18},
        [1, 2],
        "drop",
        "slow",
        wav()[:44],
        b"RIFF" + bytes(500),
    ],
)
def test_baidu_tries_again(server, bad):
    server.answers = [bad, wav()]
    assert len(baidu().synthesize(RED, "0")[0]) == 8000 and len(server.asked) >= 2


def streamed(seconds=0.5, length=0xFFFFFFFF):
    """An answer whose header does not know how long it will be."""
    return wav(seconds)[:40] + length.to_bytes(4, "little") + wav(seconds)[44:]


@pytest.mark.parametrize("answer, seconds", [(streamed(), 0.5), (streamed(length=0), 0.5), (wav() + wav(), 1.0)])
def test_all_sound_of_an_answer_is_heard(server, answer, seconds):
    server.answers = [answer]
    assert len(baidu().synthesize(RED, "0")[0]) == 16000 * seconds and len(server.asked) == 1


@pytest.mark.parametrize(
    "bad, reason",
    [
        (b"<html>", "not sound"),
        (wav()[:8000], "breaks off"),
        (b'{"err_no": 501', "not sound"),
        (wav()[:44] + bytes(16000), "no sound"),
        (b"", "an empty answer"),
        ("drop", "connection"),
        ({"err_no": 503}, "error 503"),
        ("slow", "no answer in time"),
    ],
)
def test_baidu_gives_up(server, bad, reason):
    server.answers = [bad]
    with pytest.raises(SpeechError, match=f"{reason}.*, 2 tries"):
        baidu(retries=1).synthesize(RED, "0")


def test_baidu_refuses_a_text(server):
    server.answers = [{"err_no": 501, "err_msg": "parameter"}]
    with pytest.raises(SpeechError, match="refuses the text"):
        baidu().synthesize(RED, "0")
    with pytest.raises(SpeechError, match="longer than"):
        baidu().synthesize("word " * 300, "0")
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [17, 19])
def test_baidu_quota_ends_it_at_once(server, code):
    server.answers = [{"error_code": code, "error_msg": "Open api daily request limit reached"}]
    with pytest.raises(UserError, match="quota"):
        baidu().synthesize(RED, "0")
    assert len(server.asked) == 1


def test_baidu_bad_key(server):
    server.token = {"error": "invalid_client", "error_description": f"unknown client id {SECRET}"}
    with pytest.raises(UserError, match="refuses the key") as caught:
        baidu().check("0")
    assert SECRET not in str(caught.value) and server.tokens == 2 and not server.asked


def test_baidu_old_token_is_replaced(server):
    server.answers = [{"err_no": 502, "err_msg": "token"}, wav()]
    assert len(baidu().synthesize(RED, "0")[0]) == 8000 and server.tokens == 2
    server.answers = [{"err_no": 502}]
    with pytest.raises(UserError, match="refuses the key"):
        baidu().synthesize(RED, "0")


def test_baidu_out_of_reach(server):
    server.token = b"<html>a captive portal</html>"
    with pytest.raises(UserError, match="cannot be reached: .*not Baidu's"):
        baidu().check("0")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="cannot be reached: the connection failed") as caught:
        baidu().check("0")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


def test_baidu_rate_limit_and_stop(server):
    engine = baidu(qps=20)
    start = time.monotonic()
    threads = [threading.Thread(target=engine.synthesize, args=(RED, "0")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 0.24
    server.answers, engine.backoff = [b""], 30
    threading.Timer(0.2, engine.stop).start()
    with pytest.raises(SpeechError, match="stopped"):
        engine.synthesize(RED, "0")


def test_baidu_options():
    with pytest.raises(UserError, match="BAIDU_API_KEY"):
        Baidu("app", "", SECRET)
    with pytest.raises(UserError, match="by number"):
        baidu().check("Mary")


# ---- clips ----------------------------------------------------------------------------------------------------------


def data_set(folder, items=2, captions=2, flowers=False):
    """train.json and test.json of birds' or flowers' form."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        data = [
            {
                "text": [f"{RED[:-1]} {n}." for n in range(captions)],
                **(
                    {"img": f"{split}_{n}.jpg", "class": n + 1}
                    if flowers
                    else {"image": f"001.Gull/{split}_{n}.jpg", "class": "001.Gull"}
                ),
            }
            for n in range(items)
        ]
        (folder / f"{split}.json").write_text(
            json.dumps({"image_base_path": str(folder / "images"), "audio_base_path": "", "data": data})
        )
    return folder


def test_plan(tmp_path):
    split = load_split(data_set(tmp_path / "birds", 20, 5), "train")
    plans = clips.plan(split, tmp_path, ["a", "b"], (0.9, 1.1), 0)
    flat = [clip for item in plans for clip in item]
    assert plans[3][2].name in ("a/001.Gull/train_3_2.wav", "b/001.Gull/train_3_2.wav")
    assert 30 < sum(clip.voice == "a" for clip in flat) < 70 and all(0.9 <= clip.speed <= 1.1 for clip in flat)
    assert len({clip.seed for clip in flat}) == 100 and plans == clips.plan(split, tmp_path, ["a", "b"], (0.9, 1.1), 0)
    flowers = load_split(data_set(tmp_path / "flowers", flowers=True), "test")
    assert clips.plan(flowers, tmp_path, ["0"], (1, 1), 0)[1][0].name == "0/class_00002/test_1_0.wav"


def test_plan_of_one_row_a_caption(tmp_path):
    """An image in several items: its captions are numbered through, so that none shares a file with another."""
    folder = data_set(tmp_path / "birds", 1, 2)
    content = json.loads((folder / "train.json").read_text())
    content["data"] *= 3
    (folder / "train.json").write_text(json.dumps(content))
    plans = clips.plan(load_split(folder, "train"), tmp_path, ["0"], (1, 1), 0)
    assert [clip.name for item in plans for clip in item] == [f"0/001.Gull/train_0_{k}.wav" for k in range(6)]
    plans = clips.plan(load_split(folder, "train"), tmp_path, ["0"], (1, 1), 0, most=1)
    assert [clip.name for item in plans for clip in item] == [f"0/001.Gull/train_0_{k}.wav" for k in (0, 2, 4)]


def test_plan_keeps_inside_its_folder(tmp_path):
    path = data_set(tmp_path / "flowers", flowers=True) / "train.json"
    path.write_text(path.read_text().replace('"class": 1', '"class": "../../.."'))
    with pytest.raises(UserError, match="leaves its base folder"):
        clips.plan(load_split(path.parent, "train"), tmp_path, ["0"], (1, 1), 0)


def test_wav_files(tmp_path):
    import wave

    path, samples = tmp_path / "a.wav", np.linspace(-1.2, 1.2, 1000).astype(np.float32)
    for comment in ("speech-to-image x", "speech-to-image xy"):  # of even and of odd length
        path.write_bytes(clips.wav_bytes(samples, comment))
        read, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000 and np.abs(read - np.clip(samples, -1, 1)).max() < 1e-4
        assert wave.open(str(path)).getparams()[:4] == (1, 2, 16000, 1000)
        assert clips.state_of(path, comment) == clips.DONE and clips.state_of(path, comment + "z") == clips.OURS
    complete = path.read_bytes()
    path.write_bytes(complete[:-2])
    assert clips.state_of(path, "speech-to-image xy") == clips.OURS
    edited = complete.replace(b"WAVEfmt ", b"WAVEJUNK\0\0\0\0fmt ")  # by a program that keeps the comment
    for other in (
        b"",
        complete[:40],
        b"<html>",
        complete.replace(b"data", b"dato"),
        complete + b"LIST\0\0\0\0",
        edited,
        wav(),
    ):
        path.write_bytes(other)
        assert clips.state_of(path, "speech-to-image xy") == clips.FOREIGN
    assert clips.state_of(tmp_path / "none.wav", "") == clips.MISSING
    path.unlink()
    path.mkdir()
    assert clips.state_of(path, "") == clips.FOREIGN


def own_recordings():
    """Two seconds of a tone as other programs write them: in headers of over 1 kB, unfinished, RF64, of another format."""
    tone = (0.3 * np.sin(np.arange(32000) / 9)).astype(np.float32)

    def encoded(**options):
        buffer = io.BytesIO()
        soundfile.write(buffer, tone, 16000, **options)
        return buffer.getvalue()

    plain = encoded(format="WAV", subtype="PCM_16")
    chunk = lambda name, size: name + size.to_bytes(4, "little") + bytes(size)
    return {
        "plain": plain,
        "bext and iXML": plain[:36] + chunk(b"bext", 902) + chunk(b"iXML", 2000) + plain[36:],
        "filler": plain[:36] + chunk(b"FLLR", 4044) + plain[36:],
        "flac": encoded(format="FLAC"),
        "rf64": encoded(format="RF64"),
        "pipe": plain[:4] + b"\xff" * 4 + plain[8:40] + b"\xff" * 4 + plain[44:],
        "unfinished": plain[:4] + bytes(4) + plain[8:40] + bytes(4) + plain[44:],
        "with our comment": plain + b"LIST\x14\0\0\0INFOICMTspeech-to-image ",
    }


def test_nothing_that_this_command_did_not_write_is_overwritten(tmp_path):
    """What cannot be used as sound is kept as well, and listed."""
    from Audio_to_Image.sound_files import read_sound

    recordings = own_recordings()
    for usable in (True, False):
        content = (
            recordings if usable else {"page": b"<html></html>", "nothing": b"", "header": recordings["plain"][:44]}
        )
        folder = data_set(tmp_path / f"set{usable}", len(content), 1)
        (folder / "test.json").unlink()
        root = folder / f"{folder.name}_audio/audio/en-us/001.Gull"
        root.mkdir(parents=True)
        for number, data in enumerate(content.values()):
            (root / f"train_{number}_0.wav").write_bytes(data)
        before = (folder / "train.json").read_text()
        status, out, errors = command(
            "--dataset", folder.name, "--data_root", tmp_path, "--splits", "train", "--engine", "espeak"
        )
        assert "0 to speak" in out and f"{len(content)} of the files there are not from this command" in out
        assert [(root / f"train_{number}_0.wav").read_bytes() for number in range(len(content))] == list(
            content.values()
        )
        if usable:
            assert status == 0, errors
            paths = [item.audio[0] for item in load_split(folder, "train").items]
            assert all(read_sound(path).seconds == 2.0 and not read_sound(path).remarks for path in paths)
        else:
            assert status == 1 and (folder / "train.json").read_text() == before
            assert all(words in errors for words in ("HTML page", "0 bytes", "no samples"))


def test_names_of_own_recordings_are_not_replaced(tmp_path):
    folder = data_set(tmp_path / "set", 1, 2)  # two captions, but one recording
    (folder / "mine.wav").write_bytes(wav())
    content = json.loads((folder / "train.json").read_text())
    content["audio_base_path"], content["data"][0]["audio"] = str(folder), ["mine.wav"]
    (folder / "train.json").write_text(json.dumps(content))
    options = ("--dataset", "set", "--data_root", tmp_path, "--engine", "espeak", "--splits", "train")
    status, _, errors = command(*options)
    assert status == 2 and "mine.wav" in errors and json.loads((folder / "train.json").read_text()) == content
    (folder / "mine.wav").unlink()  # published split files name files that one lacks
    assert command(*options)[0] == 0
    assert command(*options, "--voices", "en-us+f2")[0] == 0  # our own can be replaced


def test_recordings_that_a_split_file_names_are_the_clips(tmp_path):
    """Nothing is spoken, no key is asked for and no file changes while all of them are there; then only what lacks."""
    folder = data_set(tmp_path / "set", 2, 2)
    for split in ("train", "test"):
        content = json.loads((folder / f"{split}.json").read_text())
        content["a_audio_base_path"] = content.pop("audio_base_path") or str(folder / "audio/0")
        for item in content["data"]:
            item["audio"] = [f"{item['image'][:-4]}_{k}.wav" for k in range(2)]
            for name in item["audio"]:
                (folder / "audio/0" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / "audio/0" / name).write_bytes(wav(1 + len(name) / 100))
        (folder / f"{split}.json").write_text(json.dumps(content))

    def present():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    files = present()
    options = ("--dataset", "set", "--data_root", tmp_path)
    status, out, errors = command(*options, "--one_by_one")
    assert status == 0 and "8 captions, 8 of them spoken before; 0 to speak" in out, errors
    assert "ignored: --one_by_one" in errors and present() == files
    lost = folder / "audio/0/001.Gull/test_1_0.wav"
    lost.unlink()
    status, _, errors = command(*options)
    assert status == 2 and "BAIDU_SECRET_KEY" in errors and not lost.exists()
    status, out, errors = command(*options, "--engine", "espeak", "--jobs", "1")
    assert status == 0 and "1 to speak" in out and soundfile.info(lost).frames > 16000, errors
    assert (
        present() == files | {lost: lost.read_bytes()} and "; 0 to speak" in command(*options, "--engine", "espeak")[1]
    )


def test_one_sentence(tmp_path):
    red = tmp_path / "new folder/red.wav"
    options = ("--text", RED, "--save_path", red, "--engine", "espeak")
    assert command(*options)[:2] == (0, f"{red}\n") and soundfile.info(red).frames > 16000
    before = red.read_bytes()
    assert command("--text", YELLOW, *options[2:])[0] == 0 and red.read_bytes() != before  # our own is replaced
    red.write_bytes(wav())
    for words, said in (
        (options, "did not write it"),
        (options[:2], "--save_path"),
        ((*options[:3], tmp_path / "a.mp3"), ".wav"),
        (("--engine", "espeak"), "--dataset"),
        ((*options[:3], tmp_path / "b.wav"), "BAIDU_API_KEY"),
    ):
        status, _, errors = command(*words)
        assert status == 2 and said in errors and errors.count("\n") == 1, errors
    assert list(tmp_path.rglob("*.*")) == [red] and red.read_bytes() == wav()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_command_speaks_a_data_set_and_goes_on(tmp_path):
    folder = data_set(tmp_path / "toybirds", 10, 2)
    options = ["--dataset", "toybirds", "--data_root", tmp_path, "--engine", "espeak", "--voices", "4", "--jobs", "2"]
    status, out, _ = command(*options, "--limit", "5")
    assert status == 0 and "left as it is" in out and len(list(folder.rglob("*.wav"))) == 5
    status, out, errors = command(*options)
    assert status == 0 and "40 captions, 5 of them spoken before" in out, errors
    split = load_split(folder, "train")
    assert split.audio_root == folder / "CUB_200_2011_audio" / "audio" and len(split.items[0].audio) == 2
    for item in split.items:
        for path in item.audio:
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16") and info.frames > 16000
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    status, out, _ = command(*options)
    assert status == 0 and "0 to speak" in out and before == {p: p.stat().st_mtime_ns for p in folder.rglob("*.*")}
    damaged, sound = split.items[1].audio[1], split.items[1].audio[1].read_bytes()
    damaged.write_bytes(sound[:1000])
    text = (folder / "test.json").read_text()
    (folder / "test.json").write_text(text.replace("red crown 0.", "blue crown 0.", 1))  # one caption has changed
    assert ", 38 of them spoken before" in command(*options)[1] and damaged.read_bytes() == sound
    assert not list(folder.rglob(".*"))


def test_command_speaks_the_first_captions_of_each_image(tmp_path):
    """One number a split; the split files name these alone, a second run changes nothing, and more can follow."""
    folder = data_set(tmp_path / "toybirds", 2, 3)
    options = ["--dataset", "toybirds", "--data_root", tmp_path, "--engine", "espeak", "--jobs", "1"]
    status, out, errors = command(*options, "--captions_per_image", "2,1")
    assert status == 0 and "6 captions, 0 of them spoken before" in out, errors
    named = {name: load_split(folder, name) for name in ("train", "test")}
    assert [[item.sentences for item in split.items] for split in named.values()] == [[2, 2], [1, 1]]
    assert [len(item.texts) for item in named["test"].items] == [3, 3]
    assert named["train"].captions_used() == "the first 2 of each image, 4 of 6"
    assert "6 of them spoken before; 0 to speak" in command(*options, "--captions_per_image", "2,1")[1]
    assert "12 captions, 6 of them spoken before" in command(*options)[1]
    every = load_split(folder, "train")
    assert every.captions_used() == "" and every.digest() != named["train"].digest()
    assert every.items[1].audio[:2] == named["train"].items[1].audio
    status, _, errors = command(*options, "--captions_per_image", "2,1,1")
    assert status == 2 and "3 numbers for the 2 of --splits" in errors


def test_captions_of_recordings_of_others_are_all_taken(tmp_path):
    folder = data_set(tmp_path / "toybirds", 1, 2)
    for name in ("train", "test"):
        content = json.loads((folder / f"{name}.json").read_text())
        content["audio_base_path"] = str(folder)
        content["data"][0]["audio"] = [f"{name}{k}.wav" for k in range(2)]
        (folder / f"{name}.json").write_text(json.dumps(content))
        for k in range(2):
            soundfile.write(folder / f"{name}{k}.wav", np.sin(np.arange(16000) / 9), 16000)
    before = (folder / "train.json").read_bytes()
    options = ["--dataset", "toybirds", "--data_root", tmp_path, "--engine", "espeak"]
    status, _, errors = command(*options, "--captions_per_image", "1")
    assert status == 2 and "--captions_per_image 1" in errors and (folder / "train.json").read_bytes() == before
    assert command(*options, "--captions_per_image", "2")[0] == 0


def test_command_lists_what_failed(tmp_path):
    folder = data_set(tmp_path / "flowers", flowers=True)
    path = folder / "test.json"
    path.write_text(path.read_text().replace(f'"{RED[:-1]} 1."', '" "', 1))
    status, out, errors = command("--dataset", "flowers", "--data_root", tmp_path, "--engine", "espeak", "--jobs", "1")
    assert status == 1 and "1 captions could not be spoken" in errors and "test_0_1.wav: it holds nothing" in errors
    assert len(list((folder / "flowers_audio" / "audio").rglob("*.wav"))) == 7
    assert "wav" in json.loads((folder / "train.json").read_text())["data"][0]
    assert "wav" not in json.loads(path.read_text())["data"][0]


def test_published_command_with_baidu(tmp_path, server, monkeypatch, capsys):
    """In this process, since the server's address is patched in."""
    from Audio_to_Image import text_to_speech

    folder, output = data_set(tmp_path / "birds"), tmp_path / "speech"
    server.answers = [wav(1.0), b"<html>", wav(0.5), wav(1.0)]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            str(COMMAND),
            "--dataset",
            "birds",
            "--output_dir",
            str(output),
            "--APP_ID",
            "1",
            "--API_KEY",
            "k",
            "--SECRET_KEY",
            SECRET,
            "--data_root",
            str(tmp_path),
            "--qps",
            "1000",
            "--jobs",
            "2",
        ],
    )
    monkeypatch.setattr(Baidu.__init__, "__defaults__", (*Baidu.__init__.__defaults__[:-1], 0.001))
    assert text_to_speech.main() == 0
    split = load_split(folder, "test")
    assert split.items[0].audio[1] == output / "audio/0/001.Gull/test_0_1.wav" and split.items[0].audio[1].is_file()
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err and "1 clips are shorter than 0.64 s" in shown.out
    assert len(server.asked) == 9


def test_quota_in_a_run_leaves_what_was_spoken(tmp_path, server, monkeypatch):
    from Audio_to_Image import text_to_speech

    folder = data_set(tmp_path / "birds")
    before = (folder / "train.json").read_text()
    server.answers = [wav(), wav(), {"error_code": 17}]
    monkeypatch.setattr(
        sys, "argv", [str(COMMAND), "--dataset", "birds", "--data_root", str(tmp_path), "--jobs", "2", "--qps", "1000"]
    )
    for name in ("APP_ID", "API_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"BAIDU_{name}", SECRET + name)
    with pytest.raises(UserError, match="quota"):
        text_to_speech.main()
    assert len(list(folder.rglob("*.wav"))) == 2 and (folder / "train.json").read_text() == before


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--dataset", "none"], "--dataset none"),
        (["--dataset", "set", "--engine", "espeak", "--splits", "val"], "val.json"),
        (["--dataset", "set"], "BAIDU_SECRET_KEY"),
        (["--dataset", "set", "--frobnicate"], "--frobnicate"),
        (["--dataset", "set", "--engine", "hibari", "--voices", "9"], "--voices 9"),
        (["--dataset", "set", "--engine", "espeak", "--speed", "9"], "--speed"),
        (["--dataset", "set", "--engine", "espeak", "--captions_per_image", "0"], "--captions_per_image"),
    ],
)
def test_command_errors_are_one_sentence(tmp_path, options, reason):
    data_set(tmp_path / "set")
    status, out, errors = command(*options, *([] if "none" in options else ["--data_root", tmp_path]))
    assert status == 2 and reason in errors and len(errors.splitlines()) == 1 and "Traceback" not in errors
    assert not list(tmp_path.rglob("*.wav"))


def test_help_is_quick():
    start = time.monotonic()
    status, out, _ = command("--help")
    assert status == 0 and "--qps" in out and time.monotonic() - start < 1
    assert Path(COMMAND).is_file()


def test_engines_can_be_mixed(tmp_path):
    folder = data_set(tmp_path / "set", 6, 2)
    options = ("--dataset", "set", "--data_root", tmp_path, "--jobs", "1")
    status, out, errors = command(*options, "--engine", "espeak,hibari")
    assert status == 0, errors
    voices = {path.parts[-3] for path in folder.rglob("*.wav")}
    assert voices == {"espeak.en-us", "hibari.heart"}
    assert "; 0 to speak" in command(*options, "--engine", "espeak,hibari")[1]
    for wrong, told in (
        (("--engine", "hibari,baidu"), "engines that need no network"),
        (("--engine", "hibari,festival"), "invalid choice: 'hibari,festival'"),
        (("--engine", "espeak,hibari", "--voices", "heart"), "has no voice 'heart'"),
    ):
        status, out, errors = command(*options, *wrong)
        assert status == 2 and told in errors and "Traceback" not in errors
