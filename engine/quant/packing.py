"""Codes of 2 to 8 bits as a dense little-endian bit stream, and back.

Code i occupies bits [i*b, (i+1)*b) of the stream; bit j is bit j % 8 of byte j // 8. Eight codes fill b bytes, so
the loops work on groups of eight; the last group may be short.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from engine.quant.jit import jit, over_rows

Bytes = npt.NDArray[np.uint8]

_GROUP = 8  # codes that fill a whole number of bytes at any width
_BLOCK = 1 << 16  # codes per unit of work; a multiple of the group


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return (count * bits + 7) // 8


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes. codes: uint8, any shape, each below 2^bits. Returns uint8 [packed_size]."""
    flat = np.ascontiguousarray(codes.detach().cpu().numpy()).reshape(-1)
    packed = np.empty(packed_size(flat.size, bits), np.uint8)
    blocks = -(-flat.size // _BLOCK)
    over_rows(lambda start, stop: _pack(flat, bits, packed, start * _BLOCK, min(stop * _BLOCK, flat.size)),
              blocks, flat.size)
    return torch.from_numpy(packed)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes of a stream, as uint8 [count]."""
    data = np.ascontiguousarray(packed.detach().cpu().numpy())
    codes = np.empty(count, np.uint8)
    over_rows(lambda start, stop: unpack_range(data, bits, start * _BLOCK, codes[start * _BLOCK:stop * _BLOCK]),
              -(-count // _BLOCK), count)
    return torch.from_numpy(codes)


def unpacked_rows(packed: torch.Tensor, bits: int, shape: tuple[int, ...],
                  work: Callable[[Bytes, int, int], object]) -> None:
    """Call `work(codes, start, stop)` on blocks of rows that cover all; codes: [stop - start, I]. shape: [O, I].

    Python calls one compiled loop and then the other: a compiled loop that called another file's would be kept in the
    cache when that file changes.
    """
    (rows, inputs), data = shape, packed.numpy()
    height = max(1, _BLOCK // inputs)

    def blocks(start: int, stop: int) -> None:
        buffer = np.empty((min(height, stop - start), inputs), np.uint8)
        for first in range(start, stop, height):
            codes = buffer[:min(height, stop - first)]
            unpack_range(data, bits, first * inputs, codes.reshape(-1))
            work(codes, first, first + len(codes))

    over_rows(blocks, rows, rows * inputs)


@jit
def _pack(codes: Bytes, bits: int, packed: Bytes, start: int, stop: int) -> None:
    for first in range(start, stop, _GROUP):
        count = min(_GROUP, stop - first)
        word = np.uint64(0)
        for k in range(count):
            word |= np.uint64(codes[first + k]) << np.uint64(k * bits)
        place = first // _GROUP * bits
        for b in range((count * bits + 7) // 8):
            packed[place + b] = np.uint8((word >> np.uint64(8 * b)) & np.uint64(255))


@jit
def unpack_range(packed: Bytes, bits: int, start: int, codes: Bytes) -> None:
    """Fill `codes` with the stream's codes from index `start` on."""
    count = codes.size
    mask = np.uint64(2**bits - 1)
    head = min(count, (-start) % _GROUP)
    whole = head + (count - head) // _GROUP * _GROUP
    for i in range(head):
        codes[i] = _code(packed, bits, start + i)
    place = (start + head) // _GROUP * bits
    for first in range(head, whole, _GROUP):
        word = np.uint64(0)
        for b in range(bits):
            word |= np.uint64(packed[place + b]) << np.uint64(8 * b)
        for k in range(_GROUP):
            codes[first + k] = np.uint8((word >> np.uint64(k * bits)) & mask)
        place += bits
    for i in range(whole, count):
        codes[i] = _code(packed, bits, start + i)


@jit
def _code(packed: Bytes, bits: int, index: int) -> np.uint8:
    bit = index * bits
    byte = bit // 8
    word = np.uint32(packed[byte])
    if byte + 1 < packed.size:
        word |= np.uint32(packed[byte + 1]) << np.uint32(8)
    return np.uint8((word >> np.uint32(bit % 8)) & np.uint32(2**bits - 1))
