"""What is reconstructed together: residual and transformer blocks as a whole, other layers alone, in forward order.

The units of BRECQ (Li et al., ICLR 2021) as DMQ takes them, found in the block forest.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.graph import Block, Structure
from engine.core.layer import Layer

# Kinds of blocks: those whole in themselves, and what a transformer block is made of (the last two are its modulation
# and its projections).
RESIDUAL, ATTENTION = "resnet", "attention"
TRANSFORMER_PARTS = {ATTENTION, "feed-forward", "embedding", "conv"}


@dataclass(frozen=True, slots=True)
class Unit:
    """One reconstruction.

    Attributes:
        name: path of the module whose output is reconstructed.
        layers: its layers (both halves of split ones), in execution order.
    """

    name: str
    layers: tuple[Layer, ...]


def units_of(structure: Structure) -> tuple[Unit, ...]:
    """All units of a model; every layer is in exactly one."""
    owner = {name: block.id for block in wholes(structure) for name in block.layers}
    found: dict[str, list[Layer]] = {}
    for layer in structure.layers:
        found.setdefault(owner.get(layer.name, layer.module), []).append(layer)
    return tuple(Unit(name, tuple(layers)) for name, layers in found.items())


def alone(unit: Unit) -> tuple[Unit, ...]:
    """The unit's modules as units of their own, where the whole cannot be run by itself."""
    found: dict[str, list[Layer]] = {}
    for layer in unit.layers:
        found.setdefault(layer.module, []).append(layer)
    return tuple(Unit(name, tuple(layers)) for name, layers in found.items())


def wholes(structure: Structure) -> tuple[Block, ...]:
    """The blocks reconstructed as a whole: residual blocks, and those made of attention and its companions.

    How deep a transformer block lies differs (a stage of its own in a plain transformer, two levels down in a U-Net);
    what it is made of does not.
    """
    parts: dict[str, list[str]] = {}
    for block in structure.blocks:
        parts.setdefault(block.parent, []).append(block.kind)
    return tuple(b for b in structure.blocks if b.kind == RESIDUAL or (
        len(parts.get(b.id, ())) > 1 and ATTENTION in parts[b.id] and set(parts[b.id]) <= TRANSFORMER_PARTS))
