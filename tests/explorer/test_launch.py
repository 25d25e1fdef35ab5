"""Starting the explorer: ports, and the native window."""

from __future__ import annotations

import os
import socket
import sys
import types
import urllib.request
from collections.abc import Iterator

import pytest

from engine.core.errors import InputError
from explorer.launch import free_port, main


@pytest.fixture(autouse=True)
def _same_directory() -> Iterator[None]:
    here = os.getcwd()
    yield
    os.chdir(here)


def test_a_taken_port_is_named_and_the_next_free_one_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="already running"):
            free_port("127.0.0.1", port, 7860)
        assert free_port("127.0.0.1", None, port) > port


@pytest.mark.parametrize("port", [0, -1, 70_000])
def test_ports_that_do_not_exist_are_refused(port: int) -> None:
    with pytest.raises(InputError, match="does not exist"):
        free_port("127.0.0.1", port, 7860)


def test_the_native_window_shows_the_served_page_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def create_window(title: str, url: str, **_: int) -> None:
        seen.update(title=title, url=url)

    def start() -> None:
        with urllib.request.urlopen(seen["url"], timeout=30) as answer:
            seen["page"] = answer.read().decode()

    monkeypatch.setitem(sys.modules, "webview", types.SimpleNamespace(create_window=create_window, start=start))
    assert main(["emoji-unet", "--desktop"]) == 0
    assert seen["title"] == "Quantscape" and "Quantscape" in seen["page"]
    with pytest.raises(OSError):
        urllib.request.urlopen(seen["url"], timeout=5)


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "webview", None)
    assert main(["emoji-unet", "--desktop"]) == 2
    assert "pip install pywebview" in capsys.readouterr().err


def test_a_cpu_is_not_offloaded_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--offload", "--no-browser"]) == 2
    assert "name one with --device cuda" in capsys.readouterr().err
