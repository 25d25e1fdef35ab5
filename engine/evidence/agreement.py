"""Do the scores say what measuring says? Every score's order of layers and blocks against measured damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.analysis.faithfulness import LEAST, Agreement, compared
from engine.analysis.predictor import Kind
from engine.core.graph import Structure
from engine.core.record import Scores
from engine.evidence.learned import DEFAULT_METHOD
from engine.providers.table import IMAGE_MSE

LAYERS, BLOCKS = "layers", "blocks"
SIZE_ONLY = "size-only"
DEFAULT_ORDER = f"attribution-{DEFAULT_METHOD}"
ANCHORED = str(Kind.ANCHORED)


def agreements(structure: Structure, scores: Sequence[Scores], found: Mapping[str, Scores],
               seed: int = 0) -> list[dict[str, object]]:
    """One row per measured table, option and level: Spearman of every score, with its interval.

    Args:
        structure: the model.
        scores: what the predictor says (table, attributions, embeddings); those that know layers measured alone are
            left out, since they agree with that by construction.
        found: provider -> scores that lie beside the model: measured ones are the truth, weight error a control.
        seed: of the bootstrap and the random order.

    Returns:
        [{"measured", "option", "level", "rows": [Agreement, ...]}]; options that too few scores cover are left out.
    """
    controls = [found[name] for name in ("weight-error",) if name in found]
    scores = [s for s in scores if s.about.get("kind") != ANCHORED]
    truths = [s for s in found.values() if s.provider.startswith("measured") and s.unit == IMAGE_MSE]
    answer: list[dict[str, object]] = []
    for truth in truths:
        others = [s for s in truths if s is not truth]  # how far one measurement agrees with another
        for option in sorted({o for row in truth.layers.values() for o in row}):
            for level in (LAYERS, BLOCKS):
                rows = _rows(structure, [*scores, *controls, *others], truth, option, level, seed)
                if rows:
                    answer.append({"measured": truth.provider, "option": option, "level": level, "rows": rows})
    return answer


def _rows(structure: Structure, scores: Sequence[Scores], truth: Scores, option: str, level: str,
          seed: int) -> list[Agreement]:
    measured = at_option(structure, truth, option, level, add_up=False)
    if len(measured) < LEAST:
        return []
    columns = {s.provider: at_option(structure, s, option, level) for s in scores}
    known = {name: column for name, column in columns.items() if len(set(column) & set(measured)) >= LEAST}
    blind = at_option(structure, size_only(structure, option), option, level)
    return compared({**known, SIZE_ONLY: blind}, measured, seed, DEFAULT_ORDER)


def size_only(structure: Structure, option: str) -> Scores:
    """The control that takes a layer's number of weights for its damage."""
    weights = {layer.name: {option: float(layer.weights)} for layer in structure.choices}
    return Scores(SIZE_ONLY, structure.identity, "weights", weights)


def at_option(structure: Structure, scores: Scores, option: str, level: str, *,
              add_up: bool = True) -> dict[str, float]:
    """Layer or block -> damage at one option; blocks that a score does not hold are the sum of their layers."""
    layers = {name: row[option] for name, row in scores.layers.items() if option in row}
    if level == LAYERS:
        return layers
    found = {}
    choice = {layer.name: layer.choice for layer in structure.layers}
    for block in structure.level("block"):
        inside = dict.fromkeys(choice[name] for name in block.layers)
        if option in scores.blocks.get(block.id, {}):
            found[block.id] = scores.blocks[block.id][option]
        elif add_up and inside and all(name in layers for name in inside):
            found[block.id] = sum(layers[name] for name in inside)
    return found
