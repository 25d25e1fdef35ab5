"""What every predictor is held against: average bits, summed weight error, and ridge on one-hot options; and, where
layers were measured one at a time, the sum of what each did alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.analysis.features import ERROR_FLOOR, Space, stored_bits_of, summed_error
from engine.analysis.ridge import fit_ridge
from engine.analysis.trials import Floats, Ints, Member, TrialTable


@dataclass(frozen=True, slots=True)
class Curve:
    """A quadratic in one number per recipe.

    Attributes:
        coefficients: highest power first.
        column: recipe -> number.
    """

    coefficients: Floats
    column: Callable[[Ints], Floats]

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C]."""
        found: Floats = np.polyval(self.coefficients, self.column(picks)).astype(np.float64)
        return found


def fit_bits(train: TrialTable, seed: int = 0) -> Curve:
    """The target as a curve over average bits."""
    return _curve(train, lambda picks: stored_bits_of(train.subject.space, picks))


def fit_error(train: TrialTable, seed: int = 0) -> Curve:
    """The target as a curve over the logarithm of the summed weight error."""
    return _curve(train, lambda picks: log_error(train.subject.space, picks))


def log_error(options: Space, picks: Ints) -> Floats:
    """log of the summed relative weight error [T]."""
    return np.log(summed_error(options, picks) + ERROR_FLOOR)


def _curve(train: TrialTable, column: Callable[[Ints], Floats]) -> Curve:
    return Curve(np.polyfit(column(train.picks), train.target, 2), column)


def fit_alone(train: TrialTable, seed: int = 0) -> Curve:
    """The target as a curve over the logarithm of the summed damage measured one layer at a time."""
    anchor = train.subject.anchor
    assert anchor is not None, "needs a subject with an anchor"

    def column(picks: Ints) -> Floats:
        total: Floats = np.log(anchor[np.arange(picks.shape[1]), picks].sum(-1) + ERROR_FLOOR)
        return total

    return _curve(train, column)


CONTROLS: dict[str, Callable[[TrialTable, int], Member]] = {
    "average bits": fit_bits, "weight error": fit_error, "ridge": fit_ridge,
}
ALONE = "measured alone"


def controls(train: TrialTable, seed: int) -> dict[str, Member]:
    """Every control that the trials' subject allows, fitted."""
    found = {name: fit(train, seed) for name, fit in CONTROLS.items()}
    return found if train.subject.anchor is None else {**found, ALONE: fit_alone(train, seed)}
