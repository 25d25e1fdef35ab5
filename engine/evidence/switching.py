"""Deletion and insertion curves on real images: blocks restored, or quantized, one after another by each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.graph import Structure
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe, model_ref


@dataclass(frozen=True, slots=True)
class Switching:
    """One measured curve.

    Attributes:
        score: whose order.
        kind: "deletion" (blocks go back to full precision, most damaging first) or "insertion" (blocks are quantized).
        image_mse: before and after each switch.
        area: mean share of the whole change that has happened; near 1 = nearly all of it comes with the first blocks.
    """

    score: str
    kind: str
    image_mse: tuple[float, ...]
    area: float


def recipes_of(structure: Structure, order: Sequence[str], option: Option, kind: str) -> list[Recipe]:
    """The recipes of one curve: nothing switched, then one block more each time.

    Args:
        structure: the model.
        order: block ids, most damaging first.
        option: what quantized layers take.
        kind: see `Switching`.
    """
    members = {b.id: b.layers for b in structure.level("block")}
    choice = {layer.name: layer.choice for layer in structure.layers}
    before, after = (option, FP16) if kind == "deletion" else (FP16, option)
    options = {layer.name: before for layer in structure.choices}
    found = [Recipe(model_ref(structure), dict(options))]
    for block in order:
        options.update({choice[name]: after for name in members[block]})
        found.append(Recipe(model_ref(structure), dict(options)))
    return found


def curve(score: str, kind: str, image_mse: Sequence[float]) -> Switching:
    """The curve of measured errors."""
    values = np.asarray(image_mse, np.float64)
    span = values[-1] - values[0]
    area = float(((values - values[0]) / span).mean()) if span else 0.5
    return Switching(score, kind, tuple(map(float, values)), area)


def orders(columns: Mapping[str, Mapping[str, float]], blocks: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Score -> block ids, most damaging first; with a random order. Scores that leave a block out are left out."""
    found = {name: sorted(blocks, key=lambda b, column=column: -column[b])  # type: ignore[misc]
             for name, column in columns.items() if set(blocks) <= set(column)}
    shuffled = np.random.default_rng([seed, 2]).permutation(len(blocks))
    return {**found, "random": [blocks[i] for i in shuffled]}
