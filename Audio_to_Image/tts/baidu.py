"""Baidu's speech synthesis over the network (baidu-aip), the engine of the published data sets.

Nothing that its exceptions or answers say is ever shown as it came: the address of the token request holds the secret
key, and requests puts addresses into its messages.
"""

import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from Audio_to_Image.audio import RATE
from Audio_to_Image.sound_files import CUT_OFF, SoundError, decode, resample
from Audio_to_Image.tts import Engine, SpeechError
from common.cli import UserError

# Answers by number (error_code of the platform, err_no of text2audio). Only a loopback server has been asked here.
BAD_KEY = {6, 13, 14, 15, 100, 110, 111, 502, 3302}  # key, secret or token refused, service not opened
QUOTA = {17, 19, 3305}  # today's or all requests are used up
BAD_TEXT = {500, 501, 513}  # this text cannot be spoken: no use in trying again
# every other number (4 and 18: too many at once; 503, 2xx, SDK108 …) may pass: tried again

_MOST_BYTES = 1024  # of one text, in GBK, as the service counts it
_WAV_16_KHZ = 6  # "aue"
_TOKEN_REFUSED = {"invalid_client", "unauthorized_client", "invalid_request"}


class _Transient(Exception):
    """May work when tried again. The message is a phrase without addresses."""


class _Refused(Exception):
    """The key or the token was refused."""


@dataclass(eq=False)
class Baidu(Engine):
    """`retries` after the first try, waiting backoff·2^k seconds, half to one and a half times that, at most 60."""

    app_id: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    qps: float = 5.0  # requests a second, over all threads
    retries: int = 5
    timeout: float = 20.0  # seconds, for connecting and for each piece of the answer
    backoff: float = 1.0  # seconds

    name = "baidu"
    default_voice = "0"  # Baidu's "per": 0 woman, 1 man, 3 and 4 "emotional"; others by number
    threads = True

    def __post_init__(self):
        if not (self.app_id and self.api_key and self.secret_key):
            raise UserError(
                "--engine baidu needs --APP_ID, --API_KEY and --SECRET_KEY, or BAIDU_APP_ID, BAIDU_API_KEY "
                "and BAIDU_SECRET_KEY in the environment; --engine hibari needs no network"
            )
        import aip  # noqa: F401   (fails here, not in a thread, if it is missing)

        self._local, self._stopped, self._rate = threading.local(), threading.Event(), _RateLimit(self.qps)

    @staticmethod
    def voices() -> list[str]:  # known without credentials
        return ["0", "1", "3", "4"]

    def check(self, voice: str) -> None:
        """UserError for a voice that is no number, or when Baidu does not accept the key."""
        if not (voice.isascii() and voice.isdigit()):
            raise UserError(f"--engine baidu names its voices by number (0, 1, 3, 4, …), not '{voice}'")
        try:
            self._with_retries(self._client)
        except SpeechError as error:
            raise UserError(f"Baidu cannot be reached: {error}") from None

    def stop(self) -> None:
        """End waiting, so that threads finish at once (Ctrl-C)."""
        self._stopped.set()

    def synthesize(self, text: str, voice: str, speed: float = 1.0, seed: int = 0) -> tuple[np.ndarray, int]:
        """`speed` 1 is Baidu's 5 of 0 … 15. `seed` is not used. Only what decodes as sound is handed back."""
        if not text.strip():
            raise SpeechError("it holds nothing that can be said")
        if len(text.encode("gbk", errors="replace")) > _MOST_BYTES:
            raise SpeechError(f"it is longer than {_MOST_BYTES} bytes")
        options = {"per": int(voice), "spd": min(15, max(0, round(5 * speed))), "aue": _WAV_16_KHZ}
        return self._with_retries(lambda: self._request(text, options)), RATE

    # ---- one try ----

    def _client(self):
        """This thread's client with a valid token (its HTTP session is not made for several threads)."""
        import requests
        from aip import AipSpeech

        if not hasattr(self._local, "client"):
            client = AipSpeech(self.app_id, self.api_key, self.secret_key)
            client.setConnectionTimeoutInMillis(1000 * self.timeout)
            client.setSocketTimeoutInMillis(1000 * self.timeout)
            client.s = client._AipBase__client = _checked_session(requests)
            # the package sends token and text in the clear; the same service answers on https
            address = client._AipSpeech__ttsUrl.replace("http://tsn.baidu.com", "https://tsn.baidu.com")
            client._AipSpeech__ttsUrl = address
            self._local.client = client
        client = self._local.client
        try:
            answer = client._auth()
        except (ValueError, AttributeError, TypeError):  # an HTML page, or JSON of another form
            raise _Transient("the answer to the token request is not Baidu's") from None
        except requests.RequestException as error:
            raise _Transient(_phrase(error)) from None
        if not answer.get("access_token"):
            client._authObj = {}
            if answer.get("error") in _TOKEN_REFUSED or _code(answer) in BAD_KEY:
                raise _Refused
            raise _Transient("no token was given")
        return client

    def _request(self, text: str, options: dict) -> np.ndarray:
        """float32 at 16 kHz."""
        import requests

        client = self._client()
        self._rate.wait(self._stopped)
        try:
            answer = client.synthesis(text, "zh", 1, options)  # "zh" is the only language code, English included
        except KeyError:  # 'access_token': the package asked for a new one
            client._authObj = {}
            raise _Refused from None
        except (ValueError, AttributeError, TypeError):
            raise _Transient("the answer is not Baidu's") from None
        except requests.RequestException as error:
            raise _Transient(_phrase(error)) from None
        if isinstance(answer, (bytes, bytearray)):
            return _decoded(bytes(answer))
        code = _code(answer)
        if code in BAD_KEY:
            client._authObj = {}  # perhaps only the token is too old
            raise _Refused
        if code in QUOTA:
            raise UserError(f"Baidu's quota for this key is used up (error {code}); go on later with the same command")
        if code in BAD_TEXT:
            raise SpeechError(f"Baidu refuses the text (error {code})")
        if code == "SDK108":
            raise _Transient("no answer in time")
        raise _Transient(f"error {code}" if code is not None else "the answer is not Baidu's")

    # ---- several tries ----

    def _with_retries(self, attempt):
        refusals = 0
        for number in range(self.retries + 1):
            if number and self._stopped.wait(min(60, self.backoff * 2 ** (number - 1)) * random.uniform(0.5, 1.5)):
                raise SpeechError("stopped")
            try:
                return attempt()
            except _Transient as error:
                reason = str(error)
            except _Refused:
                refusals += 1
                if refusals == 2:  # once may be a token that has run out
                    raise UserError(
                        "Baidu refuses the key: check --APP_ID, --API_KEY and --SECRET_KEY, and that "
                        "speech synthesis is opened for the application"
                    ) from None
                reason = "the token was refused"
        raise SpeechError(f"{reason}, {self.retries + 1} tries")


class _RateLimit:
    """Spaces requests of all threads evenly."""

    def __init__(self, per_second: float):
        self._gap, self._next, self._lock = 1 / per_second, 0.0, threading.Lock()

    def wait(self, stopped: threading.Event) -> None:
        with self._lock:
            now = time.monotonic()
            slot = self._next = max(now, self._next + self._gap)
        if stopped.wait(slot - now):
            raise SpeechError("stopped")


def _checked_session(requests):
    """A session that checks certificates, although the package asks it not to: the key travels over it."""

    class Session(requests.Session):
        def request(self, method, url, **options):
            return super().request(method, url, **{**options, "verify": True})

    return Session()


def _code(answer):
    """The error number in Baidu's answer, an int where it is one; None if there is none."""
    code = answer.get("err_no", answer.get("error_code")) if isinstance(answer, dict) else None
    return int(code) if str(code).isdigit() else code if isinstance(code, str) and code.isalnum() else None


def _decoded(data: bytes) -> np.ndarray:
    """All sound of an answer, float32 mono at 16 kHz; _Transient for an error page, an empty body, silence, sound that
    breaks off, or anything else."""
    if not data:
        raise _Transient("an empty answer")
    try:
        sound = decode(data, "the answer")
    except SoundError:
        raise _Transient("the answer is not sound") from None
    if CUT_OFF in sound.remarks:
        raise _Transient("the answer breaks off")
    if sound.seconds < 0.1 or sound.remarks:
        raise _Transient("the answer holds no sound")
    return resample(sound.samples, sound.rate, RATE)


def _phrase(error: Exception) -> str:
    """What went wrong with a connection, without the address."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not valid"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return "the connection broke off"
