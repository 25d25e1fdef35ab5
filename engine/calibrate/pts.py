"""Power-of-two scaling on a model: shifts per channel and timestep group, chosen layer by layer in forward order.

DMQ (Lee et al., ICCV 2025). Weights and activations are quantized as they will be; after a layer's shifts are chosen
they are on while the inputs of the next are looked at. Where: skip convolutions, whose inputs no normalization has
evened out; models without any (transformers) take the layers whose channels are spread most. Beyond the paper: the
pictures that teach vote, and a layer whose output is no closer with its shifts on held-out pictures keeps none, because
a finer step clips what the voters did not show.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.calibrate.gather import layer_inputs
from engine.calibrate.problem import convolution_of
from engine.calibrate.ranges import Ranges
from engine.calibrate.rows import Rows
from engine.calibrate.scalings import groups_of, own_channels
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.layer import Layer, Role
from engine.core.recipe import Recipe
from engine.live.apply import applied
from engine.live.cancel import Cancel
from engine.live.model import Model
from engine.live.tables import ActivationTables
from engine.providers.progress import Progress
from engine.quant.activation import CHANNEL_AXIS, StaticTable, affine, simulate, static_parameters
from engine.quant.integer import AFFINE, simulated_layer, weight_codes
from engine.quant.scaling import outlier_score, per_input
from engine.quant.shifts import KAPPA, MAX_SHIFT, Votes, by_error, by_voting, code_room, sample_errors, shift_room

VOTING, ERROR = "voting", "error"
AUTO, SKIP, SPREAD, ALL = "auto", "skip", "spread", "all"
THRESHOLD = 16.0
CHUNK = 64  # samples whose errors are computed together


@dataclass(frozen=True, slots=True)
class ShiftPlan:
    """Which layers take shifts, and how they are chosen.

    Attributes:
        choose: "voting", or "error", the ablation.
        where: "skip" convolutions, by "spread" of the channels, "all", or "auto": skip convolutions, by spread where
            there are none.
        kappa: share of the votes a shift needs.
        max_shift: D.
        threshold, share: by spread, layers above the threshold, and at least this share of all: the most spread ones.
        operand_bits: of the shifted weights in integer arithmetic; wider weights leave room for fewer shifts.
        votes: samples that vote in each timestep group, at most (as far as they were captured).
        tested: whether held-out pictures decide if a layer keeps its shifts.

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    choose: str = VOTING
    where: str = AUTO
    kappa: float = KAPPA
    max_shift: int = MAX_SHIFT
    threshold: float = THRESHOLD
    share: float = 0.1
    operand_bits: int = 8
    votes: int = 256
    tested: bool = True

    def __post_init__(self) -> None:
        if self.choose not in (VOTING, ERROR) or self.where not in (AUTO, SKIP, SPREAD, ALL):
            raise InputError(f"Shifts are chosen by {VOTING} or {ERROR}, on {AUTO}, {SKIP}, {SPREAD} or {ALL} layers; "
                             f"got {self.choose[:20]!r}, {self.where[:20]!r}.")
        if not (0 <= self.kappa <= 1 and 0 <= self.max_shift <= MAX_SHIFT and self.operand_bits in (8, 16)
                and self.votes >= 1 and 0 <= self.share <= 1):
            raise InputError(f"kappa and share are shares from 0 to 1, shifts are 0 to {MAX_SHIFT}, operands have 8 or "
                             f"16 bits, and at least one sample votes; got {self.kappa}, {self.share}, "
                             f"{self.max_shift}, {self.operand_bits}, {self.votes}.")


@dataclass(frozen=True, eq=False)
class LayerShifts:
    """The result for one layer.

    Attributes:
        layer: its name.
        shifts: e per group and channel, uint8 [G, C].
        agreement: share of the samples that chose the most chosen shift, float32 [G, C].
        samples: how many voted, per group.
        before, after: squared error of the layer's output that its quantized inputs cause, without and with the shifts,
            on held-out pictures and with full-precision weights, relative to the output's power.
        accepted: whether the layer keeps them.
    """

    layer: str
    shifts: Tensor
    agreement: Tensor
    samples: tuple[int, ...]
    before: float
    after: float
    accepted: bool


def shift_layers(structure: Structure, ranges: Ranges, tables: ActivationTables, recipe: Recipe,
                 plan: ShiftPlan) -> tuple[Layer, ...]:
    """The layers that take shifts, in execution order.

    Those are quantized statically, are executed, have weights narrow enough to be shifted (`shift_room`), and share
    their setting with no tied copy.

    Args:
        structure: of the model.
        ranges: of the layers' inputs.
        tables: with the scales tau.
        recipe: options and activations.
        plan: see `ShiftPlan`.
    """
    copies = Counter(x.choice for x in structure.layers)
    able = [x for x in structure.layers if x.name in tables.layers and x.name in ranges.low
            and x.choice in recipe.activations and room(recipe, x, plan) > 0 and copies[x.choice] == 1]
    where = plan.where
    if where == AUTO:
        where = SKIP if any(x.role == Role.SKIP for x in structure.layers) else SPREAD
    if where == ALL:
        return tuple(able)
    if where == SKIP:
        return tuple(x for x in able if x.role == Role.SKIP)
    spreads = {x.name: spread(ranges, tables, x.name) for x in able}
    most = sorted(spreads, key=lambda name: -spreads[name])[:round(plan.share * len(able))]
    return tuple(x for x in able if spreads[x.name] > plan.threshold or x.name in most)


def spread(ranges: Ranges, tables: ActivationTables, layer: str) -> float:
    """Largest over median peak of the channels of x / tau, over all steps."""
    tau = tables.layers[layer].tau
    peaks = ranges.peaks(layer).amax(0)
    return outlier_score(peaks if tau is None else peaks / tau)


def room(recipe: Recipe, layer: Layer, plan: ShiftPlan) -> int:
    """D of a layer: as planned, as far as its shifted weights fit the operand."""
    option = recipe.option(layer.choice)
    return 0 if option.is_untouched else min(plan.max_shift, shift_room(option.bits, plan.operand_bits))


def weight_room(model: Model, recipe: Recipe, layer: Layer, plan: ShiftPlan) -> int:
    """D of a layer whose weights are quantized already: as `room`, as far as their codes really fit the operand.

    Weights of a codebook have no integer product, so nothing narrows their room.
    """
    option, origin = recipe.option(layer.choice), recipe.weights.get(layer.choice)
    deepest = room(recipe, layer, plan)
    if not deepest or option.method != AFFINE:
        return deepest
    held = model.find_weight_set(origin.set) if origin else model.store
    return min(deepest, code_room(weight_codes(held.load(layer.name, option)), plan.operand_bits))


def choose_shifts(model: Model, rows: Rows, recipe: Recipe, tables: ActivationTables, layers: tuple[Layer, ...],
                  plan: ShiftPlan, *, cancel: Cancel | None = None
                  ) -> Iterator[Progress | LayerShifts | ActivationTables]:
    """Choose the shifts of some layers; a `LayerShifts` each, and the tables with all of them at the end.

    Args:
        model: in float32; its recipe is put back at the end.
        rows: those that vote, but for the held-out ones, which judge.
        recipe: with weights as they will be and activations of `tables`.
        tables: static ranges and scales.
        layers: see `shift_layers`.
        plan: see `ShiftPlan`.
        cancel: asked at every call of the denoiser.
    """
    modules = list(dict.fromkeys(x.module for x in layers))
    groups, begun = groups_of(rows, tables.count), time.perf_counter()
    for number, module in enumerate(modules, 1):
        model.add_tables(tables)
        with applied(model, with_tables(recipe, tables, model.structure)):
            found = dict(layer_inputs(model, rows, [module], cancel=cancel))
        for layer in (x for x in layers if x.module == module and module in found):
            x, bits = own_channels(layer, found[module]), recipe.activations[layer.choice].bits
            deepest = weight_room(model, recipe, layer, plan)
            chosen = _votes(layer, x[~rows.held], groups[~rows.held], bits, tables.layers[layer.name], plan, deepest)
            shifted = with_shifts(tables, layer.name, torch.stack([v.shifts for v in chosen]), bits)
            errors = [_output_error(model, layer, x[rows.held], groups[rows.held], t.layers[layer.name], bits)
                      for t in (tables, shifted)]
            accepted = deepest > 0 and (not plan.tested or errors[1] < errors[0])
            tables = shifted if accepted else tables
            yield LayerShifts(layer.name, torch.stack([v.shifts for v in chosen]),
                              torch.stack([v.agreement for v in chosen]), tuple(v.samples for v in chosen), *errors,
                              accepted)
        left = (time.perf_counter() - begun) / number * (len(modules) - number)
        yield Progress(f"shifts {module}", number, len(modules), left)
    yield tables


def with_tables(recipe: Recipe, tables: ActivationTables, structure: Structure) -> Recipe:
    """The recipe with its activations static, by these tables; layers without a table keep full-precision inputs.

    A choice is static where every one of its tied copies has a table.
    """
    members: dict[str, list[str]] = {}
    for layer in structure.layers:
        members.setdefault(layer.choice, []).append(layer.name)
    settings = {choice: tables.setting(names[0], recipe.activations[choice].bits) for choice, names in members.items()
                if choice in recipe.activations and all(n in tables.layers for n in names)}
    return replace(recipe, activations=settings)


def with_shifts(tables: ActivationTables, layer: str, shifts: Tensor, bits: int) -> ActivationTables:
    """The tables with one layer's shifts, chosen for one width."""
    old = tables.layers[layer]
    new = StaticTable(old.low, old.high, old.tau, shifts, bits)
    return ActivationTables(tables.model, tables.timesteps, tables.groups, {**tables.layers, layer: new}, tables.about)


def _votes(layer: Layer, x: Tensor, groups: Tensor, bits: int, table: StaticTable, plan: ShiftPlan,
           deepest: int) -> list[Votes]:
    """What each timestep group chooses of 0 to `deepest`; a group without samples chooses no shift."""
    axis = CHANNEL_AXIS[layer.kind]
    if table.tau is not None:
        x = x / per_input(table.tau, x.ndim, axis)
    step, zero = affine(table.low.clamp(max=0), table.high.clamp(min=0), bits)
    found: list[Votes] = []
    for g in range(table.groups):
        own = x[groups == g]
        if not len(own):
            found.append(Votes(torch.zeros(x.shape[axis], dtype=torch.uint8), torch.zeros(x.shape[axis]), 0))
            continue
        errors = torch.cat([sample_errors(part, axis, step[g], zero[g], bits, deepest) for part in own.split(CHUNK)], 1)
        found.append(by_voting(errors, plan.kappa) if plan.choose == VOTING else by_error(errors))
    return found


@torch.no_grad()
def _output_error(model: Model, layer: Layer, x: Tensor, groups: Tensor, table: StaticTable, bits: int) -> float:
    """Power of what quantizing the inputs changes in the layer's output, relative to the output's.

    Judged with full-precision weights, although the ones in use are quantized: the question is what the inputs alone
    do, and quantized weights change it by their own error only.
    """
    weight = model.originals.tensor(layer).float()
    how = convolution_of(model.denoiser.get_submodule(layer.module))
    parameters = table.parameters(bits)
    error = power = 0.0
    for part, g in zip(x.split(CHUNK), groups.split(CHUNK), strict=True):
        change = simulate(part, *static_parameters(*parameters, g, part, layer.kind), bits) - part
        error += float(simulated_layer(change, weight, layer.kind, None, **how).double().square().sum())
        power += float(simulated_layer(part, weight, layer.kind, None, **how).double().square().sum())
    return error / power if power else error


def static_tables(ranges: Ranges, groups: int, taus: Mapping[str, Tensor], recipe: Recipe, structure: Structure,
                  about: Mapping[str, str]) -> ActivationTables:
    """Tables of the layers whose inputs a recipe quantizes, with numbers as files hold them.

    Args:
        ranges: taken with the weights as they will be.
        groups: of timesteps.
        taus: layer name -> scale.
        recipe: its activations say which layers, at which bits.
        structure: of the model, whose precision parameters are stored at.
        about: joins what identifies the ranges.
    """
    made = ranges.tables(groups, taus)
    bits = {x.name: recipe.activations[x.choice].bits for x in structure.layers if x.choice in recipe.activations}
    layers = {name: replace(_as_stored(table, structure.precision_bits), bits=bits[name] if name in taus else 0)
              for name, table in made.layers.items() if name in bits}
    return ActivationTables(made.model, made.timesteps, made.groups, layers, {**made.about, **about})


def _as_stored(table: StaticTable, precision_bits: int) -> StaticTable:
    if precision_bits != 16:
        return table
    limit = torch.finfo(torch.float16).max
    low, high = (t.clamp(-limit, limit).half().float() for t in (table.low, table.high))
    return StaticTable(low, high, table.tau, table.shifts, table.bits)
