"""Which event calls which handler, and which components it repaints.

Gradio's page merges answers of one event that arrive together by component, and what the later one leaves out of a
component is then lost. So an event repaints once, in one answer, and what streams (pictures) is a second event that
has only its own pane among its outputs.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from engine.core.errors import Cancelled, EngineError
from explorer.backend import Facts
from explorer.blockpanel import block_view
from explorer.context import sentence
from explorer.deciding import Deciding
from explorer.exporting import Exporting
from explorer.graphview.card import view_value
from explorer.graphview.components import BitMixer, BlockGraph
from explorer.gridding import Gridding
from explorer.handlers import Handlers
from explorer.inputs import inputs_value
from explorer.insighting import Insighting
from explorer.jobs import Jobs
from explorer.kernels import Kernels
from explorer.overlays import overlay_data
from explorer.panels.analyse import AnalyseWiring
from explorer.panels.header import HeaderPanel
from explorer.panels.prompt import PromptPanel, settings_from
from explorer.panels.views import GRID_PRESETS, ViewsPanel
from explorer.state import ViewState
from explorer.studying import Studying

Update = dict[Any, Any]
HISTORY_SHOWN = 40
PINS = "pins"
GRID_ROWS = 4
AWAY = "This page was away for too long; reload it. Its address holds the recipe."
PRESENCE_S = 10.0  # what a page that was closed still holds its place for
# Every trigger runs, in order of arrival, and nothing flickers while it does.
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", "concurrency_limit": None,
                         "api_visibility": "private"}


@dataclass(frozen=True)
class Parts:
    """Every component that events read or repaint."""

    state: gr.State
    header: HeaderPanel
    prompt: PromptPanel
    views: ViewsPanel
    graph: BlockGraph
    mixer: BitMixer
    download: gr.Textbox


class Wiring:
    """Binds the handlers to the page; `connect` is called once while the page is built."""

    def __init__(self, handlers: Handlers, parts: Parts) -> None:
        self.handlers = handlers
        self.parts = parts
        # Gradio's page tells every component that ever waited of every event; so only one ever waits, a hidden one.
        self.quiet: dict[str, Any] = {**QUIET, "show_progress_on": parts.download}
        # Gradio reads the state before a handler and stores it after: of two at once the first one's change would be
        # lost. So what writes the state takes turns; what takes seconds is worked out `ahead` of its turn.
        self.turns: dict[str, Any] = {**self.quiet, "concurrency_limit": 1, "concurrency_id": "state"}
        self.analyse = AnalyseWiring(parts.views.analyse, self, self.quiet)
        self.jobs = Jobs()
        self.grids = Gridding(self)
        self.shown: dict[str, Any] = {}  # session -> what its compare pane was last asked to show
        # From the clock, so that a page that outlives the server takes the next server's values too.
        self.revisions = itertools.count(time.time_ns() // 1_000_000)

    # --- what a state looks like --------------------------------------------------------------------------------

    def painted(self, state: ViewState, edit: int | None = None) -> Update:
        """Updates that bring the page in line with a state; cheap enough for every gesture."""
        p, model = self.parts, self.handlers.context.model(state.model)
        overlay = overlay_data(model.structure, model.backend.scores, state.overlay, state.ramp)
        value = view_value(state.options, overlay, selected=state.selected, protected=state.protected,
                           expanded=state.expanded, rev=next(self.revisions), edit=edit,
                           address=self.handlers.address(state), **inputs_value(model.structure, state.options))
        versions = [(f"{i}. {v.title}", i) for i, v in enumerate(state.history)][::-1][:HISTORY_SHOWN]
        pins = ", ".join(sorted(state.pins))
        return {
            p.state: state, p.graph: value,
            p.header.undo: gr.update(interactive=state.can_undo), p.header.redo: gr.update(interactive=state.can_redo),
            p.views.history: gr.update(choices=versions, value=state.at),
            p.views.pins: f"Pinned: {pins}." if pins else "Nothing is pinned.",
            p.views.difference: gr.update(value=(rows := self.handlers.pin_rows(state)), visible=bool(rows)),
            p.views.grid_columns: gr.update(choices=[*((f"Pin {n}", n) for n in sorted(state.pins)), *GRID_PRESETS]),
            p.header.preset: "", p.views.restore: gr.update(visible=False),
            **self.block(state),
        }

    def block(self, state: ViewState) -> Update:
        """The block tab for the current selection."""
        v, model = self.parts.views, self.handlers.context.model(state.model)
        title, figure = block_view(model, state)
        return {v.block_title: title, v.options_chart: gr.update(value=figure, visible=figure is not None)}

    def opened(self, state: ViewState) -> Update:
        """Everything that changes when another model is opened."""
        p, model = self.parts, self.handlers.context.model(state.model)
        painted = self.painted(state)
        # Its value follows as the next answer: of both in one, Gradio's page takes the graph alone.
        painted[p.graph] = gr.update(graph=model.graph)
        return {
            **painted,
            p.header.model: state.model,
            **p.prompt.shown(state.settings),
        }

    def offered(self, facts: Facts, state: ViewState) -> Update:
        """Controls that depend on what the loaded model takes."""
        rows = gr.update(value="\n".join(facts.suggestions[:GRID_ROWS]), visible=facts.conditioning == "text")
        return {self.parts.views.grid_prompts: rows, **self.parts.prompt.offered(facts, state.settings.scheduler)}

    @property
    def painting(self) -> dict[Any, None]:
        """What `painted` repaints."""
        p, v, h = self.parts, self.parts.views, self.parts.header
        return dict.fromkeys([p.state, p.graph, h.undo, h.redo, h.preset, v.history, v.pins, v.difference, v.restore,
                              v.grid_columns, v.block_title, v.options_chart])

    @property
    def opening_outputs(self) -> dict[Any, None]:
        """What `opened` repaints besides."""
        return dict.fromkeys([self.parts.header.model, *self.parts.prompt.inputs])

    @property
    def offered_outputs(self) -> dict[Any, None]:
        """What `offered` repaints."""
        return dict.fromkeys([self.parts.views.grid_prompts, *self.parts.prompt.depending])

    # --- answers ------------------------------------------------------------------------------------------------

    def arriving(self, name: str | None = None) -> Callable[..., Update]:
        """Page load, or (with the model box as input) opening another model."""
        def run(state: ViewState | None, chosen: str, page: dict[str, Any], request: gr.Request) -> Update:
            try:
                if name is None:
                    state, said = self.handlers.arrive(request)
                else:
                    state, said = self.handlers.opened(chosen.strip(), {})
            except EngineError as error:
                gr.Warning(sentence(error))
                return {self.parts.header.model: state.model if state else chosen}
            if said:
                gr.Warning(said)
            return self.opened(replace(state, edit=page.get("edit") or 0))  # the page goes on counting
        return run

    def tracing(self, chosen: str) -> None:
        """Trace another model ahead of `arriving`, which finds it in memory."""
        with suppress(EngineError):  # said by `arriving`
            self.handlers.opened(chosen.strip(), {})

    def shown_again(self, state: ViewState | None) -> Update:
        """The graph's value after another graph was sent."""
        return {self.parts.graph: self.painted(state)[self.parts.graph] if state else gr.skip()}

    def repainted(self, state: ViewState | None) -> Update:
        """The graph's value once more, colours and all; what the page did since stays."""
        return {self.parts.graph: self.painted(state, state.edit)[self.parts.graph] if state else gr.skip()}

    def gone(self) -> Update:
        """The state was dropped: the server started anew, or others have come since."""
        gr.Warning(AWAY)
        return {self.parts.state: gr.skip()}

    def loading(self, state: ViewState | None, request: gr.Request) -> Iterator[Update]:
        """The weights behind the graph."""
        pane = self.parts.views.pane
        if state is None:
            return
        try:
            yield {pane: {"progress": {"text": "Loading the weights", "step": 0, "of": 1, "left": ""}}}
            self.handlers.facts(state, request.session_hash or "")
        except Cancelled:
            return
        except (EngineError, RuntimeError) as error:
            yield {pane: {"error": sentence(error), "progress": None}}

    def offering(self, state: ViewState | None, request: gr.Request) -> Update:
        """Controls that depend on what the loaded model takes."""
        try:
            facts = self.handlers.facts(state, request.session_hash or "") if state else None
        except (Cancelled, EngineError, RuntimeError):  # said by `loading`
            facts = None
        return self.offered(facts, state) if facts and state else {self.parts.prompt.prompt: gr.skip()}

    def editing(self, change: Callable[[ViewState, Any], ViewState] | None) -> Callable[..., Update]:
        """Take what the page did, apply a pure change, repaint.

        Without a change the event is the page's own gesture; its answer must not take back what was done since.
        """
        def run(state: ViewState | None, value: Any, page: dict[str, Any]) -> Update:
            if state is None:
                return self.gone()
            new = state
            try:
                new = seen = self.handlers.released(state, page)
                new = change(seen, value) if change else seen
            except (EngineError, ValueError) as error:
                gr.Warning(sentence(error) if isinstance(error, EngineError) else str(error))
                return self.painted(new)
            return self.painted(new, new.edit if change is None else None)
        return run

    def ahead(self, change: Callable[[ViewState, Any], ViewState]) -> Callable[..., None]:
        """Work out a change that takes seconds and keeps its answer, so that `editing` only has to look it up."""
        def run(state: ViewState | None, value: Any, page: dict[str, Any]) -> None:
            with suppress(EngineError, ValueError):  # said by `editing`
                if state is not None:
                    change(self.handlers.released(state, page), value)
        return run

    def filing(self, state: ViewState | None, path: str | None, page: dict[str, Any], request: gr.Request) -> Update:
        """A recipe file was chosen; they are counted per viewer."""
        return self.editing(partial(self.handlers.file_loaded, session=request.session_hash or ""))(state, path, page)

    def picturing(self, always: bool = False) -> Callable[..., Iterator[Update]]:
        """Values of the compare pane as they come; nothing where it shows these pictures already."""
        def run(state: ViewState | None, against: str, request: gr.Request) -> Iterator[Update]:
            if state is None:
                return
            session = request.session_hash or ""
            wanted = (state.model, state.options, state.settings, against, state.pins if against == PINS else None)
            if not always and self.shown.get(session) == wanted:
                return
            self.shown[session], came = wanted, False
            try:
                for value in self.handlers.compared(state, against, session):
                    came = came or "a" in value
                    yield {self.parts.views.pane: value}
            finally:
                if not came and self.shown.get(session) == wanted:  # refused, failed or cancelled: asked again, made
                    self.shown.pop(session)
        return run

    def formed(self, state: ViewState | None, *form: Any) -> Update:
        """What the prompt box says becomes part of the state and the address."""
        if state is None:
            return self.gone()
        state = replace(state, settings=settings_from(*form))
        return {self.parts.state: state,
                self.parts.graph: {"address": self.handlers.address(state), "rev": next(self.revisions)}}

    # --- connections --------------------------------------------------------------------------------------------

    def connect(self, page: gr.Blocks) -> None:
        """Register every event of the page."""
        p, v, h = self.parts, self.parts.views, self.handlers
        # First, so that it outlives every other event of the page.
        page.load(self.present, None, None, **self.quiet)
        changed: list[Any] = []
        switched: list[Any] = []
        pictured: list[Any] = []
        looked: list[Any] = []
        arrival, opened = [p.state, p.header.model, p.graph], list(self.painting | self.opening_outputs)
        traced = p.header.model.input(self.tracing, p.header.model, None, **self.quiet)
        for event in (page.load(self.arriving(), arrival, opened, **self.turns),
                      traced.then(self.arriving("chosen"), arrival, opened, **self.turns)):
            shown = event.then(self.shown_again, p.state, p.graph, **self.turns)
            switched.append(shown)
            loaded = shown.then(self.loading, p.state, v.pane, **self.quiet)
            offered = loaded.then(self.offering, p.state, list(self.offered_outputs), **self.quiet)
            pictured.append(offered.then(self.picturing(), [p.state, v.against], v.pane, **self.quiet))
        for event in (p.graph.select, p.graph.protect, p.graph.expand, p.graph.ramp):
            selected = event(self.selecting, [p.state, p.graph], [p.state, v.block_title, v.options_chart],
                             **self.turns)
            selected.then(self.weighing, p.state, v.histogram, **self.quiet)
            looked.append(selected)
        edits = self.editing
        for event, edit, source in (
            (p.graph.release, edits(None), p.download),
            (p.header.undo.click, edits(lambda s, _: h.undone(s)), p.download),
            (p.header.redo.click, edits(lambda s, _: h.redone(s)), p.download),
            (p.header.preset.input, edits(h.preset_chosen), p.header.preset),
            (p.header.load.upload, self.filing, p.header.load),
            (v.history.input, edits(h.jumped_to), v.history),
            (p.graph.overlay, edits(h.overlay_chosen), p.graph),
            (v.pin_a.click, edits(lambda s, _: h.pin(s, "A")), p.download),
            (v.pin_b.click, edits(lambda s, _: h.pin(s, "B")), p.download),
        ):
            painted = event(edit, [p.state, source, p.graph], list(self.painting), **self.turns)
            painted.then(self.picturing(), [p.state, v.against], v.pane, **self.quiet)
            changed.append(painted)
        deciding, studying = Deciding(self), Studying(self)
        changed.append(studying.loading(deciding.pointed, self.quiet))
        deciding.connect(changed, switched, pictured, self.quiet)
        studying.connect(switched, self.quiet)
        Insighting(self).connect([*looked, *changed, *switched], self.quiet)
        self._connect_pictures()
        self.grids.connect(self.quiet)
        Exporting(self).connect(self.quiet)
        Kernels(self).connect(switched, self.quiet)
        self.analyse.connect()
        self._connect_browser(page)
        page.unload(self.left)

    def _connect_browser(self, page: gr.Blocks) -> None:
        """What happens in the browser alone, or ends there; the scripts are in assets/ui."""
        p = self.parts
        p.header.save.click(self.saved, p.state, p.download, **self.quiet)
        p.download.change(None, p.download, None, js="(text) => { QS.saveFile(text); }")
        p.header.theme.click(None, None, None, js="() => { QS.toggleTheme(); }")
        p.header.help.click(None, None, None, js="() => { QS.showHelp(); }")
        page.load(None, None, None, js="() => { QS.restoreTheme(); }")

    def _connect_pictures(self) -> None:
        p, q, v = self.parts, self.parts.prompt, self.parts.views
        pictures: tuple[Any, ...] = ([p.state, v.against], v.pane)
        asked: list[Any] = [
            event(self.formed, [p.state, *q.inputs], [p.state, p.graph], **self.turns)
            for event in (q.generate.click, q.prompt.submit, q.negative.submit, q.seed.submit, q.steps.release,
                          q.guidance.release, q.scheduler.input, q.count.release, q.label.submit)
        ]
        chosen = q.suggestion.input(lambda text, old: text or old, [q.suggestion, q.prompt], q.prompt, **self.quiet)
        dice = q.dice.click(None, None, q.seed, js="() => Math.floor(Math.random() * 4294967296)")
        asked += [e.then(self.formed, [p.state, *q.inputs], [p.state, p.graph], **self.turns) for e in (chosen, dice)]
        for event in asked:
            event.then(self.picturing(always=True), *pictures, **self.quiet)
        v.against.input(self.picturing(), *pictures, **self.quiet)
        v.pane.cancel(self.cancelled, None, None, **self.quiet)
        v.pane.region(self.restoring, [p.state, v.pane, v.against], [v.restore, v.pane], **self.quiet)

    def saved(self, state: ViewState | None) -> Update:
        """The recipe as a file for the browser to save."""
        if state is None:
            gr.Warning(AWAY)
        return {self.parts.download: self.handlers.saved(state) if state else gr.skip()}

    def restoring(self, state: ViewState | None, value: dict[str, Any], against: str,
                  request: gr.Request) -> Iterator[Update]:
        """A region of the difference map was clicked: rank the blocks that would repair it."""
        v = self.parts.views
        if state is None:
            gr.Warning(AWAY)
            return
        if against != "full":
            gr.Warning("What to restore is ranked against full precision; choose Full precision | this recipe.")
            return
        for event in self.handlers.restored(state, value.get("region"), request.session_hash or ""):
            if isinstance(event, list):
                yield {v.restore: gr.update(value=event, visible=bool(event)), v.pane: {"progress": None}}
            else:
                yield {v.pane: event}

    def selecting(self, state: ViewState | None, value: dict[str, Any]) -> Update:
        """Selection changed: the block tab follows."""
        if state is None:
            return self.gone()
        state = self.handlers.looked(state, value)
        return {self.parts.state: state, **self.block(state)}

    def weighing(self, state: ViewState | None, request: gr.Request) -> Update:
        """The weights of the selection, as soon as the device is free."""
        figure = self.handlers.histogram(state, request.session_hash or "") if state else None
        return {self.parts.views.histogram: gr.update(value=figure, visible=figure is not None)}

    async def present(self) -> AsyncIterator[None]:
        """Lasts as long as the page is open, and does nothing.

        Gradio closes a page's stream of answers when no event is pending. An event that the page sends at that very
        moment is carried out, but its answer is lost; with one event always pending the stream never closes.
        """
        while True:
            await asyncio.sleep(PRESENCE_S)
            yield None

    def cancelled(self, request: gr.Request) -> None:
        """The cancel button of the pane."""
        self.handlers.context.worker.cancel(request.session_hash or "")

    def left(self, request: gr.Request) -> None:
        """The tab was closed: its jobs stop."""
        self.cancelled(request)
        self.analyse.cancelled(request)
        self.grids.left(request)
        self.shown.pop(request.session_hash or "", None)
        self.handlers.loads.pop(request.session_hash or "", None)
