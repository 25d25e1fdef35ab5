"""`kmeans_c` and `kmeans_a`: one k-means codebook per output channel, or one for the whole tensor (Qua2SeDiMo).

A codebook has 2^b entries at P bits, ascending; codes are taken against the codebook as stored. Channels are sorted
once, whatever the number of bit-widths asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.quant.clusters import LEAST_BINNED, MOST_BINNED_CLUSTERS, solve_binned_rows, solve_rows
from engine.quant.jit import jit, over_rows
from engine.quant.packing import Bytes, pack, unpacked_rows

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_FORMATS = {torch.float16: (65504.0, np.float16), torch.float32: (3.4028234e38, np.float32)}
_SOLVE_NS = 20.0  # per weight and bit-width


def quantize_channels(rows: Floats, bits: Sequence[int], dtype: torch.dtype) -> dict[int, dict[str, torch.Tensor]]:
    """Codes and codebook [O, 2^b] of every bit-width. rows: [O, I]."""
    levels = {b: np.empty((len(rows), 2**b), np.float32) for b in bits}
    codes = {b: np.empty(rows.shape, np.uint8) for b in bits}

    def work(start: int, stop: int) -> None:
        part = rows[start:stop]
        sort = functools.cache(lambda: np.sort(part, axis=1))
        for b in bits:
            levels[b][start:stop] = stored_values(_channel_codebooks(part, 2**b, sort), dtype)
            _assign_rows(rows, levels[b], codes[b], start, stop)

    over_rows(work, len(rows), _SOLVE_NS * rows.size * len(bits))
    return {b: _stored(codes[b], levels[b], b, dtype) for b in bits}


def quantize_tensor(rows: Floats, bits: Sequence[int], dtype: torch.dtype) -> dict[int, dict[str, torch.Tensor]]:
    """Codes and codebook [2^b] of every bit-width. rows: [O, I]."""
    ordered = np.sort(rows, axis=None)[None]
    results = {}
    for b in bits:
        levels, codes = stored_values(sorted_codebooks(ordered, 2**b), dtype), np.empty(rows.shape, np.uint8)
        over_rows(functools.partial(_assign_rows, rows, levels, codes), len(rows), rows.size)
        results[b] = _stored(codes, levels[0], b, dtype)
    return results


def dequantize(tensors: dict[str, torch.Tensor], bits: int, out: Floats) -> None:
    """Write w' into out: float32 [O, I], rows contiguous."""
    levels = np.broadcast_to(tensors["codebook"].float().numpy(), (len(out), 2**bits))
    unpacked_rows(tensors["codes"], bits, out.shape,
                  lambda codes, start, stop: _look_up(codes, levels[start:stop], out[start:stop]))


def _channel_codebooks(rows: Floats, clusters: int, sort: Callable[[], Floats]) -> Doubles:
    """The codebook of every row, [O, K]; `sort` gives the rows sorted, which long ones rarely need."""
    if rows.shape[1] < LEAST_BINNED or clusters > MOST_BINNED_CLUSTERS:
        return sorted_codebooks(sort(), clusters)
    codebooks = np.empty((len(rows), clusters))
    solve_binned_rows(rows, clusters, codebooks, 0, len(rows))
    left = np.isnan(codebooks[:, 0])
    if left.any():
        codebooks[left] = sorted_codebooks(np.sort(rows[left], axis=1), clusters)
    return codebooks


def sorted_codebooks(ordered: Floats, clusters: int) -> Doubles:
    """The codebook [O, K] of every row, each sorted ascending."""
    codebooks = np.empty((len(ordered), clusters))
    solve_rows(ordered, clusters, codebooks, 0, len(ordered))
    return codebooks


def stored_values(codebooks: Doubles, dtype: torch.dtype) -> Floats:
    """Codebooks with values that `dtype` holds exactly."""
    largest, kind = _FORMATS[dtype]
    return codebooks.clip(-largest, largest).astype(kind).astype(np.float32)


def _stored(codes: Bytes, levels: Floats, bits: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {"codes": pack(torch.from_numpy(codes), bits), "codebook": torch.from_numpy(levels).to(dtype)}


@jit
def _assign_rows(rows: Floats, levels: Floats, codes: Bytes, start: int, stop: int) -> None:
    """The code of the nearest level. levels: [O or 1, K], ascending."""
    clusters = levels.shape[1]
    middles = np.empty(clusters - 1, np.float32)
    for row in range(start, stop):
        own = levels[row % levels.shape[0]]
        for k in range(clusters - 1):
            middles[k] = own[k] + (own[k + 1] - own[k]) / np.float32(2)
        _count_below(rows[row], middles, codes[row])


@jit
def _count_below(weights: Floats, middles: Floats, codes: Bytes) -> None:
    """How many middles each weight exceeds; these loops vectorise, and beat bisection even at 255 middles."""
    codes[:] = 0
    for k in range(middles.size):
        middle = middles[k]
        for i in range(weights.size):
            codes[i] += np.uint8(weights[i] > middle)


@jit
def _look_up(codes: Bytes, levels: Floats, out: Floats) -> None:
    """out = levels[codes], row by row."""
    for row in range(codes.shape[0]):
        own = levels[row]
        for i in range(codes.shape[1]):
            out[row, i] = own[codes[row, i]]
