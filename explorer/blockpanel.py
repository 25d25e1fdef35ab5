"""The Block tab: what is selected, what it weighs, how it scores per option, and how its weights are spread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from engine.core.layer import Layer
from engine.core.record import FEATURES, Scores
from engine.core.sizes import full_bytes, stored_bytes
from explorer.backend import LiveBackend
from explorer.charts import histogram_chart, options_chart
from explorer.choices import layer_text
from explorer.context import OpenModel
from explorer.overlays import TITLES, folded, overlay_names, reference
from explorer.state import ViewState
from explorer.wording import megabytes

BINS = 80
FEW = 2
ATTRIBUTION = "attribution-"
# Columns of a node's row, see `engine.analysis.features`.
FEATURE_TITLES = {"method": "method", "bits": "bits", "reduction": "bytes saved", "error": "weight error",
                  "damage": "fitted damage"}
LEAST_SHARE = 0.005
SAMPLED = 2_000_000
WEIGHT_ERROR = "weight-error"  # known for every option, so it is what is drawn where nothing else is
NOTHING = "Select a block in the graph to see its layers, its weights and what each option does to it."


def selected_layers(model: OpenModel, state: ViewState) -> list[Layer]:
    """Layers of all selected blocks (and of layers selected themselves), in execution order."""
    wanted = set(state.selected)
    names = {n for b in model.structure.blocks if b.id in wanted for n in b.layers} | wanted
    return [layer for layer in model.structure.layers if layer.name in names]


def block_view(model: OpenModel, state: ViewState) -> tuple[str, Any]:
    """Text and the options chart for the selection; no chart where nothing is selected or known."""
    layers = selected_layers(model, state)
    if not layers:
        return NOTHING, None
    scores = model.backend.scores
    shown = charted(scores, state.overlay)
    if shown is None:
        return describe(model, state, layers), None
    unit = TITLES.get(shown, (shown, scores[shown].unit))[1]
    return describe(model, state, layers), options_chart(model.structure, scores[shown], [x.name for x in layers],
                                                         state.options, unit)


def charted(scores: Mapping[str, Scores], overlay: str) -> str | None:
    """The provider whose scores are drawn over the options: the overlay's, if it knows more than one or two of them."""
    def known(name: str) -> int:
        return len({o for row in scores[name].layers.values() for o in row})

    if overlay in scores and known(overlay) > FEW:
        return overlay
    return max(scores, key=lambda name: (known(name), name == WEIGHT_ERROR), default=None)


def describe(model: OpenModel, state: ViewState, layers: list[Layer]) -> str:
    """What is selected, in three lines of Markdown; names stand in code spans."""
    structure, options = model.structure, state.options
    precision = structure.precision_bits
    labels = {b.id: b.label for b in structure.blocks}
    title = ", ".join(_plain(labels.get(i, i)) for i in state.selected[:4])
    more = f" and {len(state.selected) - 4} more" if len(state.selected) > 4 else ""
    weights = sum(x.weights for x in layers)
    now = sum(stored_bytes(x, options[x.choice], precision) for x in layers)
    share = 100 * sum(x.weights * precision // 8 for x in layers) / full_bytes(structure)
    mix = Counter(layer_text(options, x.choice) for x in layers)
    roles = Counter(x.role.value for x in layers)
    lines = [
        f"### {title}{more}",
        f"{len(layers)} layers ({', '.join(f'{n} {r}' for r, n in roles.items())}), {weights:,} weights, "
        f"{share:.1f} % of the model.",
        f"Now {megabytes(now)}, {8 * now / weights:.2f} stored bits per weight: "
        + ", ".join(f"{n} × {o}" for o, n in mix.most_common(4)) + ".",
        *rank_line(model, state),
        *feature_line(model.backend.scores, state.overlay, [x.choice for x in layers]),
    ]
    return "\n\n".join(lines)


def rank_line(model: OpenModel, state: ViewState) -> list[str]:
    """Where the selected block stands among all blocks, per provider: why it has its colour."""
    blocks = {b.id for b in model.structure.level("block")}
    chosen = [i for i in state.selected if i in blocks]
    if len(chosen) != 1:
        return []
    said = []
    for title, name in overlay_names(model.backend.scores):
        if name not in model.backend.scores or not model.backend.scores[name].is_damage:
            continue
        record = model.backend.scores[name]
        values, _ = folded(model.structure, record, reference(record))
        ranked = sorted((b for b in blocks if b in values), key=lambda b: -values[b])
        if chosen[0] in values:
            share = attributed(values, ranked, chosen[0]) if name.startswith(ATTRIBUTION) else ""
            said.append(f"{title}: {ranked.index(chosen[0]) + 1} of {len(ranked)}{share}")
    return [f"Most fragile rank: {'; '.join(said)}."] if said else []


def feature_line(scores: Mapping[str, Scores], overlay: str, choices: list[str]) -> list[str]:
    """Which features of the selected layers the network's attribution blames: shares of its size, largest first.

    The overlay's attribution is asked, else the first that knows features.
    """
    known = [name for name in sorted(scores, key=lambda n: n != overlay) if FEATURES in scores[name].about]
    if not known:
        return []
    option = reference(scores[known[0]])
    by_choice = scores[known[0]].features.get(option, {})  # read from text, so once
    parts: dict[str, float] = {}
    for choice in dict.fromkeys(choices):
        for feature, value in by_choice.get(choice, {}).items():
            parts[feature] = parts.get(feature, 0.0) + value
    size = sum(abs(v) for v in parts.values())
    if not size:
        return []
    ranked = sorted(parts, key=lambda f: -abs(parts[f]))
    said = ", ".join(f"{FEATURE_TITLES.get(f, _plain(f))} {100 * abs(parts[f]) / size:.0f} %"
                     + (" (better)" if parts[f] < 0 else "") for f in ranked if abs(parts[f]) / size >= LEAST_SHARE)
    return [f"Which features, by {TITLES.get(known[0], (known[0],))[0].lower()} at {option}: {said}."]


def attributed(values: Mapping[str, float], blocks: list[str], chosen: str) -> str:
    """`, 7.3 % of all`: a block's part of the predicted quality that the blocks lose together."""
    total = sum(max(values[b], 0.0) for b in blocks)
    return f", {100 * max(values[chosen], 0.0) / total:.1f} % of all" if total > 0 else ""


def _plain(text: str) -> str:
    """Text of a label without characters that mean something to Markdown or HTML."""
    return "".join(c if c.isalnum() or c in " .·:-_/()→" else " " for c in text).replace("_", r"\_")


def layer_histogram(model: OpenModel, layer: Layer, cancel: threading.Event) -> Iterator[Any]:
    """A job for the device worker: the histogram of one layer's full-precision weights, as a figure."""
    backend = model.backend
    if not isinstance(backend, LiveBackend):
        return
    import torch

    yield from (e for e in backend.load(cancel) if not hasattr(e, "conditioning"))
    weights = backend.weights(layer).flatten().float()
    stride = max(1, weights.numel() // SAMPLED)
    counts, edges = torch.histogram(weights[::stride].cpu(), bins=BINS)
    yield histogram_chart([float(c) for c in counts], [float(e) for e in edges], _plain(layer.name).replace(r"\_", "_"))
