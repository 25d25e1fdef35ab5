"""Held-out figures of a predictor beside its controls: overall, for the quality part alone, and per hop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.analysis.ranking import Quality, quality
from engine.analysis.trials import Floats, TrialTable


@dataclass(frozen=True, slots=True)
class Report:
    """Every trial is predicted by a member that has not seen it; controls are fitted to the same folds.

    Attributes:
        formula: the target.
        trials, folds: how many.
        target: name of predictor or control -> figures for the target.
        quality: the same for the target without its term in bits; empty where the two are entangled.
        hops: kind of network -> mean over folds of the held-out Spearman of the embedding norm, hop by hop, and
            last of all parts together.
        chosen: the kind of least held-out error within bins of bits.
    """

    formula: str
    trials: int
    folds: int
    target: dict[str, Quality]
    quality: dict[str, Quality] = field(default_factory=dict)
    hops: dict[str, tuple[float, ...]] = field(default_factory=dict)
    chosen: str = ""


def report_of(table: TrialTable, held_out: Mapping[str, Floats], folds: int,
              hops: dict[str, tuple[float, ...]], candidates: tuple[str, ...]) -> Report:
    """The figures of held-out predictions [T] by name.

    The chosen one is the candidate of best Spearman within bins, or of least error where no bin is full enough.
    """
    target = {name: quality(found, table.target, table.bits, table.presets) for name, found in held_out.items()}
    parts: dict[str, Quality] = {}
    alone = table.quality
    if alone is not None and not np.array_equal(alone, table.target):
        term = table.target - alone
        parts = {name: quality(found - term, alone, table.bits, table.presets) for name, found in held_out.items()}
    chosen = max(candidates, key=lambda name: (target[name].spearman_in_bins or 0.0, -target[name].mae), default="")
    return Report(table.formula, len(table), folds, target, parts, hops, chosen)
