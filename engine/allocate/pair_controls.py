"""Pairs of weight and activation bits without an objective worth the name: the published program, uniform, random,
sizes alone, errors alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.allocate.baselines import error_of
from engine.allocate.linear import linear_picks
from engine.allocate.pairs import (
    Pair,
    PairAllocation,
    PairProblem,
    PairUnit,
    fits_budgets,
    impossible,
    pair_allocation,
    solve_pairs,
)
from engine.core.errors import InputError

DRAWS = 64
TRIES = 400


def controls(problem: PairProblem, weight_errors: Mapping[str, Mapping[str, float]],
             input_errors: Mapping[str, Mapping[int, float]], draws: int = DRAWS,
             seed: int = 0) -> dict[str, Callable[[], PairAllocation]]:
    """Name -> what makes the control at the same budgets, judged by the damages of the problem.

    Args:
        problem: with its budgets.
        weight_errors: choice -> option -> relative squared error; empty where nobody took them.
        input_errors: choice -> bits -> relative squared error of the inputs.
        draws, seed: of the random recipes.
    """
    flat = {name: 1.0 for unit in problem.units for name in unit.layers}

    def errors(layers: tuple[str, ...], pair: Pair) -> float:
        return sum(error_of(weight_errors, n, o) + (input_errors[n][a.bits] if a else 0.0)
                   for n, o, a in zip(layers, pair.options, pair.inputs, strict=True))

    return {
        "uniform": lambda: uniform_pairs(problem), "random": lambda: random_pairs(problem, draws, seed),
        "size-only": lambda: _by(problem, "size-only", lambda _, pair: sum(
            4.0**-b for b in (*(o.bits for o in pair.options), *(a.bits if a else 16 for a in pair.inputs)))),
        "mpq-flat": lambda: linear_pairs(problem, flat, "mpq-flat"),
        "weight-error": lambda: _by(problem, "weight-error", errors),
    }


def linear_pairs(problem: PairProblem, importance: Mapping[str, float], name: str = "mpq-diff") -> PairAllocation:
    """MPQ-Diff's program for weights, then for activations: max sum c_i b_i under bytes, then max sum c_i a_i under
    bit operations at those weights; bang-bang twice.

    How the paper chooses activation bits is not published; two programs one after the other are this project's
    reading, since the BOPs of a pair are a product. Where the chosen weights leave no activation width that fits, the
    byte budget of the first program is tightened.

    Args:
        problem: with its budgets; its damages judge the answer, and decide nothing.
        importance: choice -> c.
        name: of the allocator, for the provenance.

    Raises:
        InputError: no recipe within the budgets was found.
    """
    begin = time.perf_counter()
    c = [sum(importance[name] for name in unit.layers) for unit in problem.units]
    least = sum(min(u.bytes) for u in problem.units)
    top = sum(max(u.bytes) for u in problem.units) if problem.budget_bytes is None else problem.budget_bytes
    for share in np.linspace(1, 0, 65):
        weights = _weight_picks(problem, c, least + share * (top - least))
        picks = _input_picks(problem, c, weights)
        if picks and fits_budgets(problem, picks):
            return pair_allocation(problem, picks, name, seconds=time.perf_counter() - begin)
    raise InputError(impossible(problem))


def uniform_pairs(problem: PairProblem) -> PairAllocation:
    """The uniform pair of least damage among those that fit; a layer that cannot take it takes its nearest narrower.

    Raises:
        InputError: none fits.
    """
    begin = time.perf_counter()
    seen = {_label(u, i): None for u in problem.units for i in range(len(u.costs))}
    found = []
    for method, weight_bits, input_bits in seen:
        picks = [_nearest(u, method, weight_bits, input_bits) for u in problem.units]
        if fits_budgets(problem, picks):
            found.append(pair_allocation(problem, picks, f"uniform {method}-{weight_bits}/{input_bits}"))
    if not found:
        raise InputError(impossible(problem))
    return replace(min(found, key=lambda a: a.cost), seconds=time.perf_counter() - begin)


def random_pairs(problem: PairProblem, draws: int = DRAWS, seed: int = 0) -> PairAllocation:
    """The least damaging of so many random recipes within the budgets.

    Raises:
        InputError: no draws, or none fits.
    """
    if draws < 1:
        raise InputError(f"best of {draws} random recipes is none; ask for at least 1.")
    begin = time.perf_counter()
    found = []
    for draw in range(draws):
        picks = _random(problem, np.random.default_rng([seed, draw]))
        if picks:
            found.append(pair_allocation(problem, picks, "random"))
    if not found:
        raise InputError(impossible(problem))
    return replace(min(found, key=lambda a: a.cost), seconds=time.perf_counter() - begin)


def _by(problem: PairProblem, name: str, price: Callable[[tuple[str, ...], Pair], float]) -> PairAllocation:
    """The recipe of least price within the budgets, judged by the damages of the problem."""
    units = tuple(replace(u, costs=tuple(price(u.layers, pair) for pair in u.candidates)) for u in problem.units)
    answer = solve_pairs(replace(problem, units=units))
    return pair_allocation(problem, answer.picks, name, seconds=answer.seconds)


def _weight_picks(problem: PairProblem, c: list[float], budget: float) -> list[int]:
    """Per unit the candidate that stands for its weight width: that of least bit operations."""
    kept = [_narrowest_inputs(unit) for unit in problem.units]
    costs = [[-value * _weight_bits(u, i) for i in k] for u, k, value in zip(problem.units, kept, c, strict=True)]
    sizes = [[float(u.bytes[i]) for i in k] for u, k in zip(problem.units, kept, strict=True)]
    found, _ = linear_picks(costs, sizes, max(budget, sum(min(s) for s in sizes)))
    return [k[p] for k, p in zip(kept, found, strict=True)]


def _input_picks(problem: PairProblem, c: list[float], weights: list[int]) -> list[int]:
    """Per unit the pair with the weights chosen before; empty where the bit operations do not suffice."""
    kept = [[i for i in range(len(u.costs)) if u.candidates[i].options == u.candidates[w].options]
            for u, w in zip(problem.units, weights, strict=True)]
    costs = [[-value * _input_bits(u, i) for i in k] for u, k, value in zip(problem.units, kept, c, strict=True)]
    sizes = [[float(u.bops[i]) for i in k] for u, k in zip(problem.units, kept, strict=True)]
    budget = float("inf") if problem.budget_bops is None else float(problem.budget_bops)
    if sum(min(s) for s in sizes) > budget:
        return []
    found, _ = linear_picks(costs, sizes, budget)
    return [k[p] for k, p in zip(kept, found, strict=True)]


def _narrowest_inputs(unit: PairUnit) -> list[int]:
    """One candidate per weight width, the smallest with the narrowest inputs; untouched only where nothing else is."""
    offered = [i for i, pair in enumerate(unit.candidates) if not any(o.is_untouched for o in pair.options)]
    found: dict[int, int] = {}
    for i in sorted(offered or range(len(unit.costs)), key=lambda i: (unit.bytes[i], unit.bops[i])):
        found.setdefault(_weight_bits(unit, i), i)
    return sorted(found.values(), key=lambda i: unit.bytes[i])


def _weight_bits(unit: PairUnit, index: int) -> int:
    return sum(o.bits for o in unit.candidates[index].options)


def _input_bits(unit: PairUnit, index: int) -> int:
    return sum(a.bits if a else 16 for a in unit.candidates[index].inputs)


def _label(unit: PairUnit, index: int) -> tuple[str, int, int]:
    pair = unit.candidates[index]
    first, inputs = pair.options[0], pair.inputs[0]
    return first.method, first.bits, inputs.bits if inputs else 16


def _nearest(unit: PairUnit, method: str, weight_bits: int, input_bits: int) -> int:
    def distance(index: int) -> tuple[int, int, int]:
        own, bits, inputs = _label(unit, index)
        return (0 if own == method and bits <= weight_bits else 1, abs(weight_bits - bits), abs(input_bits - inputs))

    return min(range(len(unit.costs)), key=distance)


def _random(problem: PairProblem, rng: np.random.Generator) -> list[int]:
    """A random recipe, then random moves down until both budgets hold; empty where they never do."""
    picks = [int(rng.integers(len(u.costs))) for u in problem.units]
    for _ in range(TRIES * len(picks)):
        if fits_budgets(problem, picks):
            return picks
        unit = int(rng.integers(len(picks)))
        target = int(rng.integers(len(problem.units[unit].costs)))
        now, u = picks[unit], problem.units[unit]
        less_bytes = problem.budget_bytes is not None and u.bytes[target] < u.bytes[now]
        less_bops = problem.budget_bops is not None and u.bops[target] < u.bops[now]
        more = (problem.budget_bytes is not None and u.bytes[target] > u.bytes[now]) or (
            problem.budget_bops is not None and u.bops[target] > u.bops[now])
        if (less_bytes or less_bops) and not more:
            picks[unit] = target
    return []
