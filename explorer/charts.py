"""Plotly figures from records; no data of its own, no decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

from engine.core.graph import Structure
from engine.core.option import METHODS, parse_option
from engine.core.record import Scores
from engine.core.sizes import stored_bytes
from explorer.graphview.overlay import BIT_COLOURS

# Okabe-Ito: told apart by people of any colour vision; the marker shape says the same again.
METHOD_STYLE = {
    "uaq": ("#0072B2", "circle"), "kmeans_c": ("#D55E00", "square"), "kmeans_a": ("#009E73", "diamond"),
    "rtn_g64": ("#CC79A7", "triangle-up"),
}
GREY = "#8a94a6"


def options_chart(structure: Structure, scores: Scores, names: Sequence[str], current: Mapping[str, Any],
                  unit: str) -> Any:
    """Score of the chosen layers per option over stored bits: one line per method, the current recipe ringed."""
    import plotly.graph_objects as go

    layers = [structure.layer(n) for n in names]
    weights = sum(layer.weights for layer in layers)
    figure = go.Figure()
    for method, (colour, symbol) in METHOD_STYLE.items():
        points = []
        for bits in METHODS[method].bits:
            text = f"{method}-{bits}"
            values = [scores.layers.get(layer.choice, {}).get(text) for layer in layers]
            if values and all(v is not None for v in values):
                size = sum(stored_bytes(x, parse_option(text), structure.precision_bits) for x in layers)
                mean = sum(v * x.weights for v, x in zip(values, layers, strict=True)) / weights  # type: ignore[operator]
                points.append((8 * size / weights, mean, bits))
        if points:
            x, y, label = zip(*points, strict=True)
            figure.add_scatter(x=x, y=y, text=[f"{method}-{b}" for b in label], name=METHODS[method].label,
                               mode="lines+markers", line={"color": colour, "width": 1.6},
                               marker={"symbol": symbol, "size": 7},
                               hovertemplate="%{text}<br>%{x:.2f} stored bits<br>%{y:.3g}<extra></extra>")
    _ring(figure, structure, scores, layers, current)
    figure.update_yaxes(type="log", title={"text": "<br>".join(wrap(unit, 30)), "font": {"size": 11}},
                        exponentformat="power")
    figure.update_xaxes(title="stored bits per weight", range=[1.5, 17])
    figure = styled(figure, 300)
    return figure.update_layout(legend={"font": {"size": 10.5}, "entrywidth": 150, "entrywidthmode": "pixels"})


def _ring(figure: Any, structure: Structure, scores: Scores, layers: Sequence[Any], current: Mapping[str, Any]) -> None:
    weights = sum(layer.weights for layer in layers)
    values = [scores.layers.get(x.choice, {}).get(str(current.get(x.choice))) for x in layers]
    if not values or any(v is None for v in values):
        return
    size = sum(stored_bytes(x, current[x.choice], structure.precision_bits) for x in layers)
    mean = sum(v * x.weights for v, x in zip(values, layers, strict=True)) / weights  # type: ignore[operator]
    figure.add_scatter(x=[8 * size / weights], y=[mean], mode="markers", name="now",
                       marker={"symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 2.5}},
                       hovertemplate="this recipe<br>%{x:.2f} stored bits<br>%{y:.3g}<extra></extra>")


def histogram_chart(counts: Sequence[float], edges: Sequence[float], name: str) -> Any:
    """Weight histogram of one layer, counts on a log scale so that the tails show."""
    import plotly.graph_objects as go

    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    figure = go.Figure(go.Bar(x=centres, y=list(counts), marker={"color": METHOD_STYLE["uaq"][0]}, name=name,
                              hovertemplate="%{x:.3g}: %{y}<extra></extra>"))
    figure.update_yaxes(type="log", title="weights")
    figure.update_xaxes(title=f"value · {name}")
    figure.update_layout(bargap=0)
    return styled(figure, 200)


def bit_colour(bits: int) -> str:
    """The colour the graph gives to a width; of the next wider one where it has none."""
    return BIT_COLOURS[min(b for b in BIT_COLOURS if b >= min(bits, max(BIT_COLOURS)))]


def importance_chart(names: Sequence[str], bits: Mapping[str, int], theta: Mapping[str, float]) -> Any:
    """Bits of every layer in the current recipe, in execution order, with MPQ-Diff's importance over them."""
    import plotly.graph_objects as go

    place = list(range(1, len(names) + 1))
    short = [name if len(name) < 44 else "…" + name[-43:] for name in names]
    figure = go.Figure(go.Bar(x=place, y=[bits[n] for n in names], name="bits of this recipe", text=short,
                              textposition="none", marker={"color": [bit_colour(bits[n]) for n in names],
                                                           "line": {"width": 0}},
                              hovertemplate="%{text}<br>%{y} bits<extra></extra>"))
    figure.add_scatter(x=place, y=[theta.get(n) for n in names], name="importance theta", yaxis="y2", mode="markers",
                       text=short, hovertemplate="%{text}<br>theta %{y:.3g}<extra></extra>",
                       marker={"size": 6, "color": METHOD_STYLE["kmeans_c"][0],
                               "line": {"color": "#ffffff", "width": 0.8}})
    figure.update_layout(bargap=0, yaxis2={"overlaying": "y", "side": "right", "title": "theta", "showgrid": False,
                                              "rangemode": "tozero"})
    figure.update_yaxes(title="bits", selector={"anchor": "x"})
    figure.update_xaxes(title="layer, in order of execution")
    figure = styled(figure, 240)
    figure.update_layout(margin={"r": 52})
    return figure


def styled(figure: Any, height: int) -> Any:
    """Transparent ground and quiet grid, so that a figure sits in the light and the dark page alike."""
    figure.update_layout(
        height=height, margin={"l": 56, "r": 12, "t": 12, "b": 44}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"size": 12, "color": GREY, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, hoverlabel={"font_size": 12},
    )
    figure.update_xaxes(gridcolor="rgba(138,148,166,.22)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(138,148,166,.22)", zeroline=False)
    return figure
