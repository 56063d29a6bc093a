"""Who may ask, how much, and how many at a time: what stands between the network and the computation."""

import asyncio
import contextlib
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

WAITING = 8  # requests that wait while one is computed
BODY_SECONDS = 30  # in which a request's body has to arrive

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def answer(status: int, sentence: str) -> JSONResponse:
    headers = {"Retry-After": "3"} if status == 503 else None
    return JSONResponse({"error": sentence}, status, headers)


class SameSite:
    """ASGI middleware: only pages of this very server may ask, under an address that no other site can take.

    A page elsewhere could else read answers by letting its own name lead to this machine (DNS rebinding). host: what the
    server listens on; names other than its own and `localhost` are refused, as are addresses other than this machine's
    where it listens to itself alone.
    """

    def __init__(self, app, host: str):
        self.app, self.names = app, {"localhost", host.lower()}
        address = _address(host)
        self.local = host.lower() == "localhost" or address is not None and address.is_loopback
        if not self.local:
            self.names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] += [(key.lower().encode(), value.encode()) for key, value in _HEADERS.items()]
            await send(message)

        fault = self._fault(Headers(scope=scope), scope["path"])
        await (answer(403, fault) if fault else self.app)(scope, receive, with_headers)

    def _fault(self, headers: Headers, path: str) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _host_name(host)
        address = _address(name)
        if name not in self.names and (address is None or self.local and not address.is_loopback):
            return f"this server is not known as '{host[:80]}'; use the address that it printed when it started"
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "pages of other sites may not use this server"
        site = headers.get("sec-fetch-site", "same-origin")
        if path.startswith("/api/") and site not in ("same-origin", "none"):
            return "pages of other sites may not use this server"
        return None


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _address(name: str):
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class Turns:
    """One computation at a time; `WAITING` more requests may wait for theirs, others are refused at once.

    A request holds its turn from before its body is read, which bounds the memory of all bodies.
    """

    def __init__(self):
        self.free = 1 + WAITING
        self.pool = ThreadPoolExecutor(1, "computation")

    @contextlib.contextmanager
    def turn(self):
        if not self.free:
            raise Refused(503, "too many requests are waiting; try again in a few seconds")
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1

    async def run(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)


async def read_body(request, most: int, what: str) -> bytes:
    """A request's body. Refused if it is empty, larger than `most` bytes, or slow."""
    too_large = Refused(413, f"{what} is larger than {most / 2**20:.3g} MiB, the most that is accepted")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > most:
                    raise too_large
                body += part
    except TimeoutError:
        raise Refused(408, f"{what} did not arrive within {BODY_SECONDS} s") from None
    if not body:
        raise Refused(400, f"{what} is empty; send it as the request's body")
    return bytes(body)


async def drain(request, most: int = 64 << 20, seconds: float = 10) -> None:
    """Take in what a refused client is still sending, without keeping it: else it would see a broken connection in place
    of the answer."""
    with contextlib.suppress(Exception):
        with anyio.move_on_after(seconds):
            async for part in request.stream():
                most -= len(part)
                if most < 0:
                    return
