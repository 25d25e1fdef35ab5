"""The Analyse tab: orthogonality of layers (MPQ-Diff), errors step by step, channels and calibrated presets (DMQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.calibrate.presets import NAMES
from explorer.analysis import Analysis
from explorer.graphview.components import ComparePane, HeatGrid

ABOUT_STEPS = ("Where in sampling, and in which layer, this recipe errs. Four calibration pictures are made in both "
               "precisions, every layer is compared at every step.")


@dataclass(frozen=True)
class AnalysePanel:
    """Components of the tab."""

    tab: gr.Tab
    orthogonality: OrthogonalityPart
    steps: StepsPart
    channels: ChannelsPart


@dataclass(frozen=True)
class OrthogonalityPart:
    """MPQ-Diff."""

    tab: gr.Tab
    compute: gr.Button
    matrix: HeatGrid
    gamma: HeatGrid
    bits: gr.Plot


@dataclass(frozen=True)
class StepsPart:
    """Errors per layer and step."""

    measure: gr.Button
    map: HeatGrid
    pane: ComparePane


@dataclass(frozen=True)
class ChannelsPart:
    """DMQ."""

    tab: gr.Tab
    presets: tuple[gr.Button, ...]
    presets_note: gr.Markdown
    outliers: gr.Button
    inputs: gr.Button
    cumulative: gr.Button
    work: HeatGrid
    report: gr.Dropdown
    layer: gr.Dropdown
    group: gr.Slider
    text: gr.Markdown
    ranges: gr.Plot
    shifts: HeatGrid
    agreement: HeatGrid


def build() -> AnalysePanel:
    """Three inner tabs, each filled when it is opened."""
    with gr.Tab("Analyse", id="analyse") as tab, gr.Tabs(elem_id="analyse-tabs"):
        parts = _orthogonality(), _steps(), _channels()
    return AnalysePanel(tab, *parts)


def _orthogonality() -> OrthogonalityPart:
    with gr.Tab("Orthogonality", id="orthogonality") as tab:
        compute = gr.Button("Compute again", size="sm", elem_id="orthogonality-compute")
        matrix = HeatGrid(elem_id="orthogonality-matrix")
        gamma = HeatGrid(elem_id="orthogonality-gamma")
        bits = gr.Plot(show_label=False, elem_id="orthogonality-bits", visible=False)
    return OrthogonalityPart(tab, compute, matrix, gamma, bits)


def _steps() -> StepsPart:
    with gr.Tab("Steps", id="steps"):
        gr.Markdown(ABOUT_STEPS, elem_id="steps-about")
        measure = gr.Button("Measure this recipe", variant="primary", size="sm", elem_id="steps-measure")
        heat = HeatGrid({"empty": "Nothing was measured yet."}, elem_id="steps-map")
        pane = ComparePane({"empty": "Click a step above to see the picture there, in both precisions."}, height=300,
                           name="steps", elem_id="steps-pane")
    return StepsPart(measure, heat, pane)


def _channels() -> ChannelsPart:
    with gr.Tab("Channels", id="channels") as tab:
        with gr.Row(elem_id="calibrated-presets"):
            presets = tuple(gr.Button(f"Apply {name}", size="sm", elem_id=f"preset-{name.lower()}", min_width=90)
                            for name in NAMES)
        note = gr.Markdown(elem_id="calibrated-note")
        with gr.Row():
            outliers = gr.Button("Score outliers", size="sm", elem_id="outliers-compute", min_width=120)
            inputs = gr.Button("Measure input errors", size="sm", elem_id="inputs-compute", min_width=120)
            cumulative = gr.Button("Measure Apple's signal", size="sm", elem_id="cumulative-compute", min_width=120)
        work = HeatGrid({"empty": ""}, elem_id="channels-work")
        with gr.Row():
            report = gr.Dropdown([], label="Calibration", elem_id="channels-report", min_width=150)
            layer = gr.Dropdown([], label="Layer", elem_id="channels-layer", min_width=150)
        group = gr.Slider(1, 20, 1, step=1, label="Timestep group", elem_id="channels-group", visible=False)
        text = gr.Markdown(elem_id="channels-text")
        ranges = gr.Plot(show_label=False, elem_id="channels-ranges", visible=False)
        shifts, agreement = HeatGrid(elem_id="channels-shifts"), HeatGrid(elem_id="channels-agreement")
    return ChannelsPart(tab, presets, note, outliers, inputs, cumulative, work, report, layer, group, text, ranges,
                        shifts, agreement)


class AnalyseWiring:
    """Events of the tab; `page` is the wiring of the whole page, whose rules (see there) hold here too."""

    def __init__(self, panel: AnalysePanel, page: Any, quiet: dict[str, Any]) -> None:
        self.panel, self.page, self.quiet = panel, page, quiet
        self.logic = Analysis(page.handlers.context)

    def connect(self) -> None:
        """Register them."""
        p, state = self.page.parts, self.page.parts.state
        self._orthogonality(state)
        steps = self.panel.steps
        measured = steps.measure.click(self.stepping, state, steps.map, **self.quiet)
        measured.then(self.first_step, state, steps.pane, **self.quiet)
        steps.map.pick(self.stepped, [state, steps.map], steps.pane, **self.quiet)
        self._channels(state)
        panes = (self.panel.orthogonality.matrix, steps.map, self.panel.channels.work)
        for pane in panes:
            pane.cancel(self.cancelled, None, None, **self.quiet)
        p.header.model.change(self.reset, state, [steps.map, steps.pane], **self.quiet)
        for part, show, outputs in ((self.panel.orthogonality, self.orthogonality, self.orthogonality_outputs),
                                    (self.panel.channels, self.channels, self.channel_outputs)):
            p.header.model.change(show, state, outputs, **self.quiet)
            part.tab.select(show, state, outputs, **self.quiet)
        self.panel.tab.select(self.orthogonality, state, self.orthogonality_outputs, **self.quiet)

    # --- orthogonality ------------------------------------------------------------------------------------------

    def _orthogonality(self, state: gr.State) -> None:
        part = self.panel.orthogonality
        done = part.compute.click(self.computing("orthogonality"), state, part.matrix, **self.quiet)
        self._then_repaint(done)
        done.then(self.orthogonality, state, self.orthogonality_outputs, **self.quiet)

    @property
    def orthogonality_outputs(self) -> list[Any]:
        """What `orthogonality` repaints."""
        part = self.panel.orthogonality
        return [part.compute, part.matrix, part.gamma, part.bits]

    def orthogonality(self, state: Any) -> dict[Any, Any]:
        """The record's views, or why there is none."""
        part = self.panel.orthogonality
        if state is None:
            return {part.compute: gr.skip()}
        matrix, gamma, figure = self.logic.orthogonality(state)
        return {part.compute: gr.update(value="Compute again" if figure is not None else "Compute orthogonality"),
                part.matrix: matrix, part.gamma: gamma, part.bits: gr.update(value=figure, visible=figure is not None)}

    def computing(self, provider: str) -> Any:
        """Compute a provider's scores; values of the pane that shows how far it is."""
        pane = self.panel.orthogonality.matrix if provider == "orthogonality" else self.panel.channels.work

        def run(state: Any, request: gr.Request) -> Any:
            for value in self.logic.compute(state, provider, request.session_hash or "") if state else ():
                yield {pane: value}
        return run

    def _then_repaint(self, done: Any) -> None:
        """New scores: overlays, figures and graph follow; graph and value as two answers, see `Wiring.opened`."""
        p = self.page.parts
        graph = done.then(self.refreshed, p.state, p.graph, **self.quiet)
        graph.then(self.page.repainted, p.state, p.graph, **self.page.turns)

    def refreshed(self, state: Any) -> dict[Any, Any]:
        """The graph with what was written since it was sent."""
        graph = self.page.parts.graph
        return {graph: gr.update(graph=self.logic.context.model(state.model).graph) if state else gr.skip()}

    # --- steps --------------------------------------------------------------------------------------------------

    def stepping(self, state: Any, request: gr.Request) -> Any:
        """Measure the recipe step by step."""
        for value in self.logic.steps(state, request.session_hash or "") if state else ():
            yield {self.panel.steps.map: value}

    def first_step(self, state: Any, request: gr.Request) -> dict[Any, Any]:
        """The pictures at every step, the last one shown."""
        pane = self.logic.step_pane(state, None, request.session_hash or "") if state else None
        return {self.panel.steps.pane: pane or gr.skip()}

    def stepped(self, state: Any, value: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        """A step was clicked."""
        pane = self.logic.step_pane(state, value.get("picked"), request.session_hash or "") if state else None
        return {self.panel.steps.pane: pane or gr.skip()}

    def reset(self, state: Any, request: gr.Request) -> dict[Any, Any]:
        """Another model: what was measured belongs to the old one."""
        steps = self.panel.steps
        if state is None or not self.logic.forget(state, request.session_hash or ""):
            return {steps.map: gr.skip()}
        return {steps.map: {"rows": [], "columns": [], "error": None}, steps.pane: {"a": None, "b": None, "labels": []}}

    def cancelled(self, request: gr.Request) -> None:
        """A cancel button of the tab."""
        self.logic.cancel(request.session_hash or "")

    # --- channels -----------------------------------------------------------------------------------------------

    def _channels(self, state: gr.State) -> None:
        part, p = self.panel.channels, self.page.parts
        for button, provider in ((part.outliers, "outliers"), (part.inputs, "activation-error"),
                                 (part.cumulative, "cumulative")):
            done = button.click(self.computing(provider), state, part.work, **self.quiet)
            self._then_repaint(done)
        for name, button in zip(NAMES, part.presets, strict=True):
            painted = button.click(self.page.editing(self._apply(name)), [state, p.download, p.graph],
                                   list(self.page.painting), **self.page.turns)
            painted.then(self.page.picturing(), [state, p.views.against], p.views.pane, **self.quiet)
        p.graph.select(self.followed, [state, p.graph, part.report, part.group], self.channel_outputs, **self.quiet)
        chosen = [state, part.report, part.layer, part.group]
        for event in (part.report.input, part.layer.input, part.group.release):
            event(self.channel, chosen, self.channel_outputs, **self.quiet)

    def _apply(self, name: str) -> Any:
        return lambda state, _: self.logic.preset(state, name)

    @property
    def channel_outputs(self) -> list[Any]:
        """What `channels` repaints."""
        c = self.panel.channels
        return [*c.presets, c.presets_note, c.report, c.layer, c.group, c.text, c.ranges, c.shifts, c.agreement]

    def channels(self, state: Any) -> dict[Any, Any]:
        """The tab for the current selection and recipe."""
        return self.channel(state, None, None, 1)

    def followed(self, state: Any, page: dict[str, Any], report: str | None, group: float) -> dict[Any, Any]:
        """Another layer was selected in the graph."""
        looked = self.page.handlers.looked(state, page) if state else None
        return self.channel(looked, report, None, group)

    def channel(self, state: Any, report: str | None, layer: str | None, group: float) -> dict[Any, Any]:
        """One layer of one calibration."""
        c = self.panel.channels
        if state is None:
            return {c.text: gr.skip()}
        view = self.logic.channels(state, report, layer, int(group) - 1)
        buttons = {b: gr.update(interactive=n in view.presets) for n, b in zip(NAMES, c.presets, strict=True)}
        there = bool(view.reports)
        return {
            **buttons, c.presets_note: view.note,
            c.report: gr.update(choices=view.reports, value=view.report or None, visible=there),
            c.layer: gr.update(choices=view.layers, value=view.layer or None, visible=there),
            c.group: gr.update(maximum=max(2, view.groups), value=view.group + 1, visible=view.groups > 1),
            c.text: view.text, c.ranges: gr.update(value=view.ranges, visible=view.ranges is not None),
            c.shifts: view.shifts, c.agreement: view.agreement,
        }
