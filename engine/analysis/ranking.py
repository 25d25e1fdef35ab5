"""How well predictions rank what was measured: Spearman, Kendall, true NDCG@10, error; overall and within bits bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

Floats = npt.NDArray[np.float64]
BIN_BITS = 0.1
LEAST_PER_BIN = 8
TOP = 10
RELEVANCE = 50.0
WORST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Quality:
    """Agreement of held-out predictions with measured labels.

    Attributes:
        spearman, kendall: over all trials (tau b).
        spearman_in_bins: mean over bins of `BIN_BITS` bits per weight and one preset, weighted by trials; None without
            a bin of `LEAST_PER_BIN` trials.
        ndcg10: NDCG of the first 10 by prediction, gain = relevance.
        mae: mean absolute error in the unit of the label.
        trials, bins: how many trials, and how many bins the mean is over.
        pooled_in_bins: the same with all presets in one bin, where telling them apart already ranks.
        by_preset: preset -> the mean over its own bins.
        mape: mean absolute error relative to the label; None where a label is 0.
    """

    spearman: float
    kendall: float
    spearman_in_bins: float | None
    ndcg10: float
    mae: float
    trials: int
    bins: int
    pooled_in_bins: float | None = None
    by_preset: dict[str, float | None] = field(default_factory=dict)
    mape: float | None = None


def quality(predicted: Floats, measured: Floats, bits: Floats, presets: Sequence[str] = ()) -> Quality:
    """All figures of one predictor; arguments are [T], higher = better. Presets: of each trial; () = all of one."""
    in_bins, bins = spearman_in_bins(predicted, measured, bits, presets)
    names = np.array(presets, str)
    each = {str(p): spearman_in_bins(*(x[names == p] for x in (predicted, measured, bits)))[0]
            for p in np.unique(names)}
    return Quality(spearman(predicted, measured), kendall(predicted, measured), in_bins,
                   ndcg(predicted, relevance(measured, measured), TOP),
                   float(np.abs(predicted - measured).mean()), len(measured), bins,
                   spearman_in_bins(predicted, measured, bits)[0], each,
                   float(np.abs(predicted / measured - 1).mean()) if np.all(measured) else None)


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side is constant, since it ranks nothing."""
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else 0.0


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau b; 0 where one side is constant."""
    value = float(kendalltau(a, b).statistic)
    return value if np.isfinite(value) else 0.0


def spearman_in_bins(predicted: Floats, measured: Floats, bits: Floats, presets: Sequence[str] = (),
                     width: float = BIN_BITS) -> tuple[float | None, int]:
    """Mean Spearman within bins of average bits and preset, weighted by trials, and the number of bins."""
    members = [m for m in bins_of(bits, presets, width) if len(m) >= LEAST_PER_BIN]
    if not members:
        return None, 0
    values = [spearman(predicted[m], measured[m]) for m in members]
    return float(np.average(values, weights=[len(m) for m in members])), len(members)


def bins_of(bits: Floats, presets: Sequence[str] = (), width: float = BIN_BITS) -> list[npt.NDArray[np.intp]]:
    """Indices of the trials in each bin [k w, (k + 1) w) of average bits and one preset, empty bins left out.

    Presets differ in quality at the same bits, so ranking across them asks which preset a recipe is of, not how good.
    """
    which = np.floor(np.asarray(bits) / width + 1e-9).astype(int)
    group = np.unique(np.array(presets, str), return_inverse=True)[1] if len(presets) else np.zeros_like(which)
    keys = np.stack([which, group], 1)
    return [np.flatnonzero((keys == key).all(1)) for key in np.unique(keys, axis=0)]


def relevance(y: Floats, train: Floats) -> Floats:
    """50 * clip((y - L) / (U - L), 0, 1) with L the 20th percentile and U the maximum of the training labels
    (Qua2SeDiMo section 3.2): the worst fifth is equally irrelevant."""
    low, high = float(np.quantile(train, WORST_SHARE)), float(np.max(train))
    return RELEVANCE * np.clip((y - low) / max(high - low, 1e-12), 0, 1)


def ndcg(predicted: Floats, gains: Floats, top: int) -> float:
    """sum of gain / log2(1 + rank) over the first `top` by prediction, over that of the best order.

    Tied predictions share their places' discount evenly, so that a constant prediction gets no luck.
    """
    discount = np.where(np.arange(len(gains)) < top, 1 / np.log2(np.arange(len(gains)) + 2), 0.0)
    best = float((np.sort(gains)[::-1] * discount).sum())
    if best == 0:
        return 1.0
    order = np.argsort(-predicted, kind="stable")
    _, group = np.unique(-predicted[order], return_inverse=True)
    mean = np.bincount(group, weights=gains[order]) / np.bincount(group)
    return float((mean[group] * discount).sum() / best)
