"""What every allocator is compared with, under the same budget, bytes, layers, pins and groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from engine.allocate.allocation import Allocation, allocation
from engine.allocate.knapsack import RELATIVE_GAP, TIME_LIMIT_S, knapsack
from engine.allocate.path import lower_bound
from engine.allocate.problem import Joint, Problem, Unit, require_possible
from engine.core.errors import InputError
from engine.core.option import METHODS, Option
from engine.core.recipe import Recipe

MISSES = 200


def uniform(problem: Problem, option: Option) -> Allocation:
    """Every unit at one option; where a unit cannot take it, the nearest narrower option of its method.

    Raises:
        InputError: the recipe exceeds the budget.
    """
    picks = _uniform_picks(problem, option)
    size = _size(problem, picks)
    if size > problem.budget_bytes:
        raise InputError(f"Uniform {option} has {size / 1e6:.3f} MB, above the budget of "
                         f"{problem.budget_bytes / 1e6:.3f} MB; raise the budget.")
    return allocation(problem, picks, f"uniform {option}", lower_bound(problem))


def uniforms(problem: Problem) -> dict[str, Allocation]:
    """Per method the widest uniform recipe that fits; methods without one are left out."""
    offered = sorted({o for u in problem.units for c in u.candidates for o in c if not o.is_untouched},
                     key=lambda o: -o.bits)
    found: dict[str, Allocation] = {}
    for option in offered:
        if option.method not in found and _size(problem, _uniform_picks(problem, option)) <= problem.budget_bytes:
            found[option.method] = uniform(problem, option)
    return {method: found[method] for method in METHODS if method in found}


def best_uniform(problem: Problem) -> Allocation:
    """The uniform recipe of least predicted damage among those that fit.

    Raises:
        InputError: none fits.
    """
    require_possible(problem)
    found = uniforms(problem)
    if not found:
        raise InputError(f"No uniform recipe fits {problem.budget_bytes / 1e6:.3f} MB; raise the budget or use "
                         f"another allocator.")
    return min(found.values(), key=lambda a: a.cost)


def size_only(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S,
              relative_gap: float = RELATIVE_GAP) -> Allocation:
    """Knapsack with damage 4^-bits per layer whatever the layer: large layers get few bits."""
    blind = replace(problem, units=tuple(
        replace(u, costs=tuple(sum(4.0**-o.bits for o in c) for c in u.candidates)) for u in problem.units
    ))
    answer = knapsack(blind, time_limit_s=time_limit_s, relative_gap=relative_gap)
    return allocation(problem, answer.picks, "size-only", lower_bound(problem), seconds=answer.seconds)


def error_only(problem: Problem, errors: Mapping[str, Mapping[str, float]]) -> Allocation:
    """Knapsack on the error of the weights alone, judged by the damages of the problem.

    Args:
        problem: whose candidates are on offer.
        errors: choice -> option -> relative squared weight error; untouched has none.

    Raises:
        InputError: an option on offer has no weight error.
    """
    units = tuple(replace(u, costs=tuple(sum(error_of(errors, n, o) for n, o in zip(u.layers, c, strict=True))
                                         for c in u.candidates)) for u in problem.units)
    answer = knapsack(replace(problem, units=units))
    return allocation(problem, answer.picks, "weight-error", lower_bound(problem), seconds=answer.seconds)


def error_of(errors: Mapping[str, Mapping[str, float]], layer: str, option: Option) -> float:
    """Weight error of one option of a layer, 0 where it is untouched.

    Raises:
        InputError: it is not known.
    """
    if option.is_untouched:
        return 0.0
    found = errors.get(layer, {}).get(str(option))
    if found is None:
        raise InputError(f"The weight error of {layer} at {option} is not known; run sensitivity with --provider "
                         f"weight-error.")
    return found


def greedy(problem: Problem) -> Allocation:
    """From the widest candidates down, each time the step of least damage per byte saved, until it fits."""
    require_possible(problem)
    begin = time.perf_counter()
    picks = [_least_damaging(u) for u in problem.units]
    steps = [_next_step(u, i) for u, i in zip(problem.units, picks, strict=True)]
    size = _size(problem, picks)
    while size > problem.budget_bytes:
        unit = min(range(len(steps)), key=lambda i: steps[i][0])
        target = steps[unit][1]
        size -= problem.units[unit].bytes[picks[unit]] - problem.units[unit].bytes[target]
        picks[unit] = target
        steps[unit] = _next_step(problem.units[unit], target)
    return allocation(problem, picks, "greedy", lower_bound(problem), seconds=time.perf_counter() - begin)


def threshold(problem: Problem) -> Allocation:
    """Apple's cumulative threshold rule (ml-stable-diffusion, mixed-bit palettization).

    Every layer takes the smallest option whose signal passes one threshold for all, else it stays untouched; size
    never enters the choice. The threshold is the strictest one that fits the budget. The problem's costs are the
    signal: for the rule as released, damage measured cumulatively (`engine.providers.cumulative`).
    """
    require_possible(problem)
    begin = time.perf_counter()
    levels = np.unique([c for u in problem.units for c in u.costs])
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        fits = _size(problem, _passing(problem, levels[middle])) <= problem.budget_bytes
        low, high = (low, middle) if fits else (middle + 1, high)
    return allocation(problem, _passing(problem, levels[low]), "threshold", lower_bound(problem),
                      seconds=time.perf_counter() - begin, about={"threshold": float(levels[low])})


def random_picks(problem: Problem, rng: np.random.Generator) -> list[int]:
    """Random candidates, then random moves down until it fits and random moves up while they fit."""
    units = problem.units
    picks = [int(rng.integers(len(u.bytes))) for u in units]
    size, misses = _size(problem, picks), 0
    while misses < MISSES:
        unit = int(rng.integers(len(units)))
        target = int(rng.integers(len(units[unit].bytes)))
        change = units[unit].bytes[target] - units[unit].bytes[picks[unit]]
        wanted = change < 0 if size > problem.budget_bytes else 0 < change <= problem.budget_bytes - size
        if wanted:
            picks[unit], size, misses = target, size + change, 0
        elif size <= problem.budget_bytes:
            misses += 1
    return picks


def best_of_random(problem: Problem, draws: int, seed: int,
                   judge: Callable[[Recipe], float] | None = None) -> Allocation:
    """The best of so many random recipes that fit.

    Args:
        problem: with its budget.
        draws: how many.
        seed: of the draws; draw i is the same whatever `draws` is.
        judge: damage of a recipe, measured or predicted; default: the problem's costs.

    Raises:
        InputError: no draws, or the budget is too small.
    """
    begin = time.perf_counter()
    best = min(random_recipes(problem, draws, seed), key=lambda a: judge(a.recipe) if judge else a.cost)
    return replace(best, seconds=time.perf_counter() - begin)


def random_recipes(problem: Problem, draws: int, seed: int) -> list[Allocation]:
    """So many random recipes that fit; draw i is the same whatever `draws` is.

    Raises:
        InputError: no draws, or the budget is too small.
    """
    if draws < 1:
        raise InputError(f"best of {draws} random recipes is none; ask for at least 1.")
    require_possible(problem)
    bound, about = lower_bound(problem), {"draws": draws, "seed": seed}
    return [allocation(problem, random_picks(problem, np.random.default_rng([seed, i])), "random", bound, about=about)
            for i in range(draws)]


def _uniform_picks(problem: Problem, option: Option) -> list[int]:
    def nearest(unit: Unit) -> int:
        return min(range(len(unit.candidates)), key=lambda i: (_distance(unit.candidates[i], option), unit.bytes[i]))

    return [nearest(unit) for unit in problem.units]


def _distance(candidate: Joint, option: Option) -> int:
    """0 for the option itself, then narrower ones of its method, then any other."""
    return sum(
        0 if o == option else option.bits - o.bits if o.method == option.method and o.bits < option.bits else 100
        for o in candidate
    )


def _least_damaging(unit: Unit) -> int:
    """The candidate of least damage; of equals the smaller."""
    return min(range(len(unit.costs)), key=lambda i: (unit.costs[i], unit.bytes[i]))


def _next_step(unit: Unit, pick: int) -> tuple[float, int]:
    """The smaller candidate of least damage per byte saved, and that ratio; infinite where there is none."""
    smaller = [i for i in range(len(unit.bytes)) if unit.bytes[i] < unit.bytes[pick]]
    if not smaller:
        return np.inf, pick
    return min(((unit.costs[i] - unit.costs[pick]) / (unit.bytes[pick] - unit.bytes[i]), i) for i in smaller)


def _passing(problem: Problem, level: float) -> list[int]:
    """Per unit the smallest candidate whose cost is at most the level, else the least damaging."""
    picks = []
    for unit in problem.units:
        passing = [i for i, c in enumerate(unit.costs) if c <= level]
        least = min(range(len(unit.costs)), key=unit.costs.__getitem__)
        picks.append(min(passing, key=unit.bytes.__getitem__) if passing else least)
    return picks


def _size(problem: Problem, picks: list[int]) -> int:
    return sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True))
