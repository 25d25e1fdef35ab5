"""The Pareto chart: every point is a recipe that can be loaded, judged by the chosen scores or measured by a study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.allocate.allocators import Settings
from engine.allocate.baselines import uniform
from engine.core.errors import InputError
from engine.core.option import METHODS, Option, parse_option
from engine.core.sizes import bits_per_weight, full_bytes
from explorer.charts import GREY, METHOD_STYLE, styled
from explorer.decide import ALLOCATOR_TITLES, Decider
from explorer.studies import Measured

# Coarser than the answer to the slider: a point takes milliseconds, and its recipe is the one that loads.
SWEEP = Settings(time_limit_s=1.0, relative_gap=2e-3, draws=16)
SWEEP_BITS = (2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
BASELINE_BITS = (2.5, 3.0, 3.5, 4.0, 5.0)
BASELINES = ("size-only", "weight-error", "measured-greedy", "threshold", "mpq-diff", "random")
BASELINE_STYLE = {
    "size-only": ("#E69F00", "x"), "weight-error": ("#56B4E9", "cross"), "measured-greedy": ("#F0E442", "star"),
    "threshold": ("#D55E00", "triangle-down"), "mpq-diff": ("#CC79A7", "hexagram"), "random": (GREY, "asterisk-open"),
}
OURS = "#0072B2"
HEIGHT = 400
SMALL = {"size": 11}
# What the legend calls them; points say the full name when one stands on them.
SHORT = {
    "trials": "Trials, measured", "uaq": "Uniform UAQ", "kmeans_c": "K-means/channel", "kmeans_a": "K-means/tensor",
    "rtn_g64": "Groups of 64", "size-only": "Size alone", "weight-error": "Weight error",
    "measured-greedy": "Greedy", "threshold": "Apple's rule", "mpq-diff": "MPQ-Diff", "random": "Random",
    "knapsack": "Best", "lagrangian": "Best, fast", "faithful": "Qua²SeDiMo",
    "faithful-blocks": "Qua²SeDiMo, blocks", "mpq-diff-useful": "MPQ-Diff, knap.",
    "mpq-flat": "MPQ-Diff, flat", "mpq-projection": "MPQ-Diff, proj.",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One recipe on the chart.

    Attributes:
        key: names the recipe: `a:<allocator>:<bytes>`, `u:<option>` or `t:<study>:<trial>`.
        title: what it is, for people.
        bits: stored bits per weight.
        value: quality (higher = better) or damage, by what the chart shows.
    """

    key: str
    title: str
    bits: float
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind."""

    name: str
    title: str
    points: tuple[Point, ...]


def allocated(decider: Decider, provider: str, allocator: str, pinned: Mapping[str, Option],
              widths: Sequence[float] = SWEEP_BITS) -> Series:
    """An allocator's recipes over the budgets; those it has no recipe for are left out."""
    found: list[Point] = []
    for bits in widths:
        budget = int(bits / decider.structure.precision_bits * full_bytes(decider.structure))
        try:
            answer = decider.solve(provider, allocator, budget, pinned, SWEEP)
        except InputError:
            continue
        value = judged(decider, provider, answer.allocation.recipe.options)
        point = Point(f"a:{allocator}:{budget}", ALLOCATOR_TITLES.get(allocator, allocator),
                      answer.allocation.bits_per_weight, value if value is not None else answer.damage)
        if not found or abs(found[-1].bits - point.bits) > 1e-6:
            found.append(point)
    return Series(allocator, ALLOCATOR_TITLES.get(allocator, allocator), tuple(found))


def uniforms(decider: Decider, provider: str) -> list[Series]:
    """Uniform recipes of every method that the scores know."""
    problem = decider.problem(provider, {})
    offered = {o for u in problem.units for c in u.candidates for o in c if not o.is_untouched}
    series = []
    for method in METHOD_STYLE:
        points = []
        for option in sorted((o for o in offered if o.method == method), key=lambda o: o.bits):
            options = uniform(problem, option).recipe.options
            value = judged(decider, provider, options)
            if value is not None and option.bits <= SWEEP_BITS[-1]:
                points.append(Point(f"u:{option}", f"Uniform {option}",
                                    bits_per_weight(decider.structure, options), value))
        if points:
            series.append(Series(method, f"Uniform {METHODS[method].label}", tuple(points)))
    return series


def baselines(decider: Decider, provider: str, allocator: str, pinned: Mapping[str, Option]) -> Iterator[Series]:
    """Every other allocator that works here, at a few sizes."""
    here = {name for _, name in decider.allocators(provider)}
    for name in BASELINES:
        if name in here and name != allocator and not (name == "weight-error" and provider == name):
            series = allocated(decider, provider, name, pinned, BASELINE_BITS)
            if series.points:
                yield series


def measured(decider: Decider, provider: str, trials: Sequence[Measured]) -> Series | None:
    """What studies measured, where it is the same quantity as the chart's; None where it is not."""
    gauge = decider.gauge(provider)
    points = [Point(f"t:{t.study}:{t.number}", f"Measured, trial {t.number}", t.bits,
                    value if gauge.curve is not None else -_decibels(value))
              for t in trials if gauge.metric and (value := t.values.get(gauge.metric)) is not None and
              (gauge.curve is not None or value > 0)]
    return Series("trials", "Measured trials", tuple(points)) if points else None


def _decibels(error: float) -> float:
    return 10 * math.log10(error)


def judged(decider: Decider, provider: str, options: Mapping[str, Option]) -> float | None:
    """Quality of a recipe by the chosen scores, or its damage where that is all they say; None where unknown."""
    damage = decider.damage(provider, options)
    if damage is None:
        return None
    quality = decider.gauge(provider).quality(damage)
    return damage if quality is None else quality


def recipe_of(decider: Decider, provider: str, key: str, pinned: Mapping[str, Option],
              trials: Sequence[Measured]) -> tuple[dict[str, Option], str]:
    """The options behind a point, and a title for the history.

    Raises:
        InputError: there is no such point.
    """
    kind, _, rest = key.partition(":")
    name, _, number = rest.rpartition(":")
    if kind == "a" and number.isdigit():
        answer = decider.solve(provider, name, int(number), pinned, SWEEP)
        found = answer.allocation
        return dict(found.recipe.options), f"{ALLOCATOR_TITLES.get(name, name)}, {found.bits_per_weight:.2f} bits"
    if kind == "u":
        option = parse_option(rest)
        options = dict(uniform(decider.problem(provider, {}), option).recipe.options)
        return {**options, **pinned}, f"Uniform {option}"
    if kind == "t":
        for trial in trials:
            if trial.study == name and str(trial.number) == number:
                return {**trial.options, **pinned}, f"Trial {number}, {trial.bits:.2f} bits"
    raise InputError("That point is no longer there; the chart has changed.")


def pareto_figure(ours: Series, others: Sequence[Series], current: tuple[float, float] | None, axis: str,
                  higher_is_better: bool) -> Any:
    """The chart: the path as a line, uniform recipes and baselines by colour and shape, trials as dots, the current
    recipe ringed."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for series in others:
        if series.name == "trials":
            _scatter(figure, series, {"color": GREY, "size": 5, "opacity": 0.45, "symbol": "circle"})
    for series in others:
        if series.name in METHOD_STYLE:
            colour, symbol = METHOD_STYLE[series.name]
            _scatter(figure, series, {"color": colour, "size": 9, "symbol": f"{symbol}-open", "line": {"width": 2}})
        elif series.name in BASELINE_STYLE:
            colour, symbol = BASELINE_STYLE[series.name]
            _scatter(figure, series, {"color": colour, "size": 9, "symbol": symbol,
                                      "line": {"width": 0.6, "color": GREY}})
    _scatter(figure, ours, {"color": OURS, "size": 7}, mode="lines+markers", width=2.4)
    if current is not None:
        figure.add_scatter(x=[current[0]], y=[current[1]], mode="markers", name="This recipe", marker={
            "symbol": "circle-open", "size": 17, "color": "#D55E00", "line": {"width": 3}},
            hovertemplate="this recipe<br>%{x:.2f} bits<br>%{y:.4g}<extra></extra>")
    widest = max((p.bits for series in (ours, *others) for p in series.points), default=SWEEP_BITS[-1])
    figure.update_layout(clickmode="event", hovermode="closest", dragmode="pan", uirevision="pareto")
    styled(figure, HEIGHT)
    figure.update_xaxes(title={"text": "stored bits per weight", "font": SMALL, "standoff": 4}, tickfont=SMALL,
                        range=[1.8, min(widest, SWEEP_BITS[-1]) + 0.4])
    figure.update_yaxes(title={"text": axis, "font": SMALL, "standoff": 4}, tickfont=SMALL)
    if not higher_is_better:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure.update_layout(
        margin={"l": 46, "r": 8, "t": 6, "b": 128},
        legend={"orientation": "h", "y": -0.19, "yanchor": "top", "x": -0.08, "font": {"size": 10.5},
                "entrywidth": 94, "entrywidthmode": "pixels", "itemwidth": 30, "tracegroupgap": 0})


def _scatter(figure: Any, series: Series, marker: Mapping[str, Any], mode: str = "markers", width: float = 0) -> None:
    line = {"line": {"color": OURS, "width": width}} if width else {}
    figure.add_scatter(x=[p.bits for p in series.points], y=[p.value for p in series.points],
                       customdata=[p.key for p in series.points], text=[p.title for p in series.points],
                       name=SHORT.get(series.name, series.title), mode=mode, marker=dict(marker), **line,
                       hovertemplate="%{text}<br>%{x:.2f} bits, %{y:.4g}<br>click loads it<extra></extra>")


def axis_of(decider: Decider, provider: str) -> tuple[str, bool]:
    """Title of the chart's y axis, and whether higher is better there."""
    gauge = decider.gauge(provider)
    if gauge.title:
        return f"predicted {gauge.title}{f', {gauge.unit}' if gauge.unit else ''}", True
    return f"summed {decider.table(provider).unit}", False

