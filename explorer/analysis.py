"""What the Analyse tab shows and does: records to views, jobs with progress; one per server, keyed by session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.core.errors import EngineError, InputError
from explorer.blockpanel import selected_layers
from explorer.choices import of_recipe
from explorer.context import Context, OpenModel, sentence
from explorer.heat import blank
from explorer.measuring import ORTHOGONALITY, Done, Steps, measuring, stepping
from explorer.panes import pane_values
from explorer.state import ViewState, edited

KEPT = 8  # sessions whose pictures per step are remembered
NO_RECORD = ("Nobody compared this model's layers yet. Compute orthogonality: 64 calibration pictures in full "
             "precision, under a minute on the demo models.")
NO_REPORT = "No calibration of this model was kept, so there are no channels to show."
BUSY = "Something is being measured in this tab already; let it finish, or cancel it first."


@dataclass(frozen=True, eq=False)
class Measured:
    """Pictures at every step, and of what."""

    model: str
    steps: Steps
    titles: tuple[str, ...]


@dataclass(frozen=True)
class ChannelsView:
    """The Channels tab."""

    presets: tuple[str, ...]
    note: str
    reports: list[tuple[str, str]] = field(default_factory=list)
    report: str = ""
    layers: list[str] = field(default_factory=list)
    layer: str = ""
    groups: int = 0
    group: int = 0
    text: str = ""
    ranges: Any = None
    shifts: dict[str, Any] = field(default_factory=lambda: blank(""))
    agreement: dict[str, Any] = field(default_factory=lambda: blank(""))


class Analysis:
    """Bound to the shared context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.measured: dict[str, Measured] = {}  # session -> its last measurement

    # --- jobs ---------------------------------------------------------------------------------------------------

    def _events(self, work: Any, session: str) -> Iterator[Any]:
        """A job's records, and its progress, end and failures as values of a pane. One at a time: another would end
        what has run for minutes."""
        if self.context.worker.busy(owner(session)):
            yield {"error": BUSY}
            return
        for event in pane_values(self.context.worker, work, owner(session), {"progress": None}):
            yield {**event, "error": None} if isinstance(event, dict) and event.get("progress") else event

    def cancel(self, session: str) -> None:
        """The session's job of this tab stops."""
        self.context.worker.cancel(owner(session))

    def compute(self, state: ViewState, provider: str, session: str) -> Iterator[dict[str, Any]]:
        """Compute a provider's scores and write them; values of the pane."""
        model = self.context.model(state.model)
        try:
            self.context.bound.require_own("measure a model's layers")
        except InputError as error:
            yield {"error": sentence(error)}
            return
        if model.backend.why_no_pictures:
            yield {"error": model.backend.why_no_pictures}
            return
        for event in self._events(measuring(model, provider), session):
            if isinstance(event, Done):
                self.context.refreshed(state.model)
                if provider != ORTHOGONALITY:
                    yield blank("Done: the numbers are in the overlays of the graph and in its figures.")
            else:
                yield event

    # --- orthogonality ------------------------------------------------------------------------------------------

    def orthogonality(self, state: ViewState) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Matrix, similarity by step, and the recipe's bits beside importance; blanks where nothing is known."""
        from engine.calibrate.orthogonality import find_orthogonality, weighting_of
        from explorer.charts import importance_chart
        from explorer.heat import gamma_view, matrix_view

        model = self.context.model(state.model)
        found = find_orthogonality(model.structure)
        if found is None:
            why = model.backend.why_no_pictures or NO_RECORD
            return blank(why), blank(""), None
        scores = model.backend.scores.get(ORTHOGONALITY)
        try:
            theta = found.importance(model.structure, weighting_of(scores.about) if scores else None)
        except EngineError as error:
            return blank(sentence(error)), blank(""), None
        bits = {name: state.options[name].bits for name in model.order}
        return (matrix_view(model.structure, found), gamma_view(model.structure, found),
                importance_chart(model.order, bits, theta))

    # --- steps --------------------------------------------------------------------------------------------------

    def steps(self, state: ViewState, session: str) -> Iterator[dict[str, Any]]:
        """Measure the recipe; values of the heat map. The pictures are kept for `step_pane`."""
        from explorer.heat import steps_view

        model = self.context.model(state.model)
        if model.backend.why_no_pictures:
            yield {"error": model.backend.why_no_pictures}
            return
        titles: tuple[str, ...] = ()
        for event in self._events(stepping(model, state.options, state.settings), session):
            if isinstance(event, Steps):
                self.measured[session] = Measured(state.model, event, titles)
                while len(self.measured) > KEPT:
                    self.measured.pop(next(iter(self.measured)))
            elif isinstance(event, dict):
                yield event
            elif hasattr(event, "timesteps"):
                self.measured.pop(session, None)
                view = steps_view(model.structure, event)
                titles = tuple(f"t = {t:g}" for t in event.timesteps)
                yield {**view, "progress": {"text": "Pictures at every step", "step": 0, "of": 0, "left": ""}}

    def step_pane(self, state: ViewState, picked: Any, session: str) -> dict[str, Any] | None:
        """Values of the pane that shows both precisions at a step; None where nothing was measured.

        picked: {row, column} of the heat map; None sends the pictures and shows the last step.
        """
        from explorer.pictures import plain_url

        kept = self.measured.get(session)
        if kept is None or kept.model != state.model:
            return None
        last = len(kept.steps.full) - 1
        try:
            index = min(max(int(picked["column"]), 0), last)
        except (KeyError, TypeError, ValueError):
            index = last
        if picked is not None:
            return {"index": index}
        sides = {name: {"caption": title, "detail": kept.steps.label, "images": [plain_url(x) for x in pixels]}
                 for name, title, pixels in (("a", "Full precision", kept.steps.full), ("b", "This recipe",
                                                                                       kept.steps.now))}
        labels = [kept.titles[i] if i < len(kept.titles) else f"call {i + 1}" for i in range(last + 1)]
        return {**sides, "labels": labels, "index": index, "error": None}

    def forget(self, state: ViewState, session: str) -> bool:
        """Whether the session's measurement belongs to another model; then it is dropped."""
        kept = self.measured.get(session)
        if kept is not None and kept.model != state.model:
            self.measured.pop(session)
        return kept is None or kept.model != state.model

    # --- channels -----------------------------------------------------------------------------------------------

    def preset(self, state: ViewState, name: str) -> ViewState:
        """A calibrated preset becomes the recipe."""
        from engine.calibrate.presets import find_presets

        model = self.context.model(state.model)
        recipe = find_presets(model.structure).get(name)
        return state if recipe is None else edited(state, of_recipe(model.order, recipe), f"{name}, calibrated")

    def channels(self, state: ViewState, report: str | None, layer: str | None, group: int) -> ChannelsView:
        """What calibration did to one layer's inputs; the selection's where none is named."""
        from engine.calibrate.presets import NAMES, command, find_presets
        from explorer import channelview

        model = self.context.model(state.model)
        presets = tuple(find_presets(model.structure))
        missing = [name for name in NAMES if name not in presets]
        note = ""
        if missing:
            note = (f"Not calibrated yet: {', '.join(missing)}. A calibration makes it, for example\n\n"
                    f"`{_code(command(model.structure, missing[-1]))}`")
        reports = channelview.find_reports(model.structure)
        if not reports:
            return ChannelsView(presets, note, text=NO_REPORT)
        chosen = report if report in reports else channelview.preferred(reports, state.options)
        held = reports[chosen]
        name = layer if layer in held.layers else self._selected(model, state, list(held.layers))
        one = held.layers[name]
        groups = 0 if one.shifts is None else int(one.shifts.shape[0])
        at = min(max(group, 0), max(groups - 1, 0))
        titles = [(channelview.report_title(r), i) for i, r in reports.items()]
        return ChannelsView(presets, note, titles, chosen, list(held.layers), name, groups, at,
                            channelview.channels_text(name, one), channelview.ranges_chart(name, one, at),
                            channelview.shifts_view(one), channelview.agreement_view(one))

    def _selected(self, model: OpenModel, state: ViewState, known: list[str]) -> str:
        names = [x.name for x in selected_layers(model, state)]
        return next((n for n in names if n in known), known[0])


def owner(session: str) -> str:
    """Whose jobs these are for the worker: not the pictures', which supersede each other."""
    return f"{session}-analyse"


def _code(text: str) -> str:
    return text.replace("`", "'")
