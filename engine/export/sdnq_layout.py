"""How SDNQ stores one module's weight, from our codes and parameters: every option exactly, without quantizing again.

SDNQ knows w' = zero + code * scale (unsigned), code * scale (signed) and codebook[code], each per output channel, per
group of input channels or per tensor; a convolution has parameters of its own at every kernel position. So uaq is
unsigned with zero = -z delta, rtn_g64 is what it was modelled on, int8 is signed, k-means is a codebook. Only the
bitsandbytes blocks of nf4 and fp4, which run across channels, do not fit. Two halves of a split weight are one module
there: their groups must be equally wide and of one family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.core.layer import Layer
from engine.core.option import Option, parse_option
from engine.core.sizes import RTN_ASYMMETRIC_UP_TO, rtn_group_count
from engine.quant.packing import unpack
from engine.quant.qweight import QuantizedWeight

AFFINE = ("uaq", "rtn_g64", "int8")
CODEBOOK = ("kmeans_c", "kmeans_a")
# Codes come in packs that fill whole bytes in SDNQ's way.
PACK = {2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 8: 1}
PER_CHANNEL, PER_TENSOR = -1, -2


@dataclass(frozen=True, slots=True)
class Layout:
    """How a module is stored.

    Attributes:
        dtype: SDNQ's name, such as "uint4".
        bits: width of a code.
        group_size: input channels that share parameters; PER_CHANNEL or PER_TENSOR where there never are groups.
        groups: number of groups, 1 without.
        is_codebook: whether the parameters are levels.
    """

    dtype: str
    bits: int
    group_size: int
    groups: int
    is_codebook: bool

    @property
    def is_signed(self) -> bool:
        """Whether codes are centred on 0 and there are no zero points."""
        return self.dtype.startswith("int")


def layout(layers: Sequence[Layer], options: Sequence[Option], *, is_packed: bool = True) -> Layout | None:
    """The layout that holds a module (or its two halves) under these options; None if there is none.

    Args:
        layers: of one module.
        options: one for each.
        is_packed: codes narrower than a byte share bytes, which not every number of weights allows.
    """
    channels = sum(layer.shape[1] for layer in layers)
    weights = sum(layer.weights for layer in layers)
    families = {_family(option) for option in options}
    bits = max(option.bits for option in options)
    if len(families) != 1 or families == {""} or (is_packed and weights % PACK[bits]):
        return None
    is_codebook = families == {"codebook"}
    if len(layers) == 1:
        return _single(options[0], channels)
    size = math.gcd(*(_group_size(layer, option) for layer, option in zip(layers, options, strict=True)))
    return Layout(f"uint{bits}", bits, size, channels // size, is_codebook)


def _family(option: Option) -> str:
    return "affine" if option.method in AFFINE else "codebook" if option.method in CODEBOOK else ""


def _single(option: Option, channels: int) -> Layout:
    bits = option.bits
    if option.method == "rtn_g64":
        groups = rtn_group_count(channels)
        dtype = f"uint{bits}" if bits <= RTN_ASYMMETRIC_UP_TO else f"int{bits}"
        return Layout(dtype, bits, channels // groups, groups, False)
    if option.method == "int8":
        return Layout("int8", 8, PER_CHANNEL, 1, False)
    size = PER_TENSOR if option.method == "kmeans_a" else PER_CHANNEL
    return Layout(f"uint{bits}", bits, size, 1, option.method in CODEBOOK)


def _group_size(layer: Layer, option: Option) -> int:
    channels = layer.shape[1]
    return channels // rtn_group_count(channels) if option.method == "rtn_g64" else channels


def layout_bytes(found: Layout, layers: Sequence[Layer], precision_bits: int) -> int:
    """Bytes of a module's codes, scales, zero points and codebooks."""
    weights = sum(layer.weights for layer in layers)
    rows = layers[0].shape[0] * math.prod(layers[0].shape[2:]) * found.groups
    codes = weights * found.bits // 8
    if found.is_codebook:
        return codes + 2**found.bits * (1 if found.group_size == PER_TENSOR else rows) * precision_bits // 8
    return codes + rows * 4 * (1 if found.is_signed else 2)


def arranged(found: Layout, weights: Sequence[QuantizedWeight]) -> dict[str, torch.Tensor]:
    """`codes` (uint8, or int8 where signed) and `scale`, `zero_point` in SDNQ's shapes; codes are not packed yet.

    Args:
        found: the module's layout.
        weights: its layers under their options, in order of input channels.
    """
    if found.group_size == PER_TENSOR:
        return {"codes": _codes(weights[0]).view(weights[0].shape), "scale": weights[0].tensors["codebook"]}
    parts = [_part(found, weight) for weight in weights]
    joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    out, channels, *kernel = weights[0].shape[0], sum(w.shape[1] for w in weights), *weights[0].shape[2:]
    codes = joined["codes"].reshape(out, channels, *kernel)
    if found.groups > 1:
        codes = codes.reshape(out, found.groups, found.group_size, *kernel)
    result = {"codes": codes}
    width = 2**found.bits if found.is_codebook else 1
    for name in ("scale", "zero_point"):
        if name in joined:
            grouped = joined[name].reshape(out, found.groups, -1, width).transpose(2, 3)
            grouped = grouped.reshape(out, found.groups, width, *kernel)
            result[name] = (grouped if found.groups > 1 else grouped[:, 0]).contiguous()
    return result


def _part(found: Layout, weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    """One layer's codes [O, in, positions] and its parameters [O, groups of the layout, positions, width]."""
    out, channels, positions = weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
    groups = 1 if found.groups == 1 else channels // found.group_size
    codes = _codes(weight).view(out, channels, positions)
    if found.is_codebook:
        levels = weight.tensors["codebook"].expand(out, -1)
        levels = torch.cat([levels, levels[:, -1:].expand(-1, 2**found.bits - levels.shape[1])], dim=1)
        return {"codes": codes, "scale": levels[:, None, None].expand(-1, groups, positions, -1)}
    scale, zero = _affine(weight, positions)
    if found.is_signed:
        half = 2 ** (found.bits - 1)
        codes = codes.view(torch.int8) if weight.option.method == "int8" else (codes.short() - half).to(torch.int8)
        return {"codes": codes, "scale": _spread(scale, groups)}
    if weight.option.method == "int8":
        codes = (codes.view(torch.int8).short() + 128).to(torch.uint8)
    return {"codes": codes, "scale": _spread(scale, groups), "zero_point": _spread(zero, groups)}


def _affine(weight: QuantizedWeight, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and zero of w' = zero + code * scale, float32 [O, own groups, positions], for codes from 0."""
    tensors, bits = weight.tensors, weight.option.bits
    if weight.option.method == "rtn_g64":
        scale = tensors["scale"]
        return scale, tensors["zero"] if "zero" in tensors else scale * -(2.0 ** (bits - 1))
    if weight.option.method == "int8":
        scale = (tensors["absmax"] / 127)[:, None, None]
        return scale, scale * -128.0
    scale = tensors["delta"].float()[:, None, None].expand(-1, 1, positions)
    return scale, -tensors["zero"].float()[:, None, None] * scale


def _spread(values: torch.Tensor, groups: int) -> torch.Tensor:
    """[O, own groups, positions] -> [O, groups, positions, 1], repeating where own groups are wider."""
    return values.repeat_interleave(groups // values.shape[1], dim=1)[..., None]


def _codes(weight: QuantizedWeight) -> torch.Tensor:
    """uint8 [weights]; int8's signed codes as they are in memory."""
    if weight.option.method == "int8":
        return weight.tensors["codes"]
    return unpack(weight.tensors["codes"], weight.option.bits, math.prod(weight.shape))


def nearest(option: Option) -> Option:
    """The option of the affine family that is closest: the same bits in groups of 64, or per channel."""
    return parse_option(f"rtn_g64-{option.bits}" if option.method in ("nf4", "fp4") else f"uaq-{option.bits}")
