"""From an allocation to a calibrated recipe: scaling at each layer's bits, rounding of the weights, activation scheme.

The order of DMQ (Lee et al., ICCV 2025): tau per layer, then the weights (learned rounding or nearest), then the ranges
of the activations with those weights, then power-of-two shifts. Every stage can be left out, so any allocation goes
with any weight method and any activation scheme. Trajectories, scalings and roundings are kept on disk by what
determines them: runs that share one (the same weights for two activation schemes) share its files, and an interrupted
run continues. Ranges and the votes on shifts are taken anew by every run: they are replays of the trajectories, short
beside what learning takes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.calibrate.adaround import Rounding, RoundingPlan
from engine.calibrate.capture import Captured, CapturePlan, about_capture, calibration_request, capture
from engine.calibrate.files import Cost, Folder, together
from engine.calibrate.les import LesPlan, Scaling
from engine.calibrate.pts import LayerShifts, ShiftPlan, choose_shifts, shift_layers, static_tables, with_tables
from engine.calibrate.ranges import GROUPS, Ranges, collect_ranges
from engine.calibrate.roundings import learn_roundings
from engine.calibrate.rows import Rows, RowsPlan, draw_rows
from engine.calibrate.scalings import Inputs, learn_scalings
from engine.core.activation import SCHEMES, STATIC, Activation
from engine.core.errors import InputError
from engine.core.jsonrecord import to_json
from engine.core.places import cache_dir, model_stem
from engine.core.recipe import Recipe, check, model_ref
from engine.core.resident import forget_peak, peak_memory
from engine.live.apply import applied
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.live.tables import ActivationTables, save_tables, tables_path
from engine.live.weightsets import WeightSet, save_weight_set, weight_set, weight_set_path
from engine.providers.progress import Progress
from engine.quant.qweight import TAU, QuantizedWeight
from engine.quant.table import quantize_scaled, relative_error

FOLDER = "calibration"


@dataclass(frozen=True, slots=True)
class DmqPlan:
    """What is calibrated, and how.

    Attributes:
        scaling: of the layers; None = none.
        rounding: of the weights; None = to nearest.
        scheme: of the activations, "static" or "token"; an allocation without activation bits has none.
        shifts: power-of-two shifts of static activations; None = none.
        groups: timestep groups of static activations.
        rows: inputs that are learned from.
        capture: trajectories they come from.

    Raises:
        InputError: there is no such scheme, or shifts without static activations.
    """

    scaling: LesPlan | None = field(default_factory=LesPlan)
    rounding: RoundingPlan | None = field(default_factory=RoundingPlan)
    scheme: str = STATIC
    shifts: ShiftPlan | None = field(default_factory=ShiftPlan)
    groups: int = GROUPS
    rows: RowsPlan = field(default_factory=RowsPlan)
    capture: CapturePlan = field(default_factory=CapturePlan)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InputError(f"Activations are quantized by one of {', '.join(SCHEMES)}, not {self.scheme[:20]!r}.")
        if self.shifts is not None and self.scheme != STATIC:
            raise InputError("Power-of-two shifts belong to static activations; leave them out, or choose static.")


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The last record.

    Attributes:
        recipe: the allocation with its weights and activations calibrated.
        weights: the weight set it takes weights from; None where options alone make them.
        tables: the activation tables it uses, or None.
        ranges: of the inputs, with the weights as they are; None where the scheme needs none.
        scalings, roundings, shifts: what was found, by layer or block.
        stages: stage -> seconds, and peak resident megabytes of the process while it ran (since the process began,
            where the system cannot count anew). What an earlier run kept counts as it did there; None where it was
            not noted.
    """

    recipe: Recipe
    weights: WeightSet | None
    tables: ActivationTables | None
    ranges: Ranges | None
    scalings: Mapping[str, Scaling]
    roundings: Mapping[str, Rounding]
    shifts: Mapping[str, LayerShifts]
    stages: Mapping[str, Cost]


def calibrate(model: Model, allocation: Recipe, plan: DmqPlan | None = None, *, directory: Path | None = None,
              cancel: Cancel | None = None) -> Iterator[Progress | Scaling | Rounding | LayerShifts | Calibrated]:
    """Calibrate an allocation; ends with `Calibrated`. What the recipe names is on disk by then.

    Args:
        model: in float32; its recipe is put back at the end.
        allocation: options per layer, and activation bits (the scheme is the plan's).
        plan: see `DmqPlan`.
        directory: where trajectories, scalings and roundings are kept; None is the model's place in the user's cache.
        cancel: asked all the time; finished layers, blocks and parts of trajectories are kept.

    Raises:
        InputError: the plan or the model does not allow it.
        RecipeError: the allocation does not fit the model.
        StoreError: files of another run, damaged files, or a full disk.
        Cancelled: the caller asked for it.
    """
    plan = plan or DmqPlan()
    check(model.structure, allocation)
    if allocation.weights:
        raise InputError("The allocation already takes weights from a weight set; calibrate the one it was made from.")
    place = directory or cache_dir() / FOLDER / model_stem(model.structure.model, model.structure.identity)
    return _Calibration(model, allocation, plan, place, cancel).run()


class _Calibration:
    """The stages of one run."""

    def __init__(self, model: Model, allocation: Recipe, plan: DmqPlan, place: Path, cancel: Cancel | None) -> None:
        self._model, self._allocation, self._plan, self._place, self._cancel = model, allocation, plan, place, cancel
        self._full = Recipe(model_ref(model.structure), {})
        self._stages: dict[str, Cost] = {}
        self._used: Folder | None = None  # of the stage at hand
        self._scalings: dict[str, Scaling] = {}
        self._roundings: dict[str, Rounding] = {}
        self._shifts: dict[str, LayerShifts] = {}
        self._ranges: Ranges | None = None
        self._tables: ActivationTables | None = None
        self._rows: Rows | None = None
        self._captured: Captured | None = None

    def run(self) -> Iterator[Any]:
        """Stage after stage."""
        plan, inputs = self._plan, self._allocation.activations
        if plan.scaling or plan.rounding or (inputs and plan.scheme == STATIC):
            yield from self._timed("trajectories", self._capture())
        if plan.scaling:
            yield from self._timed("scaling", self._scale())
        taus = {name: found.tau for name, found in self._scalings.items() if found.tau is not None}
        weights = self._nearest(taus)
        if plan.rounding:
            yield from self._timed("rounding", self._round(weights))
            weights = {n: w for found in self._roundings.values() for n, w in found.weights.items()}
        recipe, held = self._with_weights(weights, taus)
        if inputs and plan.scheme == STATIC:
            yield from self._timed("ranges", self._collect(recipe, taus))
            if plan.shifts:
                yield from self._timed("shifts", self._choose(replace(recipe, activations=inputs), plan.shifts))
            assert self._tables is not None
            self._model.add_tables(self._tables)
            save_tables(tables_path(self._model.structure, self._tables.id), self._tables)
            recipe = with_tables(replace(recipe, activations=inputs), self._tables, self._model.structure)
        else:
            recipe = replace(recipe, activations={n: Activation(a.bits) for n, a in inputs.items()})
        recipe = replace(recipe, provenance={**self._allocation.provenance, "calibration": to_json(plan)})
        yield Calibrated(recipe, held, self._tables, self._ranges, self._scalings, self._roundings, self._shifts,
                         self._stages)

    def _timed(self, stage: str, events: Iterator[Any]) -> Iterator[Any]:
        begun, self._used = time.perf_counter(), None
        forget_peak()
        yield from events
        now: Cost = time.perf_counter() - begun, peak_memory() / 1e6
        self._stages[stage] = together([now, *(self._used.taken.values() if self._used else ())])

    def _capture(self) -> Iterator[Any]:
        model, plan = self._model, self._plan.capture
        with applied(model, self._full):
            about = about_capture(model, plan, calibration_request(model, plan))
            place = self._place / f"trajectories-{digest(about)}"
            for event in capture(model, plan, directory=place, cancel=self._cancel):
                if isinstance(event, Captured):
                    self._captured = event
                else:
                    yield event
            assert self._captured is not None
            self._used = self._captured.folder
            self._rows = draw_rows(model, self._captured, self._plan.rows, cancel=self._cancel)

    def _scale(self) -> Iterator[Any]:
        assert self._plan.scaling is not None and self._rows is not None
        inputs = Inputs(self._plan.scheme, self._plan.groups)
        folder = self._folder("scalings", self._rows.id)
        for event in learn_scalings(self._model, self._rows, self._allocation, self._plan.scaling, inputs,
                                    folder=folder, cancel=self._cancel):
            if isinstance(event, Scaling):
                self._scalings[event.layer] = event
            yield event

    def _round(self, nearest: Mapping[str, QuantizedWeight]) -> Iterator[Any]:
        assert self._plan.rounding is not None and self._rows is not None
        taus = {n: w.tensors[TAU].float().tolist() for n, w in nearest.items() if TAU in w.tensors}
        options = {n: str(w.option) for n, w in nearest.items()}
        folder = self._folder("roundings", self._rows.id, options, taus, asdict(self._plan.rounding))
        for event in learn_roundings(self._model, self._rows, nearest, self._plan.rounding, folder=folder,
                                     cancel=self._cancel):
            if isinstance(event, Rounding):
                self._roundings[event.block] = event
            yield event

    def _nearest(self, taus: Mapping[str, Tensor]) -> dict[str, QuantizedWeight]:
        model, plain = self._model, self._allocation
        found = {}
        for layer in model.structure.layers:
            option = plain.option(layer.choice)
            if option.is_untouched or not (taus or self._plan.rounding):
                continue
            found[layer.name] = quantize_scaled(model.originals.tensor(layer).float(), option, taus.get(layer.name),
                                                model.structure.precision_bits)
        return found

    def _with_weights(self, weights: Mapping[str, QuantizedWeight],
                      taus: Mapping[str, Tensor]) -> tuple[Recipe, WeightSet | None]:
        """The allocation with its weights from a set, where something about them was learned."""
        model, plan = self._model, self._plan
        recipe = replace(self._allocation, activations={}, metrics={})
        if not weights:
            return recipe, None
        errors = {x.name: relative_error(model.originals.tensor(x), weights[x.name]) for x in model.structure.layers
                  if x.name in weights}
        about = {"rows": self._rows.id if self._rows else "", "scaling": said(plan.scaling) if taus else "",
                 "rounding": said(plan.rounding)}
        held = weight_set(model.structure, weights, errors, about)
        save_weight_set(weight_set_path(model.structure, held.id), held)
        model.add_weight_set(held)
        return replace(recipe, weights=held.settings(model.structure)), held

    def _collect(self, recipe: Recipe, taus: Mapping[str, Tensor]) -> Iterator[Any]:
        model, plan = self._model, self._plan
        assert self._captured is not None
        inputs = replace(recipe, activations=self._allocation.activations)
        watched = [x.name for x in model.structure.layers if x.choice in inputs.activations]
        with applied(model, recipe):
            for event in collect_ranges(model, self._captured, layers=watched, cancel=self._cancel):
                if isinstance(event, Ranges):
                    self._ranges = event
                else:
                    yield event
        assert self._ranges is not None
        about = {"scaling": said(plan.scaling) if taus else "", "shifts": said(plan.shifts)}
        self._tables = static_tables(self._ranges, plan.groups, taus, inputs, model.structure, about)

    def _choose(self, inputs: Recipe, plan: ShiftPlan) -> Iterator[Any]:
        assert self._captured is not None and self._ranges is not None and self._tables is not None
        layers = shift_layers(self._model.structure, self._ranges, self._tables, inputs, plan)
        if not layers:
            return
        wanted = RowsPlan(max(2, plan.votes * self._tables.count), self._plan.rows.held, self._plan.rows.seed)
        voters = draw_rows(self._model, self._captured, wanted, cancel=self._cancel)
        for event in choose_shifts(self._model, voters, inputs, self._tables, layers, plan, cancel=self._cancel):
            if isinstance(event, ActivationTables):
                self._tables = event
                continue
            if isinstance(event, LayerShifts):
                self._shifts[event.layer] = event
            yield event

    def _folder(self, stage: str, *parts: Any) -> Folder:
        identity = self._model.structure.identity
        self._used = Folder(self._place / f"{stage}-{digest([identity, *parts])}", {"model": identity, "stage": stage})
        return self._used


def digest(value: Any) -> str:
    """12 hex digits over a value's text, the same for the same value."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def said(plan: Any) -> str:
    """A plan as text for records; "none" where there is none."""
    return "none" if plan is None else json.dumps(to_json(plan), sort_keys=True)
