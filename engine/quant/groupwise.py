"""`rtn_g64`: group-wise round-to-nearest with the very numbers SDNQ writes (checked against sdnq 0.2.8).

A group is 64 input channels at one kernel position of one output channel: a convolution has a scale per kernel
position. Where 64 does not divide the input channels SDNQ takes larger groups of equal size, often a single one
(`engine.core.sizes.rtn_group_count`). Up to 4 bits a group has a scale and a minimum ("zero"), both float32, and
w' = zero + code * scale; from 5 bits on a scale only: w' = (code - 2^(b-1)) * scale, scale = max|w| / (2^(b-1) - 1).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch

from engine.core.sizes import RTN_ASYMMETRIC_UP_TO, rtn_group_count
from engine.quant.jit import jit, jit_fused, over_rows
from engine.quant.packing import Bytes, pack, unpacked_rows

Floats = npt.NDArray[np.float32]

_QUANTIZE_NS = 4.0  # per weight


def quantize(weight: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Codes, scales and, up to 4 bits, zeros. weight: float32 [O, in, *kernel]; scales: [O, G, kernel positions]."""
    rows = weight.reshape(len(weight), -1).numpy()
    positions = math.prod(weight.shape[2:])
    shape = (len(rows), rtn_group_count(weight.shape[1]), positions)
    scale, zero, codes = np.empty(shape, np.float32), np.zeros(shape, np.float32), np.empty(rows.shape, np.uint8)
    is_asymmetric = bits <= RTN_ASYMMETRIC_UP_TO
    kernel = _asymmetric_rows if is_asymmetric else _symmetric_rows
    over_rows(functools.partial(kernel, rows, bits, scale, zero, codes), len(rows), _QUANTIZE_NS * rows.size)
    tensors = {"codes": pack(torch.from_numpy(codes), bits), "scale": torch.from_numpy(scale)}
    return {**tensors, "zero": torch.from_numpy(zero)} if is_asymmetric else tensors


def dequantize(tensors: dict[str, torch.Tensor], bits: int, out: Floats) -> None:
    """Write w' into out: float32 [O, I], rows contiguous."""
    scale = tensors["scale"].numpy()
    is_asymmetric = "zero" in tensors
    zero = tensors["zero"].numpy() if is_asymmetric else np.zeros_like(scale)
    offset = np.float32(0 if is_asymmetric else 2 ** (bits - 1))
    unpacked_rows(tensors["codes"], bits, out.shape, lambda codes, start, stop: _place(
        codes, offset, scale[start:stop], zero[start:stop], out[start:stop]))


@jit
def _asymmetric_rows(rows: Floats, bits: int, scale: Floats, zero: Floats, codes: Bytes, start: int, stop: int) -> None:
    groups, positions = scale.shape[1], scale.shape[2]
    size = rows.shape[1] // groups
    top = np.float32(2**bits - 1)
    for row in range(start, stop):
        for group in range(groups):
            for p in range(positions):
                first, last = group * size + p, (group + 1) * size
                low, high = rows[row, first], rows[row, first]
                for i in range(first, last, positions):
                    low, high = min(low, rows[row, i]), max(high, rows[row, i])
                step = (high - low) / top
                scale[row, group, p], zero[row, group, p] = step, low
                # A group of one value has scale 0; any divisor gives it code 0 and so its own value back.
                divisor = step if step > 0 else np.float32(1)
                for i in range(first, last, positions):
                    codes[row, i] = np.uint8(min(np.rint((rows[row, i] - low) / divisor), top))


@jit
def _symmetric_rows(rows: Floats, bits: int, scale: Floats, zero: Floats, codes: Bytes, start: int, stop: int) -> None:
    groups, positions = scale.shape[1], scale.shape[2]
    size = rows.shape[1] // groups
    half = np.float32(2 ** (bits - 1))
    for row in range(start, stop):
        for group in range(groups):
            for p in range(positions):
                first, last = group * size + p, (group + 1) * size
                largest = np.float32(0)
                for i in range(first, last, positions):
                    largest = max(largest, abs(rows[row, i]))
                step = largest / (half - np.float32(1))
                scale[row, group, p] = step
                divisor = step if step > 0 else np.float32(1)
                for i in range(first, last, positions):
                    code = min(max(np.rint(rows[row, i] / divisor), -half), half - np.float32(1))
                    codes[row, i] = np.uint8(code + half)


@jit_fused
def _place(codes: Bytes, offset: np.float32, scale: Floats, zero: Floats, out: Floats) -> None:
    """out = zero + (codes - offset) * scale, group by group."""
    groups, positions = scale.shape[1], scale.shape[2]
    size = codes.shape[1] // groups
    for row in range(codes.shape[0]):
        for group in range(groups):
            if positions == 1:
                z, s = zero[row, group, 0], scale[row, group, 0]
                for i in range(group * size, (group + 1) * size):
                    out[row, i] = z + (np.float32(codes[row, i]) - offset) * s
                continue
            for first in range(group * size, (group + 1) * size, positions):
                for p in range(positions):
                    code = np.float32(codes[row, first + p]) - offset
                    out[row, first + p] = zero[row, group, p] + code * scale[row, group, p]
