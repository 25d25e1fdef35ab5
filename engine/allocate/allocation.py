"""What an allocator answers: the recipe, its size, its predicted damage, and how far from the best it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.allocate.problem import Problem
from engine.core.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Allocation:
    """A recipe with its evidence.

    Attributes:
        recipe: every choice named; provenance holds allocator, provider, budget, cost, bound and gap.
        picks: index of the candidate each unit took.
        bytes: stored bytes of the quantizable layers, never above the budget.
        bits_per_weight: the same per weight.
        cost: total damage by the scores the problem was made from.
        bound: no recipe within the budget has less damage (by these scores).
        gap: (cost - bound) / |cost|, 0 where they are equal.
        proved: whether the solver proved the gap to be within its tolerance.
        seconds: solving time.
    """

    recipe: Recipe
    picks: tuple[int, ...]
    bytes: int
    bits_per_weight: float
    cost: float
    bound: float
    gap: float
    proved: bool
    seconds: float


def allocation(problem: Problem, picks: Sequence[int], allocator: str, bound: float, *, proved: bool = False,
               seconds: float = 0.0, about: Mapping[str, object] | None = None) -> Allocation:
    """The record for one candidate per unit.

    Args:
        problem: with the budget it was solved for.
        picks: [units], indices into each unit's candidates.
        allocator: its name, for the provenance.
        bound: lower bound on the cost of any recipe within the budget.
        proved: see `Allocation`.
        seconds: solving time.
        about: anything else for the provenance.
    """
    picks = tuple(int(i) for i in picks)
    size = sum(u.bytes[i] for u, i in zip(problem.units, picks, strict=True))
    cost = float(sum(u.costs[i] for u, i in zip(problem.units, picks, strict=True)))
    bound = min(float(bound), cost)
    gap = (cost - bound) / abs(cost) if cost != bound and cost else 0.0
    options = {name: option for u, i in zip(problem.units, picks, strict=True)
               for name, option in zip(u.layers, u.candidates[i], strict=True)}
    provenance = {"allocator": allocator, "provider": problem.provider, "budget_bytes": problem.budget_bytes,
                  "cost": cost, "bound": bound, "gap": gap, **(about or {})}
    return Allocation(Recipe(problem.model, options, provenance=provenance), picks, size,
                      8 * size / problem.weights, cost, bound, gap, proved, seconds)
