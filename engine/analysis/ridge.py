"""Ridge regression on one-hot options, its strength chosen by inner cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.analysis.trials import Floats, Ints, TrialTable, folds

STRENGTHS = np.logspace(-2, 3, 16)


@dataclass(frozen=True, slots=True)
class Ridge:
    """y = offset + sum over layers of the weight of the chosen option.

    Attributes:
        weights: [C, K], 0 where an option was never seen.
        offset: mean target.
        strength: chosen ridge parameter.
    """

    weights: Floats
    offset: float
    strength: float

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C]."""
        found: Floats = self.offset + self.weights[np.arange(picks.shape[1]), picks].sum(-1)
        return found


def fit_ridge(train: TrialTable, seed: int = 0) -> Ridge:
    """Fit to all trials of a table, the strength by 5-fold cross-validation among them."""
    weights, offset, strength = fit_additive(train.picks, train.target, len(train.subject.space.options), seed)
    return Ridge(weights, offset, strength)


def fit_additive(picks: Ints, target: Floats, options: int, seed: int = 0,
                 strengths: Floats = STRENGTHS) -> tuple[Floats, float, float]:
    """Weights [C, K], offset and strength of a ridge on one-hot options, in the dual (T is small)."""
    x = one_hot(picks, options)
    strength = float(strengths[0]) if len(strengths) == 1 else _best_strength(x, target, seed, strengths)
    centre, offset = x.mean(0), float(target.mean())
    z = x - centre
    dual = np.linalg.solve(z @ z.T + strength * np.eye(len(z)), target - offset)
    flat = z.T @ dual
    return flat.reshape(picks.shape[1], options), offset - float(centre @ flat), strength


def one_hot(picks: Ints, options: int) -> Floats:
    """Recipes [T, C] -> [T, C * K]."""
    x: npt.NDArray[np.float64] = np.zeros((*picks.shape, options))
    np.put_along_axis(x, picks[:, :, None], 1.0, 2)
    return x.reshape(len(picks), -1)


def _best_strength(x: Floats, target: Floats, seed: int, strengths: Floats) -> float:
    """The strength of least squared error over 5 inner folds."""
    loss = np.zeros(len(strengths))
    for fit, held in folds(len(x), seed + 1):
        centre, offset = x[fit].mean(0), target[fit].mean()
        z, other = x[fit] - centre, x[held] - centre
        values, vectors = np.linalg.eigh(z @ z.T)
        toward, projected = (other @ z.T) @ vectors, vectors.T @ (target[fit] - offset)
        for i, strength in enumerate(strengths):
            predicted = offset + toward @ (projected / (np.maximum(values, 0) + strength))
            loss[i] += float(((predicted - target[held]) ** 2).sum())
    return float(strengths[int(np.argmin(loss))])
