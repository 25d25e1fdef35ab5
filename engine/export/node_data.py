"""Scores as node data for Google's Model Explorer (ai-edge-model-explorer, node_data_builder.py).

The file is `{graph id: {"results": {node id: {"value": number}}, "gradient": [...]}}`; node ids are module paths.
"""

from __future__ import annotations

import math
import os
from typing import Any

from engine.core.errors import InputError
from engine.core.files import write_json
from engine.core.graph import Structure
from engine.core.record import Scores

# Harmless to harmful, readable for the colour-blind (viridis).
GRADIENT = ((0.0, "#fde725"), (0.5, "#21918c"), (1.0, "#440154"))


def node_data(structure: Structure, scores: Scores, option: str) -> dict[str, Any]:
    """The damage of one option on every layer that has a score, tied copies included.

    Raises:
        InputError: no layer has a score for that option.
    """
    results = {}
    for layer in structure.layers:
        value = scores.layers.get(layer.choice, {}).get(option)
        if value is not None and math.isfinite(value):
            results[layer.name] = {"value": value}
    if not results:
        known = sorted({o for options in scores.layers.values() for o in options})
        raise InputError(f"The scores hold nothing for {option[:40]!r}; choose one of {', '.join(known)[:200]}.")
    gradient = [{"stop": stop, "bgColor": color} for stop, color in GRADIENT]
    return {structure.model: {"results": results, "gradient": gradient}}


def save_node_data(path: str | os.PathLike[str], structure: Structure, scores: Scores, option: str) -> None:
    """Write the file, whole or not at all."""
    write_json(path, node_data(structure, scores, option))
