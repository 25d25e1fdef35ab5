"""Budgets as people write them (`3.5 bits`, `3MB`, `40%`) -> bytes of the quantizable layers."""

from __future__ import annotations

import math
import re

from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.sizes import full_bytes

_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z%]*)\s*")
BYTES = {"b": 1, "byte": 1, "bytes": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9,
         "kib": 2**10, "mib": 2**20, "gib": 2**30}
BITS = ("bit", "bits", "bpw")


def parse_budget(text: str, structure: Structure) -> int:
    """Bytes of `3.5bits` (per weight, parameters included), `3MB` (MB = 10^6) or `40%` (of full precision).

    Raises:
        InputError: no number, an unknown unit, or not above zero.
    """
    match = _TEXT.fullmatch(text)
    unit = match[2].lower() if match else ""
    if not match or (unit not in BYTES and unit not in BITS and unit != "%"):
        raise InputError(f"{text[:40]!r} is no budget; write bits per weight (3.5bits), a size (3MB) or a share (40%).")
    value = float(match[1])
    if unit in BITS:
        return bits_budget(value, structure)
    if unit == "%":
        return _whole(value / 100 * full_bytes(structure), structure)
    return _whole(value * BYTES[unit], structure)


def bits_budget(bits: float, structure: Structure) -> int:
    """Bytes at so many stored bits per weight.

    Raises:
        InputError: not above zero, or above full precision.
    """
    if not math.isfinite(bits) or bits <= 0:
        raise InputError(f"{bits} bits per weight is no budget; name a number above 0.")
    return _whole(bits / structure.precision_bits * full_bytes(structure), structure)


def memory_size(text: str) -> int:
    """Bytes of `8GB` (10^9) or `8GiB` (2^30).

    Raises:
        InputError: no number with such a unit.
    """
    match = _TEXT.fullmatch(text)
    if not match or match[2].lower() not in BYTES:
        raise InputError(f"{text[:40]!r} is no amount of memory; write a number and a unit, such as 8GB or 7.5GiB.")
    return int(float(match[1]) * BYTES[match[2].lower()])


def layers_budget(total_bytes: int, structure: Structure, working_bytes: int = 0) -> int:
    """What is left for the quantizable layers when the whole pipeline must fit: components (text encoders, VAE),
    biases, norms and tables, and `working_bytes` of activations are taken off.

    Raises:
        InputError: nothing is left.
    """
    rest = sum(c.bytes for c in structure.components) + structure.other_weights * structure.precision_bits // 8
    left = total_bytes - rest - working_bytes
    if left <= 0:
        raise InputError(f"{_readable(total_bytes)} is too small: the rest of the pipeline alone needs "
                         f"{_readable(rest + working_bytes)}.")
    return min(left, full_bytes(structure))


def _whole(value: float, structure: Structure) -> int:
    full = full_bytes(structure)
    if value <= 0:
        raise InputError("A budget of zero fits no model; name a number above 0.")
    if value > full * (1 + 1e-9):
        raise InputError(f"The budget of {value / 1e6:.3f} MB is larger than full precision ({full / 1e6:.3f} MB, "
                         f"{structure.precision_bits} bits per weight); nothing needs to be quantized.")
    return min(math.floor(value + 1e-6), full)


def _readable(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
