"""An allocation as data: which candidates every unit of layers may take, what each costs in damage and in bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.recipe import ModelRef, model_ref
from engine.core.record import Scores
from engine.core.sizes import full_bytes, sensible_options, stored_bytes

Joint = tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that are decided together: one layer, a same-option group, or a block scored jointly.

    Attributes:
        layers: choice names.
        candidates: the joint options on offer, one option per layer each.
        costs: damage of each candidate, in the unit of the scores.
        bytes: stored bytes of each candidate, tied copies counted.
    """

    layers: tuple[str, ...]
    candidates: tuple[Joint, ...]
    costs: tuple[float, ...]
    bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Multiple-choice knapsack: one candidate per unit, least total damage, stored bytes within the budget.

    Attributes:
        model: whose layers these are.
        units: disjoint; together all choices of the model.
        budget_bytes: most bytes of all quantizable layers.
        weights: quantizable weights, tied copies counted.
        provider: whose damage it is.
    """

    model: ModelRef
    units: tuple[Unit, ...]
    budget_bytes: int
    weights: int
    provider: str = ""

    @property
    def smallest_bytes(self) -> int:
        """Bytes when every unit takes its smallest candidate."""
        return sum(min(unit.bytes) for unit in self.units)

    def with_budget(self, budget_bytes: int) -> Problem:
        """The same problem under another budget.

        Raises:
            InputError: no recipe is that small.
        """
        problem = replace(self, budget_bytes=budget_bytes)
        require_possible(problem)
        return problem


@dataclass(frozen=True, slots=True)
class Limits:
    """What the allocator must respect.

    Attributes:
        options: the options on offer besides untouched; None = every sensible option that has a score.
        pinned: choice name -> the option it keeps.
        groups: choices that must take the same option (such as q, k and v of one attention).
        keep_untouched: whether a layer may also stay as it is.
    """

    options: tuple[Option, ...] | None = None
    pinned: Mapping[str, Option] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    keep_untouched: bool = True


@dataclass(frozen=True, slots=True)
class JointCosts:
    """Damage of joint candidates of a few layers, as block-level scores give it."""

    layers: tuple[str, ...]
    candidates: tuple[Joint, ...]
    costs: tuple[float, ...]


def layer_problem(structure: Structure, scores: Scores, budget_bytes: int, limits: Limits | None = None) -> Problem:
    """Every layer (or same-option group) decides by itself; damage adds up.

    Raises:
        InputError: the budget is impossible, a pin or group names unknown layers or an option that is never
            allocated, a group has no option in common, or the scores leave a layer out or hold NaN.
    """
    limits = limits or Limits()
    layers = {layer.name: layer for layer in structure.choices}
    _check_limits(layers, limits, structure.precision_bits)
    units = []
    for names in _grouped(layers, limits.groups):
        offered = [_offered(structure, layers[name], scores, limits) for name in names]
        common = [o for o in offered[0] if all(o in other for other in offered[1:])]
        if not common:
            raise InputError(f"The layers {', '.join(names[:3])} must take the same option but have none in common; "
                             f"loosen the group, its pins or the options.")
        candidates = tuple((o,) * len(names) for o in common)
        costs = tuple(sum(_damage(scores, name, o) for name in names) for o in common)
        units.append(Unit(names, candidates, costs, _bytes(structure, names, candidates)))
    return _finished(structure, units, budget_bytes, scores.provider)


def blind_scores(structure: Structure) -> Scores:
    """Damage 4^-bits for every sensible option of every layer: for allocators that look at sizes alone."""
    layers = {
        layer.name: {str(o): 4.0**-o.bits for o in sensible_options(layer, structure.precision_bits)
                     if not o.is_untouched}
        for layer in structure.choices
    }
    return Scores("none", structure.identity, "4^-bits", layers)


def joint_problem(structure: Structure, joints: Iterable[JointCosts], budget_bytes: int,
                  limits: Limits | None = None, provider: str = "") -> Problem:
    """Every block decides by itself among joint candidates, so damage within a block need not add up.

    Raises:
        InputError: as `layer_problem`; also when a same-option group crosses blocks, or blocks leave a layer out.
    """
    limits = limits or Limits()
    layers = {layer.name: layer for layer in structure.choices}
    _check_limits(layers, limits, structure.precision_bits)
    sensible = {n: frozenset(sensible_options(layer, structure.precision_bits)) for n, layer in layers.items()}
    units: list[Unit] = []
    seen: set[str] = set()
    for joint in joints:
        seen.update(joint.layers)
        kept = [i for i, c in enumerate(joint.candidates) if _allowed(joint.layers, c, sensible, limits)]
        if not kept:
            raise InputError(f"No candidate of the block of {joint.layers[0]} respects the pins, groups and options.")
        if not all(math.isfinite(joint.costs[i]) for i in kept):
            raise InputError(f"The scores of the block of {joint.layers[0]} hold NaN or Inf; compute them again.")
        candidates = tuple(joint.candidates[i] for i in kept)
        units.append(Unit(joint.layers, candidates, tuple(joint.costs[i] for i in kept),
                          _bytes(structure, joint.layers, candidates)))
    for group in limits.groups:
        if not any(set(group) <= set(unit.layers) for unit in units):
            raise InputError(f"The same-option group of {group[0]} crosses blocks; allocate layer by layer instead.")
    left_out = [name for name in layers if name not in seen]
    if left_out:
        raise InputError(f"The block scores leave out {len(left_out)} layers (first: {left_out[0]}).")
    return _finished(structure, units, budget_bytes, provider)


def require_possible(problem: Problem) -> None:
    """Refuse a budget that no recipe meets.

    Raises:
        InputError: in one sentence with the smallest size there is.
    """
    if problem.budget_bytes < problem.smallest_bytes:
        least, weights = problem.smallest_bytes, problem.weights
        raise InputError(
            f"The budget of {problem.budget_bytes / 1e6:.3f} MB ({8 * problem.budget_bytes / weights:.2f} bits per "
            f"weight) is too small: with these options and pins the smallest recipe has {least / 1e6:.3f} MB "
            f"({8 * least / weights:.2f} bits)."
        )


def _finished(structure: Structure, units: Sequence[Unit], budget_bytes: int, provider: str) -> Problem:
    full = full_bytes(structure)
    if budget_bytes > full:
        raise InputError(f"The budget of {budget_bytes / 1e6:.3f} MB is larger than full precision "
                         f"({full / 1e6:.3f} MB); nothing needs to be quantized.")
    weights = sum(layer.weights for layer in structure.layers)
    problem = Problem(model_ref(structure), tuple(units), budget_bytes, weights, provider)
    require_possible(problem)
    return problem


def _check_limits(layers: Mapping[str, Layer], limits: Limits, precision_bits: int) -> None:
    for name in [*limits.pinned, *(n for group in limits.groups for n in group)]:
        if name not in layers:
            raise InputError(f"There is no layer {name[:80]!r} to pin or group; names are listed by inspect --layers.")
    for name, option in limits.pinned.items():
        if option not in sensible_options(layers[name], precision_bits):
            raise InputError(f"{name} cannot be pinned to {option}: it would be no smaller than full precision or a "
                             f"wider option of the same method.")
    members = [n for group in limits.groups for n in group]
    if len(set(members)) != len(members):
        raise InputError("A layer is named in two same-option groups; merge the groups.")


def _grouped(layers: Mapping[str, Layer], groups: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Groups at the place of their first member, every other layer alone, in execution order."""
    group_of = {name: tuple(group) for group in groups for name in group}
    return list(dict.fromkeys(group_of.get(name, (name,)) for name in layers))


def _offered(structure: Structure, layer: Layer, scores: Scores, limits: Limits) -> tuple[Option, ...]:
    if layer.name in limits.pinned:
        return (limits.pinned[layer.name],)
    scored = scores.layers.get(layer.name, {})
    offered = tuple(
        o for o in sensible_options(layer, structure.precision_bits)
        if (limits.keep_untouched if o.is_untouched
            else str(o) in scored and (limits.options is None or o in limits.options))
    )
    if not any(not o.is_untouched for o in offered) and not (limits.keep_untouched and scored):
        raise InputError(f"The scores of {scores.provider or 'this provider'} hold none of the wanted options for "
                         f"{layer.name}; compute them again or name other options.")
    return offered


def _damage(scores: Scores, name: str, option: Option) -> float:
    """Untouched does no damage; a pinned option without a score adds a constant that decides nothing."""
    value = float(scores.layers.get(name, {}).get(str(option), 0.0))
    if not math.isfinite(value):
        raise InputError(f"The score of {name} at {option} is {value}; compute the scores again.")
    return value


def _allowed(names: tuple[str, ...], candidate: Joint, sensible: Mapping[str, frozenset[Option]],
             limits: Limits) -> bool:
    chosen = dict(zip(names, candidate, strict=True))
    if any(option not in sensible[name] for name, option in chosen.items()):
        return False
    if any(limits.pinned.get(name, option) != option for name, option in chosen.items()):
        return False
    for name, option in chosen.items():
        if name not in limits.pinned:
            if option.is_untouched and not limits.keep_untouched:
                return False
            if not option.is_untouched and limits.options is not None and option not in limits.options:
                return False
    return all(len({chosen[n] for n in group if n in chosen}) <= 1 for group in limits.groups)


def _bytes(structure: Structure, names: tuple[str, ...], candidates: Sequence[Joint]) -> tuple[int, ...]:
    copies = {name: [x for x in structure.layers if x.choice == name] for name in names}
    size = {
        (name, option): sum(stored_bytes(x, option, structure.precision_bits) for x in copies[name])
        for i, name in enumerate(names) for option in {candidate[i] for candidate in candidates} | {FP16}
    }
    return tuple(sum(size[n, o] for n, o in zip(names, c, strict=True)) for c in candidates)
