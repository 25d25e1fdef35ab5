"""Events of the Export tab: what a file would hold, a look at it, writing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from explorer.state import ViewState

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]


class Exporting:
    """Bound to the page's wiring, which takes edits and repaints; `connect` is called once."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.panel = wiring.parts.views.export
        self.handlers = wiring.handlers
        self.planned = False  # whether an export was planned yet

    def planning(self, state: ViewState | None, name: str) -> Iterator[Update]:
        """What a file would hold of the recipe; the first time the formats are read, which takes seconds."""
        p = self.panel
        if not self.planned:
            yield {p.plan: "Working out what the file would hold…"}
        text, changes = self.handlers.export_plan(state, name) if state else ("", False)
        self.planned = True
        yield {p.plan: text, p.preview: gr.update(visible=changes)}

    def writing(self, state: ViewState | None, name: str, directory: str, request: gr.Request) -> Iterator[Update]:
        """Export, step by step in words."""
        for text in self.handlers.exported(state, name, directory, request.session_hash or "") if state else ():
            yield {self.panel.status: text}

    def cancelled(self, request: gr.Request) -> None:
        """The cancel button."""
        self.handlers.context.worker.cancel(f"{request.session_hash}-export")

    def connect(self, quiet: Mapping[str, Any]) -> None:
        """Register the tab's events."""
        w, x, parts = self.wiring, self.panel, self.wiring.parts
        for event in (x.tab.select, x.format.input):
            event(self.planning, [parts.state, x.format], [x.plan, x.preview], **quiet)
        shown = x.preview.click(w.editing(self.handlers.as_exported), [parts.state, x.format, parts.graph],
                                list(w.painting), **w.turns)
        shown.then(self.planning, [parts.state, x.format], [x.plan, x.preview], **quiet)
        shown.then(w.picturing(), [parts.state, parts.views.against], parts.views.pane, **quiet)
        x.start.click(self.writing, [parts.state, x.format, x.directory], x.status, **quiet)
        x.cancel.click(self.cancelled, None, None, **quiet)
