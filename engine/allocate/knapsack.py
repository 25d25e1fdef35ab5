"""The best recipe for a budget: multiple-choice knapsack, solved by HiGHS through scipy, with bound and gap."""

from __future__ import annotations

import time

import numpy as np

from engine.allocate.allocation import Allocation, allocation
from engine.allocate.path import efficient, lagrangian
from engine.allocate.problem import Problem, require_possible

TIME_LIMIT_S = 10.0
RELATIVE_GAP = 1e-4
TOLERANCE = 1e-6  # HiGHS's feasibility tolerance


def knapsack(problem: Problem, *, time_limit_s: float = TIME_LIMIT_S, relative_gap: float = RELATIVE_GAP) -> Allocation:
    """Least total damage within the budget, to a proven relative gap.

    Binary x[u, k], sum_k x[u, k] = 1, sum bytes x <= budget; candidates beaten in both bytes and damage are left
    out first. Damage is scaled to its own range, since HiGHS's tolerances are absolute. The Lagrangian recipe
    stands in where the solver ends (at its time limit) with nothing better.

    Raises:
        InputError: the budget is too small.
    """
    require_possible(problem)
    begin = time.perf_counter()
    start = lagrangian(problem)
    if start.gap <= relative_gap:
        return allocation(problem, start.picks, "knapsack", start.bound, proved=True,
                          seconds=time.perf_counter() - begin)
    kept = [efficient(unit) for unit in problem.units]
    picks, bound = _solve(problem, kept, start, time_limit_s, relative_gap)
    if picks and _size(problem, picks) > problem.budget_bytes:  # by the solver's tolerance, a few bytes
        picks, _ = _solve(problem, kept, start, time_limit_s, relative_gap, 1 - 2 * TOLERANCE)
    if picks and _size(problem, picks) > problem.budget_bytes:
        picks = []
    cost = sum(u.costs[i] for u, i in zip(problem.units, picks, strict=True)) if picks else np.inf
    chosen = picks if picks and cost <= start.cost else list(start.picks)
    answer = allocation(problem, chosen, "knapsack", max(bound, start.bound), seconds=time.perf_counter() - begin)
    proved = answer.gap <= 2 * relative_gap
    return allocation(problem, chosen, "knapsack", answer.bound, proved=proved, seconds=answer.seconds)


def _solve(problem: Problem, kept: list[list[int]], start: Allocation, time_limit_s: float,
           relative_gap: float, room_share: float = 1.0) -> tuple[list[int], float]:
    """Picks (empty if HiGHS found none) and its dual bound in the unit of the scores."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    unit = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    index = np.concatenate([np.array(k) for k in kept])
    costs = np.array([problem.units[u].costs[i] for u, i in zip(unit, index, strict=True)])
    sizes = np.array([problem.units[u].bytes[i] for u, i in zip(unit, index, strict=True)], np.float64)
    # Each unit's least cost and size are constants; what remains is solved in units of the known answer.
    floor_cost = np.array([min(problem.units[u].costs[i] for i in k) for u, k in enumerate(kept)])
    floor_size = np.array([min(problem.units[u].bytes[i] for i in k) for u, k in enumerate(kept)], np.float64)
    scale = max(abs(start.cost - floor_cost.sum()), 1e-300)
    room = max(problem.budget_bytes - floor_size.sum(), 1.0)
    one = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))))
    size = csr_array(((sizes - floor_size[unit]) / room)[None])
    result = milp(
        1e3 * (costs - floor_cost[unit]) / scale, integrality=np.ones(len(unit)), bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(size, -np.inf, room_share)],
        options={"time_limit": time_limit_s, "mip_rel_gap": relative_gap / 2},
    )
    dual = getattr(result, "mip_dual_bound", None)
    bound = float(dual) * scale / 1e3 + floor_cost.sum() if dual is not None and np.isfinite(dual) else -np.inf
    if result.x is None:
        return [], bound
    order = np.lexsort((-result.x, unit))
    first = order[np.unique(unit[order], return_index=True)[1]]
    return [int(i) for i in index[first]], bound


def _size(problem: Problem, picks: list[int]) -> int:
    return sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True))
