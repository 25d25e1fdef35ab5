"""Intervals: bootstrap against the normal theory, jackknife against the variance of a mean."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.metrics.bootstrap import difference_interval, half_width, interval, left_out, mean_metric, set_difference


def test_the_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    data = np.random.default_rng(0).standard_normal(400)
    low, high = interval(data)
    half = 1.96 * data.std() / 20
    assert low == pytest.approx(data.mean() - half, abs=0.015)
    assert high == pytest.approx(data.mean() + half, abs=0.015)
    assert interval(data) == (low, high)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    data = np.random.default_rng(1).standard_normal(50)
    value, values = left_out(lambda keep: float(data[keep].mean()), 50, groups=50)
    assert value == pytest.approx(data.mean())
    assert half_width(values) == pytest.approx(1.959964 * data.std(ddof=1) / 50**0.5, rel=1e-9)


def test_one_image_has_no_interval() -> None:
    metric = mean_metric("psnr", [30.0], "dB", higher_is_better=True)
    assert (metric.low, metric.value, metric.high, metric.n) == (30.0, 30.0, 30.0, 1)


def test_nan_and_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="image 1 is nan"):
        mean_metric("psnr", [1.0, float("nan")], "dB", higher_is_better=True)
    with pytest.raises(InputError, match="at least one"):
        mean_metric("psnr", [], "dB", higher_is_better=True)


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    image = 5 * rng.standard_normal(100)
    a, b = image + 0.3 + 0.1 * rng.standard_normal(100), image + 0.1 * rng.standard_normal(100)
    mean, low, high = difference_interval(a, b)
    assert low < mean < high and low > 0 and mean == pytest.approx(0.3, abs=0.05)
    assert interval(a)[0] < interval(b)[1]  # unpaired, the intervals overlap
    with pytest.raises(InputError, match="same images"):
        difference_interval(a, b[:-1])


def test_a_difference_of_sets_is_that_of_the_paired_values_and_forgets_what_they_share() -> None:
    """For a mean as the statistic it is the paired t interval; unpaired, what both sets share would widen it."""
    rng = np.random.default_rng(7)
    shared = 10 * rng.standard_normal(60)
    a, b = shared + rng.standard_normal(60), shared + rng.standard_normal(60)
    one, two = (left_out(lambda keep, x=x: float(x[keep].mean()), 60, groups=60) for x in (a, b))
    mean, low, high = set_difference(one[0], one[1].tolist(), two[0], two[1].tolist())
    assert mean == pytest.approx((a - b).mean())
    assert high - mean == pytest.approx(1.959964 * (a - b).std(ddof=1) / 60**0.5, rel=1e-9)
    assert high - low < 0.3 * half_width(one[1])
    with pytest.raises(InputError, match="same groups"):
        set_difference(one[0], [1.0], two[0], two[1].tolist())
