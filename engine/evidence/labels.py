"""How far the target itself can be believed: two halves of the prompts, ranked by the very bins that predictors are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.analysis.formula import BITS, parse_formula
from engine.analysis.ranking import Floats, quality, spearman_in_bins
from engine.core.seeds import derive
from engine.evidence.studied import Studied
from engine.study.reliability import BIN_BITS as COARSE_BITS
from engine.study.reliability import SPLITS, half_of
from engine.study.storage import read_study
from engine.study.summary import prompts_of


@dataclass(frozen=True, slots=True)
class TargetReliability:
    """Spearman between the target from two disjoint halves of the prompts, medians over the splits, uncorrected.

    Attributes:
        median, low, high: over all trials together.
        coarse: within bins of a quarter bit; None where no bin holds enough trials (as all below).
        in_bins: within the bins of bits and preset that predictors are ranked in.
        pooled_in_bins: within the same bits, presets mixed.
        by_preset: preset -> within its own bins.
        ceiling: the in-bin Spearman that the noise-free order would reach against labels of all images: halves that
            agree to r make wholes of reliability 2 r / (1 + r) (Spearman and Brown), whose root bounds a correlation.
        trials, images, splits: what it was computed from.
    """

    median: float
    low: float
    high: float
    coarse: float | None
    in_bins: float | None
    pooled_in_bins: float | None
    by_preset: dict[str, float | None]
    ceiling: float | None
    trials: int
    images: int
    splits: int


def target_reliability(db: Path, studied: Studied, splits: int = SPLITS) -> TargetReliability:
    """Reliability of the target's quality part (without its term in bits) over the trials predictors are tested on.

    Args:
        db: the study file.
        studied: read from it; trials drawn around the best recipes are left out, as in held-out figures.
        splits: how many random halvings.

    Raises:
        StudyError: the formula uses a metric that has no values per image.
    """
    parsed, kept = parse_formula(studied.table.formula), np.flatnonzero(~studied.near)
    bits, presets = studied.table.bits[kept], [studied.table.presets[i] for i in kept]
    columns: dict[str, Floats] = {}
    with read_study(db) as study:
        groups = prompts_of(study.protocol)
        for name in (n for n in parsed.names if n != BITS):
            ids, values = study.per_image(name)
            row = {number: i for i, number in enumerate(ids)}
            columns[name] = values[[row[studied.ids[i]] for i in kept]].astype(np.float64)
    term = 0.0 if studied.table.term is None else studied.table.term.at(bits)
    found, coarse = [], []
    for split in range(splits):
        mask = half_of(groups, derive("halves", 0, split))
        one, other = (parsed.evaluate({**{n: v[:, m].mean(1) for n, v in columns.items()}, BITS: bits}) - term
                      for m in (mask, ~mask))
        found.append(quality(one, other, bits, presets))
        coarse.append(spearman_in_bins(one, other, bits, width=COARSE_BITS)[0])
    overall, within = [q.spearman for q in found], _median([q.spearman_in_bins for q in found])
    return TargetReliability(
        float(np.median(overall)), min(overall), max(overall), _median(coarse), within,
        _median([q.pooled_in_bins for q in found]),
        {p: _median([q.by_preset[p] for q in found]) for p in found[0].by_preset},
        None if within is None else ceiling(within), len(kept), len(groups), splits)


def ceiling(halves: float) -> float:
    """See `TargetReliability.ceiling`; 0 where halves do not agree at all."""
    return float(np.sqrt(2 * halves / (1 + halves))) if halves > 0 else 0.0


def _median(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None
