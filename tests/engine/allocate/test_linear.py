"""The published linear program: equal to a solver's vertex, bang-bang, never above the budget; its blind controls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from allocation_cases import structure
from scipy.optimize import linprog

from engine.allocate.allocators import allocate
from engine.allocate.linear import flat, linear_picks, linear_program, projection
from engine.allocate.problem import Limits, Problem, layer_problem
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import full_bytes, stored_bytes

BITS = (2, 3, 4, 6, 8)


def importances(made: Structure, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {layer.name: float(rng.uniform(0.01, 1)) for layer in made.choices}


def linear(made: Structure, c: dict[str, float], bits: float, scale: float = 1.0) -> Problem:
    layers = {n: {f"uaq-{b}": scale * v * (16 - b) for b in BITS} for n, v in c.items()}
    return layer_problem(made, Scores("orthogonality-linear", "0" * 64, "x", layers), int(bits / 16 * full_bytes(made)),
                         Limits())


def widths(made: Structure, recipe: object) -> list[int]:
    return [recipe.options[x.name].bits for x in made.choices]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bits", [3.1, 4.0, 5.5])
def test_the_vertex_is_a_solvers_and_bang_bang(seed: int, bits: float) -> None:
    made, c = structure(30), importances(structure(30), seed)
    problem = linear(made, c, bits)
    answer = linear_program(problem)
    assert answer.bytes <= problem.budget_bytes
    found = widths(made, answer.recipe)
    assert sum(b not in (2, 8) for b in found) <= 1
    low = np.array([stored_bytes(x, Option("uaq", 2), 16) for x in made.choices], float)
    per_bit = np.array([x.weights / 8 for x in made.choices])
    room = problem.budget_bytes - (low - 2 * per_bit).sum()
    truth = linprog(-np.array(list(c.values())), A_ub=[per_bit], b_ub=[room], bounds=[(2, 8)] * 30, method="highs")
    inner = [i for i, x in enumerate(truth.x) if 2 + 1e-6 < x < 8 - 1e-6]
    assert len(inner) <= 1, "every vertex of the program is bang-bang"
    for i, (mine, theirs) in enumerate(zip(found, truth.x, strict=True)):
        assert mine == round(theirs) if i not in inner else mine == max(b for b in BITS if b <= theirs + 1e-9)
    assert answer.recipe.provenance["at_bounds"] >= 29


def test_the_answer_does_not_depend_on_the_scale_of_importance() -> None:
    """exp(-beta gamma) may be divided by any constant: the reason why the least gamma can be taken off first."""
    made, c = structure(20), importances(structure(20), 1)
    a, b = (linear_program(linear(made, c, 4.0, scale)).recipe.options for scale in (1.0, 1e-30))
    assert a == b


def test_flat_is_the_program_with_equal_importances_and_reads_no_scores() -> None:
    made = structure(20)
    c = importances(made, 2)
    equal = linear_program(linear(made, dict.fromkeys(c, 1.0), 4.0)).recipe.options
    assert flat(linear(made, c, 4.0)).recipe.options == equal
    order = sorted(made.choices, key=lambda x: x.weights)
    assert equal[order[0].name].bits == 8 and equal[order[-1].name].bits == 2, "small layers first"


@pytest.mark.parametrize("bits", [2.5, 4.0, 6.0, 12.0])
def test_projection_follows_the_size_alone(bits: float) -> None:
    made, c = structure(20), importances(structure(20), 3)
    problem = linear(made, c, bits)
    answer = projection(problem)
    assert answer.bytes <= problem.budget_bytes
    found = dict(zip([x.weights for x in made.choices], widths(made, answer.recipe), strict=True))
    sizes = sorted(found)
    assert all(found[a] >= found[b] - 1 or found[a] >= BITS[BITS.index(found[b]) - 1]
               for a, b in itertools.pairwise(sizes)), "larger layers get no more, up to rounding"
    if bits == 12.0:
        assert set(found.values()) == {8}, "nothing to project"
    other = linear(made, importances(made, 4), bits)
    assert projection(other).picks == answer.picks, "no scores are read"


def test_picks_round_the_fractional_unit_down() -> None:
    costs, sizes = [[4.0, 3.0, 2.0, 0.0]] * 2, [[0.0, 1.0, 2.0, 4.0]] * 2
    assert linear_picks(costs, sizes, 6) == ([3, 2], 1)
    assert linear_picks(costs, sizes, 5.9) == ([3, 1], 1)
    assert linear_picks(costs, sizes, 4) == ([3, 0], None)
    assert linear_picks(costs, sizes, 99) == ([3, 3], None)


def test_useful_is_the_knapsack_on_its_scores() -> None:
    made = structure(12)
    rng = np.random.default_rng(0)
    layers = {x.name: {f"uaq-{b}": float(rng.uniform(0.1, 1)) * 4.0**-b for b in BITS} for x in made.choices}
    problem = layer_problem(made, Scores("orthogonality", "0" * 64, "x", layers), int(4 / 16 * full_bytes(made)))
    assert allocate(problem, "mpq-diff-useful").picks == allocate(problem, "knapsack").picks
    bits = {o.bits for o in allocate(problem, "mpq-diff-useful").recipe.options.values()}
    assert len(bits - {2, 8, 16}) >= 2, "middle widths appear where damage is convex"
