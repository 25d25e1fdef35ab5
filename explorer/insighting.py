"""Events of the insight charts: they follow the overlay and the selection while the Block tab is in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from explorer.context import OpenModel
from explorer.insight import by_block_figure, by_role_figure, left_out, scored_options
from explorer.overlays import TITLES, reference
from explorer.panels.insight import SEEN
from explorer.state import ViewState
from explorer.wording import inside

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]


class Insighting:
    """Bound to the page's wiring; `connect` is called once."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.panel = wiring.parts.views.insight

    def drawn(self, state: ViewState | None, wanted: str | None, seen: str) -> Update:
        """Both charts for the scores that colour the graph at the wanted option (at the overlay's, where these scores
        do not know it); nothing while the tab is not in sight."""
        p = self.panel
        if state is None or not seen:
            return {p.title: gr.skip()}
        model = self.wiring.handlers.context.model(state.model)
        name = shown_provider(model, state.overlay)
        if not name:
            hidden = gr.update(visible=False)
            return {p.title: "", p.option: hidden, p.roles: hidden, p.blocks: hidden}
        scores = model.backend.scores[name]
        known = scored_options(scores)
        option = wanted if wanted in known else reference(scores)
        title, unit = TITLES.get(name, (name, scores.unit))
        marked = marked_blocks(model, state.selected)
        roles = by_role_figure(model.structure, scores, option, unit)
        blocks = by_block_figure(model.structure, scores, option, unit, marked)
        text = f"**All layers at {option}**, {inside(title)}: by kind of operation, then by block" + (
            "; orange is what is selected." if marked else ".")
        return {p.option: gr.update(choices=known, value=option, visible=True),
                p.title: "\n\n".join(t for t in (text, left_out(model.structure, scores, option)) if t),
                p.roles: gr.update(value=roles, visible=roles is not None),
                p.blocks: gr.update(value=blocks, visible=blocks is not None)}

    def connect(self, followed: Sequence[Any], quiet: Mapping[str, Any]) -> None:
        """Register the events; `followed` are those after which overlay or selection may be others."""
        p, parts = self.panel, self.wiring.parts
        ask, out = [parts.state, p.option, parts.download], [p.option, p.title, p.roles, p.blocks]
        for event in (p.tab.select, p.option.input):
            event(self.drawn, ask, out, **quiet, js="(state, option, _) => [state, option, '1']")
        for event in followed:
            event.then(self.drawn, ask, out, **quiet,
                       js=f"(state, option, _) => [state, option, QS.seen('{SEEN}') ? '1' : '']")


def shown_provider(model: OpenModel, overlay: str) -> str:
    """Whose scores are drawn: the overlay's, else the first there are."""
    known = [name for _, name in model.overlays if name in model.backend.scores]
    return overlay if overlay in known else next(iter(known), "")


def marked_blocks(model: OpenModel, selected: Sequence[str]) -> tuple[str, ...]:
    """The blocks that are selected, or hold or lie in what is."""
    ids = set(selected)
    inside = {n for b in model.structure.blocks if b.id in ids for n in b.layers} | ids
    return tuple(b.id for b in model.structure.level("block") if b.id in ids or inside.intersection(b.layers))
