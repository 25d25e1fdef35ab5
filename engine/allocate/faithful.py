"""Qua2SeDiMo's own selection: every layer (or block) takes its best candidate alone; lambda trades bits (section 4).

The paper has no budget: bits are steered by lambda in the label. Here lambda is applied to the scores, so one fit
serves every lambda, and a budget is met by bisecting lambda.
"""

from __future__ import annotations

import time

import numpy as np

from engine.allocate.allocation import Allocation, allocation
from engine.allocate.path import lower_bound
from engine.allocate.problem import Problem, Unit, require_possible
from engine.core.errors import InputError

BISECTIONS = 60


def argmax(problem: Problem, weight: float) -> Allocation:
    """Per unit the candidate of least damage + weight * bits (its share of the bits per weight); no budget.

    Raises:
        InputError: the weight is negative or no number.
    """
    if not np.isfinite(weight) or weight < 0:
        raise InputError(f"lambda must be a number of at least 0, got {weight}.")
    begin = time.perf_counter()
    picks = _picks(problem, weight)
    size = sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True))
    free = problem.with_budget(size)
    return allocation(free, picks, "faithful", lower_bound(free), seconds=time.perf_counter() - begin,
                      about={"lambda": weight})


def faithful(problem: Problem, weight: float | None = None) -> Allocation:
    """`argmax` at a given lambda, or at the least lambda whose recipe fits the budget.

    Raises:
        InputError: the budget is too small, or the recipe of the given lambda exceeds it.
    """
    require_possible(problem)
    begin = time.perf_counter()
    if weight is not None:
        answer = argmax(problem, weight)
        if answer.bytes > problem.budget_bytes:
            raise InputError(f"With lambda {weight} the recipe has {answer.bytes / 1e6:.3f} MB, above the budget of "
                             f"{problem.budget_bytes / 1e6:.3f} MB; raise lambda or leave it out to have it found.")
    found = _fitting(problem) if weight is None else weight
    picks = _picks(problem, found)
    return allocation(problem, picks, "faithful", lower_bound(problem), seconds=time.perf_counter() - begin,
                      about={"lambda": found})


def _fitting(problem: Problem) -> float:
    """The least lambda that fits, by bisection on a logarithmic scale."""
    def fits(weight: float) -> bool:
        picks = _picks(problem, weight)
        return sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True)) <= problem.budget_bytes

    if fits(0.0):
        return 0.0
    spread = max(max(u.costs) - min(u.costs) for u in problem.units) or 1.0
    low, high = 1e-12 * spread, spread
    while not fits(high):
        low, high = high, high * 16
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _picks(problem: Problem, weight: float) -> list[int]:
    return [_best(unit, 8 * weight / problem.weights) for unit in problem.units]


def _best(unit: Unit, per_byte: float) -> int:
    """Least damage + price; of equals the smaller."""
    return min(range(len(unit.costs)), key=lambda i: (unit.costs[i] + per_byte * unit.bytes[i], unit.bytes[i]))
