"""Pairs of weight and activation bits against brute force, under one and two budgets; controls keep them too."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from allocation_cases import scores, structure

from engine.allocate.pair_controls import controls, linear_pairs, random_pairs, uniform_pairs
from engine.allocate.pairs import (
    ActivationChoices,
    PairProblem,
    fits_budgets,
    full_bops,
    greedy_pairs,
    pair_problem,
    solve_pairs,
)
from engine.allocate.problem import Limits, layer_problem
from engine.core.activation import Activation
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.option import FP16, Option
from engine.core.sizes import bit_operations, full_bytes, recipe_bytes

WIDTHS = (4, 6, 8)


def offered(made: Structure, seed: int = 0, static: bool = False, **changes: object) -> ActivationChoices:
    rng = np.random.default_rng(seed)
    damage = {x.name: {b: float(rng.uniform(0.1, 3)) * 4.0**-b for b in WIDTHS} for x in made.choices}
    one = Activation(8, "static", "0" * 12, 20) if static else Activation(8)
    settings = {x.name: {b: replace(one, bits=b) for b in WIDTHS} for x in made.choices}
    macs = {x.name: x.weights * (i % 4 + 1) for i, x in enumerate(made.layers)}
    return replace(ActivationChoices(damage, settings, macs, WIDTHS), **changes)  # type: ignore[arg-type]


def case(layers: int, seed: int, share: float | None, bops: float | None, **changes: object) -> PairProblem:
    made = structure(layers, tied=layers > 8)
    limits = Limits(options=(Option("uaq", 2), Option("uaq", 4), Option("uaq", 6)), keep_untouched=False)
    chosen = offered(made, seed, **changes)  # type: ignore[arg-type]
    weights = layer_problem(made, scores(made, seed), int((share or 1) * full_bytes(made)), limits)
    budget = None if bops is None else int(bops * full_bops(made, chosen.macs))
    return pair_problem(made, weights, chosen, size=share is not None, budget_bops=budget)


def brute_force(problem: PairProblem) -> float:
    best = math.inf
    for picks in itertools.product(*(range(len(u.costs)) for u in problem.units)):
        if fits_budgets(problem, picks):
            best = min(best, sum(u.costs[i] for u, i in zip(problem.units, picks, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "bops"), [(0.24, None), (None, 0.08), (0.24, 0.1), (0.3, 0.06)])
def test_the_best_pair_is_found(seed: int, share: float | None, bops: float | None) -> None:
    problem = case(4, seed, share, bops)
    truth = brute_force(problem)
    answer = solve_pairs(problem, relative_gap=1e-7)
    assert answer.cost == pytest.approx(truth, rel=1e-6)
    assert answer.bound <= truth * (1 + 1e-6)
    quick = greedy_pairs(problem)
    assert quick and fits_budgets(problem, quick)
    assert sum(u.costs[i] for u, i in zip(problem.units, quick, strict=True)) <= 4 * truth


def test_figures_are_those_of_the_recipe() -> None:
    made, problem = structure(14, tied=True), case(14, 3, 0.26, 0.08, static=True)
    answer = solve_pairs(problem)
    recipe = answer.recipe
    assert answer.bytes == recipe_bytes(made, recipe.options, recipe.activations) <= (problem.budget_bytes or 0)
    assert answer.bops == bit_operations(made, offered(made, 3).macs, recipe.options, recipe.activations)
    assert answer.slack_bytes == (problem.budget_bytes or 0) - answer.bytes >= 0
    assert answer.slack_bops == (problem.budget_bops or 0) - answer.bops >= 0
    assert all(a.scheme == "static" for a in recipe.activations.values())
    assert len({a.bits for a in recipe.activations.values()}) > 1


def test_a_tighter_budget_never_helps() -> None:
    costs = [solve_pairs(case(10, 1, share, bops), relative_gap=1e-6).cost
             for share, bops in ((0.3, 0.12), (0.3, 0.08), (0.3, 0.05), (0.2, 0.05))]
    assert costs == sorted(costs)


def test_groups_share_a_pair_and_silent_layers_stay_in_full_precision() -> None:
    made = structure(6)
    names = [x.name for x in made.choices]
    limits = Limits(groups=((names[0], names[3]),), pinned={names[1]: FP16}, keep_untouched=False)
    chosen = offered(made)
    chosen = replace(chosen, damage={n: d for n, d in chosen.damage.items() if n != names[5]})
    weights = layer_problem(made, scores(made, 0), int(0.5 * full_bytes(made)), limits)
    problem = pair_problem(made, weights, chosen, budget_bops=int(0.3 * full_bops(made, chosen.macs)))
    recipe = solve_pairs(problem).recipe
    assert recipe.options[names[0]] == recipe.options[names[3]]
    assert recipe.activations[names[0]] == recipe.activations[names[3]]
    assert recipe.options[names[1]] == FP16 and names[1] in recipe.activations
    assert names[5] not in recipe.activations


@pytest.mark.parametrize(("share", "bops"), [(0.24, None), (0.3, 0.06), (None, 0.08)])
def test_controls_keep_the_budgets_and_lose(share: float | None, bops: float | None) -> None:
    problem = case(12, 2, share, bops)
    best = solve_pairs(problem, relative_gap=1e-6)
    c = {u.layers[0]: 1.0 + i for i, u in enumerate(problem.units)}
    for answer in (linear_pairs(problem, c), uniform_pairs(problem), random_pairs(problem, 20, 1)):
        assert fits_budgets(problem, answer.picks)
        assert answer.cost >= best.cost * (1 - 1e-6)
    assert random_pairs(problem, 20, 1).picks == random_pairs(problem, 20, 1).picks


@pytest.mark.parametrize(("share", "bops"), [(0.24, None), (0.3, 0.06)])
def test_every_control_is_the_best_by_what_it_knows(share: float, bops: float | None) -> None:
    """By its own prices no other recipe is better; by the problem's none beats the best."""
    problem = case(9, 5, share, bops)
    rng = np.random.default_rng(9)
    names = [n for u in problem.units for n in u.layers]
    weights = {n: {f"uaq-{b}": float(rng.uniform(1, 9)) * 4.0**-b for b in (2, 4, 6)} for n in names}
    inputs = {n: {b: float(rng.uniform(1, 9)) * 4.0**-b for b in WIDTHS} for n in names}
    made = {name: make() for name, make in controls(problem, weights, inputs, 20).items()}
    assert list(made) == ["uniform", "random", "size-only", "mpq-flat", "weight-error"]
    best = solve_pairs(problem, relative_gap=1e-6)
    assert all(fits_budgets(problem, a.picks) and a.cost >= best.cost * (1 - 1e-6) for a in made.values())

    def error(picks: tuple[int, ...]) -> float:
        return sum(weights[u.layers[0]][str(u.candidates[i].options[0])]
                   + inputs[u.layers[0]][u.candidates[i].inputs[0].bits]  # type: ignore[union-attr]
                   for u, i in zip(problem.units, picks, strict=True))

    assert all(error(made["weight-error"].picks) <= error(a.picks) * (1 + 1e-3) for a in (best, *made.values()))
    assert made["weight-error"].cost > best.cost * 1.001  # it knows something else
    with pytest.raises(InputError, match=r"weight error of .* is not known"):
        controls(problem, {}, inputs)["weight-error"]()


def test_the_published_program_is_bang_bang_in_both() -> None:
    problem = case(20, 4, 0.26, 0.07)
    answer = linear_pairs(problem, {u.layers[0]: float(i % 7 + 1) + i / 50 for i, u in enumerate(problem.units)})
    assert sum(o.bits not in (2, 6) for o in answer.recipe.options.values()) <= 1
    assert sum(a.bits not in (4, 8) for a in answer.recipe.activations.values()) <= 1


def test_impossible_budgets_and_bad_offers_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"GBOPs \(the cheapest recipe has"):
        case(6, 0, None, 0.001)
    with pytest.raises(InputError, match="needs a budget"):
        case(6, 0, None, None)
    with pytest.raises(InputError, match="No activation widths"):
        case(6, 0, 0.3, None, widths=())
    made = structure(4)
    weights = layer_problem(made, scores(made, 0), int(0.4 * full_bytes(made)))
    broken = offered(made)
    broken = replace(broken, damage={n: dict.fromkeys(WIDTHS, math.nan) for n in broken.damage})
    with pytest.raises(InputError, match=r"activation damage of .* is nan"):
        pair_problem(made, weights, broken)
    with pytest.raises(InputError, match="best of 0"):
        random_pairs(case(4, 0, 0.3, None), 0)
