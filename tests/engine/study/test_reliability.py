"""Label reliability against a computation by hand and a planted signal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from engine.core.errors import StudyError
from engine.study.reliability import bin_members, half_of, label_reliability, spearman


def test_spearman_agrees_with_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_by_hand() -> None:
    # Two prompts with one image each: every split is image 0 against image 1. Ranks 1 2 3 4 against 1 3 2 4:
    # 1 - 6 * 2 / (4 * 15) = 0.8.
    values = np.array([[1, 10], [2, 30], [3, 20], [4, 40]])
    r = label_reliability("x", values, ["a", "b"], np.full(4, 3.5))
    assert (r.median, r.low, r.high) == pytest.approx((0.8, 0.8, 0.8))
    assert (r.splits, r.images, r.trials, r.corrected, r.median_in_bins) == (20, 2, 4, False, None)


def test_halves_split_prompts_not_images() -> None:
    groups = list("aabbccddee")
    for seed in range(20):
        mask = half_of(groups, seed)
        assert mask.sum() == 4 and {g for g, m in zip(groups, mask, strict=True) if m}.isdisjoint(
            g for g, m in zip(groups, mask, strict=True) if not m)
    assert len({tuple(half_of(groups, seed)) for seed in range(20)}) > 5


def test_planted_signal() -> None:
    rng = np.random.default_rng(1)
    signal, bits = rng.normal(size=1000), rng.uniform(3, 4, 1000)
    signal, noise = signal / signal.std(), rng.normal(size=(1000, 64))
    clean = label_reliability("x", signal[:, None] + 0 * noise, range(64), bits)
    # The mean of 32 images has noise of 1/sqrt(32) of sigma = 4: Pearson 1 / (1 + 0.5), so
    # Spearman 6 / pi asin(1 / 3).
    noisy = label_reliability("x", signal[:, None] + 4 * noise, range(64), bits)
    none = label_reliability("x", noise, range(64), bits)
    assert clean.median == pytest.approx(1) and clean.median_in_bins == pytest.approx(1)
    assert noisy.median == pytest.approx(6 / np.pi * np.arcsin(1 / 3), abs=0.05)
    assert abs(none.median) < 0.12


def test_bits_alone_are_not_reliable_within_bins() -> None:
    rng = np.random.default_rng(2)
    bits = rng.uniform(3, 4, 400)
    r = label_reliability("x", -bits[:, None] + 0.2 * rng.normal(size=(400, 40)), range(40), bits)
    assert r.bins == 4 and r.median > 0.95 and r.median_in_bins is not None and r.median_in_bins < r.median - 0.05


def test_bins_are_a_quarter_bit() -> None:
    assert [list(m) for m in bin_members(np.array([3.0, 3.249, 3.25, 3.9]))] == [[0, 1], [2], [3]]


@pytest.mark.parametrize(("values", "groups"), [
    (np.ones((2, 4)), "abcd"), (np.ones((5, 4)), "aaaa"), (np.full((5, 4), np.nan), "abcd"), (np.ones((5, 4)), "abcd"),
])
def test_what_cannot_be_ranked_is_one_sentence(values: np.ndarray, groups: str) -> None:
    with pytest.raises(StudyError):
        label_reliability("x", values, groups, np.full(len(values), 3.0))
