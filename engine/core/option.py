"""An option is how one layer may be stored: a method and a bit-width, written `uaq-4`, `rtn_g64-3`, `fp16`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from engine.core.errors import OptionError

BITS = (2, 3, 4, 5, 6, 8)
UNTOUCHED_BITS = 16


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One row of the method table.

    `bits`: the widths it offers. `fixed`: it has one width, its name carries no `-bits`.
    `kinds`: the layer kinds it can take. `summary`: the sentence the explorer shows.
    """

    name: str
    label: str
    bits: tuple[int, ...]
    kinds: tuple[str, ...]
    fixed: bool
    summary: str


ALL_KINDS = ("linear", "conv1d", "conv2d")
METHODS: dict[str, MethodRow] = {
    row.name: row
    for row in (
        MethodRow("uaq", "UAQ", BITS, ALL_KINDS, False,
                  "Uniform affine per output channel, clip ratio searched (Qua2SeDiMo)."),
        MethodRow("kmeans_c", "K-means per channel", BITS, ALL_KINDS, False,
                  "One codebook per output channel (Qua2SeDiMo K-Means-C)."),
        MethodRow("kmeans_a", "K-means whole tensor", BITS, ALL_KINDS, False,
                  "One codebook for the whole tensor (Qua2SeDiMo K-Means-A)."),
        MethodRow("rtn_g64", "Round to nearest, groups of 64", BITS, ALL_KINDS, False,
                  "Group-wise round-to-nearest, as SDNQ stores it: asymmetric up to 4 bits, symmetric from 5."),
        MethodRow("nf4", "NF4", (4,), ("linear",), True,
                  "16 levels of a normal distribution, scaled per block of 64 weights (bitsandbytes)."),
        MethodRow("fp4", "FP4", (4,), ("linear",), True,
                  "4-bit floating point, scaled per block of 64 weights (bitsandbytes)."),
        MethodRow("int8", "INT8", (8,), ("linear",), True,
                  "Rounded to 255 levels per output channel, as LLM.int8() stores weights (bitsandbytes)."),
        MethodRow("fp16", "Untouched", (UNTOUCHED_BITS,), ALL_KINDS, True,
                  "The weights as the checkpoint has them."),
    )
}


@dataclass(frozen=True, slots=True)
class Option:
    """Method + bits. `bits` is nominal; stored bits are in `engine.core.sizes`."""

    method: str
    bits: int

    def __str__(self) -> str:
        return self.method if METHODS[self.method].fixed else f"{self.method}-{self.bits}"

    @property
    def is_untouched(self) -> bool:
        """Whether the layer stays as the checkpoint has it."""
        return self.bits == UNTOUCHED_BITS


FP16 = Option("fp16", UNTOUCHED_BITS)
ALL_OPTIONS: tuple[Option, ...] = tuple(Option(row.name, b) for row in METHODS.values() for b in row.bits)
_FIXED = tuple(row.name for row in METHODS.values() if row.fixed)
_WITH_WIDTH = tuple(row.name for row in METHODS.values() if not row.fixed)
_BY_TEXT = {str(option): option for option in ALL_OPTIONS}


@functools.cache
def parse_option(text: str) -> Option:
    """`uaq-4` -> Option("uaq", 4).

    Raises:
        OptionError: the text names no option of the table.
    """
    if text not in _BY_TEXT:
        raise OptionError(
            f"Unknown option {str(text)[:60]!r}: expected one of {', '.join(_WITH_WIDTH)} with a width of "
            f"{', '.join(map(str, BITS))} (such as uaq-4), or one of {', '.join(_FIXED)}."
        )
    return _BY_TEXT[text]


def options_for(kind: str) -> tuple[Option, ...]:
    """All options a layer of this kind can take, in table order."""
    return tuple(option for option in ALL_OPTIONS if kind in METHODS[option.method].kinds)
