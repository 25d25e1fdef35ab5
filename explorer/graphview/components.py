"""The browser components: gr.HTML subclasses with a JSON value in, events out; drawing and editing happen in assets/ui.

One page has one edit state (per `group`), shared by all components, so that graph, mixer, table and totals repaint
together while one drags, without the server. Python hears ONE event per gesture, always from the BlockGraph, whose
value is the truth; the mixer needs no value of its own. Read component values in handlers, never `gr.EventData`,
with `trigger_mode="always_last"` and `show_progress="hidden"`.

Templates are constant and names from files only ever become text nodes, so nothing a file says is interpreted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from engine.core.places import assets_dir
from explorer.graphview.card import pack

ROUTE = "quantscape-ui"
STYLES = ("tokens.css", "common.css", "graph.css", "mixer.css", "compare.css", "decide.css", "heatgrid.css")
SCRIPTS = (
    "dom.js", "ramps.js", "bits.js", "inputs.js", "edit-state.js", "keys.js", "help.js", "totals.js", "metrics.js",
    "graph-layout.js", "graph-routes.js", "graph-draw.js", "graph-input.js", "graph-tips.js", "graph-tools.js",
    "graph-keys.js", "legend.js", "option-select.js", "table.js", "layers.js", "graph.js", "mixer.js", "inputs-row.js",
    "heat.js", "progress.js", "compare-view.js", "compare.js", "grid.js", "path.js", "decide.js", "jobbar.js",
    "heatgrid.js", "page.js",
)  # fmt: skip
TEMPLATE = '<div class="qs-root"></div>'


def ui_folder() -> Path:
    """Folder of the scripts and styles; serve it as static files under `/quantscape-ui`."""
    return assets_dir() / "ui"


@functools.cache
def head_tags() -> str:
    """Links to styles and scripts, in order, with a version so that browsers never keep an old one."""
    names = [*STYLES, *SCRIPTS]
    digest = hashlib.sha256(b"".join((ui_folder() / name).read_bytes() for name in names)).hexdigest()[:10]
    styles = [f'<link rel="stylesheet" href="{ROUTE}/{name}?v={digest}">' for name in STYLES]
    scripts = [f'<script src="{ROUTE}/{name}?v={digest}"></script>' for name in SCRIPTS]
    return "".join([*styles, *scripts])


def _text(graph: Mapping[str, Any] | str | None) -> str | None:
    return pack(graph) if isinstance(graph, Mapping) else graph


class _Json(gr.HTML):
    """A gr.HTML whose value is a JSON object; the page's script draws it."""

    MOUNT = ""

    def __init__(self, value: Mapping[str, Any] | None = None, **props: Any) -> None:
        super().__init__(
            value=dict(value or {}), html_template=TEMPLATE, head=head_tags(), js_on_load=self.MOUNT,
            apply_default_css=False, **props,
        )  # fmt: skip

    def postprocess(self, value: Any) -> Any:
        """The value goes out as it is."""
        return value

    def preprocess(self, payload: Any) -> Any:
        """The value comes in as a dict, whatever the page sent."""
        return payload if isinstance(payload, dict) else {}

    def api_info(self) -> dict[str, Any]:
        """A JSON object."""
        return {"type": "object"}

    def example_payload(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def example_value(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _Packed(_Json):
    """A value with an entry per layer travels as {text: JSON}: Gradio's page copies every value at each event."""

    def postprocess(self, value: Any) -> Any:
        """Packed."""
        return {"text": json.dumps(value, ensure_ascii=False)} if value else {}

    def preprocess(self, payload: Any) -> Any:
        """The dict that the page packed; empty where it is none."""
        text = payload.get("text") if isinstance(payload, dict) else None
        try:
            found = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}


class BlockGraph(_Packed):
    """The block graph with figures, search, selection, table and legend.

    graph: what `card.graph_text` (or `graph_data`) makes of a structure; `None` until a model is read.
        {model, layout, columns, rows, choices, default_method, methods, option_bits, cards: [{id, parent, level, label,
        short, kind, side, depth, x, y, layers, weights}], edges: [[a, b, "flow"|"skip"|"condition"]],
        layers: {choice: {label, role, kind, shape, block, weights, copies, bytes: {option: int}, sensible: [option],
        damage: {option: float}?, scaled: [option]?}}, full_bytes, precision_bits, other_bytes, ramps, ramp_titles,
        bit_colours, inputs?}; `inputs` is what `explorer.inputs.inputs_data` makes: without it no activation bits.
        A graph of the same model (a new damage table, say) keeps zoom, selection and open blocks. In updates
        (`gr.update(graph=...)`) send `graph_text`: a string costs the page far less than a tree of objects.
    value: {options: {choice: option}, selected, protected, expanded: [ids], overlay: {name, title, unit,
        values: {id: number}, text: {id: str}?, scale: [low, high], log, ramp, hatched: [ids], trust, ticks?, ends?,
        choices: [[title, name]]?},
        inputs?: {choice: setting}, sets?, tables?, rev, edit, address?}; `card.view_value` and
        `overlay.make_overlay` / `overlay.bits_overlay` build it. Keys left out stay as they are. `edit` counts
        the viewer's changes: a value that comes back with a smaller `edit` than the page's is an answer to an
        older state and cannot take back what was done since (send it back as it came; leave it out to overrule
        the page). `rev` rises with every value; one that is not above the last is not taken again. It is
        mirrored in `data-rev`, for tests.
    events: `release` (options changed; one per gesture, from graph, mixer, table or keys), `select`, `protect`,
        `expand`, `ramp` (overlay.ramp chosen), `overlay` (another of overlay.choices; overlay.wanted is its name).
    props: height (pixels or CSS), totals=False leaves the figures out, group names the edit state.
    """

    # gr.HTML accepts a listener for an event only if its name stands quoted in js_on_load.
    MOUNT = ("/* 'release' 'select' 'protect' 'expand' 'ramp' 'overlay' */ "
             "QS.mountGraph(element, {props, trigger, watch});")

    def __init__(
        self,
        value: Mapping[str, Any] | None = None,
        *,
        graph: Mapping[str, Any] | str | None = None,
        height: int | str = 470,
        totals: bool = True,
        group: str = "main",
        **props: Any,
    ) -> None:
        super().__init__(value, graph=_text(graph), height=height, totals=totals, group=group, **props)


class BitMixer(_Packed):
    """One vertical slider per block beside a master that shifts all; needs neither value nor listeners.

    With a BlockGraph of the same group on the page, every edit is that graph's `release`. Without one, give `graph` and
    a BlockGraph value, and listen to the mixer's own `release`. props: folded=True starts collapsed.
    """

    MOUNT = "/* 'release' 'select' */ QS.mountMixer(element, {props, trigger, watch});"

    def __init__(
        self,
        value: Mapping[str, Any] | None = None,
        *,
        graph: Mapping[str, Any] | str | None = None,
        folded: bool = False,
        group: str = "main",
        **props: Any,
    ) -> None:
        super().__init__(value, graph=_text(graph), folded=folded, group=group, **props)


class Totals(_Json):
    """The recipe's figures alone (bits per weight, MB, % of full, predicted PSNR), live; no value, no events."""

    MOUNT = "QS.mountTotals(element, {props, watch});"

    def __init__(self, *, group: str = "main", **props: Any) -> None:
        super().__init__(None, group=group, **props)


class LayerEditor(_Json):
    """The selected blocks layer by layer, with method and bits of each; edits are the BlockGraph's `release`."""

    MOUNT = "QS.mountLayers(element, {props, watch});"

    def __init__(self, *, group: str = "main", **props: Any) -> None:
        super().__init__(None, group=group, **props)


class ComparePane(_Json):
    """Two sets of pictures: slider, side by side, blink, difference; captions, thumbnails, progress, metrics.

    value: {a, b: {caption, detail?, images: [url]}, labels: [text per picture], metrics: [{title, value: text, n,
        low, high, better: "higher"|"lower"|"", note?}], progress: {text, step, of, left: text}|None,
        error: text|None, empty: text?, stale: bool?, index: int?, region?, rev}. URLs: `data:` or same origin.
        Values are MERGED into what the pane shows: {"progress": {...}} alone moves the bar; None clears a key.
    events: `cancel`; `pick` (another picture); `region` (part of the difference clicked or drawn, or None). The value
        then is {index, region: {index, x, y, w, h} in pixels | None, mode, rev} without pictures: send back only what
        changes.
    props: height of the stage, name (one per pane).
    """

    MOUNT = "/* 'cancel' 'pick' 'region' */ QS.mountCompare(element, {props, trigger, watch});"

    def __init__(
        self,
        value: Mapping[str, Any] | None = None,
        *,
        height: int | str = 420,
        name: str = "compare",
        **props: Any,
    ) -> None:
        super().__init__(value, height=height, name=name, **props)


class ImageGrid(_Json):
    """Rows of prompts and seeds against columns of recipes, as separate pictures with sticky headers.

    value: {columns: [{title, detail?}], rows: [{title, detail?, cells: [url or None per column]}], progress?, error?,
        empty?, rev}; merged like the ComparePane's.
    events: `open` (value.open = {row, column}), `cancel`.
    """

    MOUNT = "/* 'open' 'cancel' */ QS.mountGrid(element, {props, trigger, watch});"


class HeatGrid(_Json):
    """A heat map of rows by columns with a printed scale; progress with a cancel button while it is being made.

    value: what `explorer.heat.heat` makes: {title, unit, rows: [{label, title?, group?, id?}], columns: the same,
        values: [[number or None]], scale: [low, high], log, note?, pick: "cell"|"column", row_name, column_name,
        picked?: {row, column}, progress?, error?, empty?, rev}; merged like the ComparePane's.
    events: `pick` (value.picked; a row with an id selects that layer in the graph too), `cancel`.
    """

    MOUNT = "/* 'pick' 'cancel' */ QS.mountHeat(element, {props, trigger, watch});"

    def __init__(self, value: Mapping[str, Any] | None = None, *, group: str = "main", **props: Any) -> None:
        super().__init__(value, group=group, **props)


class MetricsStrip(_Json):
    """Measured numbers in a row; value {metrics: [...]} as in ComparePane; no events."""

    MOUNT = "QS.mountMetrics(element, {props, watch});"


class BudgetPane(_Json):
    """The budget slider with its choice of allocator and scores; while it moves, the BlockGraph shows the best recipe.

    plan: JSON of `explorer.decide.Decider.plan` for the open model and the chosen scores, "" until there is one.
    value: {allocator, provider} and what the event is about: `budget` (bytes) or `text` (as typed), or `point`.
    events: `decide` (the slider was let go, or a budget typed), `choose` (another allocator or other scores), `point`
        (a point of the chart beside it was clicked; `point` is its customdata).
    """

    MOUNT = "/* 'decide' 'choose' 'point' */ QS.mountDecide(element, {props, trigger, watch});"

    def __init__(self, *, plan: str = "", group: str = "main", **props: Any) -> None:
        super().__init__(None, plan=plan, group=group, **props)


class JobBar(_Json):
    """Where long work stands: words, a bar with the time left, and a button that cancels it.

    value: {running, text, done, total, left: text, error: text|None}.
    events: `cancel`; `done` (it was running when last seen, and is no longer); `point` (a point of the chart named by
        `chart` was clicked; value.point is its customdata).
    props: chart, the element id of a chart on the same tab.
    """

    MOUNT = "/* 'cancel' 'done' 'point' */ QS.mountJobBar(element, {props, trigger, watch});"

    def __init__(self, value: Mapping[str, Any] | None = None, *, chart: str = "", **props: Any) -> None:
        super().__init__(value, chart=chart, **props)
