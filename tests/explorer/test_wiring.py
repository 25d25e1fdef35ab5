"""The rule that keeps answers from being lost: what streams repaints one pane and nothing else."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from explorer import page as page_module
from explorer.graphview.components import BlockGraph
from explorer.server import Binding


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(page_module, "build_app", lambda page, bound, **_: page)
    return page_module.build("emoji-unet", Binding("127.0.0.1", 7860, (), "", False))


def test_only_single_answers_repaint_the_graph(blocks: Any) -> None:
    streams = [f for f in blocks.fns.values() if inspect.isgeneratorfunction(f.fn)]
    assert streams, "pictures stream"
    for found in streams:
        assert not any(isinstance(c, BlockGraph) for c in found.outputs), found.name
        assert len(found.outputs) <= 2, f"{found.name} streams into {len(found.outputs)} components"


def test_no_trigger_is_dropped(blocks: Any) -> None:
    served = [f for f in blocks.fns.values() if f.fn and f.targets[0][1] not in ("unload",)]
    assert all(f.trigger_mode == "multiple" for f in served), [f.name for f in served if f.trigger_mode != "multiple"]
    assert all(f.concurrency_limit is None for f in served if f.concurrency_id != "state")


def test_what_writes_the_state_takes_turns(blocks: Any) -> None:
    """Gradio reads the state before a handler and stores it after: of two at once, one change would be lost."""
    writers = [f for f in blocks.fns.values() if any(isinstance(c, gr.State) for c in f.outputs)]
    assert len(writers) > 10
    assert {(f.concurrency_id, f.concurrency_limit) for f in writers} == {("state", 1)}


def test_one_hidden_component_waits_for_all(blocks: Any) -> None:
    """Gradio's page tells every component that ever waited of every event, which a drag would feel."""
    served = [f for f in blocks.fns.values() if f.fn and f.outputs and f.targets[0][1] not in ("unload",)]
    waiting = {c.elem_id for f in served for c in f.show_progress_on or f.outputs}
    assert len(served) > 40 and waiting == {"download"}


def test_leaving_stops_what_was_running(blocks: Any) -> None:
    leave = next(f for f in blocks.fns.values() if f.targets[0][1] == "unload")
    worker = leave.fn.__self__.handlers.context.worker
    begun = threading.Event()

    def endless(cancel: Any) -> Iterator[None]:
        begun.set()
        cancel.wait(60)
        yield None

    job = worker.submit(endless, "ann")
    assert begun.wait(60)
    leave.fn(SimpleNamespace(session_hash="bob"))
    assert not job.cancel.is_set()
    leave.fn(SimpleNamespace(session_hash="ann"))
    assert job.cancel.is_set()
