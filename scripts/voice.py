"""Serve a page on this machine: say or type a sentence and see images of it. The same over HTTP: POST /api/images.

curl --data-binary @recording.wav 'http://127.0.0.1:7860/api/images?seeds=0-3'
"""

import importlib.util
import socket

from common import cli


def parse(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--port", type=cli.natural, default=7860, metavar="N", help="port to listen on; 0: any free one")
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; with 0.0.0.0, everybody in your network may use it (browsers lend a page from another "
        "machine no microphone unless it comes over https)",
    )
    add(
        "--encoder",
        metavar="FILE|NAME",
        help="speech encoder .pth, or a name in pretrained/ (default: the one that the generator was trained with)",
    )
    add(
        "--generator",
        metavar="FILE|NAME",
        help="generator netG_<n>.pth, or a name in pretrained/ (default: the newest run's, else the pretrained one)",
    )
    add("--engine", choices=("hibari", "espeak"), default="hibari", help="speech synthesis for typed sentences")
    add("--voice", metavar="NAME", help="voice of --engine (default: its first)")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:<number> or mps")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    options = parse(argv)
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise cli.UserError(
            f"the page needs a package that is not installed ({missing[0]}): run bash scripts/voice.sh, or "
            "python -m pip install -e '.[voice]'"
        )
    listener = listen(options.host, options.port)  # before the networks are loaded, which takes seconds

    import uvicorn

    from scripts.voice.app import make_app
    from scripts.voice.speech_to_image import SpeechToImage
    from StackGAN_v2.interpolation import load_networks

    encoder, meta, generator = load_networks(options.encoder, options.generator, options.device)
    networks = SpeechToImage(encoder, meta, generator, options.engine, options.voice)
    address, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if address in ("0.0.0.0", "::") else f"[{address}]" if ":" in address else address
    print(f"open http://{shown}:{port} in a browser; Ctrl-C ends it", flush=True)
    app = make_app(networks, options.host)
    app.state.turns.pool.submit(networks.warm_up)  # while the browser opens the page
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=200,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. UserError: the port is taken or not allowed, or the address not of this machine."""
    if port > 65535:  # the C library would take the rest of a division
        raise cli.UserError(f"--port {port}: ports end at 65535; give another --port")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
    except (OSError, OverflowError, UnicodeError) as error:
        raise cli.UserError(f"--host {host}: {getattr(error, 'strerror', None) or error}; give an address") from None
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        raise cli.UserError(
            f"--port {port}: {getattr(error, 'strerror', None) or error}; end what listens there, or give another --port"
        ) from None
    return found


if __name__ == "__main__":
    cli.run(main)
