"""Joint block scores as overlays: what the best assignment loses where a layer, or a whole block, takes an option."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.analysis.additive import trust_of_norms
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.scoring import UNIT, BlockScores
from engine.core.record import Scores


def block_table(predictor: Predictor, found: Sequence[BlockScores], kind: Kind | None = None) -> Scores:
    """Scores of provider "gnn-block", of the networks (by default `Predictor.embedding`) that the parts were scored by.

    A layer's damage at an option is how far the best joint assignment that gives it this option lies below the best
    of all; a block's is that of the whole block at the option, parts of a block added up.
    """
    kind, parts = kind or predictor.embedding, block_damage(found)
    layers: dict[str, dict[str, float]] = {name: {} for name in predictor.subject.graph.choices}
    for part in found:
        top, scores = max(part.scores), np.array(part.scores)
        for i, name in enumerate(part.layers):
            for option in dict.fromkeys(c[i] for c in part.candidates):
                with_it = np.array([c[i] == option for c in part.candidates])
                layers[name][str(option)] = float(top - scores[with_it].max())
    blocks: dict[str, dict[str, float]] = {}
    homes = {part.id: set(part.layers) for part in found}
    for block in predictor.subject.structure.blocks:
        inside = [name for name, members in homes.items() if members <= set(block.layers)]
        common = set.intersection(*(set(parts[name]) for name in inside)) if inside else set()
        blocks[block.id] = {o: sum(parts[name][o] for name in inside) for o in sorted(common)}
    return Scores("gnn-block", predictor.subject.structure.identity, UNIT, layers, blocks,
                  trust_of_norms(predictor, kind, -1), about={**predictor.about, "kind": str(kind)})


def block_damage(found: Sequence[BlockScores]) -> dict[str, dict[str, float]]:
    """Part id -> option text -> damage where the whole part takes one option."""
    damage: dict[str, dict[str, float]] = {}
    for part in found:
        top = max(part.scores)
        damage[part.id] = {str(c[0]): top - s for c, s in zip(part.candidates, part.scores, strict=True)
                           if len(set(c)) == 1}
    return damage
