"""Quantized layer inputs: online ranges per token or channel, static ranges per timestep group; codes and parameters.

Asymmetric min/max grids with an integer zero point: code = clamp(round(x / step) + zero, 0, 2^bits - 1), value =
(code - zero) * step. Online as Qua2SeDiMo does it (one range per token of a linear layer, per sample and channel of
a convolution); static as DMQ does it (one range per layer and timestep group, a scale tau and a power-of-two shift
per channel). Everything is float32 inside (float64 stays float64), so half precision only rounds the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.activation import MAX_SHIFT
from engine.core.errors import OptionError

# |zero| stays below this, so that code - zero fits into 16 bits; it bounds the step from below for ranges that are
# narrow and far from zero (and is the guard for constant ones).
MAX_ZERO = 1 << 14
CHANNEL_AXIS = {"linear": -1, "conv1d": 1, "conv2d": 1}


@dataclass(frozen=True, eq=False, slots=True)
class QuantizedInput:
    """Codes and parameters of a quantized tensor, so that integer arithmetic can be checked against the simulation.

    Attributes:
        codes: int32, shape of the tensor, 0 to 2^bits - 1.
        step, zero: broadcastable to it; zero holds integers.
        bits: width of the codes.
    """

    codes: Tensor
    step: Tensor
    zero: Tensor
    bits: int

    @property
    def centred(self) -> Tensor:
        """code - zero, int32: what an integer product multiplies."""
        return self.codes - self.zero.to(torch.int32)

    def dequantize(self) -> Tensor:
        """The values the codes stand for, in the dtype of the step."""
        return self.centred.to(self.step.dtype) * self.step


@dataclass(frozen=True, eq=False, slots=True)
class StaticTable:
    """Calibrated ranges of one layer's input.

    Attributes:
        low, high: float32 [G], range per timestep group of x / tau (low <= 0 <= high is enforced when used).
        tau: float32 [C], scale per input channel (DMQ equation of LES), or None.
        shifts: uint8 [G, C], step of channel c in group g is finer by 2^shift (DMQ's PTS), or None.
        bits: the one width it was made for, 0 = any (shifts and tau are chosen for one).

    Raises:
        OptionError: shapes that do not fit, NaN, an empty range, or a scale that is not above zero.
    """

    low: Tensor
    high: Tensor
    tau: Tensor | None = None
    shifts: Tensor | None = None
    bits: int = 0

    def __post_init__(self) -> None:
        groups, tau, shifts = len(self.low), self.tau, self.shifts
        good = groups > 0 and self.low.shape == self.high.shape == (groups,)
        good = good and bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all())
        good = good and bool((self.low <= self.high).all())
        if tau is not None:
            good = good and tau.ndim == 1 and bool((tau > 0).all() and torch.isfinite(tau).all())
        if shifts is not None:
            good = good and shifts.ndim == 2 and len(shifts) == groups and int(shifts.max()) <= MAX_SHIFT
        if tau is not None and shifts is not None:
            good = good and shifts.shape[1] == len(tau)
        if not good:
            raise OptionError("An activation table needs finite ranges per timestep group with low <= high, positive "
                              f"channel scales and one shift of 0 to {MAX_SHIFT} per group and channel; calibrate "
                              "again.")

    @property
    def groups(self) -> int:
        """G."""
        return len(self.low)

    def parameters(self, bits: int) -> tuple[Tensor, Tensor]:
        """(step [G, C or 1], zero [G, 1]) in the layer's own units: step = tau * 2^-shift * s.

        Since the zero point is shared by all channels of a group, a channel's range is that of the tensor times
        tau * 2^-shift.
        """
        step, zero = affine(self.low.clamp(max=0), self.high.clamp(min=0), bits)
        step, zero = step[:, None], zero[:, None]
        if self.shifts is not None:
            step = step * torch.exp2(-self.shifts.to(step.dtype))
        if self.tau is not None:
            step = step * self.tau
        return step, zero


def affine(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(step, zero) of the grid from low to high, elementwise; float in, float out, zero holds integers.

    step = (high - low) / (2^bits - 1), but at least max(|low|, |high|) / 2^14; 1 where the range is zero.
    """
    step = (high - low) / ((1 << bits) - 1)
    step = torch.maximum(step, torch.maximum(low.abs(), high.abs()) / MAX_ZERO)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return step, torch.round(-low / step)


def online_parameters(x: Tensor, bits: int, kind: str) -> tuple[Tensor, Tensor]:
    """(step, zero) of `x` by its own minima and maxima: [..., 1] per token for `linear` inputs [..., C], [N, C, 1...]
    per sample and channel for convolutions."""
    axes = (-1,) if kind == "linear" else tuple(range(2, x.ndim))
    return affine(x.amin(axes, keepdim=True), x.amax(axes, keepdim=True), bits)


def static_parameters(step: Tensor, zero: Tensor, group: int | Tensor, x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Parameters of `StaticTable.parameters` for an input, broadcastable to it.

    Args:
        step, zero: [G, C or 1] and [G, 1].
        group: of the whole batch, or int64 [B], one per sample; where the input has k rows per sample, each group
            stands for k rows in a row.
        x: the input.
        kind: of the layer, which tells its channel axis.

    Raises:
        OptionError: the rows are no multiple of the samples.
    """
    if isinstance(group, Tensor):
        if len(x) % len(group):
            raise OptionError(f"An input of {len(x)} rows cannot be dealt to {len(group)} timesteps; use one timestep "
                              f"per batch, or the online scheme.")
        group = group.repeat_interleave(len(x) // len(group))
        rows = [len(x)]
    else:
        rows = [1]
    inner = [1] * (x.ndim - 2)
    chosen = [t[group].reshape(*rows, -1) for t in (step, zero)]
    if CHANNEL_AXIS[kind] == 1:
        found = [t.reshape(*t.shape, *inner) for t in chosen]
    else:
        found = [t.reshape(t.shape[0], *inner, t.shape[1]) for t in chosen]
    return found[0], found[1]


def encode(x: Tensor, step: Tensor, zero: Tensor, bits: int) -> QuantizedInput:
    """Codes of a tensor under given parameters."""
    codes = (torch.round(_wide(x) / step) + zero).clamp(0, (1 << bits) - 1)
    return QuantizedInput(codes.to(torch.int32), step, zero, bits)


def simulate(x: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`encode(...).dequantize()` in one go without integers, bit-equal to it; dtype of `x`."""
    return (_wide(x) / step).round_().add_(zero).clamp_(0, (1 << bits) - 1).sub_(zero).mul_(step).to(x.dtype)


def quantize_online(x: Tensor, bits: int, kind: str) -> Tensor:
    """An input as the online scheme sees it; shape and dtype of `x`."""
    wide = _wide(x)
    step, zero = online_parameters(wide, bits, kind)
    return simulate(wide, step, zero, bits).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
