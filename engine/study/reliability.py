"""How far labels can be trusted: do two disjoint halves of the prompts rank the trials alike?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from engine.core.errors import StudyError
from engine.core.seeds import derive
from engine.study.sampling import Uniforms

SPLITS = 20
BIN_BITS = 0.25
LEAST_PER_BIN = 8

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Spearman between the labels of two halves of the prompts; not corrected for the halves' length.

    Attributes:
        metric: the label.
        median, low, high: over the splits, all trials together.
        median_in_bins: median over the splits of the mean within bins of average bits (weighted by trials); None
            where no bin holds enough trials.
        bins: how many bins that is a mean of.
        trials, images, splits: what it was computed from.
        corrected: always False.
    """

    metric: str
    median: float
    low: float
    high: float
    median_in_bins: float | None
    bins: int
    trials: int
    images: int
    splits: int
    corrected: bool = False


def label_reliability(metric: str, values: Floats, groups: Sequence[Hashable], bits: Floats,
                      splits: int = SPLITS, seed: int = 0) -> Reliability:
    """Reliability of the mean over images as a label.

    Args:
        metric: its name, for the record.
        values: [T, M], the metric of every image of every trial.
        groups: [M], the prompt (or label) of every image; images of one prompt stay together.
        bits: [T], stored bits per weight.
        splits: how many random halvings.
        seed: of the halvings.

    Raises:
        StudyError: fewer than three trials, fewer than two prompts, NaN, or labels that are all equal.
    """
    values, bits = np.asarray(values, np.float64), np.asarray(bits, np.float64)
    if len(values) < 3 or len(set(groups)) < 2:
        raise StudyError(f"Label reliability needs at least 3 trials and 2 prompts, got {len(values)} trials and "
                         f"{len(set(groups))} prompts; measure more.")
    if not np.isfinite(values).all():
        raise StudyError(f"{metric} holds NaN or Inf in {int((~np.isfinite(values)).any(1).sum())} trials; "
                         f"measure them again.")
    members = [m for m in bin_members(bits) if len(m) >= LEAST_PER_BIN]
    overall, within = [], []
    for split in range(splits):
        mask = half_of(groups, derive("halves", seed, split))
        a, b = values[:, mask].mean(1), values[:, ~mask].mean(1)
        overall.append(spearman(a, b, metric))
        if members:
            weights = [len(m) for m in members]
            within.append(float(np.average([spearman(a[m], b[m], metric) for m in members], weights=weights)))
    return Reliability(metric, float(np.median(overall)), min(overall), max(overall),
                       float(np.median(within)) if within else None, len(members), values.shape[0], values.shape[1],
                       splits)


def half_of(groups: Sequence[Hashable], seed: int) -> npt.NDArray[np.bool_]:
    """A random half of the prompts as a mask over images [M]."""
    names = list(dict.fromkeys(groups))
    uniform = Uniforms(seed)
    order = sorted(range(len(names)), key=[uniform.next() for _ in names].__getitem__)
    chosen = {names[i] for i in order[:len(names) // 2]}
    return np.array([g in chosen for g in groups])


def bin_members(bits: Floats, width: float = BIN_BITS) -> list[npt.NDArray[np.intp]]:
    """Indices of the trials in each bin [k w, (k + 1) w) of average bits, empty bins left out."""
    which = np.floor(np.asarray(bits) / width + 1e-9).astype(int)
    return [np.flatnonzero(which == k) for k in np.unique(which)]


def spearman(a: Floats, b: Floats, what: str = "The label") -> float:
    """Rank correlation of two columns [T], ties at their mean rank.

    Raises:
        StudyError: one column is constant.
    """
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    if scale == 0:
        raise StudyError(f"{what} is the same in all {len(x)} trials, so it ranks nothing; choose another label.")
    return float((x * y).sum() / scale)
