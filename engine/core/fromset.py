"""Weights of a layer that were calibrated: which weight set a recipe takes them from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.core.errors import RecipeError

_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class FromSet:
    """Where a layer's quantized weight comes from, if not from its option alone.

    Attributes:
        set: id of the weight set (12 hex digits): learned rounding, scaled weights, or both.
        scaled: whether a factor tau per input channel is stored with it (DMQ's learned equivalent scaling).

    Raises:
        RecipeError: the id is none.
    """

    set: str
    scaled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.set, str) or not _ID.fullmatch(self.set):
            raise RecipeError(f"A weight set is named by 12 hex digits, got {str(self.set)[:40]!r}.")
        if not isinstance(self.scaled, bool):
            raise RecipeError(f"scaled is true or false, got {str(self.scaled)[:40]!r}.")


def from_set_to_json(value: FromSet) -> dict[str, Any]:
    """The JSON object of a recipe's `weights`."""
    return {"set": value.set, **({"scaled": True} if value.scaled else {})}


def from_set_from_json(data: Any) -> FromSet:
    """The reference in a JSON value.

    Raises:
        RecipeError: no object, a missing or unknown key, or no id.
    """
    if not isinstance(data, Mapping) or "set" not in data or set(data) - {"set", "scaled"}:
        raise RecipeError(f"A layer's weights are an object with set and, where they are scaled, scaled; got "
                          f"{str(data)[:60]!r}.")
    return FromSet(data["set"], data.get("scaled", False))
