"""The server: a page and an HTTP call that answers a recording with images. See `make_app` for what there is."""

import contextlib
import json
import time
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from common import cli
from common.cli import UserError
from scripts.voice.guard import Refused, SameSite, Turns, answer, drain, read_body
from scripts.voice.speech_to_image import MAX_IMAGES, MAX_LETTERS, MAX_SECONDS, SpeechToImage, png

MAX_RECORDING = 16 << 20  # bytes
MAX_JSON = 256 << 10
MAX_SEED = 2**32 - 1
_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def make_app(networks: SpeechToImage, host: str = "127.0.0.1") -> Starlette:
    """GET /               the page
    GET /api/health      what is served, and the limits
    POST /api/images     body: a recording → images, what was heard, and the embedding; ?seeds=0-3 of noises (default 0),
                         ?parts=all for the images of every branch. Or a JSON body (application/json): `embeddings`, one
                         or two of earlier answers, with `seeds`, and for two `weights` 0 … 1 on the line between them
    POST /api/speech     body: JSON {"text": …} → the sentence, spoken, as a wav file

    Errors are JSON, {"error": one sentence}. host: what the server listens on (guard.SameSite).
    """
    handlers = _Handlers(networks)
    static = [Route(f"/{path.name}", _file(path)) for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES]
    routes = [
        Route("/", _file(_STATIC / "index.html")),
        *static,
        Route("/api/health", handlers.health),
        Route("/api/images", handlers.images, methods=["POST"]),
        Route("/api/speech", handlers.speech, methods=["POST"]),
    ]
    application = Starlette(
        routes=routes,
        middleware=[Middleware(SameSite, host=host)],
        exception_handlers={
            Refused: _refused,
            UserError: _unusable,
            HTTPException: _http_error,
            ClientDisconnect: lambda request, error: Response(status_code=400),
            Exception: lambda request, error: answer(500, "a fault of the program; the server's terminal shows it"),
        },
    )
    application.state.turns = handlers.turns
    return application


def _file(path: Path):
    async def send(request: Request) -> Response:
        return FileResponse(path, media_type=_TYPES[path.suffix])

    return send


async def _refused(request: Request, error: Refused) -> Response:
    if error.status in (413, 503):
        await drain(request)
    return answer(error.status, str(error))


async def _unusable(request: Request, error: UserError) -> Response:
    return answer(422, str(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    sentences = {404: "there is no such address", 405: f"{request.method} is not possible here"}
    return answer(error.status_code, sentences.get(error.status_code, str(error.detail)))


class _Handlers:
    def __init__(self, networks: SpeechToImage):
        self.networks, self.turns = networks, Turns()

    async def health(self, request: Request) -> Response:
        networks = self.networks
        return JSONResponse(
            {
                "status": "ok",
                "encoder": networks.meta["digest"],
                "dataset": networks.meta["dataset"],
                "sizes": networks.generator.sizes,
                "remark": networks.generator.remark,
                "heard_seconds": networks.most_heard,
                "examples": networks.examples(),
                "limits": {
                    "bytes": MAX_RECORDING,
                    "seconds": MAX_SECONDS,
                    "images": MAX_IMAGES,
                    "letters": MAX_LETTERS,
                },
            }
        )

    async def speech(self, request: Request) -> Response:
        with self.turns.turn():
            text = (await _json(request)).get("text")
            if not isinstance(text, str):
                raise Refused(400, "'text' must be a sentence")
            wav = await self.turns.run(self.networks.speak, text)
        return Response(wav, media_type="audio/wav")

    async def images(self, request: Request) -> Response:
        parts = request.query_params.get("parts", "last")
        if parts not in ("last", "all"):
            raise Refused(400, "parts must be last or all")
        with self.turns.turn():
            if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
                content = await _json(request)
                embeddings, seeds = await self.turns.run(self._between, content)
                weights, told = content.get("weights") or [0], {}
            else:
                seeds = _seeds(request.query_params.get("seeds", "0"))
                recording = await read_body(request, MAX_RECORDING, "the recording")
                return await self.turns.run(self._hear, recording, seeds, parts)
            return await self.turns.run(self._answer, embeddings, seeds, weights, parts, told)

    def _hear(self, recording: bytes, seeds: list[int], parts: str) -> Response:
        began = time.monotonic()
        heard = self.networks.hear(recording)
        told = {
            "embedding": self.networks.to_text(heard.embedding),
            "heard": {
                "seconds": round(heard.seconds, 3),
                "heard_seconds": round(heard.heard, 3),
                "waveform": heard.waveform,
                "remarks": heard.remarks,
            },
            "hearing_ms": round(1000 * (time.monotonic() - began)),
        }
        return self._answer(heard.embedding.expand(len(seeds), -1), seeds, [0], parts, told)

    def _between(self, content: dict) -> tuple[torch.Tensor, list[int]]:
        """The embeddings that a JSON body means, and the seed of each."""
        given, weights = content.get("embeddings"), content.get("weights")
        if not isinstance(given, list) or len(given) not in (1, 2):
            raise Refused(400, "'embeddings' must be a list of one or two that earlier answers gave")
        seeds = _seeds(content.get("seeds", "0"))
        ends = [self.networks.from_text(text) for text in given]
        if weights is None:
            weights = [0]
        if not _is_weights(weights):
            raise Refused(400, "'weights' must be a list of numbers from 0 to 1")
        if len(seeds) * len(weights) > MAX_IMAGES:
            raise Refused(400, f"{len(seeds) * len(weights)} images are asked for; {MAX_IMAGES} are the most")
        rows = [(1 - weight) * ends[0] + weight * ends[-1] for _ in seeds for weight in weights]
        return torch.stack(rows), [seed for seed in seeds for _ in weights]

    def _answer(self, embeddings, seeds: list[int], weights: list, parts: str, told: dict) -> Response:
        began = time.monotonic()
        rows = self.networks.images(embeddings, seeds, parts == "all")
        images = [
            {
                "seed": seed,
                "weight": weights[i % len(weights)],
                "parts": [{"size": len(pixels), "png": png(pixels)} for pixels in row],
            }
            for i, (seed, row) in enumerate(zip(seeds, rows))
        ]
        milliseconds = round(1000 * (time.monotonic() - began))
        return JSONResponse({"images": images, **told, "images_ms": milliseconds})


async def _json(request: Request) -> dict:
    body = await read_body(request, MAX_JSON, "the JSON text")
    content = None
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(body)
    if not isinstance(content, dict):
        raise Refused(400, "the body must be a JSON object")
    return content


def _seeds(text) -> list[int]:
    import argparse

    if not isinstance(text, str) or len(text) > 200:
        raise Refused(400, "seeds must be a list of whole numbers such as 0-3 or 1,4")
    try:
        seeds = cli.number_list(text)
    except argparse.ArgumentTypeError as error:
        raise Refused(400, f"seeds: {error}") from None
    if len(seeds) > MAX_IMAGES:
        raise Refused(400, f"{len(seeds):,} images are asked for; {MAX_IMAGES} are the most")
    if min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise Refused(400, f"seeds are whole numbers from 0 to {MAX_SEED}")
    return seeds


def _is_weights(weights) -> bool:
    return (
        isinstance(weights, list)
        and 0 < len(weights) <= MAX_IMAGES
        and all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 <= one <= 1 for one in weights)
    )
