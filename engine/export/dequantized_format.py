"""`dequantized`: a plain diffusers directory with the quantized weights in full precision; runs anywhere, not smaller.

Weights are stored in the checkpoint's precision where that holds them exactly (untouched and k-means layers), else in
float32: a rounded weight would not be the one that was previewed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import Option
from engine.core.recipe import Recipe
from engine.export.components import write_config
from engine.export.content import dense, module_weights, others, users
from engine.export.format import Format, Written
from engine.export.packages import DIFFUSERS
from engine.export.plan import ExportPlan, Held, Holds, make_plan, modules
from engine.export.tensorfile import TensorFile
from engine.export.verify import Difference, compare, reopen
from engine.live.model import Model

WEIGHTS = "diffusion_pytorch_model.safetensors"
LEVELS = ("kmeans_c", "kmeans_a")  # weights are stored values themselves, not products of them


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Every layer is exact, and larger than it could be."""

    def holder(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> tuple[Held, ...]:
        width = structure.precision_bits // 8 if _is_narrow(layers, recipe) else torch.float32.itemsize
        return tuple(Held(o, len(users(x)) * x.weights * width) for x, o in zip(layers, options, strict=True))

    return make_plan(structure, recipe, "dequantized", holder, (DIFFUSERS,),
                     ("The file is not smaller than the original: weights are dequantized, so that nothing but "
                      "diffusers is needed.",), holds=Holds.WEIGHTS)


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """The state dictionary of the previewed denoiser, module by module."""
    folder = write_config(model, directory)
    rest = others(model)
    spec: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {n: (t.dtype, tuple(t.shape)) for n, t in rest.items()}
    owners: dict[str, tuple[Layer, ...]] = {}
    for layers in modules(model.structure).values():
        shape = (layers[0].shape[0], sum(x.shape[1] for x in layers), *layers[0].shape[2:])
        for name in (f"{path}.weight" for path in users(layers[0])):
            owners[name] = layers
            spec[name] = (_dtype(model, layers, plan.recipe), shape)
    with TensorFile(folder / WEIGHTS, spec) as file:
        for number, name in enumerate(file.order, 1):
            if name in rest:
                file.append(rest[name])
            else:
                file.append(dense(module_weights(model, owners[name], plan.recipe)).to(spec[name][0]))
            yield Written(number, len(file.order), name)


def _is_narrow(layers: tuple[Layer, ...], recipe: Recipe) -> bool:
    """Whether the checkpoint's precision holds the weights of a module exactly."""
    options = [recipe.option(layer.choice) for layer in layers]
    origins = [recipe.weights.get(layer.choice) for layer in layers]
    if any(origin is not None and origin.scaled for origin in origins):
        return False  # what scaled weights stand for is divided by the scale
    return all(o.is_untouched for o in options) or all(o.method in LEVELS for o in options)


def _dtype(model: Model, layers: tuple[Layer, ...], recipe: Recipe) -> torch.dtype:
    options = tuple(recipe.option(layer.choice) for layer in layers)
    if not _is_narrow(layers, recipe) or model.structure.precision_bits != 16:
        return torch.float32
    stored = model.originals.tensor(layers[0]).dtype
    return stored if options[0].is_untouched and stored.itemsize == 2 else torch.float16


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Loaded by diffusers; every tensor and the outputs are bit-equal."""
    return compare(model, reopen(model, directory))


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that loads the export."""
    return f"""import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({directory!r}, dtype=torch.float32)
"""


FORMAT = Format("dequantized", "Plain diffusers (dequantized)", "Runs wherever diffusers does, with the previewed "
                "weights; not smaller than the original.", True, plan, write, verify, snippet)
