"""`uaq`: uniform affine quantization per output channel with a searched clip ratio (Qua2SeDiMo, quantizer "mse").

For r in 1.0, 0.9 ... 0.1: delta = r (M - m) / (2^b - 1), z = round(-r m / delta), q = clamp(round(w / delta) + z),
w' = (q - z) delta; the first r with the strictly smallest mean |w - w'|^2.4 stays. Roundings are half to even.

Constraints this answers:
* delta and z are stored at P bits each, and every candidate is made and scored with the stored values, so that what
  was scored is what `dequantize` gives.
* z must be a whole number that the format holds exactly, and q - z must be exact in float32. Where a range lies so far
  from 0 that z would exceed the limit, delta is widened to |r m| / limit; the error then stays near the rounding of the
  format itself.
* delta is never 0 nor infinite: it is held between the format's smallest and largest positive number.
* A channel of one value c is stored exactly as far as the format can hold c: delta = |c|, z = -sign(c), q = 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from engine.quant.jit import jit, jit_loose, over_rows
from engine.quant.packing import Bytes, pack, unpacked_rows

Floats = npt.NDArray[np.float32]

RATIOS = tuple(r / 10 for r in range(10, 0, -1))
NORM = 2.4

# Per stored format: smallest and largest delta, largest |z|. Whole numbers are exact up to 2^11 in float16; float32
# stays below 2^24 so that q - z is exact too.
_LIMITS = {
    torch.float16: (2.0**-24, 65504.0, 2.0**11),
    torch.float32: (2.0**-126, 3.4028234e38, 2.0**22),
}
# log2(1 + t) and 2^t on [0, 1], interpolated at Chebyshev nodes, exact at 0.
_L1, _L2, _L3, _L4, _L5, _L6 = (np.float32(c) for c in (
    1.4424535262105997, -0.7173127802648079, 0.454508492199418, -0.2726975648521658, 0.1176130840660221,
    -0.024568534745087942))
_E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in (
    0.6931544896632368, 0.24014181820147967, 0.0558603370770161, 0.008949590423711129, 0.0018937540580168388))
_SEARCH_NS = 8.0  # per weight
_BLOCK = 256  # weights whose errors are raised to the power together; stays in the first cache


def quantize(rows: Floats, bits: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Codes, deltas and zero points. rows: [O, I]; delta and zero: `dtype` [O]."""
    low, high = rows.min(axis=1), rows.max(axis=1)
    delta, zero = candidates(low, high, bits, dtype)
    unit = error_unit(low, high, dtype)
    codes = np.empty(rows.shape, np.uint8)
    choice = np.zeros(len(rows), np.int64)
    over_rows(lambda start, stop: _quantize_rows(rows, bits, delta, zero, unit, choice, codes, start, stop),
              len(rows), _SEARCH_NS * rows.size)
    index = np.arange(len(rows))
    return {
        "codes": pack(torch.from_numpy(codes), bits),
        "delta": torch.from_numpy(delta[index, choice]).to(dtype),
        "zero": torch.from_numpy(zero[index, choice]).to(dtype),
    }


def dequantize(tensors: dict[str, torch.Tensor], bits: int, out: Floats) -> None:
    """Write w' into out: float32 [O, I], rows contiguous."""
    delta, zero = tensors["delta"].float().numpy(), tensors["zero"].float().numpy()
    unpacked_rows(tensors["codes"], bits, out.shape,
                  lambda codes, start, stop: _place(codes, delta[start:stop], zero[start:stop], out[start:stop]))


def error_unit(low: Floats, high: Floats, dtype: torch.dtype) -> Floats:
    """What errors are multiplied by: measured in units of the range, their powers neither vanish nor overflow. [O]."""
    span = np.maximum(high.astype(np.float64) - low, np.abs(low) / _LIMITS[dtype][2])
    return np.asarray(1 / np.where(span > 0, span, 1), np.float32)


def candidates(low: Floats, high: Floats, bits: int, dtype: torch.dtype) -> tuple[Floats, Floats]:
    """delta and zero of every ratio, with values that `dtype` holds exactly. low, high: [O]; returns [O, 10] each."""
    smallest, largest, limit = _LIMITS[dtype]
    ratio = np.array(RATIOS)
    bottom = low.astype(np.float64)[:, None] * ratio
    wanted = (high.astype(np.float64) - low)[:, None] * ratio / (2**bits - 1)
    # One part in 1024 of slack keeps z below the limit after delta is rounded to the format.
    wanted = np.maximum(wanted, np.abs(bottom) / limit * (1 + 2**-10))
    delta = _stored(np.clip(wanted, smallest, largest), dtype)
    zero = np.clip(np.rint(-bottom / delta), -limit, limit).astype(np.float32)
    single = (low == high) & (low != 0)
    delta[single] = _stored(np.clip(np.abs(low[single]), smallest, largest), dtype)[:, None]
    zero[single] = -np.sign(low[single])[:, None]
    return delta, zero


def _stored(values: npt.NDArray[np.floating], dtype: torch.dtype) -> Floats:
    rounded = torch.from_numpy(values).float().to(dtype).float().numpy()
    return np.asarray(rounded, np.float32)


@jit
def _quantize_rows(rows: Floats, bits: int, delta: Floats, zero: Floats, unit: Floats, choice: npt.NDArray[np.int64],
                   codes: Bytes, start: int, stop: int) -> None:
    top = np.float32(2**bits - 1)
    errors, powers = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for row in range(start, stop):
        weights = rows[row]
        best = np.inf
        for candidate in range(delta.shape[1]):
            score = _score(weights, delta[row, candidate], zero[row, candidate], top, unit[row], best,
                           errors, powers)
            if score < best:
                best = score
                choice[row] = candidate
        d, z = delta[row, choice[row]], zero[row, choice[row]]
        for i in range(weights.size):
            codes[row, i] = np.uint8(min(max(np.rint(weights[i] / d) + z, np.float32(0)), top))


@jit_loose
def _score(weights: Floats, delta: np.float32, zero: np.float32, top: np.float32, unit: np.float32,
           best: float, errors: Floats, powers: Floats) -> float:
    """Sum of (|w - w'| * unit)^2.4; counted only until it reaches the best one."""
    total = 0.0
    for first in range(0, weights.size, _BLOCK):
        count = min(_BLOCK, weights.size - first)
        for i in range(count):
            w = weights[first + i]
            q = min(max(np.rint(w / delta) + zero, np.float32(0)), top)
            errors[i] = abs(w - (q - zero) * delta) * unit
        total += float(_sum_of_powers(errors[:count], powers))
        if total >= best:
            break
    return total


@jit_loose
def _sum_of_powers(errors: Floats, powers: Floats) -> np.float32:
    """Sum of errors^2.4, each to a part in 10^5; overwrites both arrays.

    x^2.4 = 2^(2.4 log2 x), with polynomials for log2 and exp2 between powers of two, which vectorises where the
    library's power does not.
    """
    patterns = errors.view(np.int32)
    for i in range(errors.size):
        t = np.float32(patterns[i] & 0x7FFFFF) * np.float32(2**-23)
        log = t * (_L1 + t * (_L2 + t * (_L3 + t * (_L4 + t * (_L5 + t * _L6)))))
        exponent = np.float32((patterns[i] >> 23) - 127)
        y = max(np.float32(NORM) * (exponent + log), np.float32(-126))
        whole = np.floor(y)
        f = y - whole
        powers[i] = np.float32(1) + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5))))
        patterns[i] = (np.int32(whole) + 127) << 23
    total = np.float32(0)
    for i in range(errors.size):
        total += powers[i] * errors[i]
    return total


@jit
def _place(codes: Bytes, delta: Floats, zero: Floats, out: Floats) -> None:
    """out = (codes - zero) * delta, row by row."""
    for row in range(codes.shape[0]):
        d, z = delta[row], zero[row]
        for i in range(codes.shape[1]):
            out[row, i] = (np.float32(codes[row, i]) - z) * d
