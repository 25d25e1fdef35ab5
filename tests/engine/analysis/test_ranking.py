"""Rank figures against scipy and hand-made sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from engine.analysis.ranking import bins_of, kendall, ndcg, quality, relevance, spearman, spearman_in_bins

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipys(ties: bool) -> None:
    a, b = RNG.normal(size=50), RNG.normal(size=50)
    if ties:
        a, b = np.round(a), np.round(b)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)


def test_a_constant_ranks_nothing() -> None:
    a = np.arange(10.0)
    assert spearman(a, np.ones(10)) == kendall(a, np.ones(10)) == 0.0


def test_within_bins_the_trend_between_bins_does_not_count() -> None:
    bits = np.repeat([3.01, 3.15], 20)
    inside = np.tile(np.arange(20.0), 2)
    measured = 100 * bits + inside
    assert spearman(bits, measured) > 0.7
    value, bins = spearman_in_bins(100 * bits - inside, measured, bits)
    assert (value, bins) == (pytest.approx(-1.0), 2)
    assert spearman_in_bins(inside, measured, np.arange(40.0)) == (None, 0)


def test_telling_presets_apart_earns_nothing_within_one_preset() -> None:
    presets = ["fine", "rough"] * 20
    bits, is_fine = np.full(40, 4.2), np.array([p == "fine" for p in presets])
    inside = RNG.permutation(40).astype(float)
    found = quality(is_fine.astype(float), 100 * is_fine + inside, bits, presets)  # knows the preset, nothing else
    assert found.pooled_in_bins is not None and found.pooled_in_bins > 0.8
    assert (found.spearman_in_bins, found.by_preset, found.bins) == (0.0, {"fine": 0.0, "rough": 0.0}, 2)
    exact = quality(inside, 100 * is_fine + inside, bits, presets)
    assert exact.by_preset == {"fine": pytest.approx(1), "rough": pytest.approx(1)}
    assert exact.spearman_in_bins == pytest.approx(1)
    assert exact.pooled_in_bins is not None and exact.pooled_in_bins < 0.9


def test_bins_hold_every_trial_once() -> None:
    bits, presets = RNG.uniform(3, 4, 50), [f"p{i % 3}" for i in range(50)]
    members = bins_of(bits, presets)
    assert sorted(np.concatenate(members)) == list(range(50))
    for m in members:
        assert len({presets[i] for i in m}) == 1 and len({int(bits[i] / 0.1 + 1e-9) for i in m}) == 1


def test_ndcg_counts_the_first_ten_by_prediction() -> None:
    gains = np.array([5.0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9])
    order = np.arange(12)[::-1].astype(float)  # predicted: the first item is best, the last worst
    seen = 5 / np.log2(2) + 3 / np.log2(5)
    best = 9 / np.log2(2) + 5 / np.log2(3) + 3 / np.log2(4)
    assert ndcg(order, gains, 10) == pytest.approx(seen / best)
    assert ndcg(gains, gains, 10) == pytest.approx(1)


def test_a_constant_prediction_gets_the_mean_gain() -> None:
    gains = np.array([4.0, 0, 0, 0])
    discount = (1 / np.log2(np.arange(4) + 2)).sum()
    assert ndcg(np.zeros(4), gains, 10) == pytest.approx(discount * 1 / 4)


def test_the_worst_fifth_is_equally_irrelevant() -> None:
    y = np.arange(101.0)
    found = relevance(y, y)
    assert (found[:21] == 0).all()
    assert found[100] == 50
    assert relevance(np.array([1000.0]), y)[0] == 50


def test_perfect_and_reversed_predictions() -> None:
    y, bits = RNG.normal(size=60), np.full(60, 3.55)
    good, bad = quality(y, y, bits), quality(-y, y, bits)
    assert (good.spearman, good.kendall, good.spearman_in_bins, good.ndcg10, good.mae) == (1, 1, 1, 1, 0)
    assert (good.trials, good.bins) == (60, 1)
    assert bad.spearman == bad.kendall == bad.spearman_in_bins == -1
