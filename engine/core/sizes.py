"""Stored bytes of a layer under an option: codes, scales, zero points and codebooks, exactly as files hold them.

Formulas: Qua2SeDiMo's released code for `uaq` and `kmeans_*` (codes + parameters at the checkpoint's precision P);
`rtn_g64` as SDNQ stores it (a 32-bit scale per group, and a 32-bit zero point where asymmetric); `nf4`, `fp4` and
`int8` as bitsandbytes stores them (a 32-bit absmax per block of 64 weights, or per output channel). Activation
tables count as bytes of the layer they belong to; online schemes store nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from engine.core.activation import SHIFT_BITS, STATIC, Activation
from engine.core.fromset import FromSet
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, METHODS, Option, options_for

RTN_GROUP = 64
RTN_ASYMMETRIC_UP_TO = 4
BNB_BLOCK = 64  # consecutive weights of the flattened tensor
BYTES_PER_MB = 1e6


def overhead_bits(shape: tuple[int, ...], option: Option, precision_bits: int) -> int:
    """Bits of everything but the codes. shape: [O, in, *kernel]."""
    out_channels = shape[0]
    if option.method == "uaq":
        return 2 * precision_bits * out_channels
    if option.method == "kmeans_c":
        return (1 << option.bits) * precision_bits * out_channels
    if option.method == "kmeans_a":
        return (1 << option.bits) * precision_bits
    if option.method == "rtn_g64":
        groups = out_channels * rtn_groups(shape)
        return groups * 32 * (2 if option.bits <= RTN_ASYMMETRIC_UP_TO else 1)
    if option.method in ("nf4", "fp4"):
        return 32 * math.ceil(math.prod(shape) / BNB_BLOCK)
    if option.method == "int8":
        return 32 * out_channels
    return 0


def rtn_group_count(channels: int) -> int:
    """Groups along the input channels: SDNQ's rule, equal groups of 64 or, where 64 does not divide, larger ones.

    The number of groups falls from the first candidate until it divides the channels: 64 * n fits only if exact,
    so 130 channels are one group (not two of 65) and 200 are two of 100.
    """
    groups = channels // RTN_GROUP
    if groups * RTN_GROUP == channels:
        return max(groups, 1)
    groups -= 1
    while groups > 1 and channels % groups:
        groups -= 1
    return max(groups, 1)


def rtn_groups(shape: tuple[int, ...]) -> int:
    """Groups per output channel: a group spans input channels at one kernel position. shape: [O, in, *kernel]."""
    return rtn_group_count(shape[1]) * math.prod(shape[2:])


def stored_bytes(layer: Layer, option: Option, precision_bits: int) -> int:
    """Bytes of one layer as stored (Qua2SeDiMo: floor of codes + floor of overhead)."""
    if option.is_untouched:
        return layer.weights * precision_bits // 8
    codes = layer.weights * option.bits // 8
    return codes + overhead_bits(layer.shape, option, precision_bits) // 8


def stored_bits(layer: Layer, option: Option, precision_bits: int) -> float:
    """Stored bits per weight, parameters included."""
    return 8 * stored_bytes(layer, option, precision_bits) / layer.weights


def full_bytes(structure: Structure) -> int:
    """Bytes of all quantizable layers at full precision (tied copies counted)."""
    return sum(stored_bytes(layer, FP16, structure.precision_bits) for layer in structure.layers)


def table_bytes(layer: Layer, activation: Activation | None, precision_bits: int) -> int:
    """Bytes of one layer's activation tables: step and zero point per timestep group, and where they are there a
    scale per input channel and 2 bits of shift per group and input channel (DMQ, section 3)."""
    if activation is None or activation.scheme != STATIC:
        return 0
    channels = layer.shape[1]
    scale_bits = precision_bits * channels if activation.scaled else 0
    shift_bits = SHIFT_BITS * channels * activation.groups if activation.shifted else 0
    return math.ceil((2 * precision_bits * activation.groups + scale_bits + shift_bits) / 8)


def scale_bytes(layer: Layer, weight: FromSet | None, activation: Activation | None, precision_bits: int) -> int:
    """Bytes of a layer's scale per input channel, unless its activation tables hold the same one and are counted."""
    if weight is None or not weight.scaled or (activation is not None and activation.scaled):
        return 0
    return layer.shape[1] * precision_bits // 8


def recipe_bytes(structure: Structure, options: Mapping[str, Option],
                 activations: Mapping[str, Activation] | None = None,
                 weights: Mapping[str, FromSet] | None = None) -> int:
    """Bytes of all quantizable layers under a recipe, activation tables and scales included; layers it does not name
    are untouched."""
    precision, inputs, sets = structure.precision_bits, activations or {}, weights or {}
    return sum(stored_bytes(layer, options.get(layer.choice, FP16), precision)
               + table_bytes(layer, inputs.get(layer.choice), precision)
               + scale_bytes(layer, sets.get(layer.choice), inputs.get(layer.choice), precision)
               for layer in structure.layers)


def file_bytes(structure: Structure, options: Mapping[str, Option],
               activations: Mapping[str, Activation] | None = None,
               weights: Mapping[str, FromSet] | None = None) -> int:
    """Bytes of everything the denoiser stores: quantized layers with their tables, biases, norms and constants."""
    others = structure.other_weights * structure.precision_bits // 8
    return recipe_bytes(structure, options, activations, weights) + others


def bits_per_weight(structure: Structure, options: Mapping[str, Option],
                    activations: Mapping[str, Activation] | None = None,
                    weights: Mapping[str, FromSet] | None = None) -> float:
    """Stored bits per quantizable weight: P * quantized bytes / full bytes (Qua2SeDiMo)."""
    stored = recipe_bytes(structure, options, activations, weights)
    return structure.precision_bits * stored / full_bytes(structure)


def bit_operations(structure: Structure, macs: Mapping[str, int], options: Mapping[str, Option],
                   activations: Mapping[str, Activation] | None = None) -> int:
    """BOPs of one call of the denoiser for one picture: sum of MACs x weight bits x activation bits.

    Nominal bits, as the literature counts them; what stays in full precision counts with the checkpoint's. A layer
    whose MACs are not given was not executed and counts nothing. Attention products are never quantized and left out.

    Args:
        structure: of the model.
        macs: layer name -> multiply-adds per picture and call, see `engine.live.macs`.
        options: choice name -> option; silent = untouched.
        activations: choice name -> setting; silent = full precision.
    """
    precision, inputs = structure.precision_bits, activations or {}
    total = 0
    for layer in structure.layers:
        option, activation = options.get(layer.choice, FP16), inputs.get(layer.choice)
        weight_bits = precision if option.is_untouched else option.bits
        total += macs.get(layer.name, 0) * weight_bits * (activation.bits if activation else precision)
    return total


def sensible_options(layer: Layer, precision_bits: int, options: Iterable[Option] | None = None) -> tuple[Option, ...]:
    """The options worth offering: smaller than full precision and than every higher-bit option of their method.

    The others are shown greyed and are never sampled or allocated.
    """
    offered = tuple(options_for(layer.kind) if options is None else options)
    full = stored_bytes(layer, FP16, precision_bits)
    size = {o: stored_bytes(layer, o, precision_bits) for o in offered}
    return tuple(
        o for o in offered
        if o.is_untouched
        or (size[o] < full and all(size[o] < size[p] for p in offered if p.method == o.method and p.bits > o.bits))
    )


def default_option(bits: int) -> Option:
    """What a bare bit-width means: the default method `uaq`, or untouched."""
    return FP16 if bits >= FP16.bits else Option(next(iter(METHODS)), bits)
