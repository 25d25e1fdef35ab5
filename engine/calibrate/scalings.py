"""Scalings of all layers of a model: inputs gathered once, every layer learned alone, each finished one kept on disk.

Layers are independent (see `engine.calibrate.problem`), so an interrupted run continues with the next one, and a layer
that cannot take a scaling says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from engine.calibrate.files import UNKNOWN, Folder
from engine.calibrate.gather import BUDGET_BYTES, layer_inputs
from engine.calibrate.les import LesPlan, Scaling, scaling_of
from engine.calibrate.problem import LayerProblem, convolution_of, unsuited
from engine.calibrate.ranges import GROUPS
from engine.calibrate.rows import Rows
from engine.core.activation import STATIC
from engine.core.layer import Layer
from engine.core.recipe import Recipe, model_ref
from engine.core.seeds import derive
from engine.live.apply import applied
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.live.tables import merged_groups
from engine.providers.progress import Progress
from engine.quant.activation import CHANNEL_AXIS


@dataclass(frozen=True, slots=True)
class Inputs:
    """How inputs will be quantized: the scheme (as in `engine.core.activation`) and its timestep groups."""

    scheme: str = STATIC
    groups: int = GROUPS


def learn_scalings(model: Model, rows: Rows, recipe: Recipe, plan: LesPlan, inputs: Inputs, *,
                   folder: Folder | None = None, only: Sequence[str] = (), budget: int = BUDGET_BYTES,
                   cancel: Cancel | None = None) -> Iterator[Progress | Scaling]:
    """Learn a scaling for every layer a recipe quantizes, at that layer's bits; a `Scaling` each, in any order.

    Of a layer whose inputs alone are quantized it says that there is none, and why.

    Args:
        model: in float32; its recipe is put back at the end.
        rows: drawn inputs.
        recipe: options and activation bits of the layers.
        plan: how to learn.
        inputs: how those activations will be quantized.
        folder: where finished layers are kept.
        only: layer names; empty is all.
        budget: bytes of inputs held at once.
        cancel: asked at every iteration.

    Raises:
        Cancelled: the caller asked for it; finished layers are kept.
        StoreError: the folder is of another run, or damaged.
    """
    folder = folder or Folder(None, {})
    full = Recipe(model_ref(model.structure), {})
    layers = [x for x in model.structure.layers if (not only or x.name in only)
              and (x.choice in recipe.activations or not recipe.option(x.choice).is_untouched)]
    total, done = len(layers), 0
    todo: dict[str, list[Layer]] = {}
    for layer in layers:
        reason = unsuited(model.denoiser.get_submodule(layer.module), recipe.option(layer.choice))
        if len(model.groups[layer.choice]) > 1:
            reason = reason or "tied copies share one setting, and each would need a scaling of its own"
        part = _part(layer, recipe, plan, inputs)
        kept = Scaling(layer.name, None, 0.0, 0.0, reason=reason) if reason else _kept(folder, part)
        if kept is None:
            todo.setdefault(layer.module, []).append(layer)
            continue
        done += 1
        yield kept
        yield Progress(f"scaling {layer.name}", done, total)
    begun, first = time.perf_counter(), done
    with applied(model, full):
        for module, x in layer_inputs(model, rows, list(todo), budget=budget, cancel=cancel):
            for layer in todo.pop(module):
                check_cancel(cancel)
                found = scaling_of(_problem(model, rows, layer, recipe, x, inputs), plan, cancel)
                _keep(folder, _part(layer, recipe, plan, inputs), found)
                done += 1
                yield found
                left = (time.perf_counter() - begun) / (done - first) * (total - done)
                yield Progress(f"scaling {layer.name}", done, total, left)
    for layer in (x for own in todo.values() for x in own):
        done += 1
        yield Scaling(layer.name, None, 0.0, 0.0, reason="the layer is never executed")
        yield Progress(f"scaling {layer.name}", done, total)


def problem_of(model: Model, rows: Rows, layer: str, recipe: Recipe, inputs: Inputs, *,
               cancel: Cancel | None = None) -> LayerProblem:
    """One layer's problem alone, to look into. Arguments as `learn_scalings`."""
    found = model.structure.layer(layer)
    with applied(model, Recipe(model_ref(model.structure), {})):
        x = dict(layer_inputs(model, rows, [found.module], cancel=cancel))[found.module]
    return _problem(model, rows, found, recipe, x, inputs)


def own_channels(layer: Layer, x: Tensor) -> Tensor:
    """The channels of a module's input that a layer (or half) reads."""
    axis = CHANNEL_AXIS[layer.kind]
    return (x if x.shape[axis] == layer.shape[1] else x.narrow(axis, layer.start, layer.shape[1])).contiguous()


def _problem(model: Model, rows: Rows, layer: Layer, recipe: Recipe, x: Tensor, inputs: Inputs) -> LayerProblem:
    activation = recipe.activations.get(layer.choice)
    how = convolution_of(model.denoiser.get_submodule(layer.module))
    return LayerProblem(
        layer, model.originals.tensor(layer).float(), own_channels(layer, x), rows.timesteps,
        groups_of(rows, inputs.groups), rows.held, recipe.option(layer.choice), activation.bits if activation else 0,
        inputs.scheme if activation else "", how, model.structure.precision_bits, rows.judge, rows.rising)


def groups_of(rows: Rows, groups: int) -> Tensor:
    """Activation group of each row, int64 [N]: consecutive timesteps, the largest in group 0."""
    times = sorted({float(t) for t in rows.timesteps}, reverse=True)
    group = dict(zip(times, merged_groups(times, groups), strict=True))
    return torch.tensor([group[float(t)] for t in rows.timesteps])


def _part(layer: Layer, recipe: Recipe, plan: LesPlan, inputs: Inputs) -> str:
    """A part is of one layer at one setting, so runs at other bits share the folder."""
    activation = recipe.activations.get(layer.choice)
    said = json.dumps([layer.name, str(recipe.option(layer.choice)), activation.bits if activation else 0,
                       asdict(inputs), asdict(plan)], sort_keys=True)
    return f"scaling-{derive(said):016x}"


def _kept(folder: Folder, part: str) -> Scaling | None:
    if not folder.has(part):
        return None
    tensors, about = folder.load(part)
    curve = tuple((int(i), float(v)) for i, v in about.pop("curve"))
    found = Scaling(**about, tau=tensors.get("tau"), curve=curve)
    if folder.taken.get(part) == UNKNOWN:  # kept before costs were: learning alone was timed
        folder.taken[part] = found.seconds, None
    return found


def _keep(folder: Folder, part: str, found: Scaling) -> None:
    about = {k: v for k, v in asdict(replace(found, tau=None)).items() if k != "tau"}
    folder.save(part, {} if found.tau is None else {"tau": found.tau}, about)
