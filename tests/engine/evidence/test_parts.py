"""The parts of the evidence by themselves: orders and curves, verdicts, agreement, and the learning curve's file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.advisor import Advisor
from engine.analysis.fitting import fit_predictor, fitted
from engine.analysis.planted import Plan, Truth, measure, plant
from engine.analysis.predictor import Kind
from engine.analysis.trials import TrialTable, subject_of, trial_table
from engine.core.errors import InputError, StudyError
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, uniform
from engine.core.record import Metric, Scores
from engine.core.sizes import recipe_bytes
from engine.evidence.agreement import agreements, at_option
from engine.evidence.contest import (
    CANDIDATES,
    EQUAL,
    EVERYONE,
    OURS,
    RANDOM,
    UNIFORM,
    Budget,
    Dropped,
    Entry,
    Sources,
    at_budget,
    budgets,
    entries,
    fingerprint,
)
from engine.evidence.cost import cost_of
from engine.evidence.effort import Effort, efforts
from engine.evidence.gauge import Result
from engine.evidence.learning import learning_curve
from engine.evidence.switching import curve, orders, recipes_of
from engine.evidence.verdict import judge, verdicts
from engine.providers.table import IMAGE_MSE

U3 = Option("uaq", 3)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return plant(Plan(blocks=4), 0)


@pytest.fixture(scope="module")
def table(truth: Truth) -> TrialTable:
    trials = measure(truth, 60, 1)
    return trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")


def test_curves_switch_one_block_at_a_time(truth: Truth) -> None:
    blocks = [b.id for b in truth.structure.level("block")]
    for kind, first, last in (("deletion", U3, FP16), ("insertion", FP16, U3)):
        recipes = recipes_of(truth.structure, blocks, U3, kind)
        assert len(recipes) == len(blocks) + 1
        for recipe, option in ((recipes[0], first), (recipes[-1], last)):
            assert {recipe.option(layer.name) for layer in truth.structure.choices} == {option}
        for block, before, after in zip(blocks, recipes, recipes[1:], strict=False):
            members = next(b.layers for b in truth.structure.blocks if b.id == block)
            changed = {n.name for n in truth.structure.choices if before.option(n.name) != after.option(n.name)}
            assert changed == set(members)


def test_an_early_change_has_a_large_area() -> None:
    assert curve("x", "deletion", [4, 0, 0, 0]).area == pytest.approx(3 / 4)
    assert curve("x", "deletion", [4, 4, 4, 0]).area == pytest.approx(1 / 4)
    assert curve("x", "insertion", [0, 1, 2, 3]).area == pytest.approx(1 / 2)
    assert curve("x", "insertion", [1, 1, 1]).area == 0.5


def test_orders_put_the_most_damaging_first() -> None:
    found = orders({"one": {"a": 1, "b": 3, "c": 2}, "partial": {"a": 1}}, ["a", "b", "c"])
    assert found["one"] == ["b", "c", "a"]
    assert set(found) == {"one", "random"}
    assert sorted(found["random"]) == ["a", "b", "c"]


def test_only_intervals_without_zero_are_verdicts() -> None:
    assert [judge(d) for d in ((1, 0.5, 2), (-1, -2, -0.5), (1, -0.1, 2))] == ["better", "worse", "even"]


def test_where_less_is_better_the_verdict_turns_round() -> None:
    found = [judge(d, higher_is_better=False) for d in ((1, 0.5, 2), (-1, -2, -0.5), (1, -0.1, 2))]
    assert found == ["worse", "better", "even"]


def test_every_paired_metric_has_its_difference_and_verdict(truth: Truth) -> None:
    recipe = uniform(truth.structure, "uaq-3")
    other = uniform(truth.structure, "uaq-4")

    def result(of: Recipe, psnr: float, error: float) -> Result:
        columns = {"psnr": psnr + np.arange(8.0), "feature_distance[x]": error + np.arange(8.0)}
        metrics = tuple(Metric(n, float(v.mean()), 8, "", float(v.min()), float(v.max()), True)
                        for n, v in columns.items())
        return Result(of.hash, 1, {}, metrics, {n: tuple(v) for n, v in columns.items()}, 0.0)

    final = {recipe.hash: result(recipe, 21.0, 3.0), other.hash: result(other, 20.0, 1.0)}
    own = [Entry("b", OURS, recipe, 1, "predicted optimum"), Entry("b", "size-only", other, 1)]
    (answer,) = verdicts([Budget("b", "bits", 1)], own, final)
    row = answer["rows"][1]
    assert row["differences"] == {"psnr": [1, 1, 1], "feature_distance": [2, 2, 2]}
    assert row["verdicts"] == {"psnr": "better", "feature_distance": "worse"} and row["verdict"] == "better"


def test_what_started_from_measurements_is_not_compared_with_them(truth: Truth) -> None:
    structure = truth.structure
    measured = Scores("measured", structure.identity, IMAGE_MSE, {n: {"uaq-3": r["uaq-3"]} for n, r in
                                                                  truth.damage.items()})
    exact = Scores("exact", structure.identity, "", truth.damage)
    knowing = Scores("knowing", structure.identity, "", truth.damage, about={"kind": "anchored"})
    (group,) = agreements(structure, [exact, knowing], {"measured": measured, "weight-error": truth.errors})
    assert (group["level"], group["option"]) == ("layers", "uaq-3")
    rows = {r.name: r for r in group["rows"]}  # type: ignore[attr-defined]
    assert set(rows) == {"exact", "weight-error", "size-only", "random"}
    assert rows["exact"].spearman == pytest.approx(1.0)
    assert rows["exact"].low > rows["random"].high


def test_blocks_are_the_sum_of_their_layers(truth: Truth) -> None:
    scores = Scores("x", "", "", truth.damage)
    found = at_option(truth.structure, scores, "uaq-3", "blocks")
    for block in truth.structure.level("block"):
        assert found[block.id] == pytest.approx(sum(truth.damage[n]["uaq-3"] for n in block.layers))


def test_budgets_are_those_of_the_uniform_recipes(truth: Truth) -> None:
    found = budgets(truth.structure)
    for budget in (b for b in found if b.group == "equal"):
        option = Option(budget.option.split("-")[0], int(budget.option[-1]))
        assert budget.bytes == recipe_bytes(truth.structure, {n.name: option for n in truth.structure.choices})
    assert [b.option for b in found if b.option] == list(EQUAL)


def test_nearly_equal_budgets_are_solved_once(truth: Truth, table: TrialTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks of a tensor are a few bytes, so 3 bits and the bytes of kmeans_a-3 are nearly one budget."""
    monkeypatch.setattr("engine.evidence.contest.NEAR_EQUAL", 0.05)  # the planted model is tiny
    sizes = budgets(truth.structure)
    by = {b.name: b for b in sizes}
    sharing = [b for b in sizes if b.shares]
    assert "bytes of kmeans_a-3" in {b.name for b in sharing} and by["bytes of kmeans_a-3"].shares == "3 bits"
    for b in sharing:
        assert not by[b.shares].shares and 0 <= b.bytes - by[b.shares].bytes < 0.05 * b.bytes
    advisor = Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE])))
    sources = Sources(advisor, {"weight-error": truth.errors})
    budget = by["bytes of kmeans_a-3"]
    own = [e for e in entries(sources, budget) if isinstance(e, Entry)]
    assert [(e.contender, e.note) for e in own] == [(UNIFORM, "kmeans_a-3")]
    other = [e for e in entries(sources, by["3 bits"]) if isinstance(e, Entry)]
    here = at_budget([*own, *other], budget)
    assert [e for e in here if e.contender == UNIFORM] == own
    assert {e.contender for e in here} == {e.contender for e in other} | {UNIFORM}
    assert all(e.bytes <= budget.bytes for e in here)


def test_ours_is_chosen_before_the_final_images(truth: Truth) -> None:
    recipes = [uniform(truth.structure, "uaq-3"), uniform(truth.structure, "uaq-4")]
    several = [Entry("b", OURS, r, 1, str(i)) for i, r in enumerate(recipes)]
    with pytest.raises(AssertionError, match="chosen before"):
        verdicts([Budget("b", "bits", 1)], several, {})


@pytest.mark.slow
def test_our_candidates_fit_and_differ(truth: Truth, table: TrialTable) -> None:
    advisor = Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE])))
    measured = Scores("measured", truth.structure.identity, IMAGE_MSE, truth.damage)
    budget = budgets(truth.structure)[0]
    sources = Sources(advisor, {"measured": measured, "weight-error": truth.errors})
    every = [e for e in entries(sources, budget) if isinstance(e, Entry)]
    found = [e for e in every if e.contender == OURS]
    assert len(found) == CANDIDATES
    assert [e.note for e in found[:2]] == ["predicted optimum", "layers measured alone"]
    assert all(e.bytes <= budget.bytes for e in found)
    assert len({e.recipe.hash for e in found}) > CANDIDATES / 2
    again = [e for e in entries(sources, budget) if isinstance(e, Entry) and e.contender == OURS]
    assert [e.recipe.hash for e in again] == [e.recipe.hash for e in found]
    # What is shaken a little stays good: no candidate is as bad as choosing by size alone.
    blind = next(e for e in every if e.contender == "size-only")
    assert min(truth.psnr(dict(e.recipe.options)) for e in found) > truth.psnr(dict(blind.recipe.options))
    tiny = Budget("nothing", "low", 10)
    (nobody,) = entries(sources, tiny)
    assert isinstance(nobody, Dropped) and nobody.contender == EVERYONE and "budget" in nobody.why


@pytest.mark.slow
def test_who_has_no_recipe_is_named_with_the_reason(truth: Truth, table: TrialTable,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    advisor = Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE])))
    budget = budgets(truth.structure)[0]
    dropped = [e for e in entries(Sources(advisor, {"weight-error": truth.errors}), budget) if isinstance(e, Dropped)]
    assert {d.contender for d in dropped} == {"measured-greedy", "measured, knapsack", "threshold"}
    assert all(d.contender.startswith("measured") == ("measured" in d.why) for d in dropped)

    def refuse(*_: object) -> None:
        raise InputError("it cannot be.")

    monkeypatch.setattr("engine.evidence.contest.allocate", refuse)
    failed = [e for e in entries(Sources(advisor, {"weight-error": truth.errors}), budget) if isinstance(e, Dropped)]
    assert {d.contender for d in failed if d.why == "it cannot be."} == {"size-only", "weight-error"}


def test_kept_contenders_belong_to_the_scores_they_came_from(truth: Truth, table: TrialTable,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    advisor = Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE])))
    sizes = budgets(truth.structure)
    known = {"weight-error": truth.errors}

    def named(found: dict[str, Scores], digest: str = "d") -> str:
        return fingerprint(digest, Sources(advisor, found), sizes)

    signal = Scores("cumulative", truth.structure.identity, "", truth.damage)
    louder = replace(signal, layers={n: {o: 2 * d for o, d in row.items()} for n, row in truth.damage.items()})
    names = [named(known), named({**known, "cumulative": signal}), named({**known, "cumulative": louder}),
             named(known, "other trials"), fingerprint("d", Sources(advisor, known), sizes[1:])]
    for constant in ("DRAWS", "CANDIDATES", "SHAKE", "MIDDLING"):
        with monkeypatch.context() as patch:
            patch.setattr(f"engine.evidence.contest.{constant}", 3)
            names.append(named(known))
    assert len(set(names)) == len(names)
    assert named({**known, "attribution": signal}) == named(known)  # nobody allocates by it


@pytest.mark.slow
def test_more_trials_teach_more_and_finished_sizes_are_kept(table: TrialTable, tmp_path: Path) -> None:
    kept = tmp_path / "curve.jsonl"

    def run(sizes: tuple[int, ...], about: str = "a") -> tuple[int, dict[int, dict[str, object]]]:
        steps = learning_curve(table, kept, {"digest": about}, sizes=sizes, kinds=[Kind.DAMAGE])
        count = 0
        while True:
            try:
                next(steps)
                count += 1
            except StopIteration as end:
                return count, end.value

    steps, first = run((16,))
    assert steps == 5  # one for each fold
    more, both = run((16, 40, 1000))  # larger than a fold: left out
    assert (more, list(both)) == (5, [16, 40])
    assert both[16] == first[16]
    assert both[40]["damage"].mae < both[16]["damage"].mae  # type: ignore[attr-defined]
    assert set(both[16]) == {"average bits", "weight error", "ridge", "damage"}
    with pytest.raises(StudyError):
        run((16,), "other trials")
    assert np.isfinite(both[40]["ridge"].mae)  # type: ignore[attr-defined]


def test_efforts_are_counted_in_one_unit_for_everyone(truth: Truth, table: TrialTable) -> None:
    protocol = SimpleNamespace(images=64, steps=20)
    studied: Any = SimpleNamespace(table=table, protocol=protocol)
    once = {n: {"uaq-3": 1.0} for n in truth.damage}
    layers = len(once)
    measured = Scores("measured", "", IMAGE_MSE, once, about={"images": "16", "steps": "20"})
    apple = Scores("cumulative", "", "", once, about={"images": "8", "steps": "1", "evaluations": "30"})
    judged = [Effort(OURS, "judged", 8, 16, 20), Effort(OURS, "judged", 2, 64, 20), Effort(RANDOM, "judged", 8, 16, 20)]
    total: dict[str, int] = {}
    names = {OURS, RANDOM, "threshold", "measured-greedy", "measured, knapsack", "faithful, layers"}
    for e in [*efforts(studied, {"measured": measured, "cumulative": apple}, names), *judged]:
        total[e.contender] = total.get(e.contender, 0) + e.image_steps
    assert total[OURS] == 20 * (64 * len(table) + 16 * layers + 8 * 16 + 2 * 64)
    assert total["threshold"] == 30 * 8
    assert total["measured-greedy"] == total["measured, knapsack"] == 20 * 16 * layers
    assert total[RANDOM] == 20 * 8 * 16
    assert total["faithful, layers"] == 20 * 64 * len(table)
    assert {e.contender for e in efforts(studied, {}, {OURS, "size-only"})} == {OURS}
    with pytest.raises(InputError, match="do not say how many steps"):
        efforts(studied, {"measured": replace(measured, about={"images": "16"})}, names)


def test_a_machine_that_stood_still_does_not_move_the_median() -> None:
    seconds = np.array([10.0, 10, 10, 10, 1000])
    found = cost_of(SimpleNamespace(seconds=seconds, generating=0.98 * seconds - np.array([0, 0, 0, 0, 900])))  # type: ignore[arg-type]
    assert (found["median_seconds"], found["seconds_per_trial"]) == (10, 208)
    assert found["median_overhead"] == pytest.approx(0.02)
    assert found["overhead"] == pytest.approx(1 - (0.98 * 1040 - 900) / 1040)
