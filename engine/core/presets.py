"""Recipes by rule: uniform, by role, and the best method per layer at no more bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.core.errors import RecipeError
from engine.core.graph import Structure
from engine.core.layer import Layer, Role
from engine.core.option import BITS, METHODS, Option, parse_option
from engine.core.recipe import Recipe, by_role, model_ref, uniform
from engine.core.record import Scores
from engine.core.sizes import default_option, sensible_options, stored_bytes

ENDS = (Role.INPUT, Role.OUTPUT, Role.TIME, Role.CONDITION)
ATTENTION = (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named rule; `make` takes the structure and, where it needs them, weight-error scores."""

    name: str
    title: str


def uniform_presets() -> tuple[Preset, ...]:
    """Every method at every width, and untouched."""
    rows = [Preset("fp16", "Full precision")]
    rows += [Preset(f"{row.name}-{bits}", f"Uniform {row.label}, {bits} bits")
             for row in METHODS.values() if not row.fixed for bits in row.bits]
    return tuple(rows)


RULES: tuple[Preset, ...] = (
    Preset("ends8-4", "4 bits, first, last and embeddings at 8"),
    Preset("ends8-3", "3 bits, first, last and embeddings at 8"),
    Preset("attention4-6", "Attention at 4 bits, the rest at 6"),
    Preset("resnet4-6", "ResNet convolutions at 4 bits, the rest at 6"),
    *(Preset(f"best-{bits}", f"Best method per layer at no more bytes than UAQ {bits} bits") for bits in BITS),
)


def preset(structure: Structure, name: str, weight_error: Scores | None = None) -> Recipe:
    """The recipe a preset stands for.

    Raises:
        RecipeError: no such preset, or one that needs weight errors which are not at hand.
    """
    rule, _, bits = name.rpartition("-")
    if rule == "best":
        return best_of(structure, int(bits), weight_error)
    if rule == "ends8":
        return by_role(structure, int(bits), 8, ENDS)
    if rule == "attention4":
        return by_role(structure, int(bits), 4, ATTENTION)
    if rule == "resnet4":
        return by_role(structure, int(bits), 4, (Role.RESNET,))
    if name in {p.name for p in uniform_presets()}:
        return uniform(structure, name)
    raise RecipeError(f"There is no preset {name[:40]!r}; choose one of the list.")


def best_of(structure: Structure, bits: int, weight_error: Scores | None) -> Recipe:
    """Per layer the option with least weight error that takes no more bytes than the default method at `bits`."""
    if weight_error is None:
        raise RecipeError("Best-of needs the weight errors of this model; run: python -m engine sensitivity MODEL "
                          "--provider weight-error")
    options = {layer.name: best_option(layer, default_option(bits), weight_error.layers.get(layer.name, {}),
                                       structure.precision_bits) for layer in structure.choices}
    return Recipe(model_ref(structure), options, provenance={"allocator": "best of", "bits": bits})


def best_option(layer: Layer, limit: Option, errors: Mapping[str, float], precision_bits: int) -> Option:
    """The sensible option with least error at no more bytes than `limit`; `limit` itself where none is better."""
    budget = stored_bytes(layer, limit, precision_bits)
    fitting = [o for o in map(parse_option, errors)
               if o in sensible_options(layer, precision_bits) and stored_bytes(layer, o, precision_bits) <= budget]
    return min(fitting, key=lambda o: (errors[str(o)], stored_bytes(layer, o, precision_bits)), default=limit)
