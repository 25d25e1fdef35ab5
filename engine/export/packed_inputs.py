"""The part of a packed export that quantizes layer inputs: settings for the index, tables for the file."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from engine.core.activation import STATIC, Activation
from engine.core.errors import RecipeError
from engine.core.layer import Layer
from engine.core.recipe import Recipe
from engine.export.content import quantized
from engine.live.model import Model
from engine.live.tables import ActivationTables
from engine.models.inputs import TIME_NAMES
from engine.quant.packing import pack
from engine.quant.qweight import TAU

SHIFT_BITS = 2


def inputs_of(model: Model, recipe: Recipe) -> tuple[dict[str, Any] | None, list[Tensor]]:
    """What the index says of quantized inputs (None where there are none), and the tensors of their tables in order.

    Per static layer: low and high [G] at the checkpoint's precision, tau [in] unless the weight's is the same one, and
    shifts in 2 bits each.

    Raises:
        RecipeError: more than one set of tables, values that the precision does not hold, or weights and activations
            of a layer that are scaled differently, which no integer arithmetic could run.
    """
    layers = [x for x in model.structure.layers if x.choice in recipe.activations]
    if not layers:
        return None, []
    names = sorted({a.tables for a in recipe.activations.values() if a.tables})
    if len(names) > 1:
        raise RecipeError(f"The recipe uses {len(names)} sets of activation tables, and a packed file holds one; "
                          f"calibrate the whole recipe at once.")
    tables = model.find_tables(names[0]) if names else None
    entries: list[list[Any]] = []
    tensors: list[Tensor] = []
    for layer in layers:
        setting = recipe.activations[layer.choice]
        entry: list[Any] = [layer.name, setting.bits]
        if setting.scheme == STATIC and tables is not None:
            own, parts = _static(model, layer, recipe, setting, tables)
            entry.append({"scale": own, "shifted": setting.shifted})
            tensors += parts
        entries.append(entry)
    index: dict[str, Any] = {"layers": entries, "starts": {x.name: x.start for x in layers if x.start},
                             "shared": {x.name: list(x.modules) for x in layers if len(x.modules) > 1}}
    if tables is not None:
        parameters = inspect.signature(model.denoiser.forward).parameters
        index |= {"time": next(n for n in TIME_NAMES if n in parameters), "edges": list(tables.edges),
                  "groups": tables.count, "timesteps": [tables.timesteps[0], tables.timesteps[-1], _widest(tables)]}
    return index, tensors


def _static(model: Model, layer: Layer, recipe: Recipe, setting: Activation,
            tables: ActivationTables) -> tuple[str, list[Tensor]]:
    """Where the scale lies ("", "weight" or "own"), and the layer's tensors."""
    table = tables.table(layer.name, setting.bits)
    dtype = {16: torch.float16, 32: torch.float32}[model.structure.precision_bits]
    weight_tau = quantized(model, layer, recipe).tensors.get(TAU)
    own = "" if table.tau is None else "own" if weight_tau is None else "weight"
    if own == "weight" and table.tau is not None and weight_tau is not None \
            and not torch.equal(weight_tau.float(), table.tau.float()):
        raise RecipeError(f"Weights and activations of {layer.name} are scaled differently; take both from one "
                          f"calibration.")
    parts = [table.low, table.high] + ([table.tau] if own == "own" and table.tau is not None else [])
    stored = [p.to(dtype) for p in parts]
    if not all(torch.equal(s.float(), p.float()) for s, p in zip(stored, parts, strict=True)):
        raise RecipeError(f"The activation tables of {layer.name} have more digits than the "
                          f"{model.structure.precision_bits} bits a file keeps; make them with calibrate.")
    if table.shifts is not None:
        stored.append(pack(table.shifts, SHIFT_BITS))
    return own, stored


def _widest(tables: ActivationTables) -> float:
    return max((a - b for a, b in zip(tables.timesteps, tables.timesteps[1:], strict=False)), default=float(2**31))
