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
        hop_target: kind of network -> hop by hop, as above, the figures of held-out hop scores: embedding norms put on
            the target's scale by a line fitted to the fold's training trials, since each fold's network has its own.
        hop_quality: the same for the target without its term in bits; empty where `quality` is.
        chosen: the kind of least held-out error within bins of bits.
    """

    formula: str
    trials: int
    folds: int
    target: dict[str, Quality]
    quality: dict[str, Quality] = field(default_factory=dict)
    hops: dict[str, tuple[float, ...]] = field(default_factory=dict)
    chosen: str = ""
    hop_target: dict[str, tuple[Quality, ...]] = field(default_factory=dict)
    hop_quality: dict[str, tuple[Quality, ...]] = field(default_factory=dict)


def report_of(table: TrialTable, held_out: Mapping[str, Floats], folds: int,
              hops: dict[str, tuple[float, ...]], candidates: tuple[str, ...],
              hop_scores: Mapping[str, Floats] | None = None) -> Report:
    """The figures of held-out predictions [T] by name, and of hop scores [hops + 1, T] by kind of network.

    The chosen one is the candidate of best Spearman within bins, or of least error where no bin is full enough.
    """
    def figures(found: Floats) -> Quality:
        return quality(found, table.target, table.bits, table.presets)

    scores = hop_scores or {}
    target = {name: figures(found) for name, found in held_out.items()}
    hop_target = {kind: tuple(map(figures, found)) for kind, found in scores.items()}
    parts: dict[str, Quality] = {}
    hop_parts: dict[str, tuple[Quality, ...]] = {}
    alone = table.quality
    if alone is not None and not np.array_equal(alone, table.target):
        term = table.target - alone

        def without(found: Floats) -> Quality:
            return quality(found - term, alone, table.bits, table.presets)

        parts = {name: without(found) for name, found in held_out.items()}
        hop_parts = {kind: tuple(map(without, found)) for kind, found in scores.items()}
    chosen = max(candidates, key=lambda name: (target[name].spearman_in_bins or 0.0, -target[name].mae), default="")
    return Report(table.formula, len(table), folds, target, parts, hops, chosen, hop_target, hop_parts)
