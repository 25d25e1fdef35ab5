"""Equivalent scaling: a factor per input channel moved from the activations into the weights, Y = (X / tau)(tau W).

DMQ (Lee et al., ICCV 2025) learns tau by gradient; here tau = exp(a), so that it cannot change sign, held within
2^-7 and 2^7. Activations: channels last for linear layers, axis 1 for convolutions. Weights: [O, in / groups, *kernel].

Folding. With codes q of x / tau, (x / tau)_c = (q_c - z) s becomes x_c = (q_c - z) (tau_c s): the division by tau is a
step per channel of the quantize operation. The weights are quantized as tau W and stand for W' = Q(tau W) / tau. In
the product tau cancels, so integer arithmetic never sees it (`engine.quant.integer`), while activations and weights can
each be simulated alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.core.errors import OptionError

LIMIT = 2.0**7
LOG_LIMIT = math.log(LIMIT)


def tau_of(a: Tensor) -> Tensor:
    """tau = exp(a), held within 1/LIMIT and LIMIT; the gradient passes within the bounds. a: [C]."""
    return a.clamp(-LOG_LIMIT, LOG_LIMIT).exp()


def stored_tau(tau: Tensor, precision_bits: int) -> Tensor:
    """tau as a file holds it (16 or 32 bits), as float32: what is stored is what everything computes with."""
    return tau.detach().to(torch.float16 if precision_bits == 16 else torch.float32).float().cpu().contiguous()


def fold(weight: Tensor, tau: Tensor) -> Tensor:
    """tau W: what is quantized. weight: [O, in / groups, *kernel]; tau: [in].

    Raises:
        OptionError: tau has another number of channels than the weight has inputs.
    """
    return weight * per_weight(tau, tuple(weight.shape))


def unfold(weight: Tensor, tau: Tensor) -> Tensor:
    """W' = Q(tau W) / tau: the weights the quantized ones stand for."""
    return weight / per_weight(tau, tuple(weight.shape))


def per_weight(tau: Tensor, shape: tuple[int, ...]) -> Tensor:
    """tau seen so that it multiplies a weight of `shape`: [1 or O, in / groups, 1 ...].

    In a grouped convolution output channel o reads the input channels of its own group, so every group has its part.
    """
    out, inputs = shape[0], shape[1]
    groups, rest = divmod(tau.numel(), inputs)
    if rest or not groups or out % groups:
        raise OptionError(f"A scaling of {tau.numel()} channels does not fit a weight of shape {list(shape)}; it needs "
                          f"one factor per input channel.")
    table = tau.reshape(groups, inputs)
    if groups > 1:
        table = table.repeat_interleave(out // groups, 0)
    return table.reshape(*table.shape, *[1] * (len(shape) - 2))


def per_input(values: Tensor, ndim: int, axis: int) -> Tensor:
    """Values per channel, [C] or [B, C], seen so that they multiply activations of `ndim` dimensions."""
    shape = [1] * ndim
    shape[axis] = values.shape[-1]
    if values.ndim == 2:
        shape[0] = values.shape[0]
    return values.reshape(shape)


def channel_peaks(x: Tensor, axis: int) -> Tensor:
    """Largest |x| of every channel, [C]. x: activations with channels on `axis`."""
    return x.detach().abs().movedim(axis, -1).flatten(0, -2).amax(0)


def weight_peaks(weight: Tensor, channels: int) -> Tensor:
    """Largest |w| over everything that reads an input channel, [channels]. weight: [O, in / groups, *kernel]."""
    out, inputs = weight.shape[:2]
    groups = channels // inputs
    return weight.detach().abs().reshape(groups, out // groups, inputs, -1).amax((1, 3)).reshape(channels)


def smooth_tau(activation: Tensor, weight: Tensor, strength: float = 0.5) -> Tensor:
    """The heuristic control: tau = max|x|^strength / max|w|^(1 - strength) per channel (SmoothQuant, Xiao et al. 2023).

    Normalized to a geometric mean of 1 over the live channels; dead channels (no activation or no weight) get 1.

    Args:
        activation, weight: peaks per input channel, [C].
        strength: share of the difficulty that moves into the weights.
    """
    live = (activation > 0) & (weight > 0)
    if not bool(live.any()):
        return torch.ones_like(activation)
    logs = strength * activation[live].log() - (1 - strength) * weight[live].log()
    a = torch.zeros_like(activation)
    a[live] = logs - logs.mean()
    return tau_of(a)


def outlier_score(peaks: Tensor) -> float:
    """Spread of a layer's channels: largest peak over the median peak of the live ones; 1 where none is live.

    peaks: largest |x| per channel, [C]. The measure that chooses layers for power-of-two scaling.
    """
    live = peaks[peaks > 0]
    return float(live.max() / live.median()) if live.numel() else 1.0
