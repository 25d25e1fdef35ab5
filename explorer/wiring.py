"""Which event calls which handler, and which components it repaints."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from engine.core.errors import Cancelled, EngineError
from explorer.backend import Facts
from explorer.blockpanel import block_view
from explorer.context import sentence
from explorer.graphview.card import view_value
from explorer.graphview.components import BitMixer, BlockGraph
from explorer.handlers import Handlers
from explorer.overlays import overlay_data
from explorer.panels.header import HeaderPanel
from explorer.panels.prompt import PromptPanel, settings_from
from explorer.panels.views import GRID_PRESETS, ViewsPanel
from explorer.state import ViewState

Update = dict[Any, Any]
HISTORY_SHOWN = 40
PINS = "pins"
GRID_ROWS = 4


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
        # From the clock, so that a page that outlives the server takes the next server's values too.
        self.revisions = itertools.count(time.time_ns() // 1_000_000)

    # --- what a state looks like --------------------------------------------------------------------------------

    def painted(self, state: ViewState, edit: int | None = None) -> Update:
        """Updates that bring the page in line with a state; cheap enough for every gesture."""
        p, model = self.parts, self.handlers.context.model(state.model)
        overlay = overlay_data(model.structure, model.backend.scores, state.overlay, state.ramp)
        value = view_value(state.options, overlay, selected=state.selected, protected=state.protected,
                           expanded=state.expanded, rev=next(self.revisions), edit=edit,
                           address=self.handlers.address(state))
        versions = [(f"{i}. {v.title}", i) for i, v in enumerate(state.history)][::-1][:HISTORY_SHOWN]
        pins = ", ".join(sorted(state.pins))
        return {
            p.state: state, p.graph: value,
            p.header.undo: gr.update(interactive=state.can_undo), p.header.redo: gr.update(interactive=state.can_redo),
            p.views.history: gr.update(choices=versions, value=state.at),
            p.views.pins: f"Pinned: {pins}." if pins else "Nothing is pinned.",
            p.views.difference: gr.update(value=(rows := self.handlers.pin_rows(state)), visible=bool(rows)),
            p.views.grid_columns: gr.update(choices=[*((f"Pin {n}", n) for n in sorted(state.pins)), *GRID_PRESETS]),
            p.header.preset: "",
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
        s = state.settings
        painted = self.painted(state)
        painted[p.graph] = gr.update(graph=model.graph, value=painted[p.graph])
        return {
            **painted,
            p.header.model: state.model,
            p.prompt.prompt: s.prompt, p.prompt.seed: s.seed, p.prompt.steps: s.steps, p.prompt.guidance: s.guidance,
            p.prompt.label: s.label,
        }

    def offered(self, facts: Facts) -> Update:
        """Controls that depend on what the loaded model takes."""
        q, text = self.parts.prompt, facts.conditioning == "text"
        return {
            self.parts.views.grid_prompts: gr.update(value="\n".join(facts.suggestions[:GRID_ROWS]), visible=text),
            q.prompt: gr.update(visible=text), q.negative: gr.update(visible=text),
            q.label: gr.update(visible=facts.conditioning == "class", maximum=max(0, facts.labels - 1)),
            q.suggestion: gr.update(choices=[("Suggestions…", ""), *((t, t) for t in facts.suggestions)], value="",
                                    visible=bool(text and facts.suggestions)),
            q.scheduler: gr.update(choices=[("The model's own", ""), *((n, n) for n in facts.schedulers)]),
        }

    @property
    def outputs(self) -> list[Any]:
        """Everything an edit may repaint."""
        p = self.parts
        v, q = p.views, p.prompt
        h = p.header
        return [p.state, p.graph, h.undo, h.redo, h.model, h.preset,
                v.history, v.pins, v.difference, v.block_title, v.options_chart, v.pane, v.restore,
                v.grid_columns, v.grid_prompts, q.prompt, q.negative, q.label, q.suggestion, q.scheduler, q.seed,
                q.steps, q.guidance]

    # --- generators ---------------------------------------------------------------------------------------------

    def pictures(self, state: ViewState, against: str, session: str) -> Iterator[Update]:
        """Values of the compare pane as they come."""
        for value in self.handlers.compared(state, against, session):
            yield {self.parts.views.pane: value}

    def arriving(self, name: str | None = None) -> Callable[..., Iterator[Update]]:
        """Page load, or (with the model box as input) opening another model."""
        def run(
            state: ViewState | None, chosen: str, against: str, page: dict[str, Any], request: gr.Request
        ) -> Iterator[Update]:
            try:
                if name is None:
                    state, said = self.handlers.arrive(request)
                else:
                    state, said = self.handlers.opened(chosen.strip(), {})
            except EngineError as error:
                gr.Warning(sentence(error))
                yield {self.parts.header.model: state.model if state else chosen}
                return
            if said:
                gr.Warning(said)
            state = replace(state, edit=page.get("edit") or 0)  # the page goes on counting
            yield self.opened(state)
            yield from self._loaded(state, request.session_hash or "")
            yield from self.pictures(state, against, request.session_hash or "")
        return run

    def _loaded(self, state: ViewState, session: str) -> Iterator[Update]:
        pane = self.parts.views.pane
        try:
            yield {pane: {"progress": {"text": "Loading the weights", "step": 0, "of": 1, "left": ""}}}
            facts = self.handlers.facts(state, session)
            if facts:
                yield self.offered(facts)
        except Cancelled:
            return
        except (EngineError, RuntimeError) as error:
            yield {pane: {"error": sentence(error), "progress": None}}

    def editing(self, change: Callable[[ViewState, Any], ViewState] | None) -> Callable[..., Iterator[Update]]:
        """A generator event: take what the page did, apply a pure change, repaint at once, then bring new pictures.

        Without a change the event is the page's own gesture; its answer must not take back what was done since.
        """
        def run(
            state: ViewState | None, value: Any, against: str, page: dict[str, Any], request: gr.Request
        ) -> Iterator[Update]:
            if state is None:  # the page has not been told what it shows
                return
            new = state
            try:
                new = seen = self.handlers.released(state, page)
                new = change(seen, value) if change else seen
            except (EngineError, ValueError) as error:
                gr.Warning(sentence(error) if isinstance(error, EngineError) else str(error))
                yield self.painted(new)
                return
            yield self.painted(new, new.edit if change is None else None)
            if new.options != state.options or (against == PINS and new.pins != state.pins):
                yield from self.pictures(new, against, request.session_hash or "")
        return run

    def generating(self) -> Callable[..., Iterator[Update]]:
        """The generate button, a submitted prompt, a changed sampler setting."""
        # Each form field by name: Gradio hands over the request only among plain parameters.
        def run(
            state: ViewState, against: str, prompt: str, negative: str, label: float, seed: float, steps: float,
            guidance: float, scheduler: str, count: float, request: gr.Request,
        ) -> Iterator[Update]:
            form = settings_from(prompt, negative, label, seed, steps, guidance, scheduler, count)
            state = replace(state, settings=form)
            yield {self.parts.state: state,
                   self.parts.graph: {"address": self.handlers.address(state), "rev": next(self.revisions)}}
            yield from self.pictures(state, against, request.session_hash or "")
        return run

    # --- connections --------------------------------------------------------------------------------------------

    def connect(self, page: gr.Blocks) -> None:
        """Register every event of the page."""
        p, v = self.parts, self.parts.views
        live = {"outputs": self.outputs, "show_progress": "hidden", "trigger_mode": "multiple",
                "concurrency_limit": None, "api_visibility": "private"}
        arrival = [p.state, p.header.model, v.against, p.graph]
        page.load(self.arriving(), arrival, **live)
        p.header.model.input(self.arriving("chosen"), arrival, **live)
        p.graph.release(self.editing(None), [p.state, p.download, v.against, p.graph], **live)
        for event in (p.graph.select, p.graph.protect, p.graph.expand, p.graph.ramp):
            event(self.selecting, [p.state, p.graph], show_progress="hidden", trigger_mode="always_last",
                  outputs=[p.state, v.block_title, v.options_chart, v.histogram], api_visibility="private")
        h = self.handlers
        for event, change, source in (
            (p.header.undo.click, lambda s, _: h.undone(s), v.history),
            (p.header.redo.click, lambda s, _: h.redone(s), v.history),
            (p.header.preset.input, h.preset_chosen, p.header.preset),
            (p.header.load.upload, h.file_loaded, p.header.load),
            (v.history.input, h.jumped_to, v.history),
            (p.graph.overlay, h.overlay_chosen, p.graph),
            (v.pin_a.click, lambda s, _: h.pin(s, "A"), v.history),
            (v.pin_b.click, lambda s, _: h.pin(s, "B"), v.history),
        ):
            event(self.editing(change), [p.state, source, v.against, p.graph], **live)
        self._connect_pictures(live)
        self._connect_browser(page)
        page.unload(self.left)

    def _connect_browser(self, page: gr.Blocks) -> None:
        """What happens in the browser alone, or ends there; the scripts are in assets/ui."""
        p, quiet = self.parts, {"show_progress": "hidden", "api_visibility": "private"}
        p.header.save.click(self.handlers.saved, p.state, p.download, **quiet)
        p.download.change(None, p.download, None, js="(text) => { QS.saveFile(text); }")
        p.header.theme.click(None, None, None, js="() => { QS.toggleTheme(); }")
        p.header.help.click(None, None, None, js="() => { QS.showHelp(); }")
        page.load(None, None, None, js="() => { QS.restoreTheme(); }")

    def _connect_pictures(self, live: dict[str, Any]) -> None:
        p, q, v = self.parts, self.parts.prompt, self.parts.views
        form = [p.state, v.against, *q.inputs]
        for event in (q.generate.click, q.prompt.submit, q.negative.submit, q.seed.submit, q.steps.release,
                      q.guidance.release, q.scheduler.input, q.count.release, q.label.submit):
            event(self.generating(), form, **live)
        q.suggestion.input(lambda text, old: text or old, [q.suggestion, q.prompt], q.prompt, show_progress="hidden",
                           api_visibility="private").then(self.generating(), form, **live)
        q.dice.click(None, None, q.seed, js="() => Math.floor(Math.random() * 4294967296)").then(
            self.generating(), form, **live)
        v.against.input(self.generating(), form, **live)
        for event in (v.pane.cancel, v.grid.cancel):
            event(self.cancelled, None, None, show_progress="hidden", api_visibility="private")
        v.pane.region(self.restoring, [p.state, v.pane, v.against], [v.restore, v.pane], show_progress="hidden",
                      trigger_mode="multiple", concurrency_limit=None, api_visibility="private")
        v.grid.open(self.opening, [p.state, v.grid, v.grid_prompts, v.grid_columns], [v.tabs, v.pane],
                    show_progress="hidden", concurrency_limit=None, api_visibility="private")
        v.grid_make.click(self.gridding, [p.state, v.grid_prompts, v.grid_columns], [v.grid], show_progress="hidden",
                          concurrency_limit=None, api_visibility="private")

    def restoring(self, state: ViewState, value: dict[str, Any], against: str, request: gr.Request) -> Iterator[Update]:
        """A region of the difference map was clicked: rank the blocks that would repair it."""
        v = self.parts.views
        if against != "full":
            gr.Warning("What to restore is ranked against full precision; choose Full precision | this recipe.")
            return
        for event in self.handlers.restored(state, value.get("region"), request.session_hash or ""):
            if isinstance(event, list):
                yield {v.restore: gr.update(value=event, visible=bool(event)), v.pane: {"progress": None}}
            else:
                yield {v.pane: event}

    def gridding(self, state: ViewState, prompts: str, columns: list[str], request: gr.Request) -> Iterator[Update]:
        """Make the grid, column by column."""
        for value in self.handlers.grid(state, prompts, columns, request.session_hash or ""):
            yield {self.parts.views.grid: value}

    def opening(self, state: ViewState, value: dict[str, Any], prompts: str, columns: list[str],
                request: gr.Request) -> Iterator[Update]:
        """A picture of the grid was clicked: it is compared with full precision in the first tab."""
        picked = self.handlers.picked(state, value.get("open"), prompts, columns)
        if picked:
            yield {self.parts.views.tabs: gr.Tabs(selected="compare")}
            yield from self.pictures(picked, "full", request.session_hash or "")

    def selecting(self, state: ViewState | None, value: dict[str, Any], request: gr.Request) -> Iterator[Update]:
        """Selection changed: the block tab follows, the weights of its largest layer as soon as the device is free."""
        if state is None:
            return
        before, state = state.selected, self.handlers.looked(state, value)
        yield {self.parts.state: state, **self.block(state)}
        if state.selected != before:
            figure = self.handlers.histogram(state, request.session_hash or "")
            yield {self.parts.views.histogram: gr.update(value=figure, visible=figure is not None)}

    def cancelled(self, request: gr.Request) -> None:
        """The cancel button of the pane or grid."""
        self.handlers.context.worker.cancel(request.session_hash or "")

    def left(self, request: gr.Request) -> None:
        """The tab was closed: its jobs stop."""
        self.cancelled(request)
