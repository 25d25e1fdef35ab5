"""Power-of-two scaling: channels whose values are small take a step 2^-e times the tensor's, e chosen by votes.

DMQ (Lee et al., ICCV 2025): with one step s per tensor, sized by the channels with outliers, ordinary channels waste
the grid. Channel k is quantized with s 2^-e_k, e in 0 .. D, and the same zero point; in the integer product its weights
are shifted left by D - e_k. Each sample votes for the e with the least squared error on that channel; the winner is
taken if its share of the votes is at least kappa, otherwise e = 0 (no finer step), so that a factor also fits samples
that were not seen. Choosing the e with the least total error instead is the ablation `by_error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.errors import OptionError

KAPPA = 0.85
MAX_SHIFT = 3
SHARE_DIGITS = 9  # a share of exactly kappa is not lost to rounding


@dataclass(frozen=True, eq=False)
class Votes:
    """What the samples of one timestep group chose for each channel of a layer.

    Attributes:
        shifts: e per channel, uint8 [C].
        agreement: share of the samples that chose the most chosen e, float32 [C].
        samples: how many voted.
    """

    shifts: Tensor
    agreement: Tensor
    samples: int


def shift_room(weight_bits: int, operand_bits: int = 8) -> int:
    """The largest D for which a weight code minus its zero point fits a signed operand: (2^b - 1) 2^D < 2^(n - 1).

    For zero points on the grid, 0 <= z_w <= 2^b - 1; of weights at hand, `code_room` knows better.
    """
    return max(0, min(MAX_SHIFT, operand_bits - 1 - weight_bits))


def code_room(centred: Tensor, operand_bits: int = 8) -> int:
    """The largest D for which these weights fit a signed operand: max |p - z_w| 2^D < 2^(n - 1), 0 where none does.

    A channel whose weights have one sign has its zero point off the grid, so that p - z_w may be far from zero.

    Args:
        centred: codes minus zero points, whole numbers of any shape.
        operand_bits: n.
    """
    largest = int(centred.abs().max()) if centred.numel() else 0
    return max((d for d in range(MAX_SHIFT + 1) if largest << d < 2 ** (operand_bits - 1)), default=0)


def sample_errors(x: Tensor, axis: int, step: Tensor, zero: Tensor, bits: int, max_shift: int = MAX_SHIFT) -> Tensor:
    """Mean squared error of every sample's channels under each candidate shift, [D + 1, B, C].

    Args:
        x: what is quantized (already divided by tau), [B, ...].
        axis: of the channels.
        step, zero: of the tensor: scalars, or [B] where samples belong to different timestep groups.
        bits: of the codes.
        max_shift: D.
    """
    rows = x.movedim(axis, -1)
    rows = rows.flatten(1, -2) if rows.ndim > 2 else rows[:, None]  # [B, positions, C]
    top = 2**bits - 1
    s, z = (v.reshape(-1, 1, 1).to(rows.dtype) for v in (step, zero))
    errors = []
    for e in range(max_shift + 1):
        fine = s * 2.0**-e
        codes = ((rows / fine).round() + z).clamp(0, top)
        errors.append(((codes - z) * fine - rows).square().mean(1))
    return torch.stack(errors)


def by_voting(errors: Tensor, kappa: float = KAPPA) -> Votes:
    """The most chosen shift where enough samples agree, else none. errors: [D + 1, N, C].

    Of shifts with equal error a sample takes the smaller, so a dead channel keeps e = 0; of equally chosen shifts the
    smaller wins.

    Raises:
        OptionError: no samples, or kappa is not a share.
    """
    _check(errors)
    if not 0 <= kappa <= 1:
        raise OptionError(f"kappa is the share of votes a shift needs, from 0 to 1; got {kappa}.")
    chosen = errors.argmin(0)  # [N, C]; the first of equals
    counts = torch.stack([(chosen == e).sum(0) for e in range(len(errors))])  # [D + 1, C]
    winner = counts.argmax(0)
    share = counts.gather(0, winner[None])[0].double() / errors.shape[1]
    agreed = share.mul(10**SHARE_DIGITS).round() >= round(kappa * 10**SHARE_DIGITS)
    shifts = torch.where(agreed, winner, torch.zeros_like(winner))
    return Votes(shifts.to(torch.uint8), share.float(), errors.shape[1])


def by_error(errors: Tensor) -> Votes:
    """The shift with the least total squared error, whatever single samples prefer. errors: [D + 1, N, C]."""
    _check(errors)
    best = errors.double().sum(1).argmin(0)
    share = (errors.argmin(0) == best).double().mean(0)
    return Votes(best.to(torch.uint8), share.float(), errors.shape[1])


def channel_steps(step: Tensor, shifts: Tensor, tau: Tensor | None = None) -> Tensor:
    """tau_c s 2^-e_c: the step per channel of the quantize operation. step: [G] or scalar; shifts: [G, C] or [C]."""
    fine = step.reshape(-1, *[1] * (shifts.ndim - 1)).float() * torch.exp2(-shifts.float())
    return fine if tau is None else fine * tau


def _check(errors: Tensor) -> None:
    if errors.ndim != 3 or not errors.shape[1]:
        raise OptionError("Choosing power-of-two factors needs at least one sample; capture more of the trajectory.")
