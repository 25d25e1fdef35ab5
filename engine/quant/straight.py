"""Quantize and dequantize within autograd: rounding passes the gradient straight through, ranges follow the values.

The dynamic quantizers of learned scaling (DMQ, Lee et al., ICCV 2025): asymmetric grids of 2^b levels whose range is
the minimum and maximum of what is quantized right now, so that steps are differentiable functions of tau. The zero
point is a whole number and passes no gradient. Ranges of whole tensors always hold 0, so padding stays exact.
"""

from __future__ import annotations

from torch import Tensor

from engine.quant.activation import affine, online_parameters


def round_through(x: Tensor) -> Tensor:
    """round(x), half to even, with the gradient of x."""
    return x + (x.round() - x).detach()


def fake_quantize(x: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """(clamp(round(x / step) + zero, 0, 2^b - 1) - zero) step; step and zero broadcast with x, zero is whole."""
    codes = (round_through(x / step) + zero.detach()).clamp(0, 2**bits - 1)
    return (codes - zero.detach()) * step


def weight_rows(weight: Tensor, bits: int) -> Tensor:
    """A weight quantized per output channel between its minimum and maximum. weight: [O, in, *kernel]."""
    rows = weight.flatten(1)
    step, zero = affine(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), bits)
    return fake_quantize(rows, step, zero, bits).view_as(weight)


def whole_tensor(x: Tensor, bits: int) -> Tensor:
    """Activations quantized with one range for everything, which holds 0."""
    return fake_quantize(x, *affine(x.amin().clamp(max=0), x.amax().clamp(min=0), bits), bits)


def online(x: Tensor, bits: int, kind: str) -> Tensor:
    """Activations quantized with the ranges of the online scheme; see `engine.quant.activation`."""
    return fake_quantize(x, *online_parameters(x, bits, kind), bits)
