"""Allocators against brute force, against each other, and that no budget, pin or group is ever broken."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from allocation_cases import BITS, U3, U4, brute_force, scores, structure

from engine.allocate.allocators import ALLOCATORS, Settings, allocate, sweep
from engine.allocate.baselines import best_of_random, error_only, threshold, uniform, uniforms
from engine.allocate.faithful import argmax
from engine.allocate.knapsack import knapsack
from engine.allocate.path import lagrangian, lagrangian_path
from engine.allocate.problem import JointCosts, Limits, joint_problem, layer_problem
from engine.core.errors import InputError
from engine.core.option import FP16, Option
from engine.core.record import Scores
from engine.core.sizes import full_bytes, recipe_bytes, sensible_options, stored_bytes

FEW = Limits(options=(Option("uaq", 2), U3, U4, Option("kmeans_a", 3)), keep_untouched=False)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.16, 0.2, 0.24])
def test_knapsack_and_bound_against_brute_force(seed: int, share: float) -> None:
    made = structure(6)
    problem = layer_problem(made, scores(made, seed), int(share * full_bytes(made)), FEW)
    truth = brute_force(problem)
    best, quick = knapsack(problem, relative_gap=1e-7), lagrangian(problem)
    assert best.cost == pytest.approx(truth, rel=1e-6)
    assert best.proved
    assert best.bound <= truth * (1 + 1e-9)
    assert quick.bound <= truth * (1 + 1e-9)
    assert truth <= quick.cost * (1 + 1e-9)
    assert quick.cost <= truth * 1.5


def test_the_bound_is_tight_where_the_relaxation_is() -> None:
    """At a corner of the path nothing is left over, so the Lagrangian recipe is the optimum and says so."""
    made = structure(6)
    path = lagrangian_path(layer_problem(made, scores(made, 0), full_bytes(made), FEW))
    start = sum(u.bytes[i] for u, i in zip(path.problem.units, path.start, strict=True))
    for budget in start + np.cumsum(path.sizes):
        at = path.at(int(budget))
        assert at.bytes == budget
        assert at.gap == pytest.approx(0, abs=1e-9)
        assert at.cost == pytest.approx(brute_force(path.problem.with_budget(int(budget))))


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("bits", [3.2, 3.5, 4.0, 7.3])
def test_every_allocator_keeps_budget_pins_and_groups(name: str, bits: float) -> None:
    made = structure(14, tied=True)
    names = [layer.name for layer in made.choices]
    limits = Limits(pinned={names[3]: Option("uaq", 6), names[8]: U3}, groups=((names[1], names[5], names[8]),))
    budget = int(bits / 16 * full_bytes(made))
    problem = layer_problem(made, scores(made, 5), budget, limits)
    answer = allocate(problem, name, Settings(draws=5))
    options = answer.recipe.options
    assert set(options) == set(names)
    assert recipe_bytes(made, options) == answer.bytes <= budget
    assert answer.bits_per_weight == pytest.approx(16 * answer.bytes / full_bytes(made))
    assert options[names[3]] == Option("uaq", 6)
    assert options[names[1]] == options[names[5]] == options[names[8]] == U3
    assert all(o in sensible_options(made.layer(n), 16) for n, o in options.items())
    assert answer.bound <= answer.cost
    assert answer.cost >= knapsack(problem).bound
    assert {"allocator", "provider", "budget_bytes", "bound", "gap"} <= set(answer.recipe.provenance)


def test_knapsack_wins_over_every_other_allocator_by_its_own_scores() -> None:
    made = structure(40)
    problem = layer_problem(made, scores(made, 3), int(3.5 / 16 * full_bytes(made)))
    costs = {name: allocate(problem, name).cost for name in ALLOCATORS}
    assert min(costs, key=costs.__getitem__) in ("knapsack", "weight-error")
    assert costs["knapsack"] < costs["uniform"]
    assert costs["knapsack"] < 0.5 * costs["random"]
    assert costs["lagrangian"] <= 1.05 * costs["knapsack"]


def test_errors_alone_choose_and_the_scores_judge() -> None:
    made = structure(8)
    problem = layer_problem(made, scores(made, 1), int(0.25 * full_bytes(made)), Limits(keep_untouched=False))
    errors = scores(made, 2)
    answer, own = error_only(problem, errors.layers), layer_problem(made, errors, problem.budget_bytes,
                                                                    Limits(keep_untouched=False))
    assert answer.recipe.options == knapsack(own).recipe.options and answer.bytes <= problem.budget_bytes
    assert answer.cost == pytest.approx(sum(u.costs[i] for u, i in zip(problem.units, answer.picks, strict=True)))
    assert answer.cost > knapsack(problem).cost
    with pytest.raises(InputError, match="is not known"):
        error_only(problem, {})


def test_tied_copies_count_twice() -> None:
    made = structure(6, tied=True)
    problem = layer_problem(made, scores(made, 1), full_bytes(made), FEW)
    assert len(problem.units) == 5
    single = layer_problem(structure(6), scores(structure(6), 1), full_bytes(structure(6)), FEW)
    assert problem.units[0].bytes == tuple(2 * b for b in single.units[0].bytes)


def test_joint_candidates_see_what_adding_up_cannot() -> None:
    """Two layers that only hurt together: the block knapsack splits them, the layer knapsack cannot know."""
    made = structure(2)
    names = tuple(layer.name for layer in made.choices)
    pairs = tuple((a, b) for a in (U3, U4) for b in (U3, U4))
    joint = JointCosts(names, pairs, tuple(0.0 if a == b == U4 else 5.0 if a == b else 1.0 for a, b in pairs))
    four = recipe_bytes(made, dict.fromkeys(names, U4))
    answer = knapsack(joint_problem(made, [joint], four - 1, provider="blocks"))
    assert sorted(map(str, answer.recipe.options.values())) == ["uaq-3", "uaq-4"]
    pinned = joint_problem(made, [joint], four - 1, Limits(pinned={names[0]: U3}))
    assert knapsack(pinned).recipe.options[names[0]] == U3
    same = joint_problem(made, [joint], four - 1, Limits(groups=(names,)))
    assert set(knapsack(same).recipe.options.values()) == {U3}
    with pytest.raises(InputError, match="crosses blocks"):
        joint_problem(made, [JointCosts(names[:1], ((U3,),), (1.0,)), JointCosts(names[1:], ((U3,),), (1.0,))],
                      four, Limits(groups=(names,)))


def test_lambda_trades_bits_for_damage() -> None:
    made = structure(20)
    problem = layer_problem(made, scores(made, 2), full_bytes(made))
    found = [argmax(problem, weight) for weight in (0.0, 1e-3, 1e-2, 0.1, 1.0)]
    assert [a.bytes for a in found] == sorted((a.bytes for a in found), reverse=True)
    assert set(found[0].recipe.options.values()) == {FP16}
    # Whatever lambda picks is the best at its own size: the bound is met (Everett 1963).
    assert all(a.gap == pytest.approx(0, abs=1e-9) for a in found)
    with pytest.raises(InputError, match="raise lambda"):
        allocate(problem.with_budget(problem.smallest_bytes), "faithful", Settings(weight=0.0))


def test_a_sweep_is_monotone_and_cheap() -> None:
    made = structure(60)
    problem = layer_problem(made, scores(made, 7), full_bytes(made))
    budgets = [int(b / 16 * full_bytes(made)) for b in np.linspace(1, 8, 30)]
    points = list(sweep(problem, budgets))
    assert 0 < len(points) < 30  # one bit per weight is no recipe
    bounds = [p.bound for p in points]
    assert bounds == sorted(bounds, reverse=True)
    assert max(p.seconds for p in points) < 0.05


def test_uniform_recipes_per_method() -> None:
    made = structure(8)
    problem = layer_problem(made, scores(made, 4), int(4.6 / 16 * full_bytes(made)))
    found = uniforms(problem)
    assert set(found) == {"uaq", "kmeans_c", "kmeans_a"}
    assert set(found["uaq"].recipe.options.values()) == {U4}
    assert set(found["kmeans_a"].recipe.options.values()) == {Option("kmeans_a", 4)}
    with pytest.raises(InputError, match="above the budget"):
        uniform(problem, Option("uaq", 6))
    assert max(BITS) == 6


def test_the_threshold_rule_takes_the_smallest_option_that_passes() -> None:
    made = structure(10)
    problem = layer_problem(made, scores(made, 6), int(5 / 16 * full_bytes(made)))
    answer = threshold(problem)
    level = answer.recipe.provenance["threshold"]
    for unit, pick in zip(problem.units, answer.picks, strict=True):
        passing = [b for b, c in zip(unit.bytes, unit.costs, strict=True) if c <= level]
        assert unit.bytes[pick] == min(passing)
    stricter = max(c for u in problem.units for c in u.costs if c < level)
    size = sum(min(b for b, c in zip(u.bytes, u.costs, strict=True) if c <= stricter) for u in problem.units)
    assert size > problem.budget_bytes


def test_the_threshold_rule_by_hand() -> None:
    """Three layers; damages are 10^(-dB/10) of the signals 30/20/10, 25/15/5 and 40/35/12 dB at 4, 3, 2 bits."""
    made = structure(3)
    names = [x.name for x in made.choices]
    signal = {name: {f"kmeans_a-{bits}": 10 ** (-db / 10) for bits, db in zip((4, 3, 2), row, strict=True)}
              for name, row in zip(names, ((30, 20, 10), (25, 15, 5), (40, 35, 12)), strict=True)}
    given = Scores("cumulative", made.identity, "", signal)

    def size(*bits: int) -> int:
        return sum(stored_bytes(x, FP16 if b == 16 else Option("kmeans_a", b), 16)
                   for x, b in zip(made.choices, bits, strict=True))

    for budget, picked, passed in (
        (size(3, 4, 3), (3, 4, 3), 20),  # at 20 dB 3, 4 and 3 bits pass; at 15 dB 3, 3 and 3 do
        (size(3, 4, 3) - 1, (3, 3, 3), 15),
        (size(4, 16, 3), (4, 16, 3), 30),  # no width of the second passes 30 dB: it stays untouched
        (size(2, 2, 2), (2, 2, 2), 5),
    ):
        answer = allocate(layer_problem(made, given, budget), "threshold")
        assert tuple(answer.recipe.option(n).bits for n in names) == picked
        assert -10 * math.log10(answer.recipe.provenance["threshold"]) == pytest.approx(passed)
    assert ALLOCATORS["threshold"].provider == "cumulative"


def test_best_of_random_improves_with_draws_and_takes_a_judge() -> None:
    made = structure(12)
    problem = layer_problem(made, scores(made, 8), int(3.5 / 16 * full_bytes(made)))
    costs = [best_of_random(problem, n, 1).cost for n in (1, 4, 16)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[2]
    worst = best_of_random(problem, 16, 1, judge=lambda r: -sum(o.bits for o in r.options.values()))
    assert worst.cost >= costs[2]


def test_a_slack_of_one_byte_is_not_overspent() -> None:
    made = structure(6)
    loose = layer_problem(made, scores(made, 9), full_bytes(made), FEW)
    sizes = {knapsack(replace(loose, budget_bytes=b)).bytes - b
             for b in range(loose.smallest_bytes, loose.smallest_bytes + 3000, 97)}
    assert max(sizes) <= 0
