"""How well predictions rank what was measured: Spearman, Kendall, true NDCG@10, error; overall and within bits bins."""

from __future__ import annotations

from dataclasses import dataclass

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
        spearman_in_bins: mean over bins of `BIN_BITS` bits per weight, weighted by trials; None without a bin of
            `LEAST_PER_BIN` trials.
        ndcg10: NDCG of the first 10 by prediction, gain = relevance.
        mae: mean absolute error in the unit of the label.
        trials, bins: how many trials, and how many bins the mean is over.
    """

    spearman: float
    kendall: float
    spearman_in_bins: float | None
    ndcg10: float
    mae: float
    trials: int
    bins: int


def quality(predicted: Floats, measured: Floats, bits: Floats) -> Quality:
    """All figures of one predictor; arguments are [T], higher = better."""
    in_bins, bins = spearman_in_bins(predicted, measured, bits)
    return Quality(spearman(predicted, measured), kendall(predicted, measured), in_bins,
                   ndcg(predicted, relevance(measured, measured), TOP),
                   float(np.abs(predicted - measured).mean()), len(measured), bins)


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side is constant, since it ranks nothing."""
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else 0.0


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau b; 0 where one side is constant."""
    value = float(kendalltau(a, b).statistic)
    return value if np.isfinite(value) else 0.0


def spearman_in_bins(predicted: Floats, measured: Floats, bits: Floats,
                     width: float = BIN_BITS) -> tuple[float | None, int]:
    """Mean Spearman within bins of average bits, weighted by trials, and the number of bins."""
    which = np.floor(np.asarray(bits) / width + 1e-9).astype(int)
    members = [np.flatnonzero(which == k) for k in np.unique(which)]
    members = [m for m in members if len(m) >= LEAST_PER_BIN]
    if not members:
        return None, 0
    values = [spearman(predicted[m], measured[m]) for m in members]
    return float(np.average(values, weights=[len(m) for m in members])), len(members)


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
