"""Put a recipe into the live weights: only what differs moves, every state in between is a true one, and back exactly.

A layer is wholly old or wholly new: what it needs is fetched before its weight is touched. Originals come back from
the checkpoint, so restoring is bit for bit whatever was applied in between. Quantized inputs are switched on and off
after the weights, all at once; what they need is found before anything moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from engine.core.errors import ModelError
from engine.core.fromset import FromSet
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, check, model_ref
from engine.live.activations import needed_tables
from engine.live.cancel import Cancel, check_cancel
from engine.live.model import Model
from engine.live.originals import live_weight
from engine.live.tables import ActivationTables
from engine.live.weightsets import WeightSet, needed_sets
from engine.models.memory import ran_out
from engine.quant.qweight import QuantizedWeight


@dataclass(frozen=True, slots=True)
class ApplyRecord:
    """One choice moved to its new option, together with its tied copies.

    Attributes:
        layer, option: what was moved, and to what.
        index, of: how many choices are done, of how many that differ.
        weights: weights moved.
    """

    layer: str
    option: Option
    index: int
    of: int
    weights: int


def apply(model: Model, recipe: Recipe, *, cancel: Cancel | None = None, transfer: bool = False
          ) -> Iterator[ApplyRecord]:
    """Move the layers whose option differs; nothing is moved before the iterator is used.

    Layers the recipe does not name return to full precision. A missing quantized layer is made now and kept in the
    store. After an exception or when the iterator is dropped half-way, `model.recipe` says what the weights are.

    Args:
        model: see `open_model`.
        recipe: for this model.
        cancel: asked between layers.
        transfer: apply a recipe of another identity by name, on purpose.

    Raises:
        RecipeError: the recipe does not fit the model, or names activation tables or weight sets that are not here.
        StoreError: its activation tables or weight sets are damaged or of another model.
        OptionError: a layer's weights are NaN or infinite.
        ModelError: memory ran out, or layers are executed on packed weights now.
        Cancelled: the caller asked for it.
    """
    if model.executing:
        raise ModelError("Layers of this model are executed on packed weights now, which no recipe can move; leave "
                         "`executing` first.")
    check(model.structure, recipe, transfer=transfer)
    tables = needed_tables(recipe.activations, model.structure, model.find_tables)
    sets = needed_sets(recipe, model.structure, model.find_weight_set)
    return _moves(model, recipe, _Needed(tables, sets), cancel)


def apply_all(model: Model, recipe: Recipe, *, cancel: Cancel | None = None, transfer: bool = False) -> int:
    """`apply` to its end. Returns how many choices moved."""
    return sum(1 for _ in apply(model, recipe, cancel=cancel, transfer=transfer))


@contextlib.contextmanager
def applied(model: Model, recipe: Recipe, *, cancel: Cancel | None = None, transfer: bool = False) -> Iterator[Model]:
    """The model under a recipe within the block; afterwards, whatever happens, as it was before, bit for bit."""
    before = model.recipe
    try:
        apply_all(model, recipe, cancel=cancel, transfer=transfer)
        yield model
    finally:
        apply_all(model, before, transfer=True)


def restore(model: Model) -> int:
    """Everything back to full precision, bit for bit. Returns how many choices moved."""
    return apply_all(model, Recipe(model_ref(model.structure), {}))


@dataclass(frozen=True)
class _Needed:
    """What a recipe names, found before anything moves: activation tables and weight sets by id."""

    tables: Mapping[str, ActivationTables]
    sets: Mapping[str, WeightSet]


def _moves(model: Model, recipe: Recipe, needed: _Needed, cancel: Cancel | None) -> Iterator[ApplyRecord]:
    todo = [name for name in model.groups
            if (model.options[name], model.sets.get(name)) != (recipe.option(name), recipe.weights.get(name))]
    try:
        for index, name in enumerate(todo):
            check_cancel(cancel)
            group, option = model.groups[name], recipe.option(name)
            try:
                _move(model, name, option, recipe.weights.get(name), needed.sets)
            except (MemoryError, RuntimeError) as failure:
                if not ran_out(failure):
                    raise
                raise ModelError(f"Memory on {model.device} ran out while {name} was moved to {option}; the layers "
                                 f"before it are moved: close other programs, or open the model in float16.") from None
            yield ApplyRecord(name, option, index + 1, len(todo), sum(layer.weights for layer in group))
        model.inputs.switch(recipe.activations, needed.tables)
        model.note_applied(recipe)
    finally:
        model.store.flush()


def _move(model: Model, name: str, option: Option, origin: FromSet | None, sets: Mapping[str, WeightSet]) -> None:
    group = model.groups[name]
    sources = [sets[origin.set].load(layer.name, option) if origin else _source(model, layer, option)
               for layer in group]
    model.options[name] = None
    model.sets.pop(name, None)
    with torch.no_grad():
        for layer, source in zip(group, sources, strict=True):
            live = live_weight(model.denoiser, layer)
            if isinstance(source, QuantizedWeight):
                source.dequantize_into(live)
                if origin is None:
                    model.cache.keep(layer.name, option, live)
            else:
                live.copy_(source)
    model.options[name] = option
    if origin is not None:
        model.sets[name] = origin


def _source(model: Model, layer: Layer, option: Option) -> QuantizedWeight | torch.Tensor:
    if option == FP16:
        return model.originals.tensor(layer)
    kept = model.cache.get(layer.name, option)
    return kept if kept is not None else model.store.load(layer.name, option)
