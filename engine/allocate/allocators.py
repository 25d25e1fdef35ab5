"""The allocators by name, and the Pareto sweep: one set of scores, every budget, no retraining."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.allocate.allocation import Allocation
from engine.allocate.baselines import best_of_random, best_uniform, greedy, size_only, threshold
from engine.allocate.blocks import JOINT
from engine.allocate.faithful import faithful
from engine.allocate.knapsack import RELATIVE_GAP, TIME_LIMIT_S, knapsack
from engine.allocate.linear import flat, linear_program, projection
from engine.allocate.path import lagrangian, lagrangian_path
from engine.allocate.problem import Problem
from engine.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Settings:
    """What some allocators need besides the problem.

    Attributes:
        weight: lambda of the faithful selection; None = the least that fits the budget.
        draws, seed: of best-of-random.
        time_limit_s, relative_gap: of the knapsack.
    """

    weight: float | None = None
    draws: int = 64
    seed: int = 0
    time_limit_s: float = TIME_LIMIT_S
    relative_gap: float = RELATIVE_GAP


@dataclass(frozen=True, slots=True)
class AllocatorRow:
    """One allocator: the sentence the explorer shows, the provider it insists on ("" = any), whether it needs scores
    at all, the call, and the provider it goes by unless told otherwise, where there are such scores ("" = any)."""

    summary: str
    provider: str
    scored: bool
    solve: Callable[[Problem, Settings], Allocation]
    preferred: str = ""


ALLOCATORS: dict[str, AllocatorRow] = {
    "knapsack": AllocatorRow(
        "Least total damage within the budget, with proof (integer programming).", "", True,
        lambda p, s: knapsack(p, time_limit_s=s.time_limit_s, relative_gap=s.relative_gap)),
    "lagrangian": AllocatorRow(
        "Nearly the same in about a millisecond; used while the slider moves.", "", True, lambda p, s: lagrangian(p)),
    "faithful": AllocatorRow(
        "Each layer takes its best option alone, by embeddings if there are any; bits priced by lambda (Qua2SeDiMo).",
        "", True, lambda p, s: faithful(p, s.weight), "gnn-operation"),
    "faithful-blocks": AllocatorRow(
        "Each block takes its best joint assignment, by embeddings; bits priced by lambda (Qua2SeDiMo).",
        JOINT, True, lambda p, s: faithful(p, s.weight)),
    "uniform": AllocatorRow(
        "The best uniform recipe that fits.", "", False, lambda p, s: best_uniform(p)),
    "weight-error": AllocatorRow(
        "Knapsack on the error of the weights alone.", "weight-error", True,
        lambda p, s: knapsack(p, time_limit_s=s.time_limit_s, relative_gap=s.relative_gap)),
    "measured-greedy": AllocatorRow(
        "From the top down by measured damage per byte saved.", "measured", True, lambda p, s: greedy(p)),
    "threshold": AllocatorRow(
        "One threshold for all layers on Apple's own signal (mixed-bit rule).", "cumulative", True,
        lambda p, s: threshold(p)),
    "size-only": AllocatorRow(
        "Large layers get few bits; no scores used.", "", False,
        lambda p, s: size_only(p, time_limit_s=s.time_limit_s, relative_gap=s.relative_gap)),
    "mpq-diff": AllocatorRow(
        "MPQ-Diff's linear program: nearly all layers end at the least or the greatest width.", "orthogonality-linear",
        True, lambda p, s: linear_program(p)),
    "mpq-diff-useful": AllocatorRow(
        "Knapsack on MPQ-Diff's importance times weight error.", "orthogonality", True,
        lambda p, s: knapsack(p, time_limit_s=s.time_limit_s, relative_gap=s.relative_gap)),
    "mpq-flat": AllocatorRow(
        "MPQ-Diff's linear program with all layers equally important; no scores used.", "", False,
        lambda p, s: flat(p)),
    "mpq-projection": AllocatorRow(
        "8 bits everywhere, projected onto the budget: what the released solver gives without a signal.", "", False,
        lambda p, s: projection(p)),
    "random": AllocatorRow(
        "The best of N random recipes that fit.", "", False, lambda p, s: best_of_random(p, s.draws, s.seed)),
}


def allocate(problem: Problem, name: str, settings: Settings | None = None) -> Allocation:
    """The recipe of one allocator.

    Raises:
        InputError: there is no such allocator, or the budget is impossible.
    """
    if name not in ALLOCATORS:
        raise InputError(f"Unknown allocator {name[:40]!r}; choose one of {', '.join(ALLOCATORS)}.")
    return ALLOCATORS[name].solve(problem, settings or Settings())


def sweep(problem: Problem, budgets: Sequence[int], name: str = "lagrangian",
          settings: Settings | None = None) -> Iterator[Allocation]:
    """One allocation per budget, in the order given; budgets below the smallest recipe are left out."""
    path = lagrangian_path(problem) if name == "lagrangian" else None
    for budget in budgets:
        if budget >= problem.smallest_bytes:
            yield path.at(budget) if path else allocate(problem.with_budget(budget), name, settings)
