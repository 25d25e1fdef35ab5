"""A quantized weight as it is stored: option, shape and the tensors a safetensors file holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine.core.errors import OptionError
from engine.core.option import Option
from engine.core.sizes import BNB_BLOCK, RTN_ASYMMETRIC_UP_TO, rtn_group_count
from engine.quant import affine, bnb, groupwise, kmeans
from engine.quant.scaling import per_weight

TAU = "tau"

Floats = npt.NDArray[np.float32]
Dequantizer = Callable[[dict[str, torch.Tensor], int, Floats], None]


def _copy(tensors: dict[str, torch.Tensor], bits: int, out: Floats) -> None:
    torch.from_numpy(out).copy_(tensors["weight"].reshape(out.shape))


# method -> how its tensors become weights.
DEQUANTIZERS: dict[str, Dequantizer] = {
    "uaq": affine.dequantize,
    "kmeans_c": kmeans.dequantize,
    "kmeans_a": kmeans.dequantize,
    "rtn_g64": groupwise.dequantize,
    "nf4": bnb.dequantize_four_bits(bnb.NF4),
    "fp4": bnb.dequantize_four_bits(bnb.FP4),
    "int8": bnb.dequantize_int8,
    "fp16": _copy,
}


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One layer under one option. (option, shape, tensors) is everything: it can be rebuilt from a file.

    Attributes:
        option: method and bits.
        shape: [O, in, *kernel] of the weight.
        tensors: on the CPU, contiguous. `codes` uint8, a dense bit stream over the flattened weight, and
            uaq: `delta`, `zero` [O]; kmeans_c: `codebook` [O, 2^b]; kmeans_a: `codebook` [2^b];
            rtn_g64: `scale` and, up to 4 bits, `zero` [O, G, kernel positions], float32; nf4 and fp4: `absmax`
            [blocks of 64], float32 (codes two to a byte, the first high); int8: `absmax` [O], float32 (codes signed);
            fp16: `weight` alone. Any but fp16 may have `tau` [in]: the codes are of tau times the weight, and the
            weights this stands for are divided by it (DMQ's equivalent scaling).
    """

    option: Option
    shape: tuple[int, ...]
    tensors: Mapping[str, torch.Tensor]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors: `core.sizes.stored_bytes`, or one more where the codes end within a byte."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def is_whole(self) -> bool:
        """Whether the tensors are those of the option and shape, element by element; compiled loops trust them."""
        wanted = part_sizes(self.option, self.shape)
        found = {name: tensor.numel() for name, tensor in self.tensors.items() if name != TAU}
        tau, codes = self.tensors.get(TAU), self.tensors.get("codes")
        return found == wanted and (tau is None or tau.numel() == self.shape[1]) \
            and (codes is None or codes.dtype == torch.uint8)

    def dequantize(self) -> torch.Tensor:
        """The weights this stands for, float32 [O, in, *kernel]."""
        return self.dequantize_into(torch.empty(self.shape))

    def dequantize_into(self, out: torch.Tensor) -> torch.Tensor:
        """Overwrite `out` (this shape; any float type, device and strides) with the weights; returns it.

        A float32 CPU tensor with contiguous rows, such as a weight or a slice of its input channels, is written
        in place.

        Raises:
            OptionError: another shape.
        """
        if tuple(out.shape) != tuple(self.shape):
            raise OptionError(f"The quantized weight has shape {list(self.shape)}, the target {list(out.shape)}; "
                              f"use the layer it was made from.")
        rows = _rows_in_place(out)
        direct = rows is not None
        target = rows if rows is not None else torch.empty(self.shape[0], out[0].numel())
        DEQUANTIZERS[self.option.method](dict(self.tensors), self.option.bits, target.detach().numpy())
        if TAU in self.tensors:
            target.detach().view(self.shape).div_(per_weight(self.tensors[TAU].float(), tuple(self.shape)))
        if not direct:
            with torch.no_grad():
                out.copy_(target.view(self.shape))
        return out


def part_sizes(option: Option, shape: tuple[int, ...]) -> dict[str, int]:
    """Name -> elements of the tensors of a layer under an option, tau aside; see `QuantizedWeight`."""
    weights, out, bits = math.prod(shape), shape[0], option.bits
    codes = {"codes": (weights * bits + 7) // 8}
    if option.method == "uaq":
        return {**codes, "delta": out, "zero": out}
    if option.method in ("kmeans_c", "kmeans_a"):
        return {**codes, "codebook": 2**bits * (out if option.method == "kmeans_c" else 1)}
    if option.method == "rtn_g64":
        groups = out * rtn_group_count(shape[1]) * math.prod(shape[2:])
        return {**codes, "scale": groups, **({"zero": groups} if bits <= RTN_ASYMMETRIC_UP_TO else {})}
    if option.method in ("nf4", "fp4"):
        return {**codes, "absmax": -(-weights // BNB_BLOCK)}
    if option.method == "int8":
        return {**codes, "absmax": out}
    return {"weight": weights}


def _rows_in_place(out: torch.Tensor) -> torch.Tensor | None:
    """`out` as [O, I] with contiguous rows and no copy, if it can be seen so."""
    if out.device.type != "cpu" or out.dtype != torch.float32:
        return None
    try:
        rows = out.detach().view(out.shape[0], -1)
    except RuntimeError:
        return None
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else None
