"""What the page must know of a model's layer inputs: who can take which width, what tables cost, multiply-adds, damage.

Sent once with the graph, so that bit operations, bytes and prediction follow a slider without asking again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.calibrate.activation_files import ActivationErrors, with_activation_damage
from engine.core.activation import ACTIVATION_BITS, SCHEMES, TOKEN
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import scale_bytes, table_bytes
from engine.live.tableheads import TableHead
from explorer.choices import activation_text, choices_of

OFFERED = 6  # sets of tables, the newest
WIDTHS = ACTIVATION_BITS  # the ladder of the second row of sliders, below "off"
UNSEEN = "It is not part of a denoiser call, so it has no inputs to quantize."
UNTABLED = "These tables hold nothing for it, so it is quantized online."


def inputs_data(structure: Structure, heads: Mapping[str, TableHead], errors: ActivationErrors | None,
                damage: Mapping[str, Mapping[str, float]], weight_errors: Scores | None) -> dict[str, Any]:
    """The `inputs` of the graph's data.

    Args:
        structure: of the model.
        heads: calibrated tables of it by id, the newest first; more than a few are not offered.
        errors: of its inputs, which also hold multiply-adds; None where nobody took them yet.
        damage: choice -> option -> predicted image error; inputs are scaled to the same unit.
        weight_errors: what relates the two.

    Returns:
        widths, schemes {name: title}, refused {choice: sentence}, static {choice: {tables: [setting,
        width or 0, bytes]}}, macs {choice: multiply-adds of all its copies}, damage {choice: {bits: image error}}.
    """
    heads = dict(list(heads.items())[:OFFERED])
    copies: dict[str, list[Layer]] = {}
    for layer in structure.layers:
        copies.setdefault(layer.choice, []).append(layer)
    refused = dict.fromkeys(sorted(structure.unexecuted), UNSEEN)
    found: dict[str, Any] = {
        "widths": list(WIDTHS), "untabled": UNTABLED, "refused": refused,
        "schemes": {TOKEN: SCHEMES[TOKEN].label, **{i: title(head) for i, head in heads.items()}},
        "static": {c: row for c, group in copies.items() if (row := _static(group, heads, structure.precision_bits))},
        "macs": {}, "damage": {},
    }
    if errors is not None:
        found["macs"] = {c: sum(errors.macs.get(x.name, 0) for x in group) for c, group in copies.items()}
        if damage and weight_errors is not None:
            priced = with_activation_damage(errors, weight_errors.layers, damage)
            found["damage"] = {c: {str(b): float(f"{v:.5g}") for b, v in row.items()} for c, row in priced.items()}
    return found


def inputs_value(structure: Structure, options: Mapping[str, Option]) -> dict[str, Any]:
    """What a view's value says of inputs and weight sets; see `explorer.graphview.card.view_value`."""
    now, precision = choices_of(options), structure.precision_bits
    tables: dict[str, list[Any]] = {}
    sets = dict.fromkeys(now.weights, 0)
    for layer in structure.layers:
        name, setting = layer.choice, now.activations.get(layer.choice)
        if name in sets:  # counted with the tables where these hold the same scale
            sets[name] += scale_bytes(layer, now.weights[name], None, precision)
        if cost := table_bytes(layer, setting, precision):
            tables[name] = [activation_text(setting), cost + (tables[name][1] if name in tables else 0)]
    return {"inputs": {n: activation_text(a) for n, a in now.activations.items()}, "sets": sets, "tables": tables}


def title(head: TableHead) -> str:
    """`Static, 20 groups, A6, with scales (1f0c9a)`."""
    widths = sorted({bits for bits, _, _ in head.layers.values() if bits})
    parts = [f"{head.groups} timestep group{'s' if head.groups != 1 else ''}"]
    if len(widths) == 1:
        parts.append(f"made for A{widths[0]}")
    made = [name for name, held in (("scales", 1), ("shifts", 2)) if any(row[held] for row in head.layers.values())]
    if made:
        parts.append("with " + " and ".join(made))
    return f"Static, {', '.join(parts)} ({head.id[:6]})"


def _static(group: list[Layer], heads: Mapping[str, TableHead], precision: int) -> dict[str, list[Any]]:
    """Tables -> [setting without its width, the one width it was made for or 0, bytes], for tables that serve all
    copies of a choice alike."""
    found: dict[str, list[Any]] = {}
    for name, head in heads.items():
        made_for = {head.layers[layer.name][0] for layer in group if layer.name in head.layers}
        if len(made_for) != 1:
            continue
        bits = max(made_for) or ACTIVATION_BITS[-1]
        settings = {head.setting(layer.name, bits) for layer in group}
        if len(settings) == 1 and (setting := settings.pop()) is not None:
            cost = sum(table_bytes(layer, setting, precision) for layer in group)
            found[name] = [activation_text(setting).rpartition("-")[0], max(made_for), cost]
    return found
