"""From a study to a predictor, its figures, and every overlay it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.analysis.additive import table_scores
from engine.analysis.attribution import Method, attribution_scores
from engine.analysis.block_table import block_table
from engine.analysis.fitting import KINDS, Fold, fit_predictor
from engine.analysis.predictor import GnnMember, Kind, Predictor
from engine.analysis.scoring import block_scores, operation_scores
from engine.analysis.training import Epoch, Training
from engine.analysis.trials import Ints
from engine.core.errors import StudyError
from engine.core.option import Option
from engine.core.record import Scores
from engine.evidence.studied import Studied
from engine.study.storage import open_study, read_study

DEFAULT_METHOD = Method.SHAPLEY
OVERLAY_CANDIDATES = 1500  # joint assignments scored per block


def learn(studied: Studied, training: Training | None = None,
          kinds: Iterable[Kind] = KINDS) -> Iterator[Fold | Epoch | Predictor]:
    """Fit to a study; trials drawn around the best recipes are learned from and kept out of the report."""
    return fit_predictor(studied.table, training, kinds, studied.about, near=np.flatnonzero(studied.near).tolist())


def overlays(predictor: Predictor, trials: Ints, also: Sequence[Method] = ()) -> Iterator[Scores]:
    """Everything a predictor says of single layers and blocks, one `Scores` record each.

    Args:
        predictor: with or without networks.
        trials: [T, C] option columns of the trials it was fitted to.
        also: attributions beside those that are always made.

    Raises:
        InputError: an attribution needs networks and there are none.
    """
    yield table_scores(predictor)
    options = _common(predictor)
    yield attribution_scores(predictor, DEFAULT_METHOD, options)
    for method in also:
        yield attribution_scores(predictor, method, options)
    if not any(isinstance(m, GnnMember) for members in predictor.members.values() for m in members):
        return
    yield attribution_scores(predictor, Method.INTEGRATED_GRADIENTS, options)
    yield operation_scores(predictor)
    yield block_table(predictor, list(block_scores(predictor, trials, most=OVERLAY_CANDIDATES)))


def _common(predictor: Predictor, most: int = 8) -> list[Option]:
    """The options that most trials held, over all layers; attributions of the others would be extrapolated."""
    counts = predictor.support.sum(0)
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    options = [predictor.subject.space.options[k] for k in order]
    return [o for o in options if not o.is_untouched][:most]


def figures_of(predictor: Predictor) -> dict[str, Any]:
    """Held-out figures of the kind in use, as `study show` prints them."""
    best = (predictor.report.quality or predictor.report.target)[predictor.kind]
    return {"kind": str(predictor.kind), "formula": predictor.formula, "trials": predictor.report.trials,
            "spearman": best.spearman, "spearman_in_bins": best.spearman_in_bins, "kendall": best.kendall,
            "ndcg10": best.ndcg10, "mae": best.mae}


def note(path: str | Path, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
    """Keep the figures in the study file; one that is being written or is read-only stays as it is (False)."""
    with read_study(path) as study:
        protocol = study.protocol
    try:
        with open_study(path, protocol) as study:
            study.record_predictor("ensemble", settings, figures)
    except StudyError:
        return False
    return True
