"""What an export will hold, layer by layer, known before anything is written.

A foreign format cannot hold every option. Each layer is exact (the file holds what the recipe says), requantized (it
holds another option) or left (it stays at full precision). `ExportPlan.recipe` is the recipe the file really holds:
whoever wants a plan with requantized or left layers applies that recipe to the preview first, looks, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from engine.core.errors import RecipeError
from engine.core.footprint import Footprint
from engine.core.graph import Component, Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, check
from engine.core.sizes import scale_bytes, stored_bytes, table_bytes
from engine.export.packages import Package


class Fate(StrEnum):
    """What becomes of a layer's option in a file."""

    EXACT = "exact"
    REQUANTIZED = "requantized"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Held:
    """What a format holds of one layer: the option, its bytes there, and why it is not the one that was asked for."""

    option: Option
    bytes: int
    reason: str = ""


# The layers of one module (one, or the two halves of a split one) with their options -> what the format holds of each.
Holder = Callable[[tuple[Layer, ...], tuple[Option, ...]], tuple[Held, ...]]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer of the plan.

    Attributes:
        layer: its name.
        fate: see `Fate`.
        wanted, held: the recipe's option, and the one the file holds.
        bytes: stored bytes in this format.
        reason: why they differ, or "".
    """

    layer: str
    fate: Fate
    wanted: Option
    held: Option
    bytes: int
    reason: str


@dataclass(frozen=True)
class ExportPlan:
    """What an export will hold.

    Attributes:
        format: its name.
        recipe: what the file holds; equal to the recipe asked for if every layer is exact.
        layers: every layer, tied copies included, in execution order.
        bytes: the quantizable layers as stored in this format.
        file_bytes: everything the denoiser stores in this format (the file's own header apart).
        packages: needed to write the file and to load it.
        notes: what else the user should know, one sentence each.
        components: the rest of the pipeline, which comes along as it is.
    """

    format: str
    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    bytes: int
    file_bytes: int
    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()

    @property
    def footprint(self) -> Footprint:
        """What the whole pipeline keeps in memory once it is loaded packed as the file is."""
        return Footprint(self.file_bytes, self.components)

    def of(self, fate: Fate) -> tuple[LayerPlan, ...]:
        """The layers of one fate."""
        return tuple(layer for layer in self.layers if layer.fate is fate)

    @property
    def counts(self) -> dict[str, int]:
        """Fate -> number of layers."""
        return {str(fate): len(self.of(fate)) for fate in Fate}

    @property
    def changes(self) -> tuple[LayerPlan, ...]:
        """The layers that are not held as the recipe says."""
        return tuple(layer for layer in self.layers if layer.fate is not Fate.EXACT)

    def lines(self) -> Iterator[str]:
        """The plan in words, for people."""
        counts = self.counts
        yield (f"{self.format}: {counts['exact']} layers exact, {counts['requantized']} requantized, "
               f"{counts['left']} left at full precision; {self.bytes / 1e6:,.2f} MB, with biases and norms "
               f"{self.file_bytes / 1e6:,.2f} MB; needs {', '.join(map(str, self.packages)) or 'no package'}")
        yield self.footprint.sentence()
        yield from self.notes
        for change in self.changes:
            yield f"  {change.layer}: {change.wanted} -> {change.held} ({change.reason})"


class Holds(StrEnum):
    """What a format holds besides weights that an option alone determines."""

    OPTIONS = "options"  # nothing
    WEIGHTS = "weights"  # weights from weight sets: learned codes, and scaled ones as what they stand for
    EVERYTHING = "everything"  # quantized activations too


def make_plan(structure: Structure, recipe: Recipe, name: str, holder: Holder, packages: tuple[Package, ...],
              notes: tuple[str, ...] = (), *, holds: Holds = Holds.OPTIONS) -> ExportPlan:
    """The plan of a format whose `holder` says what it holds of each module.

    Raises:
        RecipeError: the recipe does not fit the model, quantizes activations or takes weights from weight sets where
            the format cannot hold that.
    """
    check(structure, recipe)
    if recipe.activations and holds is not Holds.EVERYTHING:
        raise RecipeError(f"The recipe quantizes the activations of {len(recipe.activations)} layers, which the format "
                          f"{name} cannot hold; export it packed, or take the activations out of the recipe.")
    if recipe.weights and holds is Holds.OPTIONS:
        raise RecipeError(f"The recipe takes the weights of {len(recipe.weights)} layers from weight sets (learned "
                          f"rounding or scaling), which the format {name} cannot hold; export it packed or "
                          f"dequantized.")
    plans = {plan.layer: plan for own in modules(structure).values() for plan in _module_plan(own, recipe, holder)}
    layers = tuple(plans[layer.name] for layer in structure.layers)
    held = {layer.choice: plans[layer.name].held for layer in structure.layers}
    total = sum(layer.bytes for layer in layers)
    return ExportPlan(name, _held_recipe(recipe, held), layers, total,
                      total + structure.other_weights * structure.precision_bits // 8, packages, notes,
                      structure.components)


def everything_kept(precision_bits: int, recipe: Recipe) -> Holder:
    """The holder of a format that stores everything of a recipe as our own sizes count it."""

    def size(layer: Layer, option: Option) -> int:
        weight, activation = recipe.weights.get(layer.choice), recipe.activations.get(layer.choice)
        return (stored_bytes(layer, option, precision_bits) + table_bytes(layer, activation, precision_bits)
                + scale_bytes(layer, weight, activation, precision_bits))

    def holder(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> tuple[Held, ...]:
        return tuple(Held(option, size(layer, option)) for layer, option in zip(layers, options, strict=True))

    return holder


def modules(structure: Structure) -> dict[str, tuple[Layer, ...]]:
    """Module path -> its layers: one, or two halves."""
    found: dict[str, tuple[Layer, ...]] = {}
    for layer in structure.layers:
        found[layer.module] = (*found.get(layer.module, ()), layer)
    return found


def _module_plan(layers: tuple[Layer, ...], recipe: Recipe, holder: Holder) -> Iterator[LayerPlan]:
    wanted = tuple(recipe.option(layer.choice) for layer in layers)
    for layer, option, held in zip(layers, wanted, holder(layers, wanted), strict=True):
        if held.option == option:
            fate = Fate.EXACT
        else:
            fate = Fate.LEFT if held.option.is_untouched else Fate.REQUANTIZED
        reason = "" if fate is Fate.EXACT else held.reason
        yield LayerPlan(layer.name, fate, option, held.option, held.bytes, reason)


def _held_recipe(recipe: Recipe, held: dict[str, Option]) -> Recipe:
    if all(recipe.option(name) == option for name, option in held.items()):
        return recipe
    options = {name: option for name, option in held.items() if option != FP16 or name in recipe.options}
    return replace(recipe, options=options, metrics={}, provenance={**recipe.provenance, "changed_for_export": True})
