"""A layer in whole numbers: the reference that simulated quantization is held against.

acc = sum_k (q_k - z) ((p_k - z_w) << (D - e_k)),  Y = acc (s 2^-D) s_w + bias, with activation codes q, weight codes p,
zero points z and z_w, and one shift e per input channel (DMQ, Lee et al., ICCV 2025). tau is in the codes on both sides
and cancels. Weights must lie on an affine grid per output channel (`uaq`); a codebook has no integer product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.core.errors import OptionError
from engine.quant.activation import CHANNEL_AXIS, StaticTable, affine, encode, static_parameters
from engine.quant.packing import unpack
from engine.quant.qweight import QuantizedWeight
from engine.quant.scaling import per_weight

AFFINE = "uaq"
CONVOLUTIONS: dict[str, Any] = {"conv1d": F.conv1d, "conv2d": F.conv2d}


@dataclass(frozen=True, eq=False)
class IntegerInput:
    """Codes of one batch of one timestep group, x_c = (q_c - z) tau_c step 2^-e_c.

    Attributes:
        centred: q - z, int64, shape of the input; what the product multiplies. Padding is 0 here.
        step: of the tensor, a float64 scalar.
        shifts: e per channel, int64 [C].
        kind: of the layer.
    """

    centred: Tensor
    step: Tensor
    shifts: Tensor
    kind: str


@dataclass(frozen=True, eq=False)
class IntegerOutput:
    """Result of an integer layer.

    Attributes:
        values: Y in float64.
        accumulator: largest |acc|; an int32 accumulator holds it below 2^31.
        operand: largest |(p - z_w) << (D - e)|; an int8 operand holds it below 2^7.
    """

    values: Tensor
    accumulator: int
    operand: int


def integer_input(x: Tensor, table: StaticTable, group: int, bits: int, kind: str) -> IntegerInput:
    """The very codes that simulation uses, with what the product needs beside them. x: [B, ...]."""
    step, zero = static_parameters(*table.parameters(bits), group, x, kind)
    codes = encode(x, step, zero, bits)
    base = affine(table.low[group].clamp(max=0), table.high[group].clamp(min=0), bits)[0]
    channels = x.shape[CHANNEL_AXIS[kind]]
    shifts = torch.zeros(channels, dtype=torch.int64) if table.shifts is None else table.shifts[group].long()
    return IntegerInput(codes.centred.long(), base.double(), shifts, kind)


def integer_layer(x: IntegerInput, weight: QuantizedWeight, bias: Tensor | None = None,
                  **convolution: Any) -> IntegerOutput:
    """The layer's output from codes alone.

    Args:
        x: input codes.
        weight: on an affine grid per output channel; its tau, if it has one, is the one in the input codes.
        bias: [O].
        convolution: stride, padding, dilation, groups of a convolution.

    Raises:
        OptionError: the weight has no affine grid per output channel.
    """
    deepest = int(x.shifts.max())
    operand = weight_codes(weight) << per_weight(deepest - x.shifts, tuple(weight.shape))
    if x.kind == "linear":
        acc = x.centred @ operand.T
    else:
        # whole numbers below 2^53 are exact in float64, and integer convolutions are not offered everywhere
        acc = CONVOLUTIONS[x.kind](x.centred.double(), operand.double(), **convolution).round().long()
    channel = [1] * acc.ndim
    channel[CHANNEL_AXIS[x.kind]] = -1
    values = acc.double() * (x.step * 2.0**-deepest * weight.tensors["delta"].double().view(channel))
    if bias is not None:
        values = values + bias.double().view(channel)
    return IntegerOutput(values, int(acc.abs().max()), int(operand.abs().max()))


def weight_codes(weight: QuantizedWeight) -> Tensor:
    """p - z_w, int64 [O, in / groups, *kernel]."""
    if weight.option.method != AFFINE:
        raise OptionError(f"Integer arithmetic needs weights on an affine grid per output channel ({AFFINE}), not "
                          f"{weight.option}; choose {AFFINE}-{weight.option.bits}.")
    shape = torch.Size(weight.shape)
    codes = unpack(weight.tensors["codes"], weight.option.bits, shape.numel()).view(shape).long()
    return codes - weight.tensors["zero"].long().view(-1, *[1] * (len(shape) - 1))


def simulated_layer(x: Tensor, weight: Tensor, kind: str, bias: Tensor | None = None, **convolution: Any) -> Tensor:
    """The same layer in floating point, on simulated activations and the weights W' = Q(tau W) / tau."""
    if kind == "linear":
        return F.linear(x, weight, bias)
    result: Tensor = CONVOLUTIONS[kind](x, weight, bias, **convolution)
    return result
