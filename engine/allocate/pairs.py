"""Weight bits and activation bits together: one pair per layer, under bytes, bit operations, or both.

Binary y[u, k] for unit u and pair k, sum_k y = 1; minimise total damage; sum bytes y <= size and / or sum MACs x weight
bits x activation bits y <= BOPs. Solved by HiGHS through scipy; a greedy descent that needs no solver stands in where
the time runs out and checks it elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.allocate.problem import Joint, Problem
from engine.core.activation import Activation
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.recipe import ModelRef, Recipe
from engine.core.sizes import table_bytes

TIME_LIMIT_S = 10.0
RELATIVE_GAP = 1e-4
TOLERANCE = 1e-6  # HiGHS's feasibility tolerance


@dataclass(frozen=True, slots=True)
class Pair:
    """One candidate of a unit: an option per layer, and how their inputs are quantized (None = not)."""

    options: Joint
    inputs: tuple[Activation | None, ...]


@dataclass(frozen=True, slots=True)
class PairUnit:
    """Layers that are decided together; see `engine.allocate.problem.Unit`. `bops` counts per candidate."""

    layers: tuple[str, ...]
    candidates: tuple[Pair, ...]
    costs: tuple[float, ...]
    bytes: tuple[int, ...]
    bops: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairProblem:
    """Least damage within one or two budgets.

    Attributes:
        model: whose layers these are.
        units: disjoint; together all choices of the model.
        budget_bytes: most bytes of the quantizable layers and their tables; None = no limit.
        budget_bops: most bit operations of one denoiser call per picture; None = no limit.
        weights: quantizable weights, tied copies counted.
        provider: whose damage it is.
    """

    model: ModelRef
    units: tuple[PairUnit, ...]
    budget_bytes: int | None
    budget_bops: int | None
    weights: int
    provider: str = ""


@dataclass(frozen=True, slots=True)
class PairAllocation:
    """A recipe with weights and activations, and its evidence; as `engine.allocate.allocation.Allocation`.

    `bops`: of one denoiser call per picture. `slack_bytes`, `slack_bops`: what is left of a budget, None without one.
    """

    recipe: Recipe
    picks: tuple[int, ...]
    bytes: int
    bits_per_weight: float
    bops: int
    cost: float
    bound: float
    gap: float
    proved: bool
    seconds: float
    slack_bytes: int | None
    slack_bops: int | None


@dataclass(frozen=True)
class ActivationChoices:
    """What is on offer for inputs.

    Attributes:
        damage: choice -> bits -> damage, in the unit of the weight damages; a choice that is not in it stays in full
            precision.
        settings: choice -> bits -> the setting a recipe holds.
        macs: layer name -> multiply-adds.
        widths: on offer; one = fixed for all layers.
        keep_full: whether inputs may also stay in full precision.
    """

    damage: Mapping[str, Mapping[int, float]]
    settings: Mapping[str, Mapping[int, Activation]]
    macs: Mapping[str, int]
    widths: tuple[int, ...]
    keep_full: bool = False


def pair_problem(structure: Structure, problem: Problem, offered: ActivationChoices, *, size: bool = True,
                 budget_bops: int | None = None) -> PairProblem:
    """Every candidate of a weight problem with every activation width.

    Args:
        structure: of the model.
        problem: weight damages, options, pins and groups; its budget counts where `size`.
        offered: see `ActivationChoices`.
        size: whether the byte budget holds.
        budget_bops: None = no limit.

    Raises:
        InputError: no widths, a damage that is no number, no budget, or one that no recipe meets.
    """
    if not offered.widths and not offered.keep_full:
        raise InputError("No activation widths are on offer; name some (8 6 4), or allocate weights alone.")
    if not size and budget_bops is None:
        raise InputError("An allocation needs a budget: bytes, bit operations, or both.")
    units = []
    for unit in problem.units:
        widths = _widths(unit.layers, offered)
        candidates, costs, sizes, bops = [], [], [], []
        for options, cost, stored in zip(unit.candidates, unit.costs, unit.bytes, strict=True):
            for bits in widths:
                inputs = tuple(None if bits is None else offered.settings[n][bits] for n in unit.layers)
                damage = 0.0 if bits is None else sum(offered.damage[n][bits] for n in unit.layers)
                if not math.isfinite(damage):
                    raise InputError(f"The activation damage of {unit.layers[0]} at {bits} bits is {damage}; compute "
                                     f"it again.")
                candidates.append(Pair(options, inputs))
                costs.append(cost + damage)
                sizes.append(stored + _tables(structure, unit.layers, inputs))
                bops.append(_bops(structure, unit.layers, options, inputs, offered.macs))
        units.append(PairUnit(unit.layers, tuple(candidates), tuple(costs), tuple(sizes), tuple(bops)))
    made = PairProblem(problem.model, tuple(units), problem.budget_bytes if size else None, budget_bops,
                       problem.weights, problem.provider)
    _require_possible(made)
    return made


def full_bops(structure: Structure, macs: Mapping[str, int]) -> int:
    """Bit operations at full precision, for budgets given as a share."""
    return sum(macs.get(layer.name, 0) for layer in structure.layers) * structure.precision_bits**2


def solve_pairs(problem: PairProblem, *, time_limit_s: float = TIME_LIMIT_S, relative_gap: float = RELATIVE_GAP,
                allocator: str = "pairs") -> PairAllocation:
    """Least total damage within the budgets, to a relative gap that is proven where `proved`.

    Raises:
        InputError: no recipe was found within the budgets.
    """
    begin = time.perf_counter()
    known = greedy_pairs(problem)
    picks, bound = _milp(problem, time_limit_s, relative_gap, 1.0)
    if picks and not fits_budgets(problem, picks):  # by the solver's tolerance
        picks, _ = _milp(problem, time_limit_s, relative_gap, 1 - 2 * TOLERANCE)
    options = [p for p in (picks, known) if p and fits_budgets(problem, p)]
    if not options:
        raise InputError(impossible(problem))
    best = min(options, key=lambda p: _cost(problem, p))
    return pair_allocation(problem, best, allocator, bound, relative_gap=relative_gap,
                           seconds=time.perf_counter() - begin)


def pair_allocation(problem: PairProblem, picks: Sequence[int], allocator: str, bound: float = -math.inf, *,
                    relative_gap: float = RELATIVE_GAP, seconds: float = 0.0) -> PairAllocation:
    """The record for one candidate per unit; without a bound, that of every unit's least damage stands in."""
    cost = _cost(problem, picks)
    floor = sum(min(u.costs) for u in problem.units)
    bound = min(max(bound, floor), cost)
    gap = (cost - bound) / abs(cost) if cost and cost != bound else 0.0
    size, bops = _sums(problem, picks)
    options: dict[str, Option] = {}
    inputs: dict[str, Activation] = {}
    for unit, pick in zip(problem.units, picks, strict=True):
        pair = unit.candidates[pick]
        options.update(zip(unit.layers, pair.options, strict=True))
        inputs.update({n: a for n, a in zip(unit.layers, pair.inputs, strict=True) if a is not None})
    provenance = {"allocator": allocator, "provider": problem.provider, "budget_bytes": problem.budget_bytes,
                  "budget_bops": problem.budget_bops, "bops": bops, "cost": cost, "bound": bound, "gap": gap}
    return PairAllocation(
        Recipe(problem.model, options, inputs, provenance), tuple(int(p) for p in picks), size,
        8 * size / problem.weights, bops, cost, bound, gap, gap <= 2 * relative_gap, seconds,
        None if problem.budget_bytes is None else problem.budget_bytes - size,
        None if problem.budget_bops is None else problem.budget_bops - bops)


def greedy_pairs(problem: PairProblem) -> list[int]:
    """From the least damaging pair of every unit down: always the move of least damage per share of the budgets that
    are still exceeded, among moves that raise neither (so that it ends); then back up wherever something fits. Empty
    where it ends above a budget."""
    limits = np.array([math.inf if b is None else max(b, 1) for b in (problem.budget_bytes, problem.budget_bops)])
    table = [np.stack([np.array(u.bytes, float), np.array(u.bops, float)], 1) / limits for u in problem.units]
    costs = [np.array(u.costs) for u in problem.units]
    picks = [int(np.lexsort((t.sum(1), c))[0]) for t, c in zip(table, costs, strict=True)]
    used = np.sum([t[p] for t, p in zip(table, picks, strict=True)], axis=0)
    while (used > 1).any():
        best = (math.inf, -1, -1)
        for unit, (t, c) in enumerate(zip(table, costs, strict=True)):
            saved = ((t[picks[unit]] - t) * (used > 1)).sum(1)
            down = (t <= t[picks[unit]]).all(1) & (saved > 0)
            rate = np.where(down, (c - c[picks[unit]]) / np.maximum(saved, 1e-300), math.inf)
            move = int(np.argmin(rate))
            best = min(best, (float(rate[move]), unit, move))
        if not math.isfinite(best[0]):
            return []
        picks[best[1]] = best[2]
        used = np.sum([t[p] for t, p in zip(table, picks, strict=True)], axis=0)
    return _improved(table, costs, picks)


def _improved(table: list[np.ndarray], costs: list[np.ndarray], picks: list[int]) -> list[int]:
    """Moves up, most damage saved first, while both budgets hold."""
    while True:
        used = np.sum([t[p] for t, p in zip(table, picks, strict=True)], axis=0)
        best = (0.0, -1, -1)
        for unit, (t, c) in enumerate(zip(table, costs, strict=True)):
            fits = (used - t[picks[unit]] + t <= 1).all(1)
            saved = np.where(fits, c[picks[unit]] - c, 0.0)
            move = int(np.argmax(saved))
            best = max(best, (float(saved[move]), unit, move))
        if best[0] <= 0:
            return picks
        picks[best[1]] = best[2]


def _milp(problem: PairProblem, time_limit_s: float, relative_gap: float, room: float) -> tuple[list[int], float]:
    """Picks (empty if HiGHS found none) and its dual bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    kept = [_undominated(u) for u in problem.units]
    unit = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    index = np.concatenate([np.array(k) for k in kept])
    places = list(zip(unit, index, strict=True))
    costs = np.array([problem.units[u].costs[i] for u, i in places])
    one = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))))
    rows = [LinearConstraint(one, 1, 1)]
    for budget, name in ((problem.budget_bytes, "bytes"), (problem.budget_bops, "bops")):
        if budget is not None:
            used = np.array([getattr(problem.units[u], name)[i] for u, i in places], float) / max(budget, 1)
            rows.append(LinearConstraint(csr_array(used[None]), -np.inf, room))
    floor = np.array([min(u.costs) for u in problem.units])
    scale = max(float(sum(max(u.costs) for u in problem.units) - floor.sum()), 1e-300)
    result = milp(1e3 * (costs - floor[unit]) / scale, integrality=np.ones(len(unit)), bounds=Bounds(0, 1),
                  constraints=rows, options={"time_limit": time_limit_s, "mip_rel_gap": relative_gap / 2})
    dual = getattr(result, "mip_dual_bound", None)
    bound = float(dual) * scale / 1e3 + float(floor.sum()) if dual is not None and np.isfinite(dual) else -math.inf
    if result.x is None:
        return [], bound
    order = np.lexsort((-result.x, unit))
    first = order[np.unique(unit[order], return_index=True)[1]]
    return [int(i) for i in index[first]], bound


def _undominated(unit: PairUnit) -> list[int]:
    """Candidates that no other beats or equals in damage, bytes and bit operations together."""
    table = np.array([unit.costs, unit.bytes, unit.bops], float).T
    kept: list[int] = []
    for i in np.lexsort((table[:, 2], table[:, 1], table[:, 0])):
        if not any((table[k] <= table[i]).all() for k in kept):
            kept.append(int(i))
    return kept


def _widths(layers: Sequence[str], offered: ActivationChoices) -> list[int | None]:
    common = [b for b in offered.widths if all(b in offered.damage.get(n, {}) for n in layers)]
    return [*common, *([None] if offered.keep_full or not common else [])]


def _tables(structure: Structure, layers: Sequence[str], inputs: Sequence[Activation | None]) -> int:
    chosen = dict(zip(layers, inputs, strict=True))
    return sum(table_bytes(x, chosen[x.choice], structure.precision_bits) for x in structure.layers
               if chosen.get(x.choice) is not None)


def _bops(structure: Structure, layers: Sequence[str], options: Joint, inputs: Sequence[Activation | None],
          macs: Mapping[str, int]) -> int:
    chosen = dict(zip(layers, zip(options, inputs, strict=True), strict=True))
    total = 0
    for layer in structure.layers:
        if layer.choice in chosen:
            option, activation = chosen[layer.choice]
            weight_bits = structure.precision_bits if option.is_untouched else option.bits
            total += macs.get(layer.name, 0) * weight_bits * (activation.bits if activation
                                                              else structure.precision_bits)
    return total


def _sums(problem: PairProblem, picks: Sequence[int]) -> tuple[int, int]:
    chosen = list(zip(problem.units, picks, strict=True))
    return sum(u.bytes[i] for u, i in chosen), sum(u.bops[i] for u, i in chosen)


def _cost(problem: PairProblem, picks: Sequence[int]) -> float:
    return float(sum(u.costs[i] for u, i in zip(problem.units, picks, strict=True)))


def fits_budgets(problem: PairProblem, picks: Sequence[int]) -> bool:
    """Whether one candidate per unit keeps the budgets."""
    size, bops = _sums(problem, picks)
    return (problem.budget_bytes is None or size <= problem.budget_bytes) and (
        problem.budget_bops is None or bops <= problem.budget_bops)


def _require_possible(problem: PairProblem) -> None:
    """Refuse budgets that even the least candidates exceed (each by itself)."""
    if problem.budget_bytes is not None and sum(min(u.bytes) for u in problem.units) > problem.budget_bytes:
        raise InputError(impossible(problem))
    if problem.budget_bops is not None and sum(min(u.bops) for u in problem.units) > problem.budget_bops:
        raise InputError(impossible(problem))


def impossible(problem: PairProblem) -> str:
    """The sentence for budgets that no recipe keeps."""
    least, work = sum(min(u.bytes) for u in problem.units), sum(min(u.bops) for u in problem.units)
    said = []
    if problem.budget_bytes is not None:
        said.append(f"{problem.budget_bytes / 1e6:.3f} MB (the smallest recipe has {least / 1e6:.3f} MB)")
    if problem.budget_bops is not None:
        said.append(f"{problem.budget_bops / 1e9:.3f} GBOPs (the cheapest recipe has {work / 1e9:.3f} GBOPs)")
    return f"No recipe keeps the budget of {' and '.join(said)}; raise it, or offer narrower options."
