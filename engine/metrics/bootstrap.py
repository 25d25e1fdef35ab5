"""95 % intervals: bootstrap for means over images, jackknife for statistics of whole sets; NaN is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.core.errors import InputError
from engine.core.record import Metric
from engine.core.seeds import derive

RESAMPLES = 2000
GROUPS = 20
Z_95 = 1.959964


def interval(values: Sequence[float] | np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [n]; the same for the same values on any machine."""
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2:
        return float(data.mean()), float(data.mean())
    rng = np.random.default_rng(derive("bootstrap", len(data), resamples))
    means = np.concatenate([
        data[rng.integers(0, len(data), (min(200, resamples - done), len(data)))].mean(axis=1)
        for done in range(0, resamples, 200)
    ])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def difference_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a - b over the same images, with its interval: the comparison of two recipes. (mean, low, high)."""
    if len(a) != len(b):
        raise InputError(f"A paired difference needs the same images on both sides, got {len(a)} and {len(b)}.")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(difference.mean()), *interval(difference)


def left_out(statistic: Callable[[np.ndarray], float], count: int, groups: int = GROUPS) -> tuple[float, np.ndarray]:
    """Value of a statistic of a set, and its values [groups] with one group of images left out at a time.

    Resampling with replacement is wrong for kernel and Fréchet distances (repeated images look like a real
    coincidence); the delete-a-group jackknife is not (Shao and Tu 1995, 2.3).

    Args:
        statistic: from the indices of the images kept to the number.
        count: how many images there are.
        groups: how many groups they are dealt into; the same ones for every set of as many images.
    """
    everything = np.arange(count)
    groups = min(groups, count)
    if count < 4:
        return statistic(everything), np.full(groups, statistic(everything))
    return statistic(everything), np.array([statistic(everything[everything % groups != g]) for g in range(groups)])


def half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of a statistic, from its values with one group left out at a time."""
    groups = len(values)
    return Z_95 * float((groups - 1) / groups * np.sum((values - np.mean(values)) ** 2)) ** 0.5


def set_difference(a: float, a_left_out: Sequence[float], b: float,
                   b_left_out: Sequence[float]) -> tuple[float, float, float]:
    """a - b of one statistic of two sets of the same images, with its interval: (difference, low, high).

    The groups left out hold the same images on both sides, so what both sets share cancels.
    """
    if len(a_left_out) != len(b_left_out):
        raise InputError(f"A paired difference needs the same groups on both sides, got {len(a_left_out)} and "
                         f"{len(b_left_out)}.")
    half = half_width(np.asarray(a_left_out, np.float64) - np.asarray(b_left_out, np.float64))
    return a - b, a - b - half, a - b + half


def mean_metric(name: str, values: Sequence[float] | np.ndarray, unit: str, *, higher_is_better: bool) -> Metric:
    """The mean over images as a `Metric` with its bootstrap interval.

    Raises:
        InputError: there are no values, or one is NaN or infinite.
    """
    data = np.asarray(values, dtype=np.float64)
    if not data.size:
        raise InputError(f"{name} needs at least one image.")
    bad = np.flatnonzero(~np.isfinite(data))
    if bad.size:
        raise InputError(f"{name} of image {int(bad[0])} is {data[bad[0]]}: the images or weights hold NaN or Inf.")
    low, high = interval(data)
    return Metric(name, float(data.mean()), len(data), unit, low, high, higher_is_better)


def set_metric(name: str, value: float, half_width: float, n: int) -> Metric:
    """A distance between two sets of images as a `Metric` (smaller is better).

    Raises:
        InputError: it is NaN or infinite.
    """
    if not np.isfinite(value):
        raise InputError(f"{name} is {value}: the images or their features hold NaN or Inf.")
    return Metric(name, float(value), n, "", float(value - half_width), float(value + half_width), False)
