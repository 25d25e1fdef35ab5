"""Heat maps as the page draws them: orthogonality of layers, similarity and error per step. Numbers in, JSON out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.core.graph import Structure
from explorer.graphview.overlay import scale_of

if TYPE_CHECKING:
    from engine.calibrate.orthogonality import Orthogonality
    from engine.calibrate.step_errors import StepErrors

CELL, COLUMN = "cell", "column"
WHOLE = "whole model"


@dataclass(frozen=True, slots=True)
class Named:
    """What a heat map says beside its numbers."""

    title: str
    unit: str
    row: str = "Layer"
    column: str = "Layer"
    note: str = ""
    pick: str = CELL


def heat(named: Named, rows: list[dict[str, str]], columns: list[dict[str, str]], values: Iterable[Iterable[float]], *,
         log: bool = False, scale: tuple[float, float] | None = None) -> dict[str, Any]:
    """A HeatGrid's value; what is not finite is left blank.

    values: [rows][columns]; scale: printed ends, else those of the numbers.
    """
    table = [[float(f"{v:.4g}") if math.isfinite(v) else None for v in row] for row in values]
    low, high = scale or scale_of((v for row in table for v in row if v is not None), log=log)
    return {"title": named.title, "unit": named.unit, "rows": rows, "columns": columns, "values": table,
            "scale": [low, high], "log": log, "note": named.note, "pick": named.pick, "row_name": named.row,
            "column_name": named.column, "picked": None, "progress": None, "error": None}


def blank(why: str) -> dict[str, Any]:
    """A HeatGrid without numbers that says why."""
    return {"rows": [], "columns": [], "values": [], "empty": why, "progress": None, "error": None}


def layer_rows(structure: Structure, names: Sequence[str], stages: bool = False) -> list[dict[str, str]]:
    """Labels of rows that are layers or modules; neighbours of one block (or stage) share a label, a click selects."""
    layers = {x.module: x for x in reversed(structure.layers)} | {x.name: x for x in structure.layers}
    blocks = {b.id: b for b in structure.blocks}
    found = []
    for name in names:
        layer = layers[name]
        block = blocks.get(layer.block)
        over = blocks.get(block.parent) if block and stages else block
        found.append({"label": name, "title": name, "group": over.label if over else layer.block, "id": layer.choice})
    return found


def middle(values: Iterable[Iterable[float]], floor: float = 0.0) -> tuple[float, float]:
    """The 2nd and 98th percentile of the numbers above a floor: a few extremes do not take all colours."""
    ordered = sorted(v for row in values for v in row if math.isfinite(v) and v > floor)
    if not ordered:
        return (0.0, 1.0)
    low, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.02, 0.98))
    return (low, high) if high > low else (low, low + 1.0)


def matrix_view(structure: Structure, found: Orthogonality) -> dict[str, Any]:
    """Layer x layer, mean over profiled steps: 1 = one layer's outputs tell pictures apart just as the other's do."""
    rows = layer_rows(structure, found.rows)
    note = " ".join([f"{found.images} pictures, {len(found.steps)} steps; median {found.debiased_median:.2f} (biased "
                     f"{found.biased_median:.2f}).", *found.warnings])
    named = Named("Orthogonality, layer by layer", "0 = independent, 1 = repeats the other; hatched = never varies",
                  note=note)
    silent = [row in found.silent for row in found.rows]
    values = [[math.nan if silent[i] or silent[j] else v for j, v in enumerate(row)]
              for i, row in enumerate(found.matrix.tolist())]
    return heat(named, rows, layer_rows(structure, found.rows, stages=True), values, scale=(0.0, 1.0))


def gamma_view(structure: Structure, found: Orthogonality) -> dict[str, Any]:
    """Layer x timestep: how much a layer repeats the others at each profiled step (gamma)."""
    steps = [{"label": str(step + 1), "title": f"step {step + 1}, timestep {t:g}"}
             for step, t in zip(found.steps, found.timesteps, strict=True)]
    named = Named("Similarity to all other layers, by step", "gamma, 2nd to 98th percentile; low = carries its own",
                  column="Step", note="Hatched rows do not vary between pictures at that step.")
    values = found.gamma.T.tolist()
    return heat(named, layer_rows(structure, found.rows), steps, values, scale=middle(values))


def steps_view(structure: Structure, found: StepErrors) -> dict[str, Any]:
    """Layer x step under the recipe, with the denoiser's output and the latents on top."""
    top = [{"label": "latents", "title": "latents, both sampling on their own", "group": WHOLE},
           {"label": "output", "title": "denoiser output, same input", "group": WHOLE}]
    steps = [{"label": str(i + 1), "title": f"step {i + 1}, timestep {t:g}"} for i, t in enumerate(found.timesteps)]
    values = [found.latents, found.output, *found.values]
    note = (f"{found.images} calibration pictures; every layer sees what earlier ones pass on. Click a step to see the "
            f"picture there.")
    named = Named("Error by layer and step", "relative squared error against full precision, 2nd to 98th percentile",
                  column="Step", note=note,
                  pick=COLUMN)
    return heat(named, top + layer_rows(structure, found.layers), steps, values, log=True,
                scale=middle(found.values))
