"""How the inputs of one layer are quantized, as a recipe holds it: bits, scheme and the calibrated tables it uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from engine.core.errors import OptionError

ACTIVATION_BITS = (4, 5, 6, 7, 8)
TOKEN, STATIC = "token", "static"
MAX_GROUPS = 1000
MAX_SHIFT = 3  # a channel's step is at most 2^3 times finer than the tensor's (DMQ)
SHIFT_BITS = 2
_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class SchemeRow:
    """One row of the scheme table: its name, label and the sentence the explorer shows."""

    name: str
    label: str
    summary: str


SCHEMES: dict[str, SchemeRow] = {
    row.name: row
    for row in (
        SchemeRow(TOKEN, "Online, per token",
                  "Range taken while it runs: per token for linear layers, per sample and channel for convolutions "
                  "(Qua2SeDiMo)."),
        SchemeRow(STATIC, "Static, per timestep group",
                  "One range per layer and group of timesteps, calibrated before, with channel scales and shifts where "
                  "the tables have them (DMQ)."),
    )
}


@dataclass(frozen=True, slots=True)
class Activation:
    """Quantization of a layer's inputs; a layer without one computes with full-precision inputs.

    Attributes:
        bits: 4 to 8.
        scheme: a key of `SCHEMES`.
        tables: id of the calibrated tables (12 hex digits); static only.
        groups: timestep groups the tables have; static only.
        scaled: whether the tables hold a scale tau per input channel (DMQ's learned equivalent scaling).
        shifted: whether they hold a power-of-two shift per group and input channel (DMQ's PTS).

    Raises:
        OptionError: a value out of range, or static fields on an online scheme.
    """

    bits: int
    scheme: str = TOKEN
    tables: str = ""
    groups: int = 0
    scaled: bool = False
    shifted: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise OptionError(f"Unknown activation scheme {str(self.scheme)[:40]!r}; choose one of "
                              f"{', '.join(SCHEMES)}.")
        if isinstance(self.bits, bool) or self.bits not in ACTIVATION_BITS:
            raise OptionError(f"Activations take {ACTIVATION_BITS[0]} to {ACTIVATION_BITS[-1]} bits, not "
                              f"{str(self.bits)[:40]}; leave the layer out to keep them in full precision.")
        if self.scheme == STATIC:
            if not isinstance(self.tables, str) or not _ID.fullmatch(self.tables):
                raise OptionError(f"Static activations name their tables by 12 hex digits, got "
                                  f"{str(self.tables)[:40]!r}.")
            if isinstance(self.groups, bool) or not isinstance(self.groups, int) or not 1 <= self.groups <= MAX_GROUPS:
                raise OptionError(f"Static activations have 1 to {MAX_GROUPS} timestep groups, not "
                                  f"{str(self.groups)[:40]}.")
        elif self.tables or self.groups or self.scaled or self.shifted:
            raise OptionError(f"The scheme {self.scheme!r} uses no tables; leave out tables, groups, scaled and "
                              f"shifted.")

    def __str__(self) -> str:
        return f"{self.scheme}-{self.bits}"


def activation_to_json(activation: Activation) -> dict[str, Any]:
    """The JSON object of a recipe's `activations`; what is at its default is left out, but for bits and scheme."""
    values = {f.name: getattr(activation, f.name) for f in fields(Activation)}
    return {k: v for k, v in values.items() if k in ("bits", "scheme") or v}


def activation_from_json(data: Any) -> Activation:
    """The setting in a JSON value.

    Raises:
        OptionError: no object, a missing or unknown key, or a value out of range.
    """
    if not isinstance(data, Mapping) or "bits" not in data or "scheme" not in data:
        raise OptionError(f"An activation setting is an object with bits and scheme, got {str(data)[:60]!r}.")
    known = {f.name for f in fields(Activation)}
    unknown = sorted(str(k)[:40] for k in set(data) - known)
    if unknown:
        raise OptionError(f"An activation setting has no key {unknown[0]!r}; known: {', '.join(sorted(known))}.")
    for name in ("scaled", "shifted"):
        if not isinstance(data.get(name, False), bool):
            raise OptionError(f"{name} is true or false, got {str(data[name])[:40]!r}.")
    if not all(isinstance(data[k], str) for k in ("scheme", "tables") if k in data):
        raise OptionError("The scheme and the tables of an activation setting are texts.")
    if not all(isinstance(data[k], int) and not isinstance(data[k], bool) for k in ("bits", "groups") if k in data):
        raise OptionError("The bits and groups of an activation setting are whole numbers.")
    return Activation(**data)
