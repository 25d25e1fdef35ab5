"""From orthogonality over sampling steps to one importance per layer: gamma, theta, and the tail mean c.

OMPQ (Ma et al., AAAI 2023): gamma_i = sum over j != i of ORM(i, j); theta_i = exp(-beta gamma_i), more orthogonal =
more important; c_i = mean of theta_j over j >= i in forward order. MPQ-Diff (2024) evaluates it per sampling step and
aggregates over steps with an exponential weighting whose form is not published: three readings are offered, and the
defaults are this project's, not the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.errors import InputError

MEAN_FIRST, EXP_FIRST, TIME_EXP = "mean", "exp-then-mean", "time-exp"
AGGREGATES = {
    MEAN_FIRST: "gamma is averaged over steps, then turned into importance",
    EXP_FIRST: "importance of every step, averaged over steps",
    TIME_EXP: "gamma is averaged over steps with weights exp(-lambda k), the first step weighs most",
}
BETA = 10.0
DECAY = 0.3  # lambda, per profiled step


@dataclass(frozen=True, slots=True)
class Weighting:
    """How importance is made of orthogonality.

    Attributes:
        aggregate: over steps, a key of `AGGREGATES`.
        beta: sharpness; above 0.
        decay: lambda of "time-exp".
        summed: gamma is the sum over the other layers (as OMPQ has it) instead of their mean, so that beta means
            something else for every number of layers.
        tail: importance of a layer is the mean over it and all later ones (OMPQ's c).

    Raises:
        InputError: an unknown aggregate, or a number out of range.
    """

    aggregate: str = MEAN_FIRST
    beta: float = BETA
    decay: float = DECAY
    summed: bool = False
    tail: bool = False

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            raise InputError(f"Unknown aggregation over steps {str(self.aggregate)[:40]!r}; choose one of "
                             f"{', '.join(AGGREGATES)}.")
        if not (math.isfinite(self.beta) and self.beta > 0 and math.isfinite(self.decay) and self.decay >= 0):
            raise InputError(f"beta must be above 0 and lambda at least 0, got {self.beta} and {self.decay}.")


def gammas(matrices: Tensor, *, summed: bool = False) -> Tensor:
    """Similarity of every layer to all others, per step: float64 [T, L] from ORM [T, L, L].

    Mean (or sum) over the other layers that vary; negative estimates count as 0. NaN for layers that do not vary in
    that step, whose similarity is undefined.
    """
    found = torch.full(matrices.shape[:2], math.nan, dtype=torch.float64)
    for step, matrix in enumerate(matrices.double()):
        alive = matrix.diagonal() > 0
        count = int(alive.sum())
        if count:
            total = matrix[alive][:, alive].clamp(min=0).sum(1) - 1
            found[step, alive] = total if summed else total / max(count - 1, 1)
    return found


def importance(matrices: Tensor, weighting: Weighting | None = None) -> Tensor:
    """theta (or, with `tail`, c) per layer, float64 [L] in (0, 1]; from ORM [T, L, L], layers in forward order.

    The least gamma is subtracted before the exponential, which scales all values alike and keeps them from
    underflowing. Layers that vary in no profiled step take the mean gamma of the others: they are neither known to be
    redundant nor to be orthogonal.

    Raises:
        InputError: no layer varies.
    """
    weighting = weighting or Weighting()
    per_step = gammas(matrices, summed=weighting.summed)  # [T, L]
    known = ~per_step.isnan()
    if not bool(known.any()):
        raise InputError("No layer's output varies over the pictures, so nothing can be correlated; use several "
                         "different prompts or seeds.")
    silent = ~known.any(0)
    zeroed = torch.where(known, per_step, torch.zeros_like(per_step))
    least = float(per_step[known].min())
    weights = known.double()
    if weighting.aggregate == TIME_EXP:
        weights = weights * torch.exp(-weighting.decay * torch.arange(len(per_step), dtype=torch.float64))[:, None]
    weights = weights / weights.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
    if weighting.aggregate == EXP_FIRST:
        theta = (weights * torch.exp(-weighting.beta * (zeroed - least))).sum(0)
        neutral = theta[~silent].mean()
    else:
        gamma = (weights * zeroed).sum(0)
        least = float(gamma[~silent].min())
        theta = torch.exp(-weighting.beta * (gamma - least))
        neutral = torch.exp(-weighting.beta * (gamma[~silent].mean() - least))
    theta[silent] = neutral
    return tail_means(theta) if weighting.tail else theta


def tail_means(theta: Tensor) -> Tensor:
    """c_i = mean of theta_j over j >= i: every layer is credited with all later ones (OMPQ)."""
    counts = torch.arange(len(theta), 0, -1, dtype=theta.dtype)
    return theta.flip(0).cumsum(0).flip(0) / counts


def uniform_steps(steps: int, wanted: int | None) -> tuple[int, ...]:
    """Indices of the steps to profile, evenly spaced, first and last included.

    Args:
        steps: of the schedule.
        wanted: K; None = all.

    Raises:
        InputError: none, or more than there are.
    """
    count = steps if wanted is None else wanted
    if not 1 <= count <= steps:
        raise InputError(f"{count} of {steps} sampling steps cannot be profiled; ask for 1 to {steps}.")
    if count == 1:
        return (0,)
    return tuple(round(i * (steps - 1) / (count - 1)) for i in range(count))
