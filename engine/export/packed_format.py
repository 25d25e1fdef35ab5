"""`packed`: our own format, which holds every option exactly and in as many bytes as the recipe says.

What lies where is described in `packed_loader.py`, which reads it. Two byte strings instead of a tensor per parameter
keep the header small: a file's size is `file_bytes` and a few hundred bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engine.core.errors import EngineError
from engine.core.files import write_atomic
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.recipe import Recipe
from engine.export import packed_loader as loader
from engine.export.components import write_config
from engine.export.content import others, quantized, users
from engine.export.format import Format, Written
from engine.export.packages import DIFFUSERS, SAFETENSORS
from engine.export.packed_inputs import inputs_of
from engine.export.plan import ExportPlan, Holds, everything_kept, make_plan, modules
from engine.export.tensorfile import TensorFile
from engine.export.verify import Difference, compare, reopen
from engine.live.model import Model
from engine.quant.qweight import TAU, QuantizedWeight

WEIGHTS = "quantscape.safetensors"


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Every layer is exact, weights from weight sets and quantized activations too."""
    return make_plan(structure, recipe, "packed", everything_kept(structure.precision_bits, recipe),
                     (DIFFUSERS, SAFETENSORS), holds=Holds.EVERYTHING)


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """Codes and parameters layer by layer, then biases, norms and activation tables, then the index."""
    folder = write_config(model, directory)
    layers = model.structure.layers
    rest = others(model)
    dtypes = list(dict.fromkeys(tensor.dtype for tensor in rest.values()))
    groups = [[_name(dtype), [n for n, t in rest.items() if t.dtype == dtype]] for dtype in dtypes]
    precision = {16: torch.float16, 32: torch.float32}[model.structure.precision_bits]
    inputs, tables = inputs_of(model, plan.recipe)
    spec = {"layers": (torch.uint8, (sum(_bytes(model, x, plan.recipe, precision) for x in layers),)),
            "others": (torch.uint8, (sum(t.nbytes for t in rest.values()),)),
            **({"inputs": (torch.uint8, (sum(t.nbytes for t in tables),))} if tables else {})}
    entries: list[list[str]] = []
    with TensorFile(folder / WEIGHTS, spec) as file:
        for number, layer in enumerate(layers, 1):
            weight = quantized(model, layer, plan.recipe)
            stored = _stored(weight, precision)
            scaled = TAU in weight.tensors
            for name, dtype, _ in loader.part_table(str(weight.option), layer.shape, stored, scaled):
                assert weight.tensors[name].dtype == dtype, f"{layer.name}: {name} is {weight.tensors[name].dtype}"
                file.append(weight.tensors[name])
            extra = [_name(stored)] if weight.option.is_untouched else [TAU] if scaled else []
            entries.append([layer.name, str(weight.option), *extra])
            yield Written(number, len(layers), layer.name)
        for _, names in groups:
            for name in names:
                file.append(rest[name])
        for tensor in tables:
            file.append(tensor)
    content: dict[str, Any] = {"layers": entries, "others": groups}
    _write_index(model, plan, directory, content | ({"inputs": inputs} if inputs else {}))


def _write_index(model: Model, plan: ExportPlan, directory: Path, content: dict[str, Any]) -> None:
    halves = {path: own[0].stop for path, own in modules(model.structure).items() if len(own) > 1}
    shared = {layer.module: [p for p in users(layer) if p != layer.module] for layer in model.structure.layers
              if len(users(layer)) > 1}
    ref = plan.recipe.model
    calibrated = bool(plan.recipe.weights or plan.recipe.activations)
    index = {
        "format": loader.FORMAT, "version": loader.VERSION if calibrated else 1,
        "model": {"id": ref.id, "denoiser_class": ref.denoiser_class, "identity": ref.identity,
                  "revision": ref.revision},
        "denoiser": model.denoiser_name, "weights": WEIGHTS,
        "sha256": loader.file_sha256(directory / model.denoiser_name / WEIGHTS),
        "precision_bits": model.structure.precision_bits,
        "splits": halves, "shared": shared, **content,
    }
    write_atomic(directory / loader.INDEX, json.dumps(index, separators=(",", ":"), allow_nan=False))


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Loaded by the public function; every tensor and the outputs are bit-equal."""
    try:
        denoiser = torch.nn.Module.to(loader.load_denoiser(directory), getattr(torch, model.dtype))
    except loader.PackedError as failure:
        raise EngineError(str(failure)) from None
    found = reopen(model, directory, **{model.denoiser_name: denoiser})
    return compare(model, found)


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that loads the export."""
    return f"""from engine.export.packed_loader import load_packed  # or a copy of that one file

pipeline = load_packed({directory!r})
"""


def _bytes(model: Model, layer: Layer, recipe: Recipe, precision: torch.dtype) -> int:
    option = recipe.option(layer.choice)
    origin = recipe.weights.get(layer.choice)
    needed = option.is_untouched or (origin is not None and origin.scaled)
    weight = quantized(model, layer, recipe) if needed else None
    stored = _stored(weight, precision) if weight is not None else precision
    scaled = weight is not None and TAU in weight.tensors
    return sum(torch.Size(shape).numel() * dtype.itemsize
               for _, dtype, shape in loader.part_table(str(option), layer.shape, stored, scaled))


def _stored(weight: QuantizedWeight, precision: torch.dtype) -> torch.dtype:
    return weight.tensors["weight"].dtype if weight.option.is_untouched else precision


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


FORMAT = Format("packed", "Packed (Quantscape)", "Every option exactly, in as many bytes as shown; one small file of "
                "Python loads it.", True, plan, write, verify, snippet)
