"""Figures of a report: trials, damage by role and block, chosen options, and the contest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from engine.advisor import Advisor
from engine.allocate.budget import bits_budget
from engine.allocate.problem import Limits
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.evidence.agreement import BLOCKS, at_option
from engine.evidence.studied import Studied

# Okabe and Ito's colours, told apart by colour-blind people too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
CHOSEN_AT = (3.25, 3.5, 4.0)  # bits
LAYOUT: dict[str, Any] = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
                          "font": {"family": "system-ui, sans-serif"}}


def trials_figure(studied: Studied, presets: Sequence[str]) -> go.Figure:
    """Target over stored bits, one dot per trial; presets: [T]."""
    figure = go.Figure()
    for number, preset in enumerate(dict.fromkeys(presets)):
        here = [i for i, p in enumerate(presets) if p == preset]
        figure.add_scatter(x=studied.table.bits[here], y=studied.table.target[here], mode="markers", name=preset,
                           marker={"color": COLOURS[number % len(COLOURS)], "size": 6, "opacity": 0.7})
    return _titled(figure, "Measured recipes", "stored bits per weight", studied.table.formula)


def roles_figure(advisor: Advisor, option: str) -> go.Figure:
    """Damage of layers at one option by their role, one box each."""
    layers = at_option(advisor.structure, advisor.scores, option, "layers")
    figure = go.Figure()
    for role in dict.fromkeys(x.role for x in advisor.structure.choices):
        values = [layers[x.name] for x in advisor.structure.choices if x.role == role and x.name in layers]
        names = [x.name for x in advisor.structure.choices if x.role == role and x.name in layers]
        figure.add_box(y=values, name=str(role.value), boxpoints="all", text=names, marker={"size": 4},
                       line={"color": COLOURS[0]}, showlegend=False)
    figure.update_yaxes(type="log")
    return _titled(figure, f"Damage by operation at {option}", "", advisor.scores.unit)


def blocks_figure(advisor: Advisor, option: str) -> go.Figure:
    """Damage of whole blocks at one option, in order of execution."""
    damage = at_option(advisor.structure, advisor.scores, option, BLOCKS)
    labels = {b.id: b.label for b in advisor.structure.level("block")}
    figure = go.Figure(go.Bar(x=[labels[b] for b in damage], y=list(damage.values()), marker={"color": COLOURS[0]}))
    return _titled(figure, f"Damage by block at {option}", "", advisor.scores.unit)


def options_figure(advisor: Advisor, bits: float) -> go.Figure | None:
    """How often the best recipe of a budget gives each option to the layers of a role; None where none fits."""
    structure = advisor.structure
    try:
        limits = Limits(options=advisor.options(), keep_untouched=False)
        recipe = advisor.solve(bits_budget(bits, structure), limits=limits).recipe
    except InputError:
        return None
    roles = list(dict.fromkeys(str(x.role.value) for x in structure.choices))
    chosen = sorted(set(recipe.options.values()), key=lambda o: (o.bits, o.method))
    figure = go.Figure()
    for number, option in enumerate(chosen):
        counts = [sum(recipe.options[x.name] == option for x in structure.choices if x.role.value == role)
                  for role in roles]
        figure.add_bar(x=roles, y=counts, name=str(option), marker={
            "color": COLOURS[number % len(COLOURS)], "pattern": {"shape": ("", "/", ".")[number // len(COLOURS) % 3]}})
    figure.update_layout(barmode="stack")
    return _titled(figure, f"Chosen options at {bits:g} stored bits", "", "layers")


def path_figure(advisor: Advisor) -> go.Figure:
    """Predicted damage over stored bits along the allocation path, with the uniform recipes that fit in."""
    path = advisor.path(Limits(options=advisor.options(), keep_untouched=False))
    sizes = _budgets(advisor.structure, path.problem.smallest_bytes)
    points = [path.at(size) for size in sizes]
    figure = go.Figure()
    figure.add_scatter(x=[p.bits_per_weight for p in points], y=[p.cost for p in points], mode="lines",
                       name="allocated", line={"color": COLOURS[0]})
    figure.update_yaxes(type="log")
    return _titled(figure, "Predicted damage over size", "stored bits per weight", advisor.scores.unit)


def contest_figure(contest: Mapping[str, Any], weights: int) -> go.Figure:
    """PSNR over stored bits of every contender on the final images, with intervals."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for budget in contest["budgets"]:
        for row in budget["rows"]:
            found.setdefault(row["contender"], []).append((8 * row["bytes"] / weights, *row["metrics"]["psnr"]))
    figure = go.Figure()
    for number, (name, points) in enumerate(found.items()):
        points.sort()
        figure.add_scatter(
            x=[p[0] for p in points], y=[p[1] for p in points], mode="lines+markers", name=name,
            line={"color": COLOURS[number % len(COLOURS)], "width": 3 if name == "ours" else 1,
                  "dash": ("solid", "dot", "dash")[number // len(COLOURS) % 3]},
            error_y={"type": "data", "symmetric": False, "array": [p[3] - p[1] for p in points],
                     "arrayminus": [p[1] - p[2] for p in points], "thickness": 1})
    return _titled(figure, "Unseen images", "stored bits per weight", "PSNR to full precision, dB")


def _budgets(structure: Structure, smallest: int, count: int = 60) -> list[int]:
    weights = sum(layer.weights for layer in structure.layers)
    low, high = 8 * smallest / weights, 8.0
    return [smallest if i == 0 else int((low + (high - low) * i / count) * weights / 8) for i in range(count + 1)]


def _titled(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, **LAYOUT)
    return figure
