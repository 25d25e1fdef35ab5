"""Events of the Grid tab: prompts down, recipes across; a picture that is clicked opens in Compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from explorer.state import ViewState

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]


class Gridding:
    """Bound to the page's wiring; `connect` is called once."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self._made: dict[str, tuple[ViewState, str, Sequence[str]]] = {}  # session -> what its grid shows

    def making(self, state: ViewState | None, prompts: str, columns: list[str],
               request: gr.Request) -> Iterator[Update]:
        """Make the grid, column by column."""
        if state is None:
            self.wiring.gone()
            return
        session = request.session_hash or ""
        self._made[session] = (state, prompts, columns)
        for value in self.wiring.handlers.grid(state, prompts, columns, owner_of(session)):
            yield {self.wiring.parts.views.grid: value}

    def opening(self, value: dict[str, Any], request: gr.Request) -> Iterator[Update]:
        """A picture was clicked: it is compared with full precision, as it was when the grid was made."""
        session, handlers = request.session_hash or "", self.wiring.handlers
        made = self._made.get(session)
        picked = handlers.picked(made[0], value.get("open"), made[1], list(made[2])) if made else None
        if picked:
            self.wiring.shown.pop(session, None)  # the pane will show something else than the recipe
            for shown in handlers.compared(picked, "full", session):
                yield {self.wiring.parts.views.pane: shown}

    def cancelled(self, request: gr.Request) -> None:
        """The cancel button."""
        self.wiring.handlers.context.worker.cancel(owner_of(request.session_hash or ""))

    def left(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.cancelled(request)
        self._made.pop(request.session_hash or "", None)

    def connect(self, quiet: Mapping[str, Any]) -> None:
        """Register the tab's events."""
        parts, v = self.wiring.parts, self.wiring.parts.views
        v.grid.open(lambda: gr.Tabs(selected="compare"), None, v.tabs, **quiet)
        v.grid.open(self.opening, v.grid, v.pane, **quiet)
        v.grid_make.click(self.making, [parts.state, v.grid_prompts, v.grid_columns], v.grid, **quiet)
        v.grid.cancel(self.cancelled, None, None, **quiet)


def owner_of(session: str) -> str:
    """Whose jobs a session's grids are: not the pane's, or a grid would cancel the pictures of an edit."""
    return f"{session}-grid"
