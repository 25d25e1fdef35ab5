"""Adaptive timestep weighting: steps that already hold most of the loss count less while a scaling is learned.

DMQ (Lee et al., ICCV 2025): t falls into one of 20 bins, bin 0 the noisiest. Lambda <- 0.95 Lambda + 0.05 (sum of the
losses in each bin), and a sample of bin b weighs (1 - Lambda_b / sum Lambda)^20. Without it the late steps, whose
errors are largest, would decide the scaling alone. One Lambda per layer, begun anew for each; no gradient through it.
As long as one bin holds all the loss there is nothing to weigh it against, and every sample counts alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.core.errors import InputError
from engine.live.tables import SPAN, span_of

BINS = 20
DECAY = 0.95
SHARPNESS = 20.0
RULES = ("adaptive", "uniform", "linear", "quadratic")


def bins_of(timesteps: Sequence[float] | Tensor, bins: int = BINS, *, rising: bool = False) -> Tensor:
    """Bin of every timestep, int64 [B]: bins - 1 - floor((t - 1) / (1000 / bins)); 951 -> 0, 1 -> 19.

    Timesteps that are shares of the schedule are taken times 1000.

    Args:
        timesteps: [B].
        bins: how many.
        rising: whether the model counts towards the picture, so that the least timestep is the noisiest.
    """
    times = torch.as_tensor(timesteps, dtype=torch.float64)
    if len(times) and span_of(float(times.max())) < SPAN:
        times = times * SPAN
    found = (bins - 1 - torch.floor((times - 1) / (SPAN / bins))).clamp(0, bins - 1).long()
    return bins - 1 - found if rising else found


class TimestepWeights:
    """Weights of samples by their timestep, for one layer.

    `linear` and `quadratic` are the fixed rules of the ablation: 1 for the noisiest bin, falling to 1 / bins (or its
    square) for the last.
    """

    def __init__(self, rule: str = RULES[0], bins: int = BINS, decay: float = DECAY,
                 sharpness: float = SHARPNESS) -> None:
        """Begin with no loss seen.

        Raises:
            InputError: there is no such rule.
        """
        if rule not in RULES:
            raise InputError(f"Timestep weighting is one of {', '.join(RULES)}, not {rule[:40]!r}.")
        self.rule, self.decay, self.sharpness = rule, decay, sharpness
        self.seen = torch.zeros(bins, dtype=torch.float64)

    def weigh(self, losses: Tensor, bins: Tensor) -> Tensor:
        """Take the losses of a batch into account and weigh its samples. losses: [B]; bins: [B]; returns [B]."""
        count = len(self.seen)
        if self.rule == "uniform":
            return torch.ones_like(losses)
        if self.rule != "adaptive":
            falling = (count - bins).to(losses.dtype) / count
            return falling if self.rule == "linear" else falling.square()
        sums = torch.zeros_like(self.seen).index_add_(0, bins, losses.detach().double())
        self.seen = self.decay * self.seen + (1 - self.decay) * sums
        if int((self.seen > 0).sum()) < 2:
            return torch.ones_like(losses)
        weights = (1 - self.seen / self.seen.sum()).pow(self.sharpness)
        return weights[bins].to(losses.dtype)
