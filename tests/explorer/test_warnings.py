"""Pictures drawn along another schedule than their ranges were calibrated on say so on the page, kept ones too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from engine.core.option import FP16
from engine.models.structure import read_structure
from explorer.backend import LiveBackend, Made
from explorer.handlers import _warn
from explorer.state import Settings


def test_a_warning_comes_with_the_pictures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Iterator[Any]:
        yield from ()
        return []

    monkeypatch.setattr("engine.live.schedules.other_scheduler", lambda *_: "Another scheduler draws.")
    for name in ("load", "_applying", "_generating"):
        monkeypatch.setattr(LiveBackend, name, nothing)
    structure = read_structure("emoji-dit")
    backend = LiveBackend("emoji-dit", structure, {})
    options = {x.name: FP16 for x in structure.choices}
    made = [e for _ in range(2) for e in backend.make(options, Settings(), threading.Event()) if isinstance(e, Made)]
    assert [(m.cached, m.warning) for m in made] == [(False, "Another scheduler draws."),
                                                     (True, "Another scheduler draws.")]
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", said.append)
    _warn(*made, Made("", (), False, 0.0))
    assert said == ["Another scheduler draws."]
