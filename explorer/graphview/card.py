"""Scene + sizes (+ damage) -> the JSON the browser draws and edits with, sent once per model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import ALL_OPTIONS, BITS, METHODS, UNTOUCHED_BITS, Option, options_for
from engine.core.sizes import default_option, full_bytes, sensible_options, stored_bytes
from explorer.graphview.overlay import BIT_COLOURS, RAMP_TITLES, RAMPS
from explorer.graphview.scene import ASPECT, Card, scene

Damage = Mapping[str, Mapping[str, float]]
IMAGE_ERROR = {"title": "PSNR", "unit": "dB", "base": 0.0, "curve": None, "learned": False}
_HALVES = {":0": " · trunk", ":1": " · skip"}


def graph_data(
    structure: Structure,
    damage: Damage | None = None,
    *,
    scaled: Mapping[str, Iterable[str]] | None = None,
    gauge: Mapping[str, Any] | None = None,
    aspect: float = ASPECT,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about a model that the page needs to draw and edit without asking again.

    damage: choice -> option -> predicted damage of that choice alone (additive table).
    scaled: choice -> options whose damage was not measured but scaled, or follows without support by any trial.
    gauge: how the summed damage reads as quality (`explorer.gauge.Gauge.as_data`); by default it is a mean squared
        image error, read as decibels.
    inputs: what `explorer.inputs.inputs_data` says of layer inputs; without it the page offers no activation bits.
    """
    drawn = scene(structure, aspect)
    copies = _copies(structure)
    return {
        "model": structure.model,
        "layout": drawn.layout,
        "columns": drawn.columns,
        "rows": drawn.rows,
        "choices": [*BITS, UNTOUCHED_BITS],
        "default_method": default_option(BITS[0]).method,
        "methods": {m.name: {"label": m.label, "summary": m.summary} for m in METHODS.values()},
        "option_bits": {str(option): [option.method, option.bits] for option in ALL_OPTIONS},
        "cards": [_card(card) for card in drawn.cards],
        "edges": [list(edge) for edge in drawn.edges],
        "layers": {
            layer.name: _layer(layer, copies.get(layer.name, [layer]), structure.precision_bits,
                               (damage or {}).get(layer.name), (scaled or {}).get(layer.name, ()))
            for layer in structure.choices
        },
        "gauge": dict(gauge or IMAGE_ERROR),
        "full_bytes": full_bytes(structure),
        "precision_bits": structure.precision_bits,
        "other_bytes": structure.other_weights * structure.precision_bits // 8,
        "ramps": {name: [[at, text] for at, text in stops] for name, stops in RAMPS.items()},
        "ramp_titles": RAMP_TITLES,
        "bit_colours": {str(bits): text for bits, text in BIT_COLOURS.items()},
        **({"inputs": dict(inputs)} if inputs else {}),
    }


def graph_text(structure: Structure, damage: Damage | None = None, **more: Any) -> str:
    """`graph_data`, packed: one string costs the page far less than a tree of watched objects."""
    return pack(graph_data(structure, damage, **more))


def pack(data: Mapping[str, Any]) -> str:
    """Graph data as compact JSON: options are named once, tables become rows aligned with them."""
    options = sorted({option for row in data["layers"].values() for option in row["bytes"]})
    place = {option: i for i, option in enumerate(options)}
    layers = {}
    for name, row in data["layers"].items():
        packed = dict(row, bytes=[row["bytes"].get(o) for o in options], sensible=[place[o] for o in row["sensible"]])
        if "damage" in row:
            short = {o: float(f"{v:.5g}") for o, v in row["damage"].items()}
            packed["damage"] = [short.get(o) for o in options]
        layers[name] = packed
    packed_data = {**data, "options": options, "layers": layers}
    return json.dumps(packed_data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def view_value(
    options: Mapping[str, Option | str],
    overlay: Mapping[str, Any] | None = None,
    *,
    selected: Iterable[str] = (),
    protected: Iterable[str] = (),
    expanded: Iterable[str] = (),
    rev: int = 0,
    edit: int | None = None,
    address: str = "",
    inputs: Mapping[str, str] | None = None,
    sets: Mapping[str, int] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A BlockGraph value.

    `inputs`: choice -> how its inputs are quantized, as `explorer.choices.activation_text` writes it. `sets`: choices
    whose weights come from a weight set -> bytes their scales cost. `tables`: choice -> [its static setting, bytes].

    `edit`: the edit the answer belongs to, so that a late answer cannot undo a newer drag. `rev`: higher than that of
    every value sent before; the page takes each once. 0 is always taken. `address`: JSON object of query parameters
    that make the browser's address a link to this view.
    """
    value: dict[str, Any] = {
        "options": {name: str(option) for name, option in options.items()},
        "selected": list(selected), "protected": list(protected), "expanded": list(expanded),
        "overlay": dict(overlay or {}), "rev": rev, "inputs": dict(inputs or {}), "sets": dict(sets or {}),
        "tables": dict(tables or {}),
    }  # fmt: skip
    if edit is not None:
        value["edit"] = edit
    if address:
        value["address"] = address
    return value


def _card(card: Card) -> dict[str, Any]:
    return {
        "id": card.id, "parent": card.parent, "level": card.level, "label": card.label, "short": card.short,
        "kind": card.kind, "side": card.side, "depth": card.depth, "x": card.x, "y": card.y,
        "layers": list(card.layers), "weights": card.weights,
    }  # fmt: skip


def _copies(structure: Structure) -> dict[str, list[Layer]]:
    """Choice -> every layer that follows it, itself first."""
    found: dict[str, list[Layer]] = {layer.name: [layer] for layer in structure.choices}
    for layer in structure.layers:
        if layer.tie and layer.tie in found:
            found[layer.tie].append(layer)
    return found


def _layer(
    layer: Layer, copies: list[Layer], precision_bits: int, damage: Mapping[str, float] | None, scaled: Iterable[str]
) -> dict[str, Any]:
    offered = options_for(layer.kind)
    data: dict[str, Any] = {
        "label": layer_label(layer),
        "role": str(layer.role),
        "kind": layer.kind,
        "shape": list(layer.shape),
        "block": layer.block,
        "weights": sum(copy.weights for copy in copies),
        "copies": len(copies),
        "bytes": {str(o): sum(stored_bytes(copy, o, precision_bits) for copy in copies) for o in offered},
        "sensible": [str(o) for o in sensible_options(layer, precision_bits)],
    }
    if damage is not None:
        data["damage"] = {option: float(value) for option, value in damage.items()}
        if marked := sorted(scaled):
            data["scaled"] = marked
    return data


def layer_label(layer: Layer) -> str:
    """The layer's name inside its block: `up.resnets.0.conv1:1` in block `up.resnets.0` is `conv1 · skip`."""
    path, half = layer.name, ""
    if path[-2:] in _HALVES:
        path, half = path[:-2], _HALVES[path[-2:]]
    inside = path.removeprefix(layer.block + ".") if path != layer.block else path.rsplit(".", 1)[-1]
    return inside + half
