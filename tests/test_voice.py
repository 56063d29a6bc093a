"""The page with a microphone: its HTTP call, what is refused in a sentence, one computation at a time, foreign pages."""

import base64
import concurrent.futures
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from starlette.testclient import TestClient
from tiny_networks import FRAMES, make_runs

from Audio_to_Image.speech_encoder import load_encoder
from common import ROOT
from common.cli import UserError
from scripts.voice import app, guard, speech_to_image
from scripts.voice.speech_to_image import SpeechToImage
from StackGAN_v2 import interpolation, sampler
from StackGAN_v2.generators import load_generator

HERE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs") / "output")


@pytest.fixture(scope="module")
def networks(runs):
    encoder, run = runs
    return SpeechToImage(*load_encoder(encoder), load_generator(run / "Model/latest.pth"))


@pytest.fixture
def client(networks):
    with TestClient(app.make_app(networks), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def recording(seconds=1.5, form="WAV", level=0.3, rate=16000) -> bytes:
    t = np.arange(round(seconds * rate)) / rate
    samples = level * np.sin(2 * np.pi * (200 + 300 * t) * t) * (1 + np.sin(9 * t)) / 2
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), rate, format=form)
    return file.getvalue()


def through_ffmpeg(form: str, codec: str) -> bytes:
    import av

    file, rate = io.BytesIO(), 48000
    samples, _ = soundfile.read(io.BytesIO(recording(rate=rate)), dtype="int16")
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return file.getvalue()


def pixels(part) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(part["png"]))))


def error(response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json" and set(response.json()) == {"error"}
    return response.json()["error"]


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_health_says_what_is_served(client, networks, monkeypatch):
    monkeypatch.setattr(networks.generator, "remark", "All outlines are circles.", raising=False)
    told = client.get("/api/health").json()
    assert told["remark"] == "All outlines are circles."
    assert told["status"] == "ok" and told["encoder"] == networks.meta["digest"] and told["sizes"] == [16, 32, 64]
    assert told["heard_seconds"] == FRAMES / 100 and told["limits"]["images"] == 16


FORMS = {
    "wav": lambda: recording(),
    "flac": lambda: recording(form="FLAC"),
    "ogg": lambda: recording(form="OGG"),
    "mp3": lambda: recording(form="MP3"),
    "webm": lambda: through_ffmpeg("webm", "libopus"),
    "m4a": lambda: through_ffmpeg("ipod", "aac"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_recording_becomes_images(client, form):
    response = client.post("/api/images?seeds=0-3", content=FORMS[form]())
    assert response.status_code == 200, response.text
    told = response.json()
    assert [image["seed"] for image in told["images"]] == [0, 1, 2, 3]
    assert all(pixels(image["parts"][0]).shape == (64, 64, 3) for image in told["images"])
    assert told["heard"]["seconds"] == pytest.approx(1.5, abs=0.1) == told["heard"]["heard_seconds"]
    assert max(told["heard"]["waveform"]) == 1 and len(told["heard"]["waveform"]) == 480


def test_the_images_are_those_of_inference(client, networks, tmp_path):
    """interpolation.py --wav --seeds gives the same pixels."""
    (tmp_path / "a.wav").write_bytes(recording())
    from Audio_to_Image.audio import load_clip

    embedding = interpolation.embedding_of(load_clip(tmp_path / "a.wav"), networks.encoder, networks.meta)
    noises = torch.stack([sampler.noise(networks.generator, seed) for seed in (2, 5)])
    expected = sampler.generate(networks.generator, embedding.expand(2, -1), noises)
    told = client.post("/api/images?seeds=2,5&parts=all", content=recording()).json()
    for i, image in enumerate(told["images"]):
        assert [part["size"] for part in image["parts"]] == [16, 32, 64]
        for branch, part in zip(expected, image["parts"]):
            assert np.abs(pixels(part).astype(int) - branch[i]).max() <= 1


def test_an_embedding_is_asked_again_for_other_noises_and_lines(client):
    first = client.post("/api/images?seeds=0-1", content=recording()).json()
    other = client.post("/api/images", content=recording(2, level=0.8)).json()
    again = client.post("/api/images", json={"embeddings": [first["embedding"]], "seeds": "0-1"}).json()
    assert [image["parts"] for image in again["images"]] == [image["parts"] for image in first["images"]]
    asked = {"embeddings": [first["embedding"], other["embedding"]], "weights": [0, 0.5, 1], "seeds": "0"}
    line = client.post("/api/images", json=asked).json()["images"]
    assert [image["weight"] for image in line] == [0, 0.5, 1]
    for one, whole in ((line[0], first), (line[2], other)):
        difference = pixels(one["parts"][0]).astype(int) - pixels(whole["images"][0]["parts"][0])
        assert np.abs(difference).max() <= 1


def test_a_typed_sentence_is_spoken(client):
    response = client.post("/api/speech", json={"text": "a small red bird"})
    assert response.status_code == 200 and response.headers["content-type"] == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(response.content))
    assert rate == 16000 and 0.5 < len(samples) / rate < 5
    assert client.post("/api/images", content=response.content).status_code == 200


def test_what_is_not_heard_is_said(client):
    told = client.post("/api/images", content=recording(4)).json()
    assert told["heard"]["seconds"] == 4 and told["heard"]["heard_seconds"] == FRAMES / 100
    assert "the rest is not heard" in told["heard"]["remarks"][0]


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("page.css", "page.js", "recorder.js", "favicon.svg"):
        content = client.get(f"/{name}")
        assert content.status_code == 200
        assert not {"https:", "//cdn", "@import"} & set(content.text.split()), name
        outside = [
            word
            for word in content.text.split("http")[1:]
            if not word.startswith(("://www.w3.org", "://localhost", "s;"))
        ]
        assert not outside, (name, outside[0][:40])
    assert "http" not in page.text.replace("http-equiv", "")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, status, sentence",
    [
        (b"", 400, "the recording is empty"),
        (b"<html>no sound</html>", 422, "is not sound"),
        (recording(level=0), 422, "holds no sound; is the microphone muted"),
        (recording(0.3), 422, "lasts 0.30 s; the encoder needs 0.64 s"),
        (recording(600, "FLAC"), 422, "lasts 600 s; 60 s are the most"),
        (recording(660, "FLAC"), 422, "longer than 10 minutes"),
        (bytes(app.MAX_RECORDING + 1), 413, "larger than 16 MiB"),
    ],
    ids=["empty", "page", "silence", "short", "ten minutes", "longer", "large"],
)
def test_recordings_that_cannot_be_used(client, body, status, sentence):
    assert sentence in error(client.post("/api/images", content=body), status)
    assert client.post("/api/images", content=recording()).status_code == 200


def test_a_body_without_a_length_is_cut_off_at_the_limit(client):
    def parts():
        for _ in range(20):
            yield bytes(1 << 20)

    assert "larger than 16 MiB" in error(client.post("/api/images", content=parts()), 413)


@pytest.mark.parametrize(
    "seeds", ["", "a", "-1", "0-99", "3-1", "4294967296", "0-99999999999999999999", "1," * 300, "9" * 190]
)
def test_seeds_that_cannot_be_used(client, seeds):
    assert "images" in (sentence := error(client.post(f"/api/images?seeds={seeds}", content=recording()), 400)) or (
        "seeds" in sentence
    )


NUMBERS = base64.b64encode(np.zeros(12, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    "content, status",
    [
        ([], 400),
        ({"embeddings": []}, 400),
        ({"embeddings": [NUMBERS] * 3}, 400),
        ({"embeddings": "x"}, 400),
        ({"embeddings": ["x"]}, 422),
        ({"embeddings": [5]}, 422),
        ({"embeddings": ["ä"]}, 422),
        ({"embeddings": [NUMBERS[:-8]]}, 422),
        ({"embeddings": [base64.b64encode(np.full(12, np.nan, "<f4").tobytes()).decode()]}, 422),
        ({"embeddings": [base64.b64encode(np.full(12, 1e30, "<f4").tobytes()).decode()]}, 422),
        ({"embeddings": [NUMBERS], "seeds": 3}, 400),
        ({"embeddings": [NUMBERS], "seeds": "0-16"}, 400),
        ({"embeddings": [NUMBERS], "seeds": "0-7", "weights": [0, 0.5, 1]}, 400),
        ({"embeddings": [NUMBERS], "weights": []}, 400),
        ({"embeddings": [NUMBERS], "weights": [2]}, 400),
        ({"embeddings": [NUMBERS], "weights": [True]}, 400),
        ({"embeddings": [NUMBERS], "weights": 1}, 400),
    ],
)
def test_json_that_cannot_be_used(client, content, status):
    error(client.post("/api/images", json=content), status)
    error(client.post("/api/images", content=b"[" * 100000, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    "content, status, sentence",
    [
        ({"text": "bird " * 2000}, 422, "the text has 10,000 letters; 300 are the most"),
        ({"text": "?!  "}, 422, "holds no word"),
        ({"text": ""}, 422, "holds no word"),
        ({"text": 5}, 400, "'text' must be a sentence"),
        ({"text": "x" * 300000}, 413, "larger than 0.25 MiB"),
    ],
)
def test_texts_that_cannot_be_spoken(client, content, status, sentence):
    assert sentence in error(client.post("/api/speech", json=content), status)


def test_other_addresses_and_methods(client):
    assert "no such address" in error(client.get("/nothing"), 404)
    assert "no such address" in error(client.get("/../voice.py"), 404)
    assert "GET is not possible" in error(client.get("/api/images"), 405)
    error(client.post("/api/images?parts=some", content=recording()), 400)


def test_a_fault_of_the_program_is_a_sentence_and_the_server_goes_on(client, networks, monkeypatch):
    monkeypatch.setattr(SpeechToImage, "hear", lambda *given: 1 / 0)
    assert "fault of the program" in error(client.post("/api/images", content=recording()), 500)
    monkeypatch.undo()
    assert client.post("/api/images", content=recording()).status_code == 200


# ---- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers, allowed",
    [
        ({}, True),
        ({"origin": HERE}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, True),
        ({"host": "[::1]:7860"}, True),
        ({"host": "evil.example:7860"}, False),
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "192.168.1.5:7860"}, False),
        ({"host": ""}, False),
        ({"host": "[::1"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
def test_pages_of_other_sites_are_refused(client, headers, allowed):
    for path in ("/api/images", "/api/speech"):
        response = client.post(path, content=b"", headers=headers)
        assert (response.status_code != 403) == allowed, response.text
    assert (client.get("/api/health", headers=headers).status_code == 200) == allowed
    assert "access-control-allow-origin" not in client.get("/api/health", headers=headers).headers


def test_a_server_for_the_network_is_known_by_addresses_and_its_own_name(networks):
    with TestClient(app.make_app(networks, "0.0.0.0"), base_url="http://192.168.1.5:7860") as client:
        for host, status in (("192.168.1.5", 200), (socket.gethostname(), 200), ("evil.example", 403)):
            assert client.get("/api/health", headers={"host": host}).status_code == status, host


# ---- many at once ----------------------------------------------------------------------------------------------------


def test_fifty_requests_at_once(client, networks, monkeypatch):
    """One is computed at a time, some wait, the others are told so; none of their bodies is kept."""
    at_work, most, begun = 0, 0, threading.Event()
    hear = SpeechToImage.hear

    def slow(self, body):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        begun.set()
        time.sleep(0.05)
        at_work -= 1
        return hear(self, body)

    monkeypatch.setattr(SpeechToImage, "hear", slow)
    body = recording()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/api/images", content=body), range(50)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 1 + guard.WAITING and most == 1
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all("try again" in answer.json()["error"] and answer.headers["retry-after"] for answer in refused)
    assert client.post("/api/images", content=body).status_code == 200


def test_turns_come_back_after_every_kind_of_end(client):
    for _ in range(3 + guard.WAITING):
        error(client.post("/api/images", content=b""), 400)
        error(client.post("/api/images", content=b"no sound"), 422)
        error(client.post("/api/speech", content=b"{"), 400)
    assert client.post("/api/images", content=recording()).status_code == 200


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named():
    import runpy

    listen = runpy.run_path(str(ROOT / "scripts/voice.py"))["listen"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=f"--port {taken.getsockname()[1]}: Address already in use"):
            listen("127.0.0.1", taken.getsockname()[1])
    for host, port in (("no.such.host.invalid", 1), ("127.0.0.1", 70000), ("a" * 300, 1)):
        with pytest.raises(UserError):
            listen(host, port)


def test_the_command_serves_and_answers_over_a_connection(runs):
    """A real server: refusals of large bodies arrive as sentences, not as broken connections."""
    encoder, run = runs
    words = ["--port", "0", "--encoder", encoder, "--generator", run / "Model/latest.pth", "--device", "cpu"]
    command = [sys.executable, "scripts/voice.py", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("open "))
            address = line.split()[1]

            def ask(path, body=None):
                try:
                    with urllib.request.urlopen(urllib.request.Request(address + path, body), timeout=60) as answer:
                        return answer.status, json.load(answer)
                except urllib.error.HTTPError as refused:
                    return refused.code, json.load(refused)

            assert ask("/api/health")[0] == 200
            assert ask("/api/images", bytes(app.MAX_RECORDING + 1))[0] == 413
            status, told = ask("/api/images?seeds=0-1", recording())
            assert status == 200 and len(told["images"]) == 2
        finally:
            server.terminate()
    assert server.returncode in (0, -15)


def test_peaks_of_few_samples():
    assert speech_to_image.peaks(np.array([0.5, -1.0], np.float32))[:3] == [0.5, 1.0, 0.0]
    assert set(speech_to_image.peaks(np.zeros(0, np.float32))) == {0.0}


def test_a_body_that_does_not_arrive_gives_its_turn_back(monkeypatch):
    import anyio

    class Slow:
        headers: dict = {}

        async def stream(self):
            yield b"begun"
            await anyio.sleep(60)

    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    with pytest.raises(guard.Refused, match="did not arrive within") as refused:
        anyio.run(guard.read_body, Slow(), 100, "the recording")
    assert refused.value.status == 408
