"""A predictor boiled down to one table, layer x option, for allocators and for sliders that are being dragged."""

from __future__ import annotations

import json

import numpy as np

from engine.analysis.damage import DamageModel
from engine.analysis.damage_fit import Prior, fit_with
from engine.analysis.predictor import LEAST_SUPPORT, Kind, Predictor
from engine.analysis.ranking import Quality
from engine.analysis.trials import Ints, TrialTable
from engine.core.option import FP16
from engine.core.record import Scores, Trust

RECIPES = 600
DISTIL = Prior(noise=0.03, detail=1.0, option=1.0)  # predictions carry no noise
UNIT = "summed damage (an average recipe = 1)"


def distil(predictor: Predictor, trials: Ints, kind: Kind | None = None, recipes: int = RECIPES,
           seed: int = 0) -> DamageModel:
    """The additive damage model nearest to a predictor's quality on recipes like those it was fitted to.

    Args:
        predictor: with its default kind, unless another is given.
        trials: [T, C] option columns of the trials; new recipes are crossed from them, layer by layer.
        kind: which members to follow.
        recipes: how many to predict.
        seed: of the crossing.
    """
    picks = crossed(trials, recipes, seed)
    found = predictor.quality(picks, kind)
    subject = predictor.subject
    bits = np.zeros(len(picks))
    return fit_with(TrialTable(subject, picks, found, bits, bits, predictor.formula, None), DISTIL)


def crossed(trials: Ints, recipes: int, seed: int) -> Ints:
    """Recipes [recipes, C] that take a random share of their layers from one trial and the rest from another, so
    that sizes spread as widely as in the trials."""
    rng = np.random.default_rng(seed)
    first, second = trials[rng.integers(len(trials), size=recipes)], trials[rng.integers(len(trials), size=recipes)]
    return np.where(rng.uniform(size=first.shape) < rng.uniform(size=(recipes, 1)), first, second)


def table_scores(predictor: Predictor, name: str = "predictor") -> Scores:
    """The additive table as scores: damage per choice and option, untouched 0, with the predictor's trust.

    `about["extrapolated"]` counts the entries that fewer than `LEAST_SUPPORT` trials held, and
    `about["extrapolated_options"]` names them (JSON, choice -> options); they follow from the layer's sensitivity and
    the weight error.
    """
    subject, table = predictor.subject, predictor.additive
    layers: dict[str, dict[str, float]] = {}
    extrapolated: dict[str, list[str]] = {}
    for c, choice in enumerate(subject.graph.choices):
        layers[choice] = {str(FP16): 0.0}
        for k in np.flatnonzero(subject.space.offered[c]):
            option = subject.space.options[k]
            if not option.is_untouched:
                layers[choice][str(option)] = float(table.damage[c, k])
                if predictor.support[c, k] < LEAST_SUPPORT:
                    extrapolated.setdefault(choice, []).append(str(option))
    offset, slope, exponent = (float(x) for x in table.curve)
    curve = f"target = {offset:.6g} - {slope:.6g} * boxcox(damage, {exponent:.6g})"
    about = {**predictor.about, "formula": predictor.formula, "kind": str(predictor.kind), "curve": curve,
             "extrapolated": str(sum(map(len, extrapolated.values()))),
             "extrapolated_options": json.dumps(extrapolated, separators=(",", ":"))}
    return Scores(name, subject.structure.identity, UNIT, layers, trust=trust_of(predictor), about=about)


def trust_of(predictor: Predictor, kind: Kind | None = None) -> Trust:
    """How far the predictor (or one kind of its members) can be believed: its held-out rank correlation within bins of
    bits, else overall."""
    figures = predictor.report.quality or predictor.report.target
    return _trust(predictor, figures[kind or predictor.kind])


def trust_of_norms(predictor: Predictor, kind: Kind, hop: int) -> Trust:
    """The same for scores made of embedding norms: how these rank held-out trials, whatever the network predicts.

    Args:
        predictor: with networks.
        kind: of the networks.
        hop: 0 = single layers, -1 = all parts together; see `Report.hop_target`.
    """
    figures = predictor.report.hop_quality or predictor.report.hop_target
    return _trust(predictor, figures[kind][hop])


def _trust(predictor: Predictor, best: Quality) -> Trust:
    within = best.spearman_in_bins
    note = f"within bins of 0.1 bits; {best.spearman:.3f} overall" if within is not None else "over all sizes"
    return Trust(predictor.about.get("study", ""), predictor.report.trials, int(predictor.about.get("images", "0")),
                 best.spearman if within is None else within, note)
