"""Agreement, deletion and insertion on a planted model, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from engine.analysis.faithfulness import agreement, compared, deletion, insertion, recovered
from engine.analysis.planted import Truth, true_scores
from engine.analysis.trials import TrialTable
from engine.core.errors import InputError


def test_agreement_has_an_interval_that_shrinks_with_items() -> None:
    rng = np.random.default_rng(0)
    def pair(n: int) -> tuple[dict[str, float], dict[str, float]]:
        a = rng.normal(size=n)
        return ({str(i): float(v) for i, v in enumerate(a)},
                {str(i): float(v) for i, v in enumerate(a + 0.7 * rng.normal(size=n))})
    few, many = (agreement("x", *pair(n)) for n in (15, 400))
    assert few.low <= few.spearman <= few.high
    assert many.high - many.low < few.high - few.low
    assert (few.n, many.n) == (15, 400)


def test_only_common_items_count_and_too_few_are_refused() -> None:
    a = {str(i): float(i) for i in range(10)}
    assert agreement("x", a, {str(i): float(i) for i in range(5, 20)}).n == 5
    with pytest.raises(InputError, match="3 layers in common"):
        agreement("x", a, {str(i): 1.0 for i in range(7, 20)})


def test_all_scores_are_compared_over_the_same_items_with_a_random_one() -> None:
    truth = {str(i): float(i) for i in range(30)}
    rows = {r.name: r for r in compared({"right": truth, "wrong": {k: -v for k, v in list(truth.items())[:20]}}, truth)}
    assert {r.n for r in rows.values()} == {20}
    assert rows["right"].spearman == pytest.approx(1)
    assert rows["wrong"].spearman == pytest.approx(-1)
    assert abs(rows["random"].spearman) < 0.6


def test_good_scores_take_most_of_the_change_first(truth: Truth, table: TrialTable) -> None:
    space, names = table.subject.space, table.subject.graph.choices
    options = {str(o): k for k, o in enumerate(space.options)}
    recipe, reference = np.full(len(names), options["uaq-3"]), np.full(len(names), options["uaq-4"])
    damage = np.array([true_scores(truth).layers[n]["uaq-3"] for n in names])

    def error(picks: np.ndarray) -> np.ndarray:
        each = [[truth.damage[n][str(space.options[k])] for n, k in zip(names, row, strict=True)] for row in picks]
        return -np.array(each).sum(1)

    rng = np.random.default_rng(0)
    for curve in (deletion, insertion):
        best = curve(damage, recipe, reference, error)
        assert len(best.quality) == len(names) + 1
        assert sorted(best.order) == list(range(len(names)))
        chance = [curve(rng.normal(size=len(names)), recipe, reference, error).area for _ in range(20)]
        assert best.area > max(chance)
        assert curve(-damage, recipe, reference, error).area < min(chance)
        assert 0.35 < np.mean(chance) < 0.65


def test_recovered_is_the_share_found() -> None:
    assert recovered({"a": 3.0, "b": 2.0, "c": 1.0}, ["a", "c"]) == 0.5


def test_a_lead_is_over_the_same_resampled_items() -> None:
    """Two scores that err alike: each alone is uncertain, their difference is 0 in every draw."""
    rng = np.random.default_rng(0)
    truth = {str(i): float(v) for i, v in enumerate(rng.normal(size=20))}
    noisy = {k: v + 0.8 * float(rng.normal()) for k, v in truth.items()}
    twin = {k: 3 * v - 1 for k, v in noisy.items()}
    rows = {r.name: r for r in compared({"lead": noisy, "twin": twin, "worse": {k: -v for k, v in noisy.items()}},
                                        truth, lead="lead")}
    assert rows["lead"].behind is None and rows["twin"].behind == (0, 0, 0)
    assert rows["lead"].high - rows["lead"].low > 0.1
    assert rows["worse"].behind is not None
    assert rows["worse"].behind[0] == pytest.approx(2 * rows["lead"].spearman) and rows["worse"].behind[1] > 0
    assert all(r.behind is None for r in compared({"lead": noisy}, truth))
