"""The web server around the page: who may talk to it, what it may load, how much may be sent.

A page on localhost is reachable by every site the user visits (DNS rebinding, cross-site posts), so the Host
header must be one we serve under, a foreign Origin is refused, and the content policy allows nothing from outside.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from engine.core.errors import InputError

MAX_UPLOAD_BYTES = 2_000_000  # recipes of 800 layers take a tenth; every viewer's edits wait while one is read
MAX_BODY_BYTES = 16_000_000
SPACE_PORT = 7860
HUB_ORIGIN = "https://huggingface.co"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WITH_BODY = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Binding:
    """Where the page is served and who may frame it.

    `limited`: a public space: no studies, measurements or exports, the page's own models only, few uploads.
    """

    host: str
    port: int
    allowed_hosts: tuple[str, ...]
    frame_ancestors: str
    limited: bool

    def require_own(self, what: str) -> None:
        """Refuse what a public page does not do.

        Raises:
            InputError: this is one; what to do instead.
        """
        if self.limited:
            raise InputError(f"This is a public page; run Quantscape on your own machine to {what}.")


def binding(host: str | None, port: int | None) -> Binding:
    """The binding for this environment: localhost, or a Hugging Face Space where SPACE_ID is set."""
    local = ("127.0.0.1", "localhost", "[::1]")
    if os.environ.get("SPACE_ID"):
        public = tuple(h for h in os.environ.get("SPACE_HOST", "").split(",") if h)
        return Binding("0.0.0.0", port or SPACE_PORT, (*local, *public), HUB_ORIGIN, True)
    chosen = host or "127.0.0.1"
    extra = () if chosen in (*local, "0.0.0.0", "::") else (chosen,)
    # Bound to every interface on purpose (--host 0.0.0.0), the page answers under any name.
    allowed = ("*",) if chosen in ("0.0.0.0", "::") else (*local, *extra)
    return Binding(chosen, port or SPACE_PORT, allowed, "'none'", False)


def content_policy(frame_ancestors: str) -> str:
    """Nothing from outside; `unsafe-eval` and inline are what Gradio's own front end needs."""
    return (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        f"frame-ancestors {frame_ancestors}; base-uri 'self'; form-action 'self'; object-src 'none'"
    )


class Guard:
    """Pure ASGI middleware (it never buffers, so event streams pass): Host, Origin, body size, headers."""

    def __init__(self, app: Any, bound: Binding) -> None:
        self.app = app
        self.bound = bound
        self.headers = [
            (b"content-security-policy", content_policy(bound.frame_ancestors).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
        ]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Refuse or pass on one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refusal = self._refusal(scope["method"], given)
        if refusal:
            await _answer(send, *refusal)
            return

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refusal(self, method: str, given: dict[str, str]) -> tuple[int, str] | None:
        host = given.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if "*" not in self.bound.allowed_hosts and name not in self.bound.allowed_hosts:
            return 400, "This page is not served under that host name."
        origin = given.get("origin")
        if method not in _SAFE_METHODS and origin and origin.split("://")[-1] not in (host, *self._public()):
            return 403, "Requests from other sites are refused."
        # Sent piece by piece, a body's size is known too late; browsers, Gradio's page and its clients say it before.
        if "transfer-encoding" in given or (method in _WITH_BODY and "content-length" not in given):
            return 411, "Say how long the body is (content-length); bodies in pieces are refused."
        length = given.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return 413, f"At most {MAX_BODY_BYTES // 1_000_000} MB may be sent."
        return None

    def _public(self) -> tuple[str, ...]:
        return tuple(h for h in self.bound.allowed_hosts if h != "*") if self.bound.limited else ()


async def _answer(send: Any, status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def build_app(page: Any, bound: Binding, *, theme: Any, css: str) -> Any:
    """The ASGI application: the Gradio page at `/`, our scripts and styles under `/quantscape-ui`."""
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.staticfiles import StaticFiles

    from explorer.graphview.components import ROUTE, ui_folder

    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    inner.mount(f"/{ROUTE}", StaticFiles(directory=ui_folder()))
    inner = gr.mount_gradio_app(
        inner, page, path="/", theme=theme, css=css, footer_links=[], run_history=False, enable_monitoring=False,
        max_file_size=MAX_UPLOAD_BYTES, ssr_mode=False, pwa=False, server_name=bound.host, server_port=bound.port,
        show_error=True,
    )
    return Guard(inner, bound)
