"""Damage that adds up: the target is a smooth falling curve over the summed damage of the chosen options.

Errors of different layers are nearly uncorrelated, so their squares add in the picture; PSNR is the logarithm of that
sum, and other metrics are curves over it (a Box-Cox transform, from logarithm to straight line).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.analysis.features import ERROR_FLOOR, Space, stored_bits_of
from engine.analysis.formula import BitsTerm
from engine.analysis.trials import Floats, Ints

STEEPEST = 30.0  # bound on exponents, far beyond any real damage, so that a wild line search stays finite
NEAR_ZERO = 1e-4


@dataclass(frozen=True, slots=True)
class DamageModel:
    """Fitted damage and the curve over it.

    Attributes:
        damage: [C, K] damage of each option, in units of the mean recipe's sum; 0 where untouched, NaN where not
            offered.
        curve: (offset, slope, exponent) of target = offset - slope * boxcox(sum, exponent).
        noise: deviation of the residual on the training trials.
    """

    damage: Floats
    curve: Floats
    noise: float

    def total(self, picks: Ints) -> Floats:
        """[T] summed damage of recipes [T, C]."""
        total: Floats = self.damage[np.arange(picks.shape[1]), picks].sum(-1)
        return total

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C]."""
        offset, slope, exponent = (float(x) for x in self.curve)
        return offset - slope * curved(np.log(self.total(picks) + ERROR_FLOOR), exponent)[0]


@dataclass(frozen=True, slots=True)
class DamageMember:
    """A damage model of the quality, and the target's term in bits, which is known exactly.

    Attributes:
        model: of the quality part (of the whole target where bits are entangled).
        space: to count bits.
        term: the target's term in bits, or None.
    """

    model: DamageModel
    space: Space
    term: BitsTerm | None

    def predict(self, picks: Ints) -> Floats:
        """[T] targets of recipes [T, C]."""
        found = self.model.predict(picks)
        return found if self.term is None else found + self.term.at(stored_bits_of(self.space, picks))


def curved(log: Floats, exponent: float) -> tuple[Floats, Floats, Floats]:
    """Box-Cox of x = exp(log): (x^e - 1) / e, the logarithm at e = 0, and its derivatives by log and by e.

    Expanded around e = 0, so that it is smooth there.
    """
    z = np.clip(exponent * log, -STEEPEST, STEEPEST)
    near = np.abs(z) < NEAR_ZERO
    safe = np.where(near, 1.0, exponent)
    value = np.where(near, log * (1 + z / 2 + z**2 / 6), np.expm1(z) / safe)
    slope = np.exp(z)
    by_exponent = np.where(near, log**2 * (0.5 + z / 3), (log * slope - value) / safe)
    return value, slope, by_exponent
