"""Learned rounding of a whole model: unit after unit in forward order, each on inputs from what is quantized so far.

Inputs of a unit come from the network whose earlier units already have their rounded weights, targets from the
full-precision network (BRECQ, Li et al., ICLR 2021); activations are not quantized here. Every finished unit is kept on
disk, and an interrupted run continues with the next. A unit that cannot be run by itself is taken layer by layer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.calibrate.adaround import BlockProblem, Rounding, RoundingPlan, rounding_of
from engine.calibrate.files import UNKNOWN, Folder
from engine.calibrate.gather import BUDGET_BYTES, BlockInputs, block_inputs, block_outputs, grouped, output_bytes
from engine.calibrate.rows import Rows
from engine.calibrate.units import Unit, alone, units_of
from engine.core.layer import Layer
from engine.core.option import parse_option
from engine.core.recipe import Recipe, model_ref
from engine.live.apply import applied
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.live.originals import live_weight
from engine.providers.progress import Progress
from engine.quant.qweight import QuantizedWeight
from engine.quant.rounding import ORDERED, choice_of

Weights = dict[str, QuantizedWeight]


def learn_roundings(model: Model, rows: Rows, nearest: Mapping[str, QuantizedWeight], plan: RoundingPlan, *,
                    folder: Folder | None = None, only: Sequence[str] = (), budget: int = BUDGET_BYTES,
                    cancel: Cancel | None = None) -> Iterator[Progress | Rounding]:
    """Learn the rounding of every unit that has quantized layers; a `Rounding` each, in forward order.

    Args:
        model: in float32; its recipe is put back at the end.
        rows: drawn inputs.
        nearest: layer name -> weight rounded to nearest, scaled or not; layers it does not name stay untouched.
        plan: how to learn.
        folder: where finished units are kept.
        only: names of units that are learned; the others before them are rounded to nearest. Empty is all.
        budget: bytes of targets held at once.
        cancel: asked at every iteration.

    Raises:
        Cancelled: the caller asked for it; finished units are kept.
        StoreError: the folder is of another run, or damaged.
    """
    folder = folder or Folder(None, {})
    units = [u for u in units_of(model.structure) if any(x.name in nearest for x in u.layers)]
    if only:
        units = units[:max(i for i, u in enumerate(units) if u.name in only) + 1]
    with applied(model, Recipe(model_ref(model.structure), {})):
        yield from _Run(model, rows, nearest, plan, folder, budget, cancel).over(units, only)


@contextlib.contextmanager
def holding(model: Model, weights: Mapping[str, QuantizedWeight]) -> Iterator[None]:
    """These weights in the live layers within the block, the originals afterwards. The model is at full precision."""
    layers = [x for x in model.structure.layers if x.name in weights]
    try:
        with torch.no_grad():
            for layer in layers:
                weights[layer.name].dequantize_into(live_weight(model.denoiser, layer))
        yield
    finally:
        with torch.no_grad():
            for layer in layers:
                model.originals.restore_into(layer, live_weight(model.denoiser, layer))


class _Run:
    """State of one pass over the units: what is rounded so far, and full-precision targets at hand."""

    def __init__(self, model: Model, rows: Rows, nearest: Mapping[str, QuantizedWeight], plan: RoundingPlan,
                 folder: Folder, budget: int, cancel: Cancel | None) -> None:
        self._model, self._rows, self._nearest, self._plan = model, rows, nearest, plan
        self._folder, self._budget, self._cancel = folder, budget, cancel
        self._done: Weights = {}
        self._targets: dict[str, tuple[Tensor, ...]] = {}

    def over(self, units: list[Unit], only: Sequence[str]) -> Iterator[Progress | Rounding]:
        """Unit after unit."""
        todo, number, begun = list(units), 0, time.perf_counter()
        fresh = 0
        while todo:
            check_cancel(self._cancel)
            unit = todo.pop(0)
            found = self._kept(unit) if not only or unit.name in only else self._unlearned(unit, 0.0)
            if found is None:
                found, fresh = self._learned(unit, [u.name for u in todo]), fresh + 1
            if found is None:
                todo[:0] = alone(unit)
                continue
            self._done.update(found.weights)
            self._targets.pop(unit.name, None)
            number += 1
            yield found
            left = (time.perf_counter() - begun) / fresh * len(todo) if fresh else None
            yield Progress(f"rounding {unit.name}", number, number + len(todo), left)

    def _learned(self, unit: Unit, later: list[str]) -> Rounding | None:
        """None where the unit has to be taken apart."""
        start = time.perf_counter()
        chosen = {x.name: self._nearest[x.name] for x in unit.layers if x.name in self._nearest}
        if not any(w.option.method in ORDERED for w in chosen.values()):
            return self._keep(unit, self._unlearned(unit, time.perf_counter() - start))
        module = self._model.denoiser.get_submodule(unit.name)
        with holding(self._model, self._done):
            inputs = block_inputs(self._model, self._rows, unit.name, cancel=self._cancel)
        if inputs is None:
            if len({x.module for x in unit.layers}) > 1:
                return None
            return self._keep(unit, self._unlearned(unit, time.perf_counter() - start))
        targets = self._targets_of(unit, later)
        choices = {n: choice_of(self._model.originals.tensor(self._layer(n)).float(), w) for n, w in chosen.items()
                   if w.option.method in ORDERED}
        fixed = {n: w.dequantize() for n, w in chosen.items() if n not in choices}
        forward = _Forward(self._model, unit, module, inputs, fixed)
        device = self._model.device
        problem = BlockProblem(unit.name, choices, forward, lambda rows: tuple(t[rows].to(device) for t in targets),
                               self._rows.held, unit.layers[-1].kind)
        found = rounding_of(problem, self._plan, self._cancel)
        weights = {**{n: chosen[n] for n in fixed}, **found.weights}
        return self._keep(unit, Rounding(unit.name, weights, found.before, found.after, found.moved, found.iterations,
                                         time.perf_counter() - start, found.accepted))

    def _targets_of(self, unit: Unit, later: list[str]) -> tuple[Tensor, ...]:
        if unit.name not in self._targets:
            paths = [unit.name, *(n for n in later if not self._folder.has(_part(n)))]
            sizes = output_bytes(self._model, self._rows, paths)
            group = next(grouped(sizes, self._budget))
            self._targets = block_outputs(self._model, self._rows, group, cancel=self._cancel)
        return self._targets[unit.name]

    def _unlearned(self, unit: Unit, seconds: float) -> Rounding:
        weights = {x.name: self._nearest[x.name] for x in unit.layers if x.name in self._nearest}
        return Rounding(unit.name, weights, 0.0, 0.0, 0.0, 0, seconds, False)

    def _layer(self, name: str) -> Layer:
        return self._model.structure.layer(name)

    def _keep(self, unit: Unit, found: Rounding) -> Rounding:
        tensors = {f"{i}.{part}": tensor for i, weight in enumerate(found.weights.values())
                   for part, tensor in weight.tensors.items()}
        about = {"layers": [[n, str(w.option), list(w.shape)] for n, w in found.weights.items()],
                 "figures": [found.before, found.after, found.moved, found.iterations, found.seconds, found.accepted]}
        self._folder.save(_part(unit.name), tensors, about)
        return found

    def _kept(self, unit: Unit) -> Rounding | None:
        if not self._folder.has(_part(unit.name)):
            return None
        tensors, about = self._folder.load(_part(unit.name))
        weights = {}
        for i, (name, option, shape) in enumerate(about["layers"]):
            own = {key.partition(".")[2]: t for key, t in tensors.items() if key.startswith(f"{i}.")}
            weights[name] = QuantizedWeight(parse_option(option), tuple(shape), own)
        found = Rounding(unit.name, weights, *about["figures"])
        if self._folder.taken.get(_part(unit.name)) == UNKNOWN:  # kept before costs were
            self._folder.taken[_part(unit.name)] = found.seconds, None
        return found


class _Forward:
    """The block's outputs under given weights of its layers; other parameters as they are, without gradient."""

    def __init__(self, model: Model, unit: Unit, module: nn.Module, inputs: BlockInputs,
                 fixed: Mapping[str, Tensor]) -> None:
        self._module, self._inputs, self._device = module, inputs, model.device
        names = {x.module for x in unit.layers}
        self._layers = [x for x in model.structure.layers if x.module in names]
        self._fixed = {x.name: model.originals.tensor(x).float() for x in self._layers} | dict(fixed)
        self._places = {x.module: [_within(path, unit.name) for path in x.modules or (x.module,)
                                   if path == unit.name or path.startswith(f"{unit.name}.")] for x in self._layers}

    def __call__(self, weights: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        parts: dict[str, list[Tensor]] = {}
        for layer in self._layers:
            weight = weights.get(layer.name, self._fixed[layer.name])
            parts.setdefault(layer.module, []).append(weight.to(self._device))
        parameters = {place: halves[0] if len(halves) == 1 else torch.cat(halves, 1)
                      for module, halves in parts.items() for place in self._places[module]}
        return self._inputs.call(self._module, parameters, rows)


def _within(path: str, unit: str) -> str:
    return "weight" if path == unit else f"{path[len(unit) + 1:]}.weight"


def _part(unit: str) -> str:
    return f"rounding-{unit}"
