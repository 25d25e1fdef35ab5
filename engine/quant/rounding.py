"""AdaRound: every weight chooses between the two levels around it, by gradient (Nagel et al. 2020; BRECQ, 2021).

A weight w between neighbouring levels l <= w <= u becomes l + h (u - l), h = clip(1.2 sigmoid(alpha) - 0.1, 0, 1), the
rectified sigmoid; the regulariser sum(1 - |2h - 1|^beta) drives h to 0 or 1 while beta falls from 20 to 2. At the end h
is cut at 1/2. The levels are those of any method whose codes are in order of their values: with `uaq` this is AdaRound
as published, with a codebook each weight may move to the neighbouring entry. Steps, zero points and codebooks stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.core.errors import OptionError
from engine.quant.packing import pack, unpack
from engine.quant.qweight import QuantizedWeight

ZETA, GAMMA = 1.1, -0.1
BETA_FIRST, BETA_LAST = 20.0, 2.0
WARM_UP = 0.2  # share of the iterations without the regulariser
ORDERED = ("uaq", "kmeans_c", "kmeans_a", "rtn_g64")  # methods whose codes ascend with their values, in one bit stream


@dataclass(frozen=True, eq=False)
class Choice:
    """The two levels every weight of a layer may take.

    Attributes:
        nearest: the layer rounded to nearest; its parameters stay.
        low, high: the weights at the lower and upper level, float32 [O, in, *kernel]; equal where there is only one.
        low_codes, high_codes: their codes, uint8, same shape.
        fraction: where the original lies between them, 0 to 1.
    """

    nearest: QuantizedWeight
    low: Tensor
    high: Tensor
    low_codes: Tensor
    high_codes: Tensor
    fraction: Tensor


def choice_of(weight: Tensor, nearest: QuantizedWeight) -> Choice:
    """What each weight may become. weight: the original [O, in, *kernel] that `nearest` was made from (without tau).

    Raises:
        OptionError: the method's codes are not in order.
    """
    if nearest.option.method not in ORDERED:
        raise OptionError(f"Rounding cannot be learned for {nearest.option}: only {', '.join(ORDERED)} have levels in "
                          f"order; use round to nearest.")
    bits, shape = nearest.option.bits, torch.Size(nearest.shape)
    codes = unpack(nearest.tensors["codes"], bits, shape.numel()).view(shape)
    here = nearest.dequantize()
    original = weight.float()
    up = original > here
    other_codes = (codes.to(torch.int16) + torch.where(up, 1, -1)).clamp(0, 2**bits - 1).to(torch.uint8)
    there = with_codes(nearest, other_codes).dequantize()
    low, high = torch.where(up, here, there), torch.where(up, there, here)
    low_codes, high_codes = torch.where(up, codes, other_codes), torch.where(up, other_codes, codes)
    gap, above = high - low, original - low
    fraction = torch.where(gap > 0, above / gap.clamp(min=torch.finfo(torch.float32).tiny), torch.zeros_like(gap))
    return Choice(nearest, low, high, low_codes, high_codes, fraction.clamp(0, 1))


def first_alpha(choice: Choice) -> Tensor:
    """alpha at which h is the original's place between the levels, so that learning begins at full precision."""
    inner = ((choice.fraction - GAMMA) / (ZETA - GAMMA)).clamp(1e-4, 1 - 1e-4)
    return torch.logit(inner)


def rectified(alpha: Tensor) -> Tensor:
    """h = clip(sigmoid(alpha) (zeta - gamma) + gamma, 0, 1)."""
    return (torch.sigmoid(alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def soft_weight(choice: Choice, alpha: Tensor) -> Tensor:
    """The weight between its levels at h(alpha), float32 [O, in, *kernel]."""
    return choice.low + rectified(alpha) * (choice.high - choice.low)


def regulariser(alpha: Tensor, beta: float) -> Tensor:
    """sum(1 - |2h - 1|^beta): 0 when every h is 0 or 1."""
    return (1 - (2 * rectified(alpha) - 1).abs().pow(beta)).sum()


def pulled_weight(choice: Choice, gap: Tensor, alpha: Tensor, beta: float | None, weight: float) -> Tensor:
    """`soft_weight`, whose gradient brings that of `weight * regulariser(alpha, beta)` along.

    What is done per weight costs as much as the block itself where autograd records it operation by operation; here the
    same gradient is written down once.

    Args:
        choice: the levels.
        gap: `choice.high - choice.low`, made once.
        alpha: of the weights.
        beta: exponent of the regulariser; None = without it.
        weight: of the regulariser.
    """
    found: Tensor = _Pulled.apply(alpha, choice.low, gap, beta, weight)
    return found


class _Pulled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, low: Tensor, gap: Tensor, beta: float | None, weight: float) -> Tensor:
        slope = torch.sigmoid(alpha)
        ctx.save_for_backward(slope, gap)
        ctx.beta, ctx.weight = beta, weight
        return torch.addcmul(low, _stretched(slope).clamp_(0, 1), gap)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slope, gap = ctx.saved_tensors
        found = gradients[0] * gap
        free = _stretched(slope)
        h = free.clamp(0, 1)
        inside = free == h  # beyond its ends h does not move
        if ctx.beta is not None:
            centred = h.mul_(2).sub_(1)
            size = centred.abs()
            found.addcmul_(size.pow_(ctx.beta - 1), centred.sign_(), value=-2 * ctx.beta * ctx.weight)
        found.mul_(slope).mul_(slope.neg_().add_(1)).mul_(inside)
        return found.mul_(ZETA - GAMMA), None, None, None, None


def _stretched(sigmoid: Tensor) -> Tensor:
    return (sigmoid * (ZETA - GAMMA)).add_(GAMMA)


def beta_at(iteration: int, iterations: int) -> float | None:
    """The exponent at an iteration: None during the warm-up, then from 20 down to 2 in a straight line."""
    start = WARM_UP * iterations
    if iteration < start:
        return None
    return BETA_LAST + (BETA_FIRST - BETA_LAST) * max(0.0, 1 - (iteration - start) / max(iterations - start, 1))


def hardened(choice: Choice, alpha: Tensor) -> QuantizedWeight:
    """The layer with every weight at the level its h is nearer to."""
    return with_codes(choice.nearest, torch.where(rectified(alpha) >= 0.5, choice.high_codes, choice.low_codes))


def with_codes(quantized: QuantizedWeight, codes: Tensor) -> QuantizedWeight:
    """The same parameters with other codes. codes: uint8 of the weight's shape."""
    tensors = {**quantized.tensors, "codes": pack(codes, quantized.option.bits)}
    return QuantizedWeight(quantized.option, quantized.shape, tensors)


def changed(choice: Choice, rounded: QuantizedWeight) -> float:
    """Share of the weights that no longer lie at their nearest level."""
    bits, count = rounded.option.bits, torch.Size(rounded.shape).numel()
    before = unpack(choice.nearest.tensors["codes"], bits, count)
    return float((unpack(rounded.tensors["codes"], bits, count) != before).double().mean())
