"""How good recipes were that trials really measured, by size: a forecast beyond that is extrapolated.

A study's random recipes are far from the best of their size, and models that add damages up are too hopeful about
recipes made of harmless choices only. The error on random held-out trials says nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.analysis.trials import Floats

Bools = npt.NDArray[np.bool_]
SLACK_BITS = 0.05  # a trial this much larger counts as of the size
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Reach:
    """The best trials by size.

    Attributes:
        drawn: [n, 2] stored bits per weight, rising, and the best quality of a random trial up to there.
        every: [m, 2] the same with the trials drawn near the best recipes.
        near_noise: kind -> root mean squared error on held-out trials near the best; empty without any.
    """

    drawn: Floats
    every: Floats
    near_noise: Mapping[str, float] = field(default_factory=dict)

    def noise(self, kind: str, base: float, bits: Floats, quality: Floats) -> Floats:
        """[T] error to expect: `base`, that of random trials, up to what these reach, that near the best above."""
        near = max(base, self.near_noise.get(kind, base))
        return np.where(quality > best_at(self.drawn, bits), near, base)

    def beyond(self, base: float, bits: Floats, quality: Floats) -> Bools:
        """[T] whether a quality is further above every trial of that size than the 95 % error of predicting one."""
        found: Bools = quality > best_at(self.every, bits) + Z_95 * base
        return found


def frontier(bits: Floats, quality: Floats) -> Floats:
    """[n, 2] of trials [T]: only those that are better than all smaller ones."""
    order = np.lexsort((-quality, bits))
    best = np.maximum.accumulate(quality[order])
    first = np.concatenate([[True], best[1:] > best[:-1]]) if len(order) else np.zeros(0, bool)
    return np.stack([bits[order][first], best[first]], 1)


def best_at(found: Floats, bits: Floats) -> Floats:
    """[T] the best quality of a frontier at these sizes; -inf below its smallest."""
    place = np.searchsorted(found[:, 0], bits + SLACK_BITS, side="right")
    return np.concatenate([[-np.inf], found[:, 1]])[place]
