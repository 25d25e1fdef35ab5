"""What can colour the graph: the current bits, and each provider's scores folded from layers to blocks and stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.core.graph import Structure
from engine.core.option import parse_option
from engine.core.record import Scores
from explorer.gauge import extrapolated
from explorer.graphview.overlay import BITS_OVERLAY, bits_overlay, make_overlay, scale_of

REFERENCE = "uaq-3"

# provider -> (title, what the number is); others appear under their own name and unit.
TITLES: dict[str, tuple[str, str]] = {
    "measured": ("Measured damage", "image error when it alone is quantized"),
    "measured-uaq4": ("Measured damage around 4 bits", "added image error when it alone leaves uniform 4"),
    "measured-latent": ("Measured damage in latents", "latent error when it alone is quantized"),
    "measured-uaq4-latent": ("Latent damage around 4 bits", "added latent error when it alone leaves uniform 4"),
    "predictor": ("Predictor (Qua²SeDiMo)", "damage learned from a study"),
    "attribution-shapley": ("Attribution (Shapley)", "share of the predicted damage"),
    "attribution-integrated-gradients": ("Attribution (integrated gradients)", "share of the predicted damage"),
    "attribution-saliency": ("Attribution (saliency)", "size of the gradient times the change"),
    "attribution-input-x-gradient": ("Attribution (input x gradient)", "gradient times the change"),
    "attribution-ablation": ("Attribution (ablation)", "predicted damage without it"),
    "gnn-operation": ("Network, by operation", "score of the operation's embedding"),
    "gnn-block": ("Network, by block", "score of the block's embedding"),
    "orthogonality": ("Orthogonality (MPQ-Diff)", "importance (theta) times weight error"),
    "orthogonality-linear": ("Importance, linear (MPQ-Diff)", "importance times the bits saved, as published"),
    "outliers": ("Activation outliers (DMQ)", "spread of its inputs over channels"),
    "cumulative": ("Apple's signal", "latent error once it has joined those that hurt less"),
    "weight-error": ("Weight error", "relative squared error of the weights"),
}


def overlay_names(scores: Mapping[str, Scores]) -> list[tuple[str, str]]:
    """(title, name) of every overlay, the most trustworthy first, the bits last."""
    known = [name for name in TITLES if name in scores] + [name for name in scores if name not in TITLES]
    return [*((TITLES.get(name, (name, ""))[0], name) for name in known), ("Bits", BITS_OVERLAY)]


def overlay_data(structure: Structure, scores: Mapping[str, Scores], name: str, ramp: str) -> dict[str, Any]:
    """One overlay as the graph takes it; an unknown name is the bits."""
    choices = [list(pair) for pair in overlay_names(scores)]
    if name not in scores:
        return {**bits_overlay(ramp), "choices": choices}
    record = scores[name]
    option = reference(record)
    values, summed = folded(structure, record, option)
    title, unit = TITLES.get(name, (name, record.unit))
    # The scale is that of the blocks, which are what is seen first; layers beyond it are held at its ends.
    scale = scale_of((values[b.id] for b in structure.level("block") if b.id in values), log=True)
    overlay = make_overlay(name, title, values, unit=f"{unit} at {option}", log=True, ramp=ramp,
                           hatched=summed, trust=record.trust, low_text="robust", high_text="fragile",
                           scale=scale)
    # What no trial supports is hatched in the page, where the recipe's current options are known.
    beyond = {choice: list(options) for choice, options in extrapolated(record).items() if options}
    return {**overlay, "choices": choices, "mark": "summed" if summed else "", "unsupported": beyond}


def folded(structure: Structure, scores: Scores, option: str) -> tuple[dict[str, float], list[str]]:
    """Scores by layer, unit, block and stage id, and the ids whose number is a sum of layers, not a measurement.

    A block's own measurement stands where there is one; else damages of its layers are added (they are
    image errors), and relative weight errors are averaged by weights.
    """
    values: dict[str, float] = {}
    weights = {layer.name: layer.weights for layer in structure.layers}
    for layer in structure.layers:
        value = scores.layers.get(layer.choice, {}).get(option)
        if value is not None:
            values[layer.name] = value
    summed = []
    for block in structure.blocks:
        own = scores.blocks.get(block.id, {}).get(option)
        known = [n for n in block.layers if n in values]
        if own is not None:
            values[block.id] = own
        elif known and scores.blocks:
            values[block.id] = sum(values[n] for n in known)
            summed.append(block.id)
        elif known:
            values[block.id] = sum(values[n] * weights[n] for n in known) / sum(weights[n] for n in known)
    return values, summed


def reference(scores: Scores) -> str:
    """The option to colour by: `uaq-3`, or the narrowest of those known for most layers."""
    counts: dict[str, int] = {}
    for table in scores.layers.values():
        for text in table:
            counts[text] = counts.get(text, 0) + 1
    if not counts or counts.get(REFERENCE, 0) == max(counts.values()):
        return REFERENCE
    return min(counts, key=lambda text: (-counts[text], parse_option(text).bits))
