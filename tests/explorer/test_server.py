"""Who may talk to the page: Host, Origin, sizes, headers, Spaces, ports."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from engine.core.errors import InputError
from explorer.launch import free_port
from explorer.server import MAX_BODY_BYTES, Binding, Guard, binding

LOCAL = Binding("127.0.0.1", 7860, ("127.0.0.1", "localhost", "[::1]"), "'none'", False)


NOT_SENT = "not sent"


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(bound: Binding, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **({"content_length": "0"} if method == "POST" else {}), **headers}
    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in given.items() if v != NOT_SENT]
    scope = {"type": "http", "method": method, "headers": raw, "path": "/"}
    # Nothing here waits, so one step is all; a loop of our own could not run beside a browser's in this process.
    with pytest.raises(StopIteration):
        Guard(_hello, bound)(scope, None, send).send(None)
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "localhost", "[::1]:7860"])
def test_local_names_are_served(host: str) -> None:
    status, headers = ask(LOCAL, host=host)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "192.168.0.1:7860"])
def test_other_names_are_refused(host: str) -> None:
    assert ask(LOCAL, host=host)[0] == 400


def test_foreign_origins_may_not_post() -> None:
    assert ask(LOCAL, "POST", origin="http://evil.example")[0] == 403
    assert ask(LOCAL, "POST", origin="null")[0] == 403
    assert ask(LOCAL, "POST", origin="http://127.0.0.1:7860")[0] == 200
    assert ask(LOCAL, "GET", origin="http://evil.example")[0] == 200


def test_large_bodies_are_refused() -> None:
    assert ask(LOCAL, "POST", content_length=str(MAX_BODY_BYTES + 1))[0] == 413
    assert ask(LOCAL, "POST", content_length=str(MAX_BODY_BYTES))[0] == 200
    assert ask(LOCAL, "POST", content_length="-1")[0] == 413
    assert ask(LOCAL, "POST", content_length="²")[0] == 413


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_bodies_of_untold_size_are_refused(method: str) -> None:
    assert ask(LOCAL, method, content_length=NOT_SENT)[0] == 411
    assert ask(LOCAL, method, content_length=NOT_SENT, transfer_encoding="chunked")[0] == 411
    assert ask(LOCAL, method, content_length="5", transfer_encoding="chunked")[0] == 411
    assert ask(LOCAL, method, content_length="5")[0] == 200


def test_a_body_in_pieces_is_refused_whatever_it_is_called() -> None:
    assert ask(LOCAL, "GET", transfer_encoding="chunked")[0] == 411
    assert ask(LOCAL, "DELETE", transfer_encoding="chunked")[0] == 411


def test_a_space_is_public_and_framed_by_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "ann/quantscape")
    monkeypatch.setenv("SPACE_HOST", "ann-quantscape.hf.space")
    bound = binding(None, None)
    assert (bound.host, bound.port, bound.limited) == ("0.0.0.0", 7860, True)
    status, headers = ask(bound, "POST", host="ann-quantscape.hf.space", origin="https://ann-quantscape.hf.space")
    assert status == 200 and "frame-ancestors https://huggingface.co" in headers["content-security-policy"]
    assert ask(bound, host="evil.example")[0] == 400


def test_local_by_default_and_open_only_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert binding(None, None).host == "127.0.0.1"
    assert ask(binding("0.0.0.0", None), host="box.lan:7860")[0] == 200
    assert ask(binding("10.0.0.5", None), host="10.0.0.5:7860")[0] == 200


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="already running"):
            free_port("127.0.0.1", port, 7860)
        assert free_port("127.0.0.1", None, port) != port
    with pytest.raises(InputError, match="does not exist"):
        free_port("127.0.0.1", 70_000, 7860)
