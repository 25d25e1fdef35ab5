"""Intervals: bootstrap against the normal theory, jackknife against the variance of a mean."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.errors import InputError
from engine.metrics.bootstrap import difference_interval, interval, jackknife, mean_metric


def test_the_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    data = np.random.default_rng(0).standard_normal(400)
    low, high = interval(data)
    half = 1.96 * data.std() / 20
    assert low == pytest.approx(data.mean() - half, abs=0.015)
    assert high == pytest.approx(data.mean() + half, abs=0.015)
    assert interval(data) == (low, high)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    data = np.random.default_rng(1).standard_normal(50)
    value, half = jackknife(lambda keep: float(data[keep].mean()), 50, groups=50)
    assert value == pytest.approx(data.mean())
    assert half == pytest.approx(1.959964 * data.std(ddof=1) / 50**0.5, rel=1e-9)


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
