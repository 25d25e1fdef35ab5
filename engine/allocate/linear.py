"""OMPQ's linear program over bit-widths, as published, and its two controls that use no data.

Maximise sum c_i b_i within the budget, lo <= b_i <= hi (OMPQ, Ma et al., AAAI 2023; MPQ-Diff, 2024). One budget row and
box bounds: every optimal vertex has at most one layer strictly between its bounds, all others sit at lo or hi. That is
a property of the published objective (bang-bang), kept here on purpose; the error-weighted knapsack is the one to use.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.allocate.allocation import Allocation, allocation
from engine.allocate.path import lower_bound
from engine.allocate.problem import Problem, Unit, require_possible

BISECTIONS = 100
START_BITS = 8  # the released solver starts at one byte per weight


def linear_program(problem: Problem) -> Allocation:
    """The LP's vertex, its one fractional layer rounded down, so that the budget holds.

    The problem's damages should be linear in bits (`linear_scores` of the orthogonality provider); of any others it
    takes the lower hull, as a linear program does. Untouched is no width of the program: a layer stays untouched only
    where nothing else is on offer.

    Raises:
        InputError: the budget is too small.
    """
    return _solved(problem, problem, "mpq-diff")


def flat(problem: Problem) -> Allocation:
    """The same program with all importances equal: what the published objective gives without any data."""
    blind = replace(problem, units=tuple(replace(u, costs=tuple(float(-_bits(u, i)) for i in range(len(u.costs))))
                                         for u in problem.units))
    return _solved(problem, blind, "mpq-flat")


def projection(problem: Problem) -> Allocation:
    """The Euclidean projection of "8 bits everywhere" onto the budget: b_i = clip(8 - lambda n_i, lo, hi), rounded.

    What the released SLSQP solver returns where the importances underflow to zero, as they do for long networks: no
    network and no data are in it. Widths are rounded down, then up by largest remainder while the budget allows.

    Raises:
        InputError: the budget is too small.
    """
    require_possible(problem)
    begin = time.perf_counter()
    kept = [_widths(unit) for unit in problem.units]
    curves = [(np.array([_bits(u, i) for i in k], float), np.array([u.bytes[i] for i in k], float))
              for u, k in zip(problem.units, kept, strict=True)]
    slopes = [(s[-1] - s[0]) / (b[-1] - b[0]) if b[-1] > b[0] else 0.0 for b, s in curves]

    def widths(price: float) -> list[float]:
        return [float(np.clip(START_BITS - price * slope, b[0], b[-1]))
                for (b, _), slope in zip(curves, slopes, strict=True)]

    def size(price: float) -> float:
        return sum(float(np.interp(w, b, s)) for w, (b, s) in zip(widths(price), curves, strict=True))

    low, high = 0.0, START_BITS / min([s for s in slopes if s > 0], default=1.0)
    for _ in range(BISECTIONS if size(0.0) > problem.budget_bytes else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if size(middle) <= problem.budget_bytes else (middle, high)
    wanted = widths(high if size(0.0) > problem.budget_bytes else 0.0)
    places = [int(np.searchsorted(b, w + 1e-9, side="right")) - 1 for w, (b, _) in zip(wanted, curves, strict=True)]
    used = sum(s[p] for p, (_, s) in zip(places, curves, strict=True))
    for unit in sorted(range(len(kept)), key=lambda i: curves[i][0][places[i]] - wanted[i]):
        bits, sizes = curves[unit]
        more = sizes[min(places[unit] + 1, len(sizes) - 1)] - sizes[places[unit]]
        if wanted[unit] > bits[places[unit]] and used + more <= problem.budget_bytes:
            places[unit] += 1
            used += more
    picks = [k[p] for k, p in zip(kept, places, strict=True)]
    return allocation(problem, picks, "mpq-projection", lower_bound(problem), seconds=time.perf_counter() - begin)


def linear_picks(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]],
                 budget: float) -> tuple[list[int], int | None]:
    """The vertex of min sum cost within the budget over the lower hulls of all units, its fractional unit rounded down.

    Args:
        costs, sizes: per unit and candidate.
        budget: at least the sum of least sizes.

    Returns:
        candidate per unit, and the unit the program left between two widths (None if none).
    """
    hulls = [_hull(c, s) for c, s in zip(costs, sizes, strict=True)]
    picks = [h[0] for h in hulls]
    steps = [((costs[u][a] - costs[u][b]) / (sizes[u][b] - sizes[u][a]), u, a, b)
             for u, h in enumerate(hulls) for a, b in itertools.pairwise(h)]
    room = budget - sum(sizes[u][p] for u, p in enumerate(picks))
    for _, unit, a, b in sorted(steps, key=lambda s: (-s[0], s[1])):
        more = sizes[unit][b] - sizes[unit][a]
        if more > room:
            between = [i for i in range(len(sizes[unit])) if sizes[unit][a] <= sizes[unit][i] <= sizes[unit][a] + room]
            picks[unit] = max(between, key=lambda i: (sizes[unit][i], -costs[unit][i]))
            return picks, unit if room > 0 else None
        picks[unit] = b
        room -= more
    return picks, None


def _solved(problem: Problem, judged: Problem, name: str) -> Allocation:
    require_possible(problem)
    begin = time.perf_counter()
    kept = [_widths(unit) for unit in judged.units]
    found, fractional = linear_picks([[u.costs[i] for i in k] for u, k in zip(judged.units, kept, strict=True)],
                                     [[u.bytes[i] for i in k] for u, k in zip(judged.units, kept, strict=True)],
                                     problem.budget_bytes)
    picks = [k[p] for k, p in zip(kept, found, strict=True)]
    ends = sum(p in (0, len(k) - 1) for k, p in zip(kept, found, strict=True))
    about = {"at_bounds": ends, "layers": len(kept),
             "fractional": problem.units[fractional].layers[0] if fractional is not None else ""}
    return allocation(problem, picks, name, lower_bound(problem), seconds=time.perf_counter() - begin, about=about)


def _bits(unit: Unit, index: int) -> int:
    return sum(o.bits for o in unit.candidates[index])


def _widths(unit: Unit) -> list[int]:
    """The candidates of a unit by rising size, without untouched ones where there are others, one per width."""
    offered = [i for i, c in enumerate(unit.candidates) if not any(o.is_untouched for o in c)]
    offered = offered or list(range(len(unit.candidates)))
    smallest: dict[int, int] = {}
    for i in sorted(offered, key=lambda i: (unit.bytes[i], unit.costs[i])):
        smallest.setdefault(_bits(unit, i), i)
    return sorted(smallest.values(), key=lambda i: unit.bytes[i])


def _hull(costs: Sequence[float], sizes: Sequence[float]) -> list[int]:
    """Corners of the lower convex hull in the plane of size and cost, smallest first, cost strictly falling."""
    corners: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (sizes[i], costs[i])):
        if corners and costs[i] >= costs[corners[-1]] - 1e-15 * abs(costs[corners[-1]]):
            continue
        while len(corners) >= 2:
            a, b = corners[-2], corners[-1]
            across = (costs[b] - costs[a]) * (sizes[i] - sizes[a]) - (costs[i] - costs[a]) * (sizes[b] - sizes[a])
            # collinear up to rounding is on the segment: the middle is no corner
            if across < -1e-12 * abs(costs[i] - costs[a]) * (sizes[b] - sizes[a]):
                break
            corners.pop()
        corners.append(i)
    return corners
