"""What happens on each event: component values in, component values out; everything decided elsewhere.

Handlers read component values, never event data: with fast gestures Gradio's event data can be the first one's.
Each that makes pictures is a generator: its first item repaints at once, pictures follow as they are ready.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.core.errors import Cancelled, EngineError, InputError, OtherModelError, RecipeError
from engine.core.option import FP16, Option
from engine.core.presets import preset
from engine.core.recipe import (
    SUFFIX,
    Recipe,
    recipe_to_json,
)
from engine.export.anyfile import read_any
from engine.models.catalog import MODELS, defaults_of
from explorer.backend import Compared, Facts, LiveBackend, Made, Progress, Region, Restored, prompt_lines, single
from explorer.blockpanel import layer_histogram, selected_layers
from explorer.choices import (
    changed_layers,
    choices_of,
    inputs_from_browser,
    inputs_note,
    layer_text,
    of_recipe,
    recipe_of,
    replaced,
    stored_bits_of,
)
from explorer.context import Context, OpenModel, sentence
from explorer.exports import exporting, plan_text, planned
from explorer.graphview.overlay import RAMPS
from explorer.panes import pane_values
from explorer.pictures import comparison, grid_column
from explorer.state import (
    Settings,
    ViewState,
    edited,
    fresh,
    jumped,
    options_from_browser,
    pinned,
    travelled,
)
from explorer.url import pack_options, pack_rest, pack_settings, unpack_options, with_rest, with_settings
from explorer.worker import Waiting

MAX_GRID = 64
TOASTS = 4
MAX_LOADS = 50  # recipe files per viewer of a public page


class Handlers:
    """Bound to the shared context; every viewer's own state comes in and goes out as `ViewState`."""

    def __init__(self, context: Context, first_model: str) -> None:
        self.context = context
        self.first_model = first_model
        self.loads: Counter[str] = Counter()  # session -> recipe files read

    # --- opening -----------------------------------------------------------------------------------------------

    def arrive(self, request: gr.Request) -> tuple[ViewState, str]:
        """State of a viewer who just loaded the page, from the address; and a sentence if that was damaged."""
        query = dict(request.query_params) if request else {}
        try:
            return self.opened(query.get("model") or self.first_model, query)
        except EngineError as error:
            state, _ = self.opened(self.first_model, {})
            return state, sentence(error)

    def opened(self, name: str, query: Mapping[str, str]) -> tuple[ViewState, str]:
        """A fresh view of a model, with recipe and settings of the address where they fit.

        Raises:
            ModelError, InputError: it cannot be opened; it is none of a public page's own models.
        """
        if name not in MODELS and name != self.first_model:
            self.context.bound.require_own("open other models than those it offers")
        model = self.context.model(name)
        options: Mapping[str, Option] = model.first_options()
        said = ""
        if query.get("r"):
            try:
                options = with_rest(unpack_options(query["r"], model.order), query, model.order)
            except RecipeError as error:
                said = sentence(error)
        return fresh(name, options, model.overlays[0][1], self.settings(model, query)), said

    def settings(self, model: OpenModel, query: Mapping[str, str]) -> Settings:
        """Settings from the address, the model's defaults elsewhere; nonsense is ignored, ranges are checked later."""
        from engine.providers.prompts import first_prompt

        steps, guidance = defaults_of(model.structure.model)
        settings = Settings(prompt=first_prompt(model.structure.model), steps=steps, guidance=guidance)
        return with_settings(settings, query)

    # --- editing -----------------------------------------------------------------------------------------------

    def released(self, state: ViewState, value: Mapping[str, Any] | None) -> ViewState:
        """What the page changed by itself since this state becomes part of it: a new version, selection, protection.

        Every event comes through here first, so that a button pressed right after a gesture acts on what the viewer
        sees. A page that shows an older state (its answer is still on the way) takes nothing back.

        Raises:
            ValueError, OptionError: the page sent options of another model, or none that exist.
        """
        value = value or {}
        edit = value.get("edit")
        if not isinstance(edit, int) or edit <= state.edit:
            return state
        model = self.context.model(state.model)
        now = replaced(state.options, options_from_browser(value.get("options"), model.order))
        if "inputs" in value:
            now = replace(now, activations=inputs_from_browser(value["inputs"], model.order))
        state = edited(state, now)
        return replace(self.looked(state, value), edit=edit)

    def looked(self, state: ViewState, value: Mapping[str, Any] | None) -> ViewState:
        """Selection, folding and protection of the page become part of the state."""
        known = {b.id for b in self.context.model(state.model).structure.blocks} | set(
            self.context.model(state.model).order)

        def ids(key: str) -> tuple[str, ...]:
            return tuple(i for i in (value or {}).get(key) or () if i in known)

        ramp = ((value or {}).get("overlay") or {}).get("ramp")
        return replace(state, selected=ids("selected"), expanded=ids("expanded"), protected=ids("protected"),
                       ramp=ramp if ramp in RAMPS else state.ramp)

    def overlay_chosen(self, state: ViewState, page: Mapping[str, Any]) -> ViewState:
        """What colours the graph, chosen in the legend."""
        wanted = (page.get("overlay") or {}).get("wanted")
        known = {name for _, name in self.context.model(state.model).overlays}
        return replace(state, overlay=wanted) if wanted in known else state

    def undone(self, state: ViewState) -> ViewState:
        """One version back."""
        return travelled(state, -1)

    def redone(self, state: ViewState) -> ViewState:
        """One version forward."""
        return travelled(state, 1)

    def jumped_to(self, state: ViewState, at: int | None) -> ViewState:
        """A version chosen in the history."""
        return state if at is None else jumped(state, int(at))

    def preset_chosen(self, state: ViewState, name: str | None) -> ViewState:
        """A preset replaces the recipe, except on protected blocks."""
        if not name:
            return state
        model = self.context.model(state.model)
        recipe = preset(model.structure, name, model.backend.scores.get("weight-error"))
        kept = self._protected_layers(state, model)
        options = {n: state.options[n] if n in kept else o for n, o in recipe.options.items()}
        if all(o == FP16 for o in recipe.options.values()):  # full precision is that of the inputs too
            now = choices_of(state.options)
            rest = [n for n in model.order if n not in kept]
            return edited(state, now.untouched(rest), name)
        return edited(state, options, name)

    def file_loaded(self, state: ViewState, path: str | None, session: str) -> ViewState:
        """A recipe file from the user's disk: ours, or another tool's.

        Raises:
            InputError, RecipeError: a viewer of a public page has loaded enough; it is no recipe of this model.
        """
        if not path:
            return state
        self.loads[session] += 1  # refused files too: reading them is the work
        if self.loads[session] > MAX_LOADS:
            self.context.bound.require_own(f"load more than {MAX_LOADS} recipe files")
        model, name = self.context.model(state.model), Path(path).name[:60]
        try:
            recipe, taken = read_any(model.structure, path, transfer=state.refused == name)
        except OtherModelError as error:
            gr.Warning(f"{sentence(error).partition(' Use transfer')[0]} Load the file once more to apply it all the "
                       f"same, by layer name.")
            return replace(state, refused=name)
        for line in taken[:TOASTS]:
            gr.Info(line)
        if len(taken) > TOASTS:
            gr.Info(f"And {len(taken) - TOASTS} more such lines; the graph shows what every layer has.")
        return edited(replace(state, refused=""), of_recipe(model.order, recipe), f"loaded {name}")

    def _protected_layers(self, state: ViewState, model: OpenModel) -> set[str]:
        protected = set(state.protected)
        return {n for b in model.structure.blocks if b.id in protected for n in b.layers} | protected

    # --- pictures ----------------------------------------------------------------------------------------------

    def compared(self, state: ViewState, against: str, session: str) -> Iterator[dict[str, Any]]:
        """Values of the compare pane: progress, then the pictures. Superseded by the session's next one."""
        model = self.context.model(state.model)
        if model.backend.why_no_pictures:
            yield {"error": model.backend.why_no_pictures, "progress": None, "a": None, "b": None, "metrics": []}
            return
        yield {"stale": True}  # what is shown until others come, whether they come or not
        (title_a, a), (title_b, b) = self._sides(state, model, against)
        captions = (self._caption(model, title_a, a), self._caption(model, title_b, b))
        recipes = tuple(recipe_of(model.structure, o) for o in (a, b))
        for event in pane_values(self.context.worker, partial(model.backend.compare, a, b, state.settings), session):
            if isinstance(event, Compared):
                _warn(event.a, event.b)
                yield comparison(event, captions, recipes)  # type: ignore[arg-type]
            elif isinstance(event, dict):
                yield event

    def _sides(self, state: ViewState, model: OpenModel, against: str) -> tuple[tuple[str, Any], tuple[str, Any]]:
        if against == "pins" and {"A", "B"} <= set(state.pins):
            return ("Pin A", state.pins["A"]), ("Pin B", state.pins["B"])
        return ("Full precision", dict.fromkeys(model.order, FP16)), ("This recipe", state.options)

    def _caption(self, model: OpenModel, title: str, options: Mapping[str, Option]) -> str:
        note = inputs_note(options)
        return f"{title} · {stored_bits_of(model.structure, options):.2f} bits" + (f", {note}" if note else "")

    def restored(self, state: ViewState, region: dict[str, Any] | None, session: str) -> Iterator[Any]:
        """Rows (block, share repaired) for a region of the difference map; pane values while it works."""
        model = self.context.model(state.model)
        try:
            place = Region(**{k: max(0, int(region[k])) for k in ("index", "x", "y", "w", "h")}) if region else None
        except (KeyError, TypeError, ValueError):
            place = None
        if place is None or not isinstance(model.backend, LiveBackend):
            return
        backend, rows = model.backend, []
        work = partial(backend.restore, state.options, state.settings, place)
        for event in pane_values(self.context.worker, work, session):
            if isinstance(event, Restored):
                rows.append([event.block, f"{100 * event.repair:.0f} %"])
            elif isinstance(event, dict):
                yield event
        yield rows

    def grid(self, state: ViewState, prompts: str, columns: list[str], session: str) -> Iterator[dict[str, Any]]:
        """Prompts down, recipes across; each column's pictures appear as soon as they are made."""
        model = self.context.model(state.model)
        recipes = self._columns(state, model, columns)
        lines = prompt_lines(prompts)
        if len(lines) * len(recipes) * state.settings.count > MAX_GRID:
            raise gr.Error(f"A grid has at most {MAX_GRID} pictures; choose fewer prompts, seeds or recipes.")
        settings = replace(state.settings, prompt="\n".join(lines))
        value: dict[str, Any] = {"columns": [], "rows": [], "progress": None, "error": None}
        yield value

        def work(cancel: Any) -> Iterator[Any]:
            for options in recipes.values():
                yield from model.backend.make(options, settings, cancel)

        titles = iter(recipes.items())
        for event in pane_values(self.context.worker, work, session):
            if isinstance(event, Made):
                _warn(event)
                title, options = next(titles)
                recipe = recipe_of(model.structure, options)
                value = grid_column(value, self._caption(model, title, options), event.pictures, recipe)
                yield value
            elif isinstance(event, dict):
                yield event

    def picked(self, state: ViewState, place: Any, prompts: str, columns: list[str]) -> ViewState | None:
        """The view behind one cell of the grid: its prompt, seed and recipe; None where there is no such cell."""
        model = self.context.model(state.model)
        recipes = list(self._columns(state, model, columns).values())
        try:
            row, column = int(place["row"]), int(place["column"])
            settings = single(replace(state.settings, prompt="\n".join(prompt_lines(prompts))), max(0, row))
            return replace(edited(state, recipes[column]), settings=settings)
        except (KeyError, TypeError, ValueError, IndexError):
            return None

    def _columns(self, state: ViewState, model: OpenModel, names: list[str]) -> dict[str, Mapping[str, Option]]:
        table: dict[str, Mapping[str, Option]] = {"Full precision": dict.fromkeys(model.order, FP16)}
        for name in names:
            if name in state.pins:
                table[f"Pin {name}"] = state.pins[name]
            else:
                table[name] = preset(model.structure, name, model.backend.scores.get("weight-error")).options
        return {**table, "This recipe": state.options}

    def facts(self, state: ViewState, session: str) -> Facts | None:
        """Load the weights behind the graph; None where there are none or loading failed."""
        model = self.context.model(state.model)
        worker = self.context.worker
        for event in worker.events(worker.submit(model.backend.load, f"{session}-load")):
            if isinstance(event, Facts):
                return event
        return None

    def histogram(self, state: ViewState, session: str) -> Any:
        """Weights of the selection's largest layer as a figure; None without a selection or without weights."""
        model = self.context.model(state.model)
        layers = selected_layers(model, state)
        if not layers or model.backend.why_no_pictures:
            return None
        largest = max(layers, key=lambda layer: layer.weights)
        job = self.context.worker.submit(lambda cancel: layer_histogram(model, largest, cancel), f"{session}-weights")
        try:
            figures = [e for e in self.context.worker.events(job) if not isinstance(e, (Waiting, Progress))]
        except (Cancelled, EngineError, RuntimeError):  # a newer selection; or the pane has said why already
            return None
        return figures[-1] if figures else None

    # --- export ------------------------------------------------------------------------------------------------

    def recipe(self, state: ViewState) -> Recipe:
        """The current recipe."""
        return recipe_of(self.context.model(state.model).structure, state.options, {"allocator": "explorer"})

    def export_plan(self, state: ViewState, name: str) -> tuple[str, bool]:
        """What a file would hold, in words, and whether layers change in it."""
        try:
            plan = planned(self.context.model(state.model), self.recipe(state), name)
        except EngineError as error:
            return sentence(error), False
        return plan_text(plan), bool(plan.changes)

    def as_exported(self, state: ViewState, name: str) -> ViewState:
        """The recipe becomes what a file would hold of it, so that it is seen before it is written."""
        plan = planned(self.context.model(state.model), self.recipe(state), name)
        model = self.context.model(state.model)
        return edited(state, of_recipe(model.order, plan.recipe), f"as {name} holds it")

    def exported(self, state: ViewState, name: str, directory: str, session: str) -> Iterator[str]:
        """Write, reload, compare; Markdown of where it stands."""
        try:
            self.context.bound.require_own("export")
        except InputError as error:
            yield sentence(error)
            return
        yield from exporting(self.context.model(state.model), self.recipe(state), name, directory,
                             self.context.worker, session)

    # --- pins and address --------------------------------------------------------------------------------------

    def pin(self, state: ViewState, name: str) -> ViewState:
        """Keep the current recipe under a name."""
        return pinned(state, name)

    def pin_rows(self, state: ViewState) -> list[list[str]]:
        """Difference of the pins by layer."""
        if not {"A", "B"} <= set(state.pins):
            return []
        a, b = (state.pins[k] for k in "AB")
        return [[name, layer_text(a, name), layer_text(b, name)] for name in changed_layers(a, b)]

    def saved(self, state: ViewState) -> str:
        """The recipe file for the browser to save: name and content, with a counter so that saving twice works."""
        structure, recipe = self.context.model(state.model).structure, self.recipe(state)
        content = json.dumps(recipe_to_json(recipe, structure), indent=1, ensure_ascii=False)
        name = f"{Path(state.model).stem}-{stored_bits_of(structure, state.options):.2f}bits-{recipe.hash[:6]}{SUFFIX}"
        return json.dumps({"name": name, "content": content, "at": time.time()})

    def address(self, state: ViewState) -> str:
        """Query parameters of this view, as JSON for the page's history."""
        order = self.context.model(state.model).order
        return json.dumps({"model": state.model, "r": pack_options(state.options, order),
                           **pack_rest(state.options, order), **pack_settings(state.settings)})


def _warn(*sides: Made) -> None:
    """What the pictures have to be looked at with, once each."""
    for text in dict.fromkeys(made.warning for made in sides if made.warning):
        gr.Warning(text)
