"""The Lagrangian path: every budget's recipe in about a millisecond, for a slider that is being dragged.

Relaxation of the multiple-choice knapsack (Sinha and Zoltners 1979): on each unit's lower convex hull of
(bytes, damage), steps are taken in order of damage saved per byte; the fractional last step gives the bound.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.allocate.allocation import Allocation, allocation
from engine.allocate.problem import Problem, Unit, require_possible

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Path:
    """All hull steps of a problem, best first; made once, then asked for any budget.

    Attributes:
        problem: the problem it was made from.
        start: [units], the smallest efficient candidate of each unit.
        unit, target: [steps], which unit moves, and to which candidate.
        sizes, savings: [steps], bytes added and damage saved by each step.
        flat_unit, flat_pick, flat_bytes, flat_cost: [efficient candidates] of all units, for the fill.
    """

    problem: Problem
    start: Ints
    unit: Ints
    target: Ints
    sizes: Ints
    savings: Floats
    flat_unit: Ints
    flat_pick: Ints
    flat_bytes: Ints
    flat_cost: Floats

    def at(self, budget_bytes: int) -> Allocation:
        """The recipe for a budget, filled up greedily, with the relaxation's bound.

        Raises:
            InputError: no recipe is that small.
        """
        begin = time.perf_counter()
        problem = self.problem.with_budget(budget_bytes)
        units = problem.units
        picks = self.start.copy()
        used = sum(u.bytes[i] for u, i in zip(units, picks, strict=True))
        cost = sum(u.costs[i] for u, i in zip(units, picks, strict=True))
        total = np.cumsum(self.sizes)
        steps = int(np.searchsorted(total, budget_bytes - used, side="right"))
        picks[self.unit[:steps]] = self.target[:steps]  # a unit's later step stands later, and the last one stays
        bound = cost - float(self.savings[:steps].sum())
        slack = budget_bytes - used - (int(total[steps - 1]) if steps else 0)
        if steps < len(total):
            bound -= float(self.savings[steps]) * slack / float(self.sizes[steps])
        self._fill(picks, slack)
        return allocation(problem, picks.tolist(), "lagrangian", bound, seconds=time.perf_counter() - begin)

    def _fill(self, picks: Ints, slack: int) -> None:
        """Spend what is left on single moves, most damage saved first."""
        now_bytes = np.array([u.bytes[i] for u, i in zip(self.problem.units, picks, strict=True)])
        now_cost = np.array([u.costs[i] for u, i in zip(self.problem.units, picks, strict=True)])
        while True:
            more = self.flat_bytes - now_bytes[self.flat_unit]
            saved = np.where(more <= slack, now_cost[self.flat_unit] - self.flat_cost, 0.0)
            best = int(np.argmax(saved))
            if saved[best] <= 0:
                return
            unit = self.flat_unit[best]
            slack -= int(more[best])
            picks[unit], now_bytes[unit] = self.flat_pick[best], self.flat_bytes[best]
            now_cost[unit] = self.flat_cost[best]


def lagrangian_path(problem: Problem) -> Path:
    """Prepare the path of a problem (its budget plays no part)."""
    start, steps, flat = [], [], []
    for index, unit in enumerate(problem.units):
        kept = efficient(unit)
        flat += [(index, i, unit.bytes[i], unit.costs[i]) for i in kept]
        corners = _hull(unit, kept)
        start.append(corners[0])
        for a, b in itertools.pairwise(corners):
            steps.append((index, b, unit.bytes[b] - unit.bytes[a], unit.costs[a] - unit.costs[b]))
    steps.sort(key=lambda s: -s[3] / s[2])
    moves = [np.array([s[i] for s in steps]) for i in range(4)]
    columns = [np.array([row[i] for row in flat]) for i in range(4)]
    return Path(
        problem, np.array(start, np.int64), moves[0].astype(np.int64), moves[1].astype(np.int64),
        moves[2].astype(np.int64), moves[3].astype(np.float64), columns[0].astype(np.int64),
        columns[1].astype(np.int64), columns[2].astype(np.int64), columns[3].astype(np.float64),
    )


def lagrangian(problem: Problem) -> Allocation:
    """The path's recipe at the problem's own budget."""
    require_possible(problem)
    return lagrangian_path(problem).at(problem.budget_bytes)


def lower_bound(problem: Problem) -> float:
    """No recipe within the budget has less damage than this."""
    return lagrangian(problem).bound


def efficient(unit: Unit) -> list[int]:
    """Candidates that no other beats in both bytes and damage, smallest first, damage strictly falling."""
    order = sorted(range(len(unit.bytes)), key=lambda i: (unit.bytes[i], unit.costs[i]))
    kept: list[int] = []
    for i in order:
        if not kept or unit.costs[i] < unit.costs[kept[-1]]:
            kept.append(i)
    return kept


def _hull(unit: Unit, kept: list[int]) -> list[int]:
    """Lower convex hull of the efficient candidates in the plane of bytes and damage."""
    corners: list[int] = []
    for i in kept:
        while len(corners) >= 2 and _above(unit, corners[-2], corners[-1], i):
            corners.pop()
        corners.append(i)
    return corners


def _above(unit: Unit, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the segment from a to c."""
    across = (unit.costs[b] - unit.costs[a]) * (unit.bytes[c] - unit.bytes[a])
    return across >= (unit.costs[c] - unit.costs[a]) * (unit.bytes[b] - unit.bytes[a])
