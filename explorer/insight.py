"""Insight charts: sensitivity by kind of operation and by block, where a block stands, and what a recipe chose."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

from engine.core.graph import Structure
from engine.core.option import FP16, METHODS, Option, parse_option
from engine.core.record import Scores
from explorer.charts import GREY, METHOD_STYLE, styled

# Bits by lightness within a method's colour, so that order survives greyscale and every kind of colour vision.
SHADES = {2: 1.0, 3: 0.86, 4: 0.72, 5: 0.58, 6: 0.46, 8: 0.34}
PATTERN = {"uaq": "", "kmeans_c": "/", "kmeans_a": ".", "rtn_g64": "x"}
SMALL = {"size": 11}
BOX = METHOD_STYLE["uaq"][0]
MARKED = "#D55E00"
TITLE_LETTERS = 28  # of an axis title beside a chart of 280 px


def chosen_figure(structure: Structure, options: Mapping[str, Option]) -> Any:
    """How many weights of each kind of operation the recipe keeps at each option: one stacked bar per role."""
    import plotly.graph_objects as go

    roles = list(dict.fromkeys(str(x.role.value) for x in structure.choices))
    totals = Counter[str]()
    weights = Counter[tuple[str, Option]]()
    for layer in structure.layers:
        role, option = str(layer.role.value), options.get(layer.choice, FP16)
        totals[role] += layer.weights
        weights[role, option] += layer.weights
    order = list(METHODS)
    figure = go.Figure()
    for option in sorted({o for _, o in weights}, key=lambda o: (o.bits, order.index(o.method))):
        shares = [100 * weights[role, option] / totals[role] for role in roles]
        figure.add_bar(y=roles, x=shares, name=str(option), orientation="h", marker=bar_style(option),
                       hovertemplate=f"%{{y}}: %{{x:.0f}} % of the weights at {option}<extra></extra>")
    figure.update_layout(barmode="stack", bargap=0.28, showlegend=True)
    styled(figure, 120 + 21 * len(roles))
    figure.update_xaxes(title={"text": "% of the weights of each operation, this recipe", "font": SMALL},
                        range=[0, 100], tickfont=SMALL)
    figure.update_yaxes(autorange="reversed", tickfont=SMALL, ticksuffix=" ")
    return figure.update_layout(margin={"l": 128, "r": 14, "t": 8, "b": 40},
                                legend={"font": {"size": 10.5}, "x": -0.3, "entrywidth": 82,
                                        "entrywidthmode": "pixels", "itemwidth": 30})


def bar_style(option: Option) -> dict[str, Any]:
    """Colour by method, lightness by bits, and a pattern that says the method again."""
    if option.is_untouched:
        return {"color": GREY}
    colour = METHOD_STYLE.get(option.method, (GREY, ""))[0]
    shade = SHADES.get(option.bits, 0.72)
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    mixed = tuple(round(255 - (255 - c) * shade) for c in (red, green, blue))
    return {"color": "rgb({}, {}, {})".format(*mixed), "line": {"width": 0},
            "pattern": {"shape": PATTERN.get(option.method, "\\"), "size": 5, "solidity": 0.12}}


def scored_options(scores: Scores) -> list[str]:
    """The options that any layer has a score at, untouched left out: narrowest first, then by method."""
    order, found = list(METHODS), {parse_option(o) for row in scores.layers.values() for o in row}
    return [str(o) for o in sorted((o for o in found if not o.is_untouched),
                                   key=lambda o: (o.bits, order.index(o.method)))]


def left_out(structure: Structure, scores: Scores, option: str) -> str:
    """A sentence about the layers that the box plots cannot show at an option; "" if there are none."""
    values = [scores.layers.get(x.name, {}).get(option) for x in structure.choices]
    none, harmless = sum(v is None for v in values), sum(v is not None and v <= 0 for v in values)
    said = [*([f"{harmless} of {len(values)} layers do no harm (0 or less), which a logarithmic axis cannot show"]
              if harmless else []), *([f"{none} have no score at this option"] if none else [])]
    return f"Not drawn: {'; '.join(said)}." if said else ""


def by_role_figure(structure: Structure, scores: Scores, option: str, unit: str) -> Any:
    """Box plots of the layers' scores at one option, by kind of operation."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for layer in structure.choices:
        value = scores.layers.get(layer.name, {}).get(option)
        if value is not None and value > 0:
            groups.setdefault(str(layer.role.value), []).append((layer.name, value))
    return _boxes(groups, unit, "", ()) if groups else None


def by_block_figure(structure: Structure, scores: Scores, option: str, unit: str,
                    marked: tuple[str, ...] = ()) -> Any:
    """Box plots of the layers' scores at one option, by index of the block; the marked blocks in another colour."""
    groups: dict[str, list[tuple[str, float]]] = {}
    chosen = []
    for index, block in enumerate(structure.level("block")):
        found = [(n, v) for n in block.layers if (v := scores.layers.get(n, {}).get(option)) is not None and v > 0]
        if found:
            groups[str(index)] = found
            if block.id in marked:
                chosen.append(str(index))
    return _boxes(groups, unit, "index of the block, in order of execution", tuple(chosen)) if groups else None


def _boxes(groups: Mapping[str, list[tuple[str, float]]], unit: str, axis: str, marked: tuple[str, ...]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rows in groups.items():
        colour = MARKED if name in marked else BOX
        figure.add_box(y=[v for _, v in rows], x=[name] * len(rows), name=name, text=[n for n, _ in rows],
                       boxpoints="all", jitter=0.4, pointpos=0, marker={"size": 3.5, "color": colour, "opacity": 0.7},
                       line={"color": colour, "width": 1.2}, fillcolor="rgba(0,114,178,.10)", showlegend=False,
                       hovertemplate="%{text}<br>%{y:.3g}<extra></extra>")
    styled(figure, 280)
    title = "<br>".join(textwrap.wrap(unit, TITLE_LETTERS))  # the axis is short, and what is longer is cut off
    figure.update_yaxes(type="log", title={"text": title, "font": SMALL}, exponentformat="power", tickfont=SMALL)
    figure.update_xaxes(title={"text": axis, "font": SMALL}, type="category", tickfont=SMALL, automargin=True,
                        tickangle=0 if axis else -40)
    return figure
