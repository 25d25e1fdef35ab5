"""Events of the Decide tab: a budget becomes the recipe, points of the chart load, charts follow while in sight."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.core.errors import EngineError, InputError
from engine.core.footprint import beside_sentence
from engine.core.option import Option
from engine.core.sizes import bits_per_weight
from explorer.choices import choices_of
from explorer.context import sentence
from explorer.decide import ALLOCATOR_TITLES, DEFAULT_ALLOCATOR, Decider, pins_of
from explorer.forecasts import Forecaster
from explorer.insight import chosen_figure
from explorer.kept import Kept
from explorer.panels.decide import CHART, PANE
from explorer.pareto import (
    Series,
    allocated,
    axis_of,
    baselines,
    judged,
    measured,
    pareto_figure,
    recipe_of,
    uniforms,
)
from explorer.state import ViewState, edited
from explorer.studies import measured_of

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]
MODELS_KEPT = 3
SERIES_KEPT = 24
SESSIONS_KEPT = 1000


class Deciding:
    """Bound to the page's wiring, which takes edits and repaints; `connect` is called once."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.panel = wiring.parts.views.decide
        self.forecaster = Forecaster()
        self._deciders: Kept[str, Decider] = Kept(MODELS_KEPT)
        self._series: Kept[tuple[object, ...], list[Series]] = Kept(SERIES_KEPT)
        self._drawings: Kept[str, int] = Kept(SESSIONS_KEPT)  # session -> its newest drawing
        self._numbers = itertools.count()

    # --- what is asked -------------------------------------------------------------------------------------------

    def decider(self, name: str) -> Decider:
        """The decider of an open model, made once per model."""
        model = self.wiring.handlers.context.model(name)
        found = self._deciders.get(name)
        if found is None or found.scores is not model.backend.scores:
            found = self._deciders.put(name, Decider(model.structure, model.backend.scores,
                                                     partial(peak_of, name, model.structure.precision_bits)))
        return found

    def asked(self, state: ViewState, value: Mapping[str, Any]) -> tuple[Decider, str, str, dict[str, Option]]:
        """Decider, provider, allocator and pinned layers behind a value of the pane."""
        decider = self.decider(state.model)
        provider = decider.provider(str(value.get("provider") or ""))
        here = [name for _, name in decider.allocators(provider)]
        wanted = str(value.get("allocator") or DEFAULT_ALLOCATOR)
        return decider, provider, wanted if wanted in here else here[0], pins_of(decider.structure, state.options,
                                                                                 state.protected)

    def budget(self, decider: Decider, value: Mapping[str, Any]) -> int:
        """The budget of a value of the pane.

        Raises:
            InputError: it names none, or an impossible one.
        """
        if value.get("text"):
            return decider.budget(value["text"])
        budget = value.get("budget")
        if not isinstance(budget, int) or budget <= 0:
            raise InputError("Move the slider, or type a budget such as 3.5 bits, 3 MB or 40 %.")
        return budget

    # --- edits ---------------------------------------------------------------------------------------------------

    def decided(self, state: ViewState, value: Mapping[str, Any]) -> ViewState:
        """The best recipe of the budget becomes the current one.

        Raises:
            InputError: the budget is impossible.
        """
        decider, provider, allocator, pinned = self.asked(state, value)
        found = decider.solve(provider, allocator, self.budget(decider, value), pinned).allocation
        title = f"{ALLOCATOR_TITLES.get(allocator, allocator)}, {found.bits_per_weight:.2f} bits"
        return edited(state, {**state.options, **found.recipe.options}, title)

    def pointed(self, state: ViewState, value: Mapping[str, Any]) -> ViewState:
        """The recipe of a point of the chart becomes the current one.

        Raises:
            InputError: there is no such point.
        """
        decider, provider, _, pinned = self.asked(state, value)
        options, title = recipe_of(decider, provider, str(value.get("point") or ""), pinned,
                                   measured_of(decider.structure))
        return edited(state, {**state.options, **options}, title)

    # --- what the tab shows --------------------------------------------------------------------------------------

    def planned(self, state: ViewState | None, value: Mapping[str, Any]) -> Update:
        """The pane's plan for the open model and the chosen scores."""
        if state is None:
            return {self.panel.pane: gr.skip()}
        decider = self.decider(state.model)
        try:
            plan = decider.plan(decider.provider(str(value.get("provider") or "")))
        except EngineError as error:
            return {self.panel.pane: gr.update(plan=""), self.panel.said: refusal(error)}
        return {self.panel.pane: gr.update(plan=plan), self.panel.said: ""}

    def told(self, state: ViewState | None, value: Mapping[str, Any]) -> Update:
        """What was decided, while the recipe is still that one; or why nothing could be."""
        if state is None or not (value.get("text") or value.get("budget")):
            return {self.panel.said: ""}
        try:
            decider, provider, allocator, pinned = self.asked(state, value)
            answer = decider.solve(provider, allocator, self.budget(decider, value), pinned)
        except EngineError as error:
            return {self.panel.said: refusal(error)}
        same = all(state.options[n] == o for n, o in answer.allocation.recipe.options.items())
        return {self.panel.said: decider.said(provider, allocator, answer) if same else ""}

    def followed(self, state: ViewState | None, value: Mapping[str, Any]) -> Update:
        """After another edit: the charts' current recipe, where they are seen."""
        p = self.panel
        if state is None or not value.get("seen"):
            return {p.chart: gr.skip()}
        decider, provider, allocator, pinned = self.asked(state, value)
        series = self._series.get(self._key(decider, provider, allocator, pinned))
        if series is None:  # `drawing` is at it, and is followed itself
            return {p.chart: gr.skip()}
        return {p.chart: self._figure(state, decider, provider, series), p.chosen: self._chosen(state, decider)}

    def forecast(self, state: ViewState | None) -> Update:
        """After an edit: what the ensemble predicts for the recipe, where there is one."""
        graph = self.wiring.parts.graph
        model = self.wiring.handlers.context.model(state.model) if state else None
        now = choices_of(state.options) if state else None
        found = self.forecaster.forecast(model, now.options) if model and now and not now.activations else None
        if found is None:
            return {graph: gr.skip()}
        return {graph: {"forecast": found, "rev": next(self.wiring.revisions)}}

    def drawing(self, state: ViewState | None, value: Mapping[str, Any], request: gr.Request) -> Iterator[Update]:
        """The chart: the allocator's own line first, uniform recipes and trials with it, then the baselines; until the
        same viewer asks for another."""
        if state is None or not value.get("seen", True):
            return
        session, number = request.session_hash or "", next(self._numbers)
        self._drawings.put(session, number)
        decider, provider, allocator, pinned = self.asked(state, value)
        key = self._key(decider, provider, allocator, pinned)
        series = self._series.get(key)
        try:
            if series is None:
                series = [allocated(decider, provider, allocator, pinned), *uniforms(decider, provider)]
                trials = measured(decider, provider, measured_of(decider.structure))
                series += [trials] if trials else []
                if self._drawings.get(session) == number:
                    yield {self.panel.chart: self._figure(state, decider, provider, series)}
                series += baselines(decider, provider, allocator, pinned)
                self._series.put(key, series)
            if self._drawings.get(session) == number:
                yield {self.panel.chart: self._figure(state, decider, provider, series)}
        except EngineError:  # said by `planned`: protected layers leave nothing to choose
            yield {self.panel.chart: gr.update(visible=False)}

    def described(self, state: ViewState | None, value: Mapping[str, Any]) -> Update:
        """What the chart shows in words, and the options the recipe chose."""
        if state is None or not value.get("seen", True):
            return {self.panel.about: gr.skip()}
        decider, provider, _, _ = self.asked(state, value)
        trials = measured_of(decider.structure) if decider.gauge(provider).metric else []
        text = "Click a point and its recipe loads; Undo takes it back."
        if trials:
            text += (f" Grey dots are {len(trials)} measured recipes; everything else is predicted, and extrapolated "
                     f"where it lies far above the dots of its size.")
        beside = beside_sentence(decider.structure).replace("_", r"\_")
        lines = [text, beside, decider.missing()]
        return {self.panel.about: "\n\n".join(line for line in lines if line),
                self.panel.chosen: self._chosen(state, decider)}

    def _chosen(self, state: ViewState, decider: Decider) -> Any:
        return gr.update(value=chosen_figure(decider.structure, state.options), visible=True)

    def _figure(self, state: ViewState, decider: Decider, provider: str, series: Sequence[Series]) -> Any:
        now = choices_of(state.options)
        value = None if now.activations else judged(decider, provider, now.options)  # scores are of weights alone
        here = None if value is None else (
            bits_per_weight(decider.structure, now.options, now.activations, now.weights), value)
        axis, up = axis_of(decider, provider)
        return gr.update(value=pareto_figure(series[0], series[1:], here, axis, up), visible=True)

    def _key(self, decider: Decider, provider: str, allocator: str, pinned: Mapping[str, Option]) -> tuple[object, ...]:
        """What a chart is of: other scores come with another decider, other trials with their number."""
        return decider, len(measured_of(decider.structure)), provider, allocator, tuple(sorted(pinned.items()))

    # --- connections ---------------------------------------------------------------------------------------------

    def connect(self, changed: Sequence[Any], opened: Sequence[Any], pictured: Sequence[Any],
                quiet: Mapping[str, Any]) -> None:
        """Register the tab's events.

        Args:
            changed: the page's edits once painted.
            opened: models once shown; the charts follow only where the tab is in sight, they cost seconds.
            pictured: models once their first pictures are made, which the ensemble would delay.
            quiet: arguments of every event.
        """
        w, p, parts = self.wiring, self.panel, self.wiring.parts
        ask = [parts.state, p.pane]
        pictures: tuple[Any, ...] = ([parts.state, parts.views.against], parts.views.pane)
        seen = f"(state, value) => [state, {{ ...value, seen: QS.seen('{CHART}') }}]"
        in_sight = f"(state, value) => [state, {{ ...value, seen: QS.seen('{PANE}') }}]"
        for event, js in ((p.tab.select, None), (p.pane.choose, None), *((e.then, in_sight) for e in opened)):
            planned = event(self.planned, ask, [p.pane, p.said], **quiet)
            planned.then(self.described, ask, [p.about, p.chosen], **quiet, js=js)
            drawn = planned.then(self.drawing, ask, p.chart, **quiet, js=js)
            drawn.then(self.followed, ask, [p.chart, p.chosen], **quiet, js=seen)  # edits since it began
        for trigger, change in ((p.pane.decide, self.decided), (p.pane.point, self.pointed)):
            source = [parts.state, p.pane, parts.graph]
            painted = trigger(w.ahead(change), source, None, **quiet).then(w.editing(change), source, list(w.painting),
                                                                           **w.turns)
            painted.then(self.told, ask, p.said, **quiet)
            painted.then(w.picturing(), *pictures, **quiet)
            changed = [*changed, painted]
        for event in pictured:
            event.then(self.forecast, parts.state, parts.graph, **quiet)
        for painted in changed:
            painted.then(self.forecast, parts.state, parts.graph, **quiet)
            painted.then(self.followed, ask, [p.chart, p.chosen], **quiet, js=seen)


def refusal(error: EngineError) -> str:
    """An expected error as a red sentence; what it quotes of files is text."""
    import html

    return f'<span class="qs-refused">{html.escape(sentence(error))}</span>'


@functools.cache
def peak_of(name: str, precision_bits: int) -> int:
    """Bytes of activations of one picture with guidance, counted without weights.

    Raises:
        ModelError: its configuration is not here.
    """
    from engine.models.working import working_memory

    return working_memory(name, precision_bits=precision_bits).peak
