"""Start the explorer: parse arguments, find a port, serve, open the browser or a native window."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from engine.core.errors import EngineError, InputError
from engine.core.placement import DTYPES, Placement

DEFAULT_MODEL = "emoji-unet"
PORTS_TRIED = 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the explorer until it is interrupted. Exit code 2 and one sentence on bad input."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _serve(args)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quantscape", description="See and edit the bit-widths of a diffusion model.")
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL",
                        help="demo or catalogue name, diffusers directory, .safetensors file or hub id")
    parser.add_argument("--port", type=int, help="port to serve on (default: 7860, or the next free one)")
    parser.add_argument("--host", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    parser.add_argument("--desktop", action="store_true", help="show a native window instead of the browser")
    parser.add_argument("--device", default="cpu", help="where pictures are made: cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="precision pictures are made in")
    parser.add_argument("--offload", action="store_true",
                        help="keep the parts of the model in main memory, each on the device only while it computes")
    return parser


def free_port(host: str, wanted: int | None, default: int) -> int:
    """The wanted port if it is free, or the first free one from the default on.

    Raises:
        InputError: the wanted port is taken or out of range, or no port is free.
    """
    if wanted is not None and not 0 < wanted < 65536:
        raise InputError(f"Port {wanted} does not exist; choose one from 1 to 65535.")
    for port in [wanted] if wanted else range(default, default + PORTS_TRIED):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except OSError as failure:
                if wanted:
                    raise InputError(
                        f"Cannot serve on {host}:{wanted} ({failure.strerror}); is Quantscape already running there? "
                        f"Choose another with --port."
                    ) from None
    raise InputError(f"No free port from {default} to {default + PORTS_TRIED - 1} on {host}; choose one with --port.")


def _serve(args: argparse.Namespace) -> None:
    from explorer.server import binding

    placement = Placement(args.device, args.dtype, args.offload)
    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    bound = binding(args.host, args.port)
    port = bound.port if bound.limited else free_port(bound.host, args.port, bound.port)
    bound = type(bound)(bound.host, port, bound.allowed_hosts, bound.frame_ancestors, bound.limited)
    window = _webview() if args.desktop else None

    # Gradio may hand out files of the working directory; an empty one leaves nothing to hand out.
    os.chdir(tempfile.mkdtemp(prefix="quantscape-"))
    import uvicorn

    from explorer.page import build

    # Open pages hold a stream of answers; they are not waited for at the end.
    server = uvicorn.Server(uvicorn.Config(build(model, bound, placement), host=bound.host, port=port,
                                           log_level="warning", timeout_graceful_shutdown=1))
    shown = "127.0.0.1" if bound.host in ("0.0.0.0", "::") else bound.host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    print(f"Quantscape is at {url}  (stop with Ctrl+C)", flush=True)
    if not bound.limited and bound.host not in LOOPBACK:
        print("Everyone who can reach this address can open models on this machine, write exports and start jobs; "
              "leave --host out to keep it to yourself.", file=sys.stderr, flush=True)
    if window:
        serving = threading.Thread(target=server.run, daemon=True)
        serving.start()
        _wait_until_up(server)
        window.create_window("Quantscape", url, width=1440, height=900)
        window.start()
        server.should_exit = True
        serving.join()
        return
    if not args.no_browser and not bound.limited:
        threading.Thread(target=_open_browser, args=(server, url), daemon=True).start()
    server.run()


def _webview() -> object:
    try:
        import webview
    except ImportError:
        raise InputError("--desktop needs the package pywebview: pip install pywebview==6.2.1") from None
    return webview


def _wait_until_up(server: object) -> None:
    while not getattr(server, "started", False):
        time.sleep(0.05)


def _open_browser(server: object, url: str) -> None:
    _wait_until_up(server)
    webbrowser.open(url)
