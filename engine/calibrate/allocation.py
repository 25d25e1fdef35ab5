"""What is quantized to how many bits before anything is learned: presets such as W4A8, and the papers' exclusions."""

from __future__ import annotations

import re

from engine.core.activation import ACTIVATION_BITS, Activation
from engine.core.errors import InputError
from engine.core.graph import Structure
from engine.core.layer import Role
from engine.core.option import BITS, METHODS, Option, options_for
from engine.core.recipe import Recipe, model_ref

PRESETS = ("W8A8", "W4A8", "W4A6")
METHOD = "uaq"
PRESET = "preset"  # the allocator that a recipe names

# Roles whose layers stay in full precision. Whatever is excluded, every byte and bit operation of it is counted.
EXCLUSIONS: dict[str, tuple[Role, ...]] = {
    "none": (),
    "first-last": (Role.INPUT, Role.OUTPUT),
    # DMQ's released code: first and last layer, the time embedding, and each block's projection of it. SDXL's
    # add_embedding would belong here, but its role, condition embedding, is that of caption projections too, which
    # are quantized; so it is quantized as well.
    "dmq": (Role.INPUT, Role.OUTPUT, Role.TIME, Role.MODULATION),
}


def preset_recipe(structure: Structure, preset: str, exclude: str = "dmq", method: str = METHOD) -> Recipe:
    """Every layer at the preset's bits, weights and inputs, but for the excluded ones; a layer that is never executed
    has no inputs to quantize.

    Args:
        structure: of the model.
        preset: W and A with their bits, such as W4A6; A16 leaves the activations in full precision.
        exclude: a key of `EXCLUSIONS`.
        method: of the weights; layers of a kind that it cannot take stay as they are (`not_taken`).

    Raises:
        InputError: there is no such preset, width or exclusion, or no such method at that width.
    """
    found = re.fullmatch(r"W(\d+)A(\d+)", preset.upper())
    weight_bits, bits = map(int, found.groups()) if found else (0, 0)
    if weight_bits not in BITS or bits not in (*ACTIVATION_BITS, 16):
        raise InputError(f"A preset is written like {', '.join(PRESETS)}: weights of {', '.join(map(str, BITS))} bits, "
                         f"activations of {ACTIVATION_BITS[0]} to {ACTIVATION_BITS[-1]} or 16; got {preset[:20]!r}.")
    if exclude not in EXCLUSIONS:
        raise InputError(f"What stays in full precision is one of {', '.join(EXCLUSIONS)}, not {exclude[:20]!r}.")
    if method not in METHODS or weight_bits not in METHODS[method].bits:
        able = ", ".join(name for name, row in METHODS.items() if weight_bits in row.bits)
        raise InputError(f"Weights of {weight_bits} bits are stored by one of {able}, not {method[:20]!r}.")
    option = Option(method, weight_bits)
    chosen = [x for x in structure.choices if x.role not in EXCLUSIONS[exclude] and option in options_for(x.kind)]
    idle = structure.unexecuted
    inputs = {} if bits == 16 else {x.name: Activation(bits) for x in chosen if x.name not in idle}
    return Recipe(model_ref(structure), {x.name: option for x in chosen}, inputs,
                  {"allocator": PRESET, "preset": preset.upper(), "excluded": exclude})


def not_taken(structure: Structure, recipe: Recipe) -> list[str]:
    """Layers that a `preset_recipe` left in full precision although no exclusion names them: its weight method cannot
    take their kind. Empty for other recipes."""
    excluded = EXCLUSIONS.get(str(recipe.provenance.get("excluded")))
    if excluded is None or recipe.provenance.get("allocator") != PRESET:
        return []
    return [x.name for x in structure.choices if x.role not in excluded and x.name not in recipe.options]
